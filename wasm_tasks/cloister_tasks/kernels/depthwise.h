/* Convolution of every channel with kernels of its own: no sum over channels, so no matrices, but
 * as many multiplications per result as there are taps, straight from the (bordered) planes.
 *
 * A row of n >= 4 results is covered by vectors, of which the last one overlaps the one before.
 */
#ifndef CLOISTER_DEPTHWISE_H
#define CLOISTER_DEPTHWISE_H

#include "conv2d.h"
#include "tile.h"

/* Floats that the copies of a block of channels may take. */
#define DEPTHWISE_COPY 8192
#define DEPTHWISE_UNROLL 9
/* Taps whose gradients are summed up at a time. */
#define DEPTHWISE_TAPS 5

struct depthwise {
    struct axis y, x;
    struct window window;
    int depth; /* channels of a block */
    int taps;
};

INLINE struct depthwise depthwise_of(struct axis y, struct axis x, int channels) {
    struct depthwise d = {.y = y, .x = x, .window = window_of(&y, &x, y.results)};
    int room = DEPTHWISE_COPY / d.window.plane;
    d.depth = room < 1 ? 1 : min_int(room, channels);
    d.taps = y.taps * x.taps;
    return d;
}

/* Floats of the copies, with what is read behind them. */
INLINE int depthwise_copy(const struct depthwise *d) {
    return d->window.in_place ? 0 : d->depth * d->window.plane + 4;
}

/* Get ready: places of the taps, and a border of zeros. */
INLINE void depthwise_begin(const struct depthwise *d, place *taps, float *copy) {
    window_taps(&d->y, &d->x, &d->window, 1, taps);
    __builtin_memset(copy, 0, sizeof(float) * (unsigned)depthwise_copy(d));
}

/* The planes of a block as windows see them: copies, or themselves. */
INLINE const float *depthwise_source(const struct depthwise *d, int channels, const float *source,
                                     float *copy) {
    if (d->window.in_place)
        return source + axis_lowest(&d->y) * d->window.row + axis_lowest(&d->x);
    window_copy(&d->y, &d->x, &d->window, 0, channels, source, copy);
    return copy;
}

/* to[i][0..3] = bias + sum over t of w[t] * from[i][taps[t] + 0..3]. As in tile.h, each step is a
 * basic block of its own. */
INLINE void depthwise_four(int left, const place *taps, const float *w, float bias,
                           const float *from[4], float *to[4]) {
    f32x4 sum[4];
    UNROLL for (int i = 0; i < 4; i++) sum[i] = splat(bias);
    for (;;) {
        UNROLL for (int u = 0; u < DEPTHWISE_UNROLL; u++) {
            int at = *taps++;
            f32x4 weight = splat(*w++);
            UNROLL for (int i = 0; i < 4; i++) sum[i] = madd(weight, load(from[i] + at), sum[i]);
            left--;
            OPAQUE(left);
            if (__builtin_expect(left == 0, 0)) goto done;
        }
    }
done:
    UNROLL for (int i = 0; i < 4; i++) store(to[i], sum[i]);
}

/* A plane of results, `out_row` floats from one row to the next. */
NOINLINE void depthwise_plane(const struct depthwise *d, const place *taps, const float *w,
                              float bias, const float *source, float *out, int out_row) {
    int n = d->x.results, rows = d->y.results;
    if (n < 4) {
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < n; j++) {
                const float *from = source + r * d->window.row + j;
                float sum = bias;
                for (int t = 0; t < d->taps; t++) sum += w[t] * from[taps[t]];
                out[r * out_row + j] = sum;
            }
        return;
    }
    for (int r = 0, j = 0; r < rows;) {
        const float *from[4];
        float *to[4];
        UNROLL for (int i = 0; i < 4; i++) {
            int at = min_int(j, n - 4);
            from[i] = source + at;
            to[i] = out + at;
            if (r < rows) j += 4;
            if (j >= n && ++r < rows) {
                j = 0;
                source += d->window.row;
                out += out_row;
            }
        }
        depthwise_four(d->taps, taps, w, bias, from, to);
    }
}

