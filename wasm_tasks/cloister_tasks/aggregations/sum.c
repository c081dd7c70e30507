/* Plain sum: model += sum(update), whatever the weights. For statistics (`summarize`). */
#include "weighted.h"

CLOISTER_TASK("sum", "Sum of the updates");
CLOISTER_LINEAR;
CLOISTER_UNWEIGHTED;

CLOISTER_EXPORT(fold) int32_t fold(int32_t rows, int32_t columns) {
    return fold_weighted(rows, columns, 0);
}

CLOISTER_EXPORT(finish) int32_t finish(int32_t columns) { return finish_weighted(columns, 1); }
