/* What a convolution sees of an image: for every result, one source pixel per tap of the kernel.
 *
 * Reading it is made uniform by a copy with a zero border, in which the pixels that neighbouring
 * results see under one tap lie side by side even if the convolution takes larger steps: rows and
 * columns are sorted by their remainder modulo the step. The source pixel of a result under a tap
 * is then at `row * result_row + result_column` plus an offset that belongs to the tap. An image
 * with that property already (no border, steps of 1) is read in place.
 */
#ifndef CLOISTER_WINDOW_H
#define CLOISTER_WINDOW_H

#include "vector.h"

/* Places in an array of floats, kept in the same scratch memory as floats. */
typedef int32_t __attribute__((may_alias)) place;

/* One direction, y or x. The result r sees under tap t the source pixel
 * r * step + offset + t * offset_step (zero if there is none); its weight is number
 * tap + t * tap_step of the kernel. */
struct axis {
    int source, results, step;
    int taps, offset, offset_step;
    int tap, tap_step;
};

INLINE int round_up(int x, int unit) { return (x + unit - 1) / unit * unit; }
INLINE int quotient_up(int x, int y) { return (x + y - 1) / y; }

/* The first source pixel that result 0 sees. */
INLINE int axis_lowest(const struct axis *a) {
    return a->offset + (a->offset_step < 0 ? (a->taps - 1) * a->offset_step : 0);
}

/* Source pixels from the first to the last one that a result sees. */
INLINE int axis_span(const struct axis *a) {
    int step = a->offset_step < 0 ? -a->offset_step : a->offset_step;
    return (a->taps - 1) * step + 1;
}

/* Remainders modulo the step that the copy has room for. */
INLINE int axis_phases(const struct axis *a) { return min_int(a->step, axis_span(a)); }

/* Pixels of one remainder that `results` results see. */
INLINE int axis_length(const struct axis *a, int results) {
    return results + (axis_span(a) - 1) / a->step;
}

/* Whether there are results and source pixels that they see. */
INLINE int axis_is_seen(const struct axis *a) { return a->taps > 0 && a->results > 0; }

INLINE int axis_in_place(const struct axis *a) {
    int lowest = axis_lowest(a);
    return a->step == 1 && lowest >= 0 && lowest + a->results + axis_span(a) - 1 <= a->source;
}

/* Where tap t is in a copy with `length` pixels of each remainder, relative to tap `lowest`. */
INLINE int axis_place(const struct axis *a, int t, int length) {
    int distance = a->offset + t * a->offset_step - axis_lowest(a);
    return distance % a->step * length + distance / a->step;
}

/* How the source pixels of a band of result rows lie in memory. */
struct window {
    int in_place;
    int row, plane; /* floats from one row, one channel to the next */
    int height;     /* rows of one remainder */
};

INLINE struct window window_of(const struct axis *y, const struct axis *x, int result_rows) {
    struct window w;
    w.in_place = axis_in_place(y) && axis_in_place(x);
    w.height = axis_length(y, result_rows);
    w.row = w.in_place ? x->source : axis_phases(x) * axis_length(x, x->results);
    w.plane = (w.in_place ? y->source : axis_phases(y) * w.height) * w.row;
    return w;
}

/* Places of the taps of `channels` channels, relative to the results. */
NOINLINE void window_taps(const struct axis *y, const struct axis *x, const struct window *w,
                          int channels, place *taps) {
    int width = axis_length(x, x->results);
    for (int c = 0; c < channels; c++)
        for (int i = 0; i < y->taps; i++)
            for (int j = 0; j < x->taps; j++)
                *taps++ = c * w->plane + axis_place(y, i, w->height) * w->row +
                          axis_place(x, j, width);
}

/* Numbers of the taps' weights in a kernel of that width, for `channels` kernels that are `channel`
 * floats apart. */
NOINLINE void window_weights(const struct axis *y, const struct axis *x, int width, int channels,
                             int channel, place *weights) {
    for (int c = 0; c < channels; c++)
        for (int i = 0; i < y->taps; i++)
            for (int j = 0; j < x->taps; j++)
                *weights++ = c * channel + (y->tap + i * y->tap_step) * width + x->tap +
                             j * x->tap_step;
}

/* Places of the results: of `images` copies, the results of `rows` rows each. */
NOINLINE void window_results(int images, int image, int rows, int columns, int row,
                             place *results) {
    for (int n = 0; n < images; n++)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++) *results++ = n * image + i * row + j;
}

/* out[n] = in[0], in[step], ... */
INLINE void copy_strided(int n, int step, const float *in, float *out) {
    int i = 0;
    if (step == 1 && n >= 4) {
        for (; i + 4 < n; i += 4) store(out + i, load(in + i));
        store(out + n - 4, load(in + n - 4));
        return;
    }
    if (step == 2 && n >= 4) {
        for (;; i += 4) {
            i = min_int(i, n - 4);
            f32x4 a = load(in + 2 * i), b = load(in + 2 * i + 3);
            store(out + i, __builtin_shufflevector(a, b, 0, 2, 5, 7));
            if (i == n - 4) return;
        }
    }
    for (; i < n; i++) out[i] = in[i * step];
}

/* Fill the inside of the copies of `channels` planes for the band of results that begins with
 * `result_row`; the border is not written. */
NOINLINE void window_copy(const struct axis *y, const struct axis *x, const struct window *w,
                          int result_row, int channels, const float *source, float *copy) {
    int width = axis_length(x, x->results), top = axis_lowest(y) + result_row * y->step;
    for (int phase = 0; phase < axis_phases(x); phase++) {
        int left = axis_lowest(x) + phase;
        int begin = left < 0 ? quotient_up(-left, x->step) : 0;
        int end = min_int(width, left < x->source ? quotient_up(x->source - left, x->step) : 0);
        if (begin >= end) continue;
        const float *from = source + left + begin * x->step;
        float *to = copy + phase * width + begin;
        for (int c = 0; c < channels; c++, from += y->source * x->source)
            for (int i = 0; i < axis_phases(y); i++)
                for (int j = 0; j < w->height; j++, to += w->row) {
                    int row = top + i + j * y->step;
                    if (row >= 0 && row < y->source)
                        copy_strided(end - begin, x->step, from + row * x->source, to);
                }
    }
}

#endif
