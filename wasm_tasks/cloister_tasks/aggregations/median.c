/* Coordinate-wise median: model += median(update), weights left aside.
 *
 * Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates", ICML
 * 2018, algorithm 1, option I. For an even number of updates, the mean of the middle two.
 */
#define COLUMNS 4096
#define MAX_UPDATES 255
#define UPDATE_ELEMENTS (32 * COLUMNS)
#define UPDATE_ROWS MAX_UPDATES
#include "columns.h"

CLOISTER_TASK("median", "Coordinate-wise median of at most 255 updates");
CLOISTER_UNWEIGHTED;

CLOISTER_ACCUMULATOR(float, accumulator, "All updates of the chunk", MAX_UPDATES, COLUMNS);
static int held;

/* Columns sorted side by side. */
#define LANES 16
static float lanes[MAX_UPDATES][LANES];

CLOISTER_EXPORT(reset) int32_t reset(int32_t columns) {
    if (columns < 0 || columns > COLUMNS) return CLOISTER_TOO_MANY;
    held = 0;
    fault = -1;
    return CLOISTER_OK;
}

CLOISTER_EXPORT(fold) int32_t fold(int32_t rows, int32_t columns) {
    int32_t status = check_fold(rows, columns);
    if (status) return status;
    if (rows > MAX_UPDATES - held) return CLOISTER_TOO_MANY_UPDATES;
    for (int r = 0; r < rows; r++)
        __builtin_memcpy(accumulator[held + r], update + r * columns, sizeof(float) * columns);
    held += rows;
    return CLOISTER_OK;
}

/* lanes[a] = the smaller, lanes[b] = the larger, column by column. */
INLINE void order(int a, int b) {
    UNROLL for (int j = 0; j < LANES; j += 4) {
        f32x4 x = load(&lanes[a][j]), y = load(&lanes[b][j]);
        store(&lanes[a][j], select(y < x, y, x));
        store(&lanes[b][j], select(y < x, x, y));
    }
}

/* Merge exchange, a sorting network for any number of rows: Knuth, The Art of Computer
 * Programming, volume 3, algorithm 5.2.2M (Batcher). */
static void sort_rows(int n) {
    int top = 1;
    while (2 * top < n) top *= 2;
    for (int p = top; p > 0; p /= 2)
        for (int q = top, r = 0, d = p;; d = q - p, q /= 2, r = p) {
            for (int i = 0; i < n - d; i++)
                if ((i & p) == r) order(i, i + d);
            if (q == p) break;
        }
}

CLOISTER_EXPORT(finish) int32_t finish(int32_t columns) {
    if (columns < 0 || columns > COLUMNS) return CLOISTER_TOO_MANY;
    if (held == 0) return CLOISTER_VALUE;
    int32_t status = CLOISTER_OK;
    for (int c = 0; c < columns; c += LANES) {
        int width = min_int(LANES, columns - c);
        for (int r = 0; r < held; r++)
            __builtin_memcpy(lanes[r], &accumulator[r][c], sizeof(float) * width);
        sort_rows(held);
        for (int j = 0; j < width; j++) {
            double low = lanes[(held - 1) / 2][j], high = lanes[held / 2][j];
            status |= store_column(c + j, model[c + j] + (low + high) / 2);
        }
    }
    return status;
}
