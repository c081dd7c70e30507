/* What the aggregations share: the buffers of one chunk of columns, and checking them.
 *
 * The including file defines COLUMNS, UPDATE_ELEMENTS and UPDATE_ROWS, the capacities.
 */
#ifndef CLOISTER_COLUMNS_H
#define CLOISTER_COLUMNS_H

#include <cloister.h>

#include "math.h"

CLOISTER_MODEL(COLUMNS);
CLOISTER_UPDATE(UPDATE_ELEMENTS);
CLOISTER_WEIGHT(UPDATE_ROWS);
CLOISTER_TOTAL;
CLOISTER_FAULT;

/* The first of these rows with a value that is not finite, or -1. */
NOINLINE int first_not_finite(int rows, int columns) {
    for (int r = 0; r < rows; r++) {
        const float *row = update + r * columns;
        const i32x4 ones = {0x7f800000, 0x7f800000, 0x7f800000, 0x7f800000};
        i32x4 bad = {0};
        int c = 0;
        for (; c + 4 <= columns; c += 4) bad |= ((i32x4)load(row + c) & ones) == ones;
        for (; c < columns; c++) bad[0] |= -!is_finite(row[c]);
        if (bad[0] | bad[1] | bad[2] | bad[3]) return r;
    }
    return -1;
}

/* Whether `fold` can take these updates; sets fault if one of them is to blame. */
static int32_t check_fold(int32_t rows, int32_t columns) {
    if (rows < 0 || rows > UPDATE_ROWS || columns < 0 || columns > COLUMNS ||
        (int64_t)rows * columns > UPDATE_ELEMENTS)
        return CLOISTER_TOO_MANY;
    for (int r = 0; r < rows; r++)
        if (!is_finite(weight[r]) || weight[r] < 0) {
            fault = r;
            return CLOISTER_VALUE;
        }
    int bad = first_not_finite(rows, columns);
    if (bad < 0) return CLOISTER_OK;
    fault = bad;
    return CLOISTER_NOT_FINITE;
}

/* Store one column of the next model. */
static inline int32_t store_column(int c, double value) {
    model[c] = (float)value;
    return is_finite(model[c]) ? CLOISTER_OK : CLOISTER_NOT_FINITE;
}

#endif
