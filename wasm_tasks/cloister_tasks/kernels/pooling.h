/* Pooling over planes of height x width, as PyTorch's max_pool2d and avg_pool2d, and the gradients.
 *
 * Windows may hang over the edges (padding, ceil_mode): what lies outside takes no part. Four
 * neighbouring results are computed at a time where their windows are inside and not more than 2
 * apart, by code of its own for the customary 2 x 2.
 */
#ifndef CLOISTER_POOLING_H
#define CLOISTER_POOLING_H

#include "vector.h"

struct pool2d {
    int planes, height, width, kernel_height, kernel_width;
    int stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
    int out_height, out_width;
};

/* The taps [begin, end) of a window, of all `taps`, that are inside. */
struct span {
    int begin, end;
};

INLINE struct span pool_taps(int start, int size, int taps, int dilation) {
    struct span t = {start < 0 ? (dilation - 1 - start) / dilation : 0, taps};
    t.end = start < size ? min_int(taps, (size - start + dilation - 1) / dilation) : 0;
    return t;
}

/* The results [begin, end) of a row that can be computed four at a time, the last four perhaps once
 * more: every tap is inside. */
INLINE struct span pool_inside(const struct pool2d *s) {
    struct span r = {(s->pad_x + s->stride_x - 1) / s->stride_x, 0};
    int last = s->width - 1 - (s->kernel_width - 1) * s->dilation_x + s->pad_x;
    r.end = last < 0 ? 0 : min_int(s->out_width, last / s->stride_x + 1);
    if (s->stride_x > 2 || r.end - r.begin < 4) r.end = r.begin;
    return r;
}

INLINE int pool_is_2x2(const struct pool2d *s) {
    return s->kernel_height == 2 && s->kernel_width == 2 && s->stride_y == 2 && s->stride_x == 2 &&
           s->pad_y == 0 && s->pad_x == 0 && s->dilation_y == 1 && s->dilation_x == 1 &&
           2 * s->out_height <= s->height && 2 * s->out_width <= s->width;
}

/* p[0], p[step], p[2 * step], p[3 * step] for a step of 1 or 2. */
INLINE f32x4 pool_load(const float *p, int step) {
    return step == 1 ? load(p) : __builtin_shufflevector(load(p), load(p + 3), 0, 2, 5, 7);
}

/* Four results, of which the first window begins at row y and column x, `step` columns apart. */
INLINE void max_pool_four(struct span rows, int columns, int step, int dilation_y, int dilation_x,
                          int width, int y, int x, const float *plane, float *out,
                          int32_t *indices) {
    f32x4 most = splat(-__builtin_inff());
    i32x4 where = {0};
    for (int i = rows.begin; i < rows.end; i++)
        for (int j = 0; j < columns; j++) {
            int at = (y + i * dilation_y) * width + x + j * dilation_x;
            f32x4 v = pool_load(plane + at, step);
            i32x4 places = at + step * (i32x4){0, 1, 2, 3};
            i32x4 better = (v > most) | (v != v);
            if (i == rows.begin && j == 0) better = ~(i32x4){0};
            most = select(better, v, most);
            where = (better & places) | (~better & where);
        }
    store(out, most);
    if (indices) __builtin_memcpy(indices, &where, sizeof where);
}

INLINE void max_pool_one(struct span rows, struct span columns, int dilation_y, int dilation_x,
                         int width, int y, int x, const float *plane, float *out,
                         int32_t *index) {
    float most = -__builtin_inff();
    int where = (y + rows.begin * dilation_y) * width + x + columns.begin * dilation_x;
    for (int i = rows.begin; i < rows.end; i++)
        for (int j = columns.begin; j < columns.end; j++) {
            int at = (y + i * dilation_y) * width + x + j * dilation_x;
            float v = plane[at];
            if (v > most || v != v) {
                most = v;
                where = at;
            }
        }
    *out = most;
    if (index) *index = where;
}

/* y[planes][out_height][out_width] = the largest in each window, and its place in its plane (the
 * first of several); no number counts as larger than all numbers. `indices` may be NULL. */
