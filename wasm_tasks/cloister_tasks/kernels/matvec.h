/* One or two rows times a matrix: every element of B is used so few times that packing it would
 * cost more than the product. B is read where it lies, in the order in which it lies there.
 *
 * Rows of B that are contiguous are added up, four at a time, in C. Columns that are contiguous are
 * multiplied with the rows of A and summed up, with the same care for registers as in tile.h, and
 * with two sets of sums: each step would wait for the one before it otherwise.
 */
#ifndef CLOISTER_MATVEC_H
#define CLOISTER_MATVEC_H

#include "tile.h"

#define MATVEC_UNROLL 32
/* Columns of C that stay in the first-level cache while rows of B are added up. */
#define MATVEC_NC 2048

/* c[i][j] = from[i][j] + alpha * sum over k < depth of x[i][k] b[k][j] for j < n. */
INLINE void matvec_add(const int rows, const int depth, int n, const float *x, int x_row,
                       int x_column, float alpha, const float *b, int ldb, const float *from,
                       int from_row, float *c, int c_row) {
    float factor[2][4];
    f32x4 factors[2][4];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int k = 0; k < depth; k++) {
            factor[i][k] = x[i * x_row + k * x_column] * alpha;
            factors[i][k] = splat(factor[i][k]);
        }
    int j = 0;
#define MATVEC_STEP(at)                                                                       \
    {                                                                                         \
        f32x4 sum[2];                                                                         \
        UNROLL for (int i = 0; i < rows; i++) sum[i] = load(from + i * from_row + (at));      \
        UNROLL for (int k = 0; k < depth; k++) {                                              \
            f32x4 bk = load(b + k * ldb + (at));                                              \
            UNROLL for (int i = 0; i < rows; i++) sum[i] = madd(factors[i][k], bk, sum[i]);   \
        }                                                                                     \
        UNROLL for (int i = 0; i < rows; i++) store(c + i * c_row + (at), sum[i]);            \
    }
    for (; j + 32 <= n; j += 32) UNROLL for (int u = 0; u < 32; u += 4) MATVEC_STEP(j + u)
    for (; j + 4 <= n; j += 4) MATVEC_STEP(j)
#undef MATVEC_STEP
    for (; j < n; j++)
        UNROLL for (int i = 0; i < rows; i++) {
            float sum = from[i * from_row + j];
            UNROLL for (int k = 0; k < depth; k++) sum += factor[i][k] * b[k * ldb + j];
            c[i * c_row + j] = sum;
        }
}

/* All of C, from B with contiguous rows; k is at least 1. from is C or apart from it. */
INLINE void matvec_across(const int rows, int n, int k, float alpha, const float *a, int a_row,
                          int a_column, const float *b, int ldb, const float *from, int from_row,
                          float *c, int c_row) {
    for (int j = 0; j < n; j += MATVEC_NC) {
        const int some = min_int(MATVEC_NC, n - j);
        const float *x = a, *bk = b + j, *sum = from + j;
        int sum_row = from_row, left = k;
        while (left) {
            const int depth = left >= 4 ? 4 : 1;
            if (depth == 4)
                matvec_add(rows, 4, some, x, a_row, a_column, alpha, bk, ldb, sum, sum_row, c + j,
                           c_row);
            else
                matvec_add(rows, 1, some, x, a_row, a_column, alpha, bk, ldb, sum, sum_row, c + j,
                           c_row);
            left -= depth;
            x += depth * a_column;
            bk += depth * ldb;
            sum = c + j;
            sum_row = c_row;
        }
    }
}

/* sums[rows][4 / rows] = A B, with A[i][k] at a[i * a_row + k] and B[k][j] at b[j * b_column + k];
 * only `columns` of the 4 / rows exist. */
