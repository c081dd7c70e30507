/* Federated averaging: model += sum(weight * update) / total.
 *
 * McMahan et al., "Communication-efficient learning of deep networks from decentralized data",
 * AISTATS 2017, algorithm 1, with updates instead of models.
 */
#include "weighted.h"

CLOISTER_TASK("fedavg", "Weighted average of the updates");
CLOISTER_LINEAR;

CLOISTER_EXPORT(fold) int32_t fold(int32_t rows, int32_t columns) {
    return fold_weighted(rows, columns, weight);
}

CLOISTER_EXPORT(finish) int32_t finish(int32_t columns) { return finish_weighted(columns, total); }