NOINLINE void max_pool2d_of(const struct pool2d *s, const float *x, float *y, int32_t *indices) {
    struct span inside = pool_inside(s);
    int square = pool_is_2x2(s), size = s->height * s->width;
    for (int p = 0; p < s->planes; p++, x += size)
        for (int r = 0; r < s->out_height; r++) {
            int top = r * s->stride_y - s->pad_y;
            struct span rows = pool_taps(top, s->height, s->kernel_height, s->dilation_y);
            for (int c = 0; c < s->out_width; c++) {
                int four = c >= inside.begin && c < inside.end;
                if (four) c = min_int(c, inside.end - 4);
                int left = c * s->stride_x - s->pad_x;
                int32_t *index = indices ? indices + c : 0;
                if (four && square)
                    max_pool_four((struct span){0, 2}, 2, 2, 1, 1, s->width, top, left, x, y + c,
                                  index);
                else if (four)
                    max_pool_four(rows, s->kernel_width, s->stride_x, s->dilation_y, s->dilation_x,
                                  s->width, top, left, x, y + c, index);
                else
                    max_pool_one(rows, pool_taps(left, s->width, s->kernel_width, s->dilation_x),
                                 s->dilation_y, s->dilation_x, s->width, top, left, x, y + c,
                                 index);
                if (four) c += 3;
            }
            y += s->out_width;
            indices = indices ? indices + s->out_width : 0;
        }
}

INLINE void max_pool2d(const struct pool2d s, const float *x, float *y, int32_t *indices) {
    max_pool2d_of(&s, x, y, indices);
}

/* Four errors and their places, spread over 2 x 8 inputs of which the first is number `at`. */
INLINE void max_pool_spread(int at, int width, f32x4 error, i32x4 places, float *dx) {
    const i32x4 even = {0, 2, 4, 6};
    UNROLL for (int i = 0; i < 2; i++) {
        int first = at + i * width;
        f32x4 a = (f32x4)((places == first + even) & (i32x4)error);
        f32x4 b = (f32x4)((places == first + 1 + even) & (i32x4)error);
        store(dx + first, __builtin_shufflevector(a, b, 0, 4, 1, 5));
        store(dx + first + 4, __builtin_shufflevector(a, b, 2, 6, 3, 7));
    }
}

NOINLINE void max_pool2d_gradient_of(const struct pool2d *s, const float *dy,
                                     const int32_t *indices, float *dx) {
    int size = s->height * s->width, n = s->out_width, fast = pool_is_2x2(s) && n >= 4;
    if (!fast || 4 * s->out_height * n < size)
        __builtin_memset(dx, 0, sizeof(float) * (unsigned)(s->planes * size));
    for (int p = 0; p < s->planes; p++, dx += size)
        for (int r = 0; r < s->out_height; r++, dy += n, indices += n)
            if (fast)
                for (int c = 0; c < n; c += 4) {
                    int at = min_int(c, n - 4);
                    i32x4 places;
                    __builtin_memcpy(&places, indices + at, sizeof places);
                    max_pool_spread(2 * (r * s->width + at), s->width, load(dy + at), places, dx);
                }
            else
                for (int c = 0; c < n; c++) dx[indices[c]] += dy[c];
}

/* dx[planes][height][width] = the errors of the results at the places they came from. */
INLINE void max_pool2d_gradient(const struct pool2d s, const float *dy, const int32_t *indices,
                                float *dx) {
    max_pool2d_gradient_of(&s, dy, indices, dx);
}

/* What a sum over the window at (top, left) is divided by. */
INLINE float avg_pool_divisor(const struct pool2d *s, int count_include_pad, int divisor_override,
                              int top, int left, struct span rows, struct span columns) {
    if (divisor_override) return (float)divisor_override;
    if (!count_include_pad) return (float)((rows.end - rows.begin) * (columns.end - columns.begin));
    int bottom = min_int(top + s->kernel_height, s->height + s->pad_y);
    int right = min_int(left + s->kernel_width, s->width + s->pad_x);
    return (float)((bottom - top) * (right - left));
}

INLINE f32x4 avg_pool_four(struct span rows, int columns, int step, int width,
                           const float *window) {
    f32x4 sum = splat(0);
    for (int i = rows.begin; i < rows.end; i++)
        for (int j = 0; j < columns; j++) sum += pool_load(window + i * width + j, step);
    return sum;
}

