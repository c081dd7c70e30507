/* The gradient of a convolution with respect to its weights, by the transposed algorithm of minimal
 * filtering (winograd_transform.h): for every point a product of matrices
 *
 *     sums[output][channel] += sum over tiles of errors[output][tile] seen[channel][tile]
 *
 * over all blocks of tiles, and one transform of the sums at the end. Outputs are taken in blocks
 * whose sums stay in the cache.
 */
#ifndef CLOISTER_WINOGRAD_WEIGHT_GRADIENT_H
#define CLOISTER_WINOGRAD_WEIGHT_GRADIENT_H

#include "weight_gradient.h"
#include "winograd.h"

/* Tiles that a block aims at: the longer their sum, the larger its rounding error. */
#define WINOGRAD_TILES 40

struct winograd_gradient_plan {
    struct winograd_source seen, errors;
    int single;                             /* all tiles are one block */
    int points, outputs;                    /* outputs of a block, filled up */
    int channels, tiles;                    /* channels filled up, tiles of a block */
    int sum_point, error_point, seen_point; /* floats from one point to the next */
    int error, see, error_places, places, error_copy, copy, floats;
};

/* An axis along which every result sees the one pixel at its place. */
INLINE struct axis winograd_straight(int results) {
    return (struct axis){results, results, 1, 1, 0, 1, 0, 1};
}

INLINE struct winograd_gradient_plan winograd_gradient_plan(const struct weight_gradient *g) {
    struct winograd_gradient_plan p;
    p.points = winograd_points(g->y.taps) * winograd_points(g->x.taps);
    p.channels = round_up(g->channels, 8);
    p.outputs = round_up(g->outputs, 4);
    int parts = quotient_up(p.points * p.outputs * p.channels, WINOGRAD_WEIGHTS);
    p.outputs = round_up(quotient_up(p.outputs, parts), 4);
    int aim = WINOGRAD_BLOCK / (p.points * (p.channels + p.outputs));
    aim = aim < 8 ? 8 : min_int(aim, WINOGRAD_TILES);
    p.seen = winograd_source(g->y, g->x, g->image, g->channels, g->images, aim);
    p.errors = winograd_source(winograd_straight(g->y.results), winograd_straight(g->x.results),
                               g->error_image, g->outputs, g->images, aim);
    p.single = p.seen.images == g->images && 2 * p.seen.rows == p.seen.y.results;
    p.tiles = p.seen.images * p.seen.rows * p.seen.columns;
    p.sum_point = p.outputs * p.channels + WINOGRAD_APART;
    p.error_point = p.outputs * p.tiles + WINOGRAD_APART;
    p.seen_point = p.channels * p.tiles + WINOGRAD_APART;
    p.error = p.points * p.sum_point;
    p.see = p.error + p.points * p.error_point;
    p.error_places = p.see + p.points * p.seen_point;
    p.places = p.error_places + p.tiles;
    p.error_copy = p.places + p.tiles;
    p.copy = p.error_copy + p.errors.copy;
    p.floats = p.copy + p.seen.copy;
    return p;
}

/* Whether it takes a tenth less time than `weight_gradient`, in multiplications; the factors are
 * measured. */
INLINE int winograd_gradient_pays(const struct weight_gradient *g) {
    if (!winograd_fits(&g->y, &g->x)) return 0;
    const struct winograd_gradient_plan p = winograd_gradient_plan(g);
    int rows = p.seen.y.results / 2, taps = g->y.taps * g->x.taps;
    int blocks = quotient_up(g->images, p.seen.images) * quotient_up(rows, p.seen.rows);
    int64_t tiles = g->images * rows * p.seen.columns, in = p.channels, out = g->outputs;
    int64_t results = g->images * g->y.results * g->x.results;
    int64_t times = p.single ? 1 : quotient_up(g->outputs, p.outputs);
    int64_t plain = out * round_up(g->channels * taps, 8) * results;
    int64_t here = p.points * (in * out * (tiles + 5 * blocks + 5) +
                               (4 * times * in + 3 * out) * tiles);
    return p.floats <= WINOGRAD_FLOATS && 10 * plain > 11 * here;
}

/* to[point][channel / width][tile][width] = the points of all tiles in these channels; panels are
 * filled up with the last channel. */
INLINE void winograd_panels(const int taps, const int errors, const struct winograd_source *s,
                            int channels, int tiles, const place *places, const float *x, float *to,
                            int point) {
    const int width = errors ? 4 : 8;
    for (int c = 0; c < channels; c += width, to += width * tiles) {
        const float *plane[8];
        UNROLL for (int l = 0; l < width; l++)
            plane[l] = x + min_int(c + l, channels - 1) * s->window.plane;
        for (int t = 0; t < tiles; t++) {
            const float *from[8];
            UNROLL for (int l = 0; l < width; l++) from[l] = plane[l] + places[t];
            if (errors) {
                winograd_errors(taps, from, s->window.row, to + 4 * t, point);
            } else {
                winograd_patch(taps, from, s->window.row, to + 8 * t, point);
                winograd_patch(taps, from + 4, s->window.row, to + 8 * t + 4, point);
            }
        }
    }
}