/* Channels that depthwise_forward takes at a time. */
NOINLINE int depthwise_depth(const struct conv2d *s) {
    return depthwise_of(conv2d_y(s), conv2d_x(s), s->channels).depth;
}

/* The results of an image and the `depth` channels from one on; those of (0, 0) are to come
 * first. */
NOINLINE void depthwise_forward(const struct conv2d *s, int image, int channel, int depth,
                                const float *x, const float *w, const float *bias, float *y,
                                float *work) {
    const struct depthwise d = depthwise_of(conv2d_y(s), conv2d_x(s), s->channels);
    int plane = s->out_height * s->out_width, each = s->outputs / s->channels;
    place *taps = (place *)work;
    float *copy = work + d.taps;
    if (image == 0 && channel == 0) depthwise_begin(&d, taps, copy);
    x += (image * s->channels + channel) * s->height * s->width;
    const float *source = depthwise_source(&d, depth, x, copy);
    for (int o = channel * each; depth > 0; depth--, source += d.window.plane)
        for (int end = o + each; o < end; o++)
            depthwise_plane(&d, taps, w + o * d.taps, bias ? bias[o] : 0, source,
                            y + (image * s->outputs + o) * plane, s->out_width);
}

/* The inputs with these remainders modulo the stride; as many outputs as channels. */
NOINLINE void depthwise_input_gradient(const struct conv2d *s, int phase_y, int phase_x,
                                       const float *dy, const float *w, float *dx, float *work) {
    struct axis down = conv2d_gradient_y(s, phase_y), across = conv2d_gradient_x(s, phase_x);
    if (!axis_is_seen(&down) || !axis_is_seen(&across)) return;
    const struct depthwise d = depthwise_of(down, across, s->channels);
    int kernel = s->kernel_height * s->kernel_width, errors = s->out_height * s->out_width;
    int row = s->stride_y * s->width, column = s->stride_x;
    place *taps = (place *)work, *numbers = taps + d.taps;
    float *weights = work + 2 * d.taps, *stage = weights + d.taps;
    float *copy = stage + (column == 1 ? 0 : down.results * across.results);
    depthwise_begin(&d, taps, copy);
    window_weights(&down, &across, s->kernel_width, 1, 0, numbers);
    dx += phase_y * s->width + phase_x;
    for (int n = 0; n < s->batch; n++)
        for (int c = 0; c < s->channels; c += d.depth) {
            int depth = min_int(d.depth, s->channels - c);
            const float *source = depthwise_source(&d, depth, dy, copy);
            dy += depth * errors;
            for (int i = 0; i < depth; i++, dx += s->height * s->width) {
                for (int t = 0; t < d.taps; t++) weights[t] = w[(c + i) * kernel + numbers[t]];
                float *to = column == 1 ? dx : stage;
                depthwise_plane(&d, taps, weights, 0, source, to,
                                column == 1 ? row : across.results);
                source += d.window.plane;
                if (column == 1) continue;
                for (int r = 0; r < down.results; r++)
                    for (int j = 0; j < across.results; j++) dx[r * row + j * column] = *to++;
            }
        }
}

/* Floats of a plane of results spread out like the window, so that result and what it sees move
 * on alike. */
INLINE int depthwise_spread(const struct depthwise *d) {
    int size = (d->y.results - 1) * d->window.row + d->x.results;
    return d->window.in_place ? size : round_up(size, 4);
}

/* sums[i] += the products of n spread errors with what they see under tap i, not counting what is
 * between the results: that may be no number. So many taps at a time hide the latency of adding,
 * and more would not fit the registers. */
