/* Operands of the products of matrices that convolutions are, packed as `tile_column` wants them:
 * panels of 4 outputs, panels of 8 columns, gathered from weights and images as they are. */
#ifndef CLOISTER_PANELS_H
#define CLOISTER_PANELS_H

#include "tile.h"
#include "window.h"

/* Rows 0..3 become columns 0..3. */
INLINE void transpose4(f32x4 v[4]) {
#define SHUFFLE __builtin_shufflevector
    f32x4 a = SHUFFLE(v[0], v[1], 0, 4, 1, 5), b = SHUFFLE(v[2], v[3], 0, 4, 1, 5);
    f32x4 c = SHUFFLE(v[0], v[1], 2, 6, 3, 7), d = SHUFFLE(v[2], v[3], 2, 6, 3, 7);
    v[0] = SHUFFLE(a, b, 0, 1, 4, 5);
    v[1] = SHUFFLE(a, b, 2, 3, 6, 7);
    v[2] = SHUFFLE(c, d, 0, 1, 4, 5);
    v[3] = SHUFFLE(c, d, 2, 3, 6, 7);
#undef SHUFFLE
}

/* panels[row / 4][k][4] = factor * rows[row][k], zero where there is no row; `panel` floats from
 * one panel to the next. */
NOINLINE void panel_rows(int count, int k, float factor, const float *rows, int stride,
                         float *panels, int panel) {
    for (int r = 0; r < count; r += 4, rows += 4 * stride, panels += panel) {
        int t = 0;
        if (count - r >= 4)
            for (; t + 4 <= k; t += 4) {
                f32x4 v[4];
                UNROLL for (int i = 0; i < 4; i++) v[i] = load(rows + i * stride + t);
                transpose4(v);
                UNROLL for (int i = 0; i < 4; i++)
                    store(panels + 4 * (t + i), v[i] * splat(factor));
            }
        for (; t < k; t++)
            for (int i = 0; i < 4; i++)
                panels[4 * t + i] = r + i < count ? rows[i * stride + t] * factor : 0;
    }
}

/* panels[output / 4][k][4] = w[output * stride + taps[k]]; the taps are in ascending order. */
NOINLINE void panel_weights(int outputs, int k, const place *taps, const float *w, int stride,
                            float *panels) {
    if (taps[k - 1] - taps[0] == k - 1) {
        panel_rows(outputs, k, 1, w + taps[0], stride, panels, 4 * k);
        return;
    }
    for (int o = 0; o < outputs; o += 4, w += 4 * stride) {
        if (outputs - o >= 4)
            for (int t = 0; t < k; t++, panels += 4) {
                const float *p = w + taps[t];
                store(panels, (f32x4){p[0], p[stride], p[2 * stride], p[3 * stride]});
            }
        else
            for (int t = 0; t < k; t++)
                for (int i = 0; i < 4; i++)
                    *panels++ = o + i < outputs ? w[taps[t] + i * stride] : 0;
    }
}

/* Four places in ascending order. They are one run, or (at the end of a row) the beginning of one
 * and the end of another, or neither. */
struct run {
    int first, last; /* where the runs would be with all four */
    i32x4 in_first;
    int runs; /* 0 if neither */
};

INLINE struct run run_of(const place *places) {
    struct run f = {.first = places[0], .last = places[3] - 3};
    i32x4 at = {places[0], places[1], places[2], places[3]}, lanes = {0, 1, 2, 3};
    f.in_first = at == f.first + lanes;
    i32x4 odd = ~f.in_first & ~(at == f.last + lanes);
    f.runs = f.first == f.last ? 1 : (odd[0] | odd[1] | odd[2] | odd[3]) ? 0 : 2;
    return f;
}

INLINE f32x4 load_two_runs(const struct run *f, const float *p) {
    return select(f->in_first, load(p + f->first), load(p + f->last));
}

/* panel[k][8] = source[taps[k] + results[0..7]], zero from `columns` on. */
NOINLINE void panel_gather(int k, const place *taps, const float *source, const place *results,
                           int columns, float *panel) {
    if (columns < 8) {
        for (int t = 0; t < k; t++)
            for (int j = 0; j < 8; j++)
                *panel++ = j < columns ? source[taps[t] + results[j]] : 0;
        return;
    }
    struct run low = run_of(results), high = run_of(results + 4);
    if (low.runs == 1 && high.runs == 1) {
        const float *p = source + low.first, *q = source + high.first;
        for (int t = 0; t < k; t++, panel += 8) {
            store(panel, load(p + taps[t]));
            store(panel + 4, load(q + taps[t]));
        }
    } else if (low.runs && high.runs) {
        for (int t = 0; t < k; t++, panel += 8) {
            store(panel, load_two_runs(&low, source + taps[t]));
            store(panel + 4, load_two_runs(&high, source + taps[t]));
        }
    } else {
        for (int t = 0; t < k; t++)
            UNROLL for (int j = 0; j < 8; j++) *panel++ = source[taps[t] + results[j]];
    }
}

/* panel[result][8] = source[results[result] + taps[0..7]]; taps from `columns` on repeat the
 * last. */
NOINLINE void panel_gather_transposed(int count, const place *results, const place *taps,
                                      int columns, const float *source, float *panel) {
    const float *tap[8];
    UNROLL for (int j = 0; j < 8; j++) tap[j] = source + taps[min_int(j, columns - 1)];
    int r = 0;
    for (; r + 4 <= count; r += 4, panel += 32) {
        struct run f = run_of(results + r);
        f32x4 v[8];
        if (f.runs == 1)
            UNROLL for (int j = 0; j < 8; j++) v[j] = load(tap[j] + f.first);
        else if (f.runs == 2)
            UNROLL for (int j = 0; j < 8; j++) v[j] = load_two_runs(&f, tap[j]);
        else
            UNROLL for (int j = 0; j < 8; j++)
                UNROLL for (int i = 0; i < 4; i++) v[j][i] = tap[j][results[r + i]];
        transpose4(v);
        transpose4(v + 4);
        UNROLL for (int j = 0; j < 8; j++) store(panel + 8 * (j % 4) + j / 4 * 4, v[j]);
    }
    for (; r < count; r++)
        UNROLL for (int j = 0; j < 8; j++) *panel++ = tap[j][results[r]];
}

/* c[output][0..columns - 1] = init + packed[output / 4][k][4] panel[k][8], with rows of init and c
 * `init_row` and `ldc` floats apart. */
NOINLINE void panel_multiply(int outputs, int k, const float *packed, const float *panel,
                             const float *init, int init_row, float *c, int ldc, int columns) {
    int whole = columns == 8 ? outputs / 4 : 0;
    if (whole) tile_column(whole, k, packed, panel, init, init_row, c, ldc);
    for (int o = 4 * whole; o < outputs; o += 4)
        tile(k, packed + o * k, panel, init + o * init_row, init_row, 1, c + o * ldc, ldc,
             min_int(4, outputs - o), columns);
}

#endif
