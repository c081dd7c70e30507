/* A weighted sum of updates, kept in double.
 *
 * Every column adds its updates one after the other, so the sum does not depend on how rows are
 * grouped into calls of `fold`, nor on which columns share a chunk. Multiplying and adding round
 * separately in every variant.
 */
#ifndef CLOISTER_WEIGHTED_H
#define CLOISTER_WEIGHTED_H

#define COLUMNS 65536
#define UPDATE_ELEMENTS (4 * COLUMNS)
#define UPDATE_ROWS 1024
#include "columns.h"

CLOISTER_ACCUMULATOR(double, accumulator, "Weighted sum of the updates", COLUMNS);

CLOISTER_EXPORT(reset) int32_t reset(int32_t columns) {
    if (columns < 0 || columns > COLUMNS) return CLOISTER_TOO_MANY;
    __builtin_memset(accumulator, 0, sizeof(double) * columns);
    fault = -1;
    return CLOISTER_OK;
}

/* accumulator[c .. c+width) += sum over rows of factor[r] * update[r][c ..) */
INLINE void add_columns(int c, int width, int rows, int columns, const double *factor) {
    double sum[8];
    UNROLL for (int j = 0; j < width; j++) sum[j] = accumulator[c + j];
    for (int r = 0; r < rows; r++) {
        double w = factor ? factor[r] : 1;
        UNROLL for (int j = 0; j < width; j++) sum[j] += w * (double)update[r * columns + c + j];
    }
    UNROLL for (int j = 0; j < width; j++) accumulator[c + j] = sum[j];
}

/* Add these updates, times factor[row] (or 1 if there are no factors). */
INLINE int32_t fold_weighted(int32_t rows, int32_t columns, const double *factor) {
    int32_t status = check_fold(rows, columns);
    if (status) return status;
    int c = 0;
    for (; c + 8 <= columns; c += 8) add_columns(c, 8, rows, columns, factor);
    for (; c < columns; c++) add_columns(c, 1, rows, columns, factor);
    return CLOISTER_OK;
}

/* model += accumulator / divisor, which has to be positive */
INLINE int32_t finish_weighted(int32_t columns, double divisor) {
    if (columns < 0 || columns > COLUMNS) return CLOISTER_TOO_MANY;
    if (!is_finite(divisor) || divisor <= 0) return CLOISTER_VALUE;
    int32_t status = CLOISTER_OK;
    for (int c = 0; c < columns; c++)
        status |= store_column(c, model[c] + accumulator[c] / divisor);
    return status;
}

#endif
