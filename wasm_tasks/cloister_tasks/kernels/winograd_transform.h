/* Minimal filtering: two neighbouring results of three taps from four products, which is F(2, 3) of
 * S. Winograd, "Arithmetic Complexity of Computations" (SIAM, 1980),
 *
 *     results = A' ((G weights) * (B' seen))      with * element by element
 *
 * and nested, a tile of 2 x 2 results of 3 x 3 taps from 16 products instead of 36 (A. Lavin and
 * S. Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.1). Five taps
 * are the first three plus the last two, by F(2, 3) and F(2, 2), which shares the seen value
 * between them: 7 products, and 49 instead of 100 for a tile. (6 products are possible, at five
 * to eleven times the rounding error of the plain sum; these here add or halve only, and theirs is
 * 1.3 to 1.8 times as large, root mean square.)
 *
 * The gradient with respect to the weights is the transposed algorithm
 *
 *     gradient = G' sum over tiles of ((A errors) * (B' seen)).
 *
 * Everything here does four transforms at once, one per lane.
 */
#ifndef CLOISTER_WINOGRAD_TRANSFORM_H
#define CLOISTER_WINOGRAD_TRANSFORM_H

#include "panels.h"

/* Most products in one direction, and most pixels that a tile sees. */
#define WINOGRAD_POINTS 7
#define WINOGRAD_PATCH 6

/* Products in one direction. */
INLINE int winograd_points(int taps) { return taps == 3 ? 4 : 7; }

/* In one direction: B', `taps` + 1 values to points. */
INLINE void winograd_seen(const int taps, const f32x4 *d, f32x4 *v) {
    v[0] = d[0] - d[2];
    v[1] = d[1] + d[2];
    v[2] = d[2] - d[1];
    v[3] = d[1] - d[3];
    if (taps == 3) return;
    v[4] = d[3] - d[4];
    v[5] = d[4];
    v[6] = d[4] - d[5];
}

/* G, taps to points. */
INLINE void winograd_weight(const int taps, const f32x4 *g, f32x4 *u) {
    f32x4 even = (g[0] + g[2]) * splat(0.5f), odd = g[1] * splat(0.5f);
    u[0] = g[0];
    u[1] = even + odd;
    u[2] = even - odd;
    u[3] = g[2];
    if (taps == 3) return;
    u[4] = g[3];
    u[5] = g[3] + g[4];
    u[6] = g[4];
}

/* A', points to two results. */
INLINE void winograd_result(const int taps, const f32x4 *m, f32x4 *y) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] - m[3];
    if (taps == 3) return;
    y[0] += m[4] + m[5];
    y[1] += m[5] - m[6];
}

/* A, two errors to points. */
INLINE void winograd_error(const int taps, const f32x4 *e, f32x4 *v) {
    v[0] = e[0];
    v[1] = e[0] + e[1];
    v[2] = e[0] - e[1];
    v[3] = -e[1];
    if (taps == 3) return;
    v[4] = e[0];
    v[5] = e[0] + e[1];
    v[6] = -e[1];
}

/* G', points to the gradients of the taps. */
INLINE void winograd_gradient(const int taps, const f32x4 *m, f32x4 *g) {
    f32x4 even = (m[1] + m[2]) * splat(0.5f), odd = (m[1] - m[2]) * splat(0.5f);
    g[0] = m[0] + even;
    g[1] = odd;
    g[2] = even + m[3];
    if (taps == 3) return;
    g[3] = m[4] + m[5];
    g[4] = m[5] + m[6];
}

/* All points of four patches that begin at from[0..3], with rows `row` floats apart: point number
 * n goes to to + n * point. */
INLINE void winograd_patch(const int taps, const float *const *from, int row, float *to,
                           int point) {
    const int points = winograd_points(taps), seen = taps + 1;
    f32x4 across[WINOGRAD_PATCH][WINOGRAD_POINTS];
    UNROLL for (int i = 0; i < seen; i++) {
        f32x4 d[4 + WINOGRAD_PATCH];
        UNROLL for (int j = 0; j < 4; j++) d[j] = load(from[j] + i * row);
        transpose4(d);
        if (taps == 5) {
            UNROLL for (int j = 0; j < 4; j++) d[4 + j] = load(from[j] + i * row + 2);
            transpose4(d + 4);
            d[4] = d[6];
            d[5] = d[7];
        }
        winograd_seen(taps, d, across[i]);
    }
    UNROLL for (int j = 0; j < points; j++) {
        f32x4 d[WINOGRAD_PATCH], v[WINOGRAD_POINTS];
        UNROLL for (int i = 0; i < seen; i++) d[i] = across[i][j];
        winograd_seen(taps, d, v);
        UNROLL for (int i = 0; i < points; i++) store(to + (i * points + j) * point, v[i]);
    }
}