NOINLINE void depthwise_products(int n, const place *mask, const float *errors,
                                 const float *const from[DEPTHWISE_TAPS], float *sums) {
    f32x4 sum[DEPTHWISE_TAPS] = {0};
    const float *p[DEPTHWISE_TAPS];
    UNROLL for (int i = 0; i < DEPTHWISE_TAPS; i++) p[i] = from[i];
    for (int q = 0; q + 4 <= n; q += 4) {
        f32x4 error = load(errors + q);
        i32x4 here = (i32x4)load((const float *)mask + q);
        UNROLL for (int i = 0; i < DEPTHWISE_TAPS; i++)
            sum[i] = madd(error, (f32x4)((i32x4)load(p[i] + q) & here), sum[i]);
    }
    UNROLL for (int i = 0; i < DEPTHWISE_TAPS; i++)
        sums[i] += (sum[i][0] + sum[i][1]) + (sum[i][2] + sum[i][3]);
}

/* The same of the last n % 4: behind images that are read in place may be the end of memory. */
NOINLINE void depthwise_last_products(int n, const place *mask, const float *errors,
                                      const float *const from[DEPTHWISE_TAPS], float *sums) {
    for (int q = n & ~3; q < n; q++)
        if (mask[q])
            for (int i = 0; i < DEPTHWISE_TAPS; i++) sums[i] += errors[q] * from[i][q];
}

/* dw = init + alpha * the gradient with respect to the weights. */
NOINLINE void depthwise_weight_gradient(const struct conv2d *s, const float *dy, const float *x,
                                        float alpha, const float *init, float *dw, float *work) {
    const struct depthwise d = depthwise_of(conv2d_y(s), conv2d_x(s), s->channels);
    int plane = s->out_height * s->out_width, each = s->outputs / s->channels;
    place *taps = (place *)work;
    int size = depthwise_spread(&d), padded = round_up(d.taps, DEPTHWISE_TAPS);
    place *mask = taps + d.taps;
    float *spread = work + d.taps + size, *sums = spread + size;
    float *copy = sums + d.depth * each * padded;
    depthwise_begin(&d, taps, copy);
    __builtin_memset(mask, 0, sizeof(float) * 2 * (unsigned)size); /* and spread */
    for (int r = 0; r < d.y.results; r++)
        for (int j = 0; j < d.x.results; j++) mask[r * d.window.row + j] = -1;
    for (int c = 0; c < s->channels; c += d.depth) {
        int depth = min_int(d.depth, s->channels - c), o = c * each;
        __builtin_memset(sums, 0, sizeof(float) * (unsigned)(depth * each * padded));
        for (int n = 0; n < s->batch; n++) {
            const float *source = x + (n * s->channels + c) * s->height * s->width;
            const float *errors = dy + (n * s->outputs + o) * plane;
            source = depthwise_source(&d, depth, source, copy);
            float *sum = sums;
            for (int i = 0, e = 0; i < depth * each; i++, errors += plane) {
                for (int r = 0; r < d.y.results; r++)
                    copy_strided(d.x.results, 1, errors + r * d.x.results,
                                 spread + r * d.window.row);
                const float *seen = source;
                if (++e == each) {
                    source += d.window.plane;
                    e = 0;
                }
                for (int t = 0; t < d.taps; t += DEPTHWISE_TAPS, sum += DEPTHWISE_TAPS) {
                    const float *from[DEPTHWISE_TAPS];
                    for (int j = 0; j < DEPTHWISE_TAPS; j++)
                        from[j] = seen + taps[min_int(t + j, d.taps - 1)];
                    depthwise_products(size, mask, spread, from, sum);
                    if (size % 4) depthwise_last_products(size, mask, spread, from, sum);
                }
            }
        }
        for (int i = 0; i < depth * each; i++)
            for (int t = 0; t < d.taps; t++) {
                int at = (o + i) * d.taps + t;
                dw[at] = (init ? init[at] : 0) + alpha * sums[i * padded + t];
            }
    }
}

#endif