INLINE void matvec_along(const int rows, int k, const float *a, int a_row, const float *b,
                         int b_column, int columns, float *sums) {
    const int width = 4 / rows;
    OPAQUE(k);
    OPAQUE(a_row);
    const float *bj[4];
    UNROLL for (int j = 0; j < width; j++) bj[j] = b + min_int(j, columns - 1) * b_column;
    float part[32] = {0};
    int steps = k / 4;
    while (steps) {
        f32x4 sum[2][4];
        UNROLL for (int s = 0; s < 8; s++) sum[s / 4][s % 4] = load(part + 4 * s);
        UNROLL for (int u = 0; u < MATVEC_UNROLL; u++) {
            f32x4 bk[4];
            UNROLL for (int j = 0; j < width; j++) bk[j] = load(bj[j] + 4 * u);
            UNROLL for (int i = 0; i < rows; i++) {
                f32x4 x = load(a + i * a_row + 4 * u);
                UNROLL for (int j = 0; j < width; j++) {
                    const int s = i * width + j;
                    sum[u % 2][s] = madd(x, bk[j], sum[u % 2][s]);
                }
            }
            steps--;
            OPAQUE(steps);
            if (__builtin_expect(steps == 0, 0)) break;
        }
        UNROLL for (int s = 0; s < 8; s++) store(part + 4 * s, sum[s / 4][s % 4]);
        const int done = 4 * (steps ? MATVEC_UNROLL : (k / 4 - 1) % MATVEC_UNROLL + 1);
        a += done;
        UNROLL for (int j = 0; j < width; j++) bj[j] += done;
    }
    f32x4 sum[4];
    UNROLL for (int s = 0; s < 4; s++) {
        sum[s] = load(part + 4 * s) + load(part + 16 + 4 * s);
        if (k % 4) {
            f32x4 x = load_part(a + s / width * a_row, k % 4);
            sum[s] = madd(x, load_part(bj[s % width], k % 4), sum[s]);
        }
    }
#define SHUFFLE __builtin_shufflevector
    f32x4 low = SHUFFLE(sum[0], sum[1], 0, 4, 1, 5) + SHUFFLE(sum[0], sum[1], 2, 6, 3, 7);
    f32x4 high = SHUFFLE(sum[2], sum[3], 0, 4, 1, 5) + SHUFFLE(sum[2], sum[3], 2, 6, 3, 7);
    store(sums, SHUFFLE(low, high, 0, 1, 4, 5) + SHUFFLE(low, high, 2, 3, 6, 7));
#undef SHUFFLE
}

NOINLINE void matvec_across_1(int n, int k, float alpha, const float *a, int a_column,
                              const float *b, int ldb, const float *from, float *c) {
    matvec_across(1, n, k, alpha, a, 0, a_column, b, ldb, from, 0, c, 0);
}

NOINLINE void matvec_across_2(int n, int k, float alpha, const float *a, int a_row, int a_column,
                              const float *b, int ldb, const float *from, int from_row, float *c,
                              int c_row) {
    matvec_across(2, n, k, alpha, a, a_row, a_column, b, ldb, from, from_row, c, c_row);
}

NOINLINE void matvec_along_1(int k, const float *a, const float *b, int b_column, int columns,
                             float *sums) {
    matvec_along(1, k, a, 0, b, b_column, columns, sums);
}

NOINLINE void matvec_along_2(int k, const float *a, int a_row, const float *b, int b_column,
                             int columns, float *sums) {
    matvec_along(2, k, a, a_row, b, b_column, columns, sums);
}

/* c[i][j] = init[i][j] + alpha * sums[i][j], with sums [rows][width]. */
NOINLINE void matvec_put(int rows, int columns, int width, float alpha, const float *sums,
                         const float *init, int init_row, int init_column, float *c, int c_row,
                         int c_column) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++)
            c[i * c_row + j * c_column] =
                init[i * init_row + j * init_column] + sums[i * width + j] * alpha;
}

/* Whether `matvec` can do it, and whether it does so along the columns of B. */
INLINE int matvec_fits_along(int m, int a_column, int b_row) {
    return m <= 2 && b_row == 1 && a_column == 1;
}
INLINE int matvec_fits(int m, int a_column, int b_row, int b_column, int init_column,
                       int c_column) {
    const int across = b_column == 1 && init_column == 1 && c_column == 1;
    return m <= 2 && (across || matvec_fits_along(m, a_column, b_row));
}

/* C = init + alpha A B for what fits, k at least 1. Strides as in matmul.h, but C has two and init
 * is not NULL; all but alpha is known when this is compiled. */
INLINE void matvec(int m, int n, int k, float alpha, const float *a, int a_row, int a_column,
                   const float *b, int b_row, int b_column, const float *init, int init_row,
                   int init_column, float *c, int c_row, int c_column) {
    if (!matvec_fits_along(m, a_column, b_row)) {
        if (m == 1)
            matvec_across_1(n, k, alpha, a, a_column, b, b_row, init, c);
        else
            matvec_across_2(n, k, alpha, a, a_row, a_column, b, b_row, init, init_row, c, c_row);
        return;
    }
    const int width = 4 / m;
    float sums[4];
    for (int j = 0; j < n; j += width) {
        const int columns = min_int(width, n - j);
        const float *bj = b + j * b_column;
        if (m == 1)
            matvec_along_1(k, a, bj, b_column, columns, sums);
        else
            matvec_along_2(k, a, a_row, bj, b_column, columns, sums);
        matvec_put(m, columns, width, alpha, sums, init + j * init_column, init_row, init_column,
                   c + j * c_column, c_row, c_column);
    }
}

#endif