/* Add what the block that begins with this image and row of tiles contributes to the sums for the
 * outputs from `output` on; for each output block (0, 0) is to come first. */
INLINE void winograd_gradient_block(const int taps, const struct weight_gradient *g,
                                    const struct winograd_gradient_plan *p, int output, int image,
                                    int row, const float *errors, const float *x, float *work) {
    float *error = work + p->error, *see = work + p->see;
    float *error_copy = work + p->error_copy, *copy = work + p->copy;
    place *error_places = (place *)(work + p->error_places), *places = (place *)(work + p->places);
    int first = image == 0 && row == 0, outputs = min_int(p->outputs, g->outputs - output);
    int images = min_int(p->seen.images, g->images - image);
    int rows = min_int(p->seen.rows, p->seen.y.results / 2 - row);
    int tiles = images * rows * p->seen.columns, all = p->channels;
    if (output == 0 && first) {
        winograd_places(&p->errors, error_places);
        winograd_places(&p->seen, places);
    }
    for (int o = 0; o < outputs; o += p->errors.depth) {
        const float *from =
            winograd_look(&p->errors, image, images, row, output + o, errors, error_copy);
        winograd_panels(taps, 1, &p->errors, min_int(p->errors.depth, outputs - o), tiles,
                        error_places, from, error + o * tiles, p->error_point);
    }
    if (output == 0 || !p->single)
        for (int d = 0; d < g->channels; d += p->seen.depth) {
            const float *from = winograd_look(&p->seen, image, images, row, d, x, copy);
            winograd_panels(taps, 0, &p->seen, min_int(p->seen.depth, g->channels - d), tiles,
                            places, from, see + d * tiles, p->seen_point);
        }
    for (int k = 0; k < p->points; k++)
        for (int c = 0; c < all; c += 8) {
            float *sums = work + k * p->sum_point + c;
            tile_column(quotient_up(outputs, 4), tiles, error + k * p->error_point,
                        see + k * p->seen_point + c * tiles, first ? tile_zero : sums,
                        first ? 0 : all, sums, all);
        }
}

/* gradient = init + alpha * what the sums say. */
INLINE void winograd_gradient_end(const int taps, const struct weight_gradient *g,
                                  const struct winograd_gradient_plan *p, int outputs,
                                  const float *sums, float alpha, const float *init,
                                  float *gradient) {
    const int kernel = taps * taps;
    for (int o = 0; o < outputs; o++, sums += p->channels)
        for (int c = 0; c < g->channels; c += 4) {
            f32x4 v[28];
            int at = (o * g->channels + c) * kernel, some = min_int(4, g->channels - c);
            winograd_kernel_gradient(taps, sums + c, p->sum_point, v);
            UNROLL for (int k = 0; k < kernel; k++) v[k] *= splat(alpha);
            UNROLL for (int k = 0; k < kernel - 1; k += 4) transpose4(v + k);
            UNROLL for (int l = 0; l < 4; l++) {
                if (l == some) break;
                UNROLL for (int k = 0; k < kernel - 1; k += 4) {
                    int to = at + l * kernel + k;
                    store(gradient + to, init ? load(init + to) + v[k + l] : v[k + l]);
                }
                int to = at + (l + 1) * kernel - 1;
                gradient[to] = init ? init[to] + v[kernel - 1][l] : v[kernel - 1][l];
            }
        }
}

/* gradient[outputs][channels, taps] = init + alpha * the gradient. */
INLINE void winograd_weight_gradient_of(const int taps, const struct weight_gradient *g,
                                        const float *errors, const float *x, float alpha,
                                        const float *init, float *gradient, float *work) {
    const struct winograd_gradient_plan p = winograd_gradient_plan(g);
    int weights = g->channels * taps * taps;
    for (int o = 0; o < g->outputs; o += p.outputs) {
        for (int n = 0; n < g->images; n += p.seen.images)
            for (int r = 0; r < p.seen.y.results / 2; r += p.seen.rows)
                winograd_gradient_block(taps, g, &p, o, n, r, errors, x, work);
        winograd_gradient_end(taps, g, &p, min_int(p.outputs, g->outputs - o), work, alpha,
                              init ? init + o * weights : 0, gradient + o * weights);
    }
}

NOINLINE void winograd_weight_gradient_3(const struct weight_gradient *g, const float *errors,
                                         const float *x, float alpha, const float *init,
                                         float *gradient, float *work) {
    winograd_weight_gradient_of(3, g, errors, x, alpha, init, gradient, work);
}

NOINLINE void winograd_weight_gradient_5(const struct weight_gradient *g, const float *errors,
                                         const float *x, float alpha, const float *init,
                                         float *gradient, float *work) {
    winograd_weight_gradient_of(5, g, errors, x, alpha, init, gradient, work);
}

/* `taps` is known when this is compiled. */
INLINE void winograd_weight_gradient(int taps, const struct weight_gradient *g, const float *errors,
                                     const float *x, float alpha, const float *init,
                                     float *gradient, float *work) {
    if (taps == 3)
        winograd_weight_gradient_3(g, errors, x, alpha, init, gradient, work);
    else
        winograd_weight_gradient_5(g, errors, x, alpha, init, gradient, work);
}

#endif