/* All points of four kernels at from[0..3]; with flip_y or flip_x their taps are in reverse. */
INLINE void winograd_kernel(const int taps, const float *const *from, int flip_y, int flip_x,
                            float *to, int point) {
    const int points = winograd_points(taps), last = taps * taps - 1;
    f32x4 g[28], across[WINOGRAD_PATCH][WINOGRAD_POINTS];
    UNROLL for (int k = 0; k < last; k += 4) {
        UNROLL for (int l = 0; l < 4; l++) g[k + l] = load(from[l] + k);
        transpose4(g + k);
    }
    g[last] = (f32x4){from[0][last], from[1][last], from[2][last], from[3][last]};
    UNROLL for (int i = 0; i < taps; i++) {
        f32x4 line[5];
        UNROLL for (int j = 0; j < taps; j++)
            line[j] = flip_x ? g[i * taps + taps - 1 - j] : g[i * taps + j];
        winograd_weight(taps, line, across[i]);
    }
    UNROLL for (int j = 0; j < points; j++) {
        f32x4 line[5], u[WINOGRAD_POINTS];
        UNROLL for (int i = 0; i < taps; i++)
            line[i] = flip_y ? across[taps - 1 - i][j] : across[i][j];
        winograd_weight(taps, line, u);
        UNROLL for (int i = 0; i < points; i++) store(to + (i * points + j) * point, u[i]);
    }
}

/* y[2 * i + j] = the results (i, j) of four tiles, from their points at m + n * point. */
INLINE void winograd_tile(const int taps, const float *m, int point, f32x4 *y) {
    const int points = winograd_points(taps);
    f32x4 down[2][WINOGRAD_POINTS];
    UNROLL for (int j = 0; j < points; j++) {
        f32x4 line[WINOGRAD_POINTS], pair[2];
        UNROLL for (int i = 0; i < points; i++) line[i] = load(m + (i * points + j) * point);
        winograd_result(taps, line, pair);
        down[0][j] = pair[0];
        down[1][j] = pair[1];
    }
    winograd_result(taps, down[0], y);
    winograd_result(taps, down[1], y + 2);
}

/* Two floats, and zeros. */
INLINE f32x4 load_pair(const float *p) {
    typedef int64_t pair __attribute__((aligned(4), may_alias));
    typedef int64_t pairs __attribute__((vector_size(16)));
    return (f32x4)(pairs){*(const pair *)p, 0};
}

/* All points of the 2 x 2 errors at from[0..3]. */
INLINE void winograd_errors(const int taps, const float *const *from, int row, float *to,
                            int point) {
#define SHUFFLE __builtin_shufflevector
    const int points = winograd_points(taps);
    f32x4 across[2][WINOGRAD_POINTS];
    UNROLL for (int i = 0; i < 2; i++) {
        f32x4 v[4], e[2];
        UNROLL for (int l = 0; l < 4; l++) v[l] = load_pair(from[l] + i * row);
        f32x4 a = SHUFFLE(v[0], v[1], 0, 4, 1, 5), b = SHUFFLE(v[2], v[3], 0, 4, 1, 5);
        e[0] = SHUFFLE(a, b, 0, 1, 4, 5);
        e[1] = SHUFFLE(a, b, 2, 3, 6, 7);
        winograd_error(taps, e, across[i]);
    }
    UNROLL for (int j = 0; j < points; j++) {
        f32x4 e[2] = {across[0][j], across[1][j]}, v[WINOGRAD_POINTS];
        winograd_error(taps, e, v);
        UNROLL for (int i = 0; i < points; i++) store(to + (i * points + j) * point, v[i]);
    }
#undef SHUFFLE
}

/* The gradients of four kernels, from their points at m + n * point: g[tap] has a lane for each. */
INLINE void winograd_kernel_gradient(const int taps, const float *m, int point, f32x4 *g) {
    const int points = winograd_points(taps);
    f32x4 down[5][WINOGRAD_POINTS];
    UNROLL for (int j = 0; j < points; j++) {
        f32x4 line[WINOGRAD_POINTS], column[5];
        UNROLL for (int i = 0; i < points; i++) line[i] = load(m + (i * points + j) * point);
        winograd_gradient(taps, line, column);
        UNROLL for (int i = 0; i < taps; i++) down[i][j] = column[i];
    }
    UNROLL for (int i = 0; i < taps; i++) winograd_gradient(taps, down[i], g + i * taps);
}

#endif