INLINE float avg_pool_one(struct span rows, struct span columns, int width, const float *window) {
    f32x4 sums = splat(0);
    float sum = 0;
    for (int i = rows.begin; i < rows.end; i++) {
        const float *row = window + i * width;
        int j = columns.begin;
        for (; j + 4 <= columns.end; j += 4) sums += load(row + j);
        for (; j < columns.end; j++) sum += row[j];
    }
    return sum + ((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

NOINLINE void avg_pool2d_of(const struct pool2d *s, int count_include_pad, int divisor_override,
                            const float *x, float *y) {
    struct span inside = pool_inside(s);
    int square = pool_is_2x2(s), size = s->height * s->width;
    for (int p = 0; p < s->planes; p++, x += size)
        for (int r = 0; r < s->out_height; r++, y += s->out_width) {
            int top = r * s->stride_y - s->pad_y;
            struct span rows = pool_taps(top, s->height, s->kernel_height, 1);
            for (int c = 0; c < s->out_width; c++) {
                int four = c >= inside.begin && c < inside.end;
                if (four) c = min_int(c, inside.end - 4);
                int left = c * s->stride_x - s->pad_x;
                struct span columns = {0, s->kernel_width};
                if (!four) columns = pool_taps(left, s->width, s->kernel_width, 1);
                float divisor = avg_pool_divisor(s, count_include_pad, divisor_override, top, left,
                                                 rows, columns);
                const float *window = x + top * s->width + left;
                if (!four) {
                    y[c] = avg_pool_one(rows, columns, s->width, window) / divisor;
                    continue;
                }
                f32x4 sum = square ? avg_pool_four((struct span){0, 2}, 2, 2, s->width, window)
                                   : avg_pool_four(rows, s->kernel_width, s->stride_x, s->width,
                                                   window);
                store(y + c, sum / splat(divisor));
                c += 3;
            }
        }
}

/* y[planes][out_height][out_width] = the sum over each window by `divisor_override`; if that is 0,
 * by the number of inputs in the window, with those of the padding if `count_include_pad`. */
INLINE void avg_pool2d(const struct pool2d s, int count_include_pad, int divisor_override,
                       const float *x, float *y) {
    avg_pool2d_of(&s, count_include_pad, divisor_override, x, y);
}

NOINLINE void avg_pool2d_gradient_of(const struct pool2d *s, int count_include_pad,
                                     int divisor_override, const float *dy, float *dx) {
    int size = s->height * s->width, n = s->out_width, fast = pool_is_2x2(s) && n >= 4;
    f32x4 quarter = splat(1 / (float)(divisor_override ? divisor_override : 4));
    if (!fast || 4 * s->out_height * n < size)
        __builtin_memset(dx, 0, sizeof(float) * (unsigned)(s->planes * size));
    for (int p = 0; p < s->planes; p++, dx += size)
        for (int r = 0; r < s->out_height; r++, dy += n) {
            int top = r * s->stride_y - s->pad_y;
            struct span rows = pool_taps(top, s->height, s->kernel_height, 1);
            for (int c = 0; fast && c < n; c += 4) {
                int at = min_int(c, n - 4);
                f32x4 error = load(dy + at) * quarter;
                for (int i = 0; i < 2; i++) {
                    float *to = dx + (top + i) * s->width + 2 * at;
                    store(to, __builtin_shufflevector(error, error, 0, 0, 1, 1));
                    store(to + 4, __builtin_shufflevector(error, error, 2, 2, 3, 3));
                }
            }
            for (int c = 0; !fast && c < n; c++) {
                int left = c * s->stride_x - s->pad_x;
                struct span columns = pool_taps(left, s->width, s->kernel_width, 1);
                float error = dy[c] / avg_pool_divisor(s, count_include_pad, divisor_override, top,
                                                       left, rows, columns);
                for (int i = rows.begin; i < rows.end; i++) {
                    float *row = dx + (top + i) * s->width + left;
                    int j = columns.begin;
                    for (; j + 4 <= columns.end; j += 4)
                        store(row + j, load(row + j) + splat(error));
                    for (; j < columns.end; j++) row[j] += error;
                }
            }
        }
}

/* dx[planes][height][width] = the gradient of avg_pool2d. */
INLINE void avg_pool2d_gradient(const struct pool2d s, int count_include_pad, int divisor_override,
                                const float *dy, float *dx) {
    avg_pool2d_gradient_of(&s, count_include_pad, divisor_override, dy, dx);
}

#endif
