/* The gradient of a convolution with respect to its weights, as a product of matrices
 *
 *     gradient[output][channel, tap] = sum over pixels of errors[output][pixel]
 *                                                         seen[channel, tap][pixel]
 *
 * with both operands transposed while they are packed, for blocks of pixels (whole images or bands
 * of rows) whose panels stay in the first-level cache.
 */
#ifndef CLOISTER_WEIGHT_GRADIENT_H
#define CLOISTER_WEIGHT_GRADIENT_H

#include "panels.h"

/* Pixels summed up by one tile. */
#define GRADIENT_PIXELS 512
/* Floats of errors that are packed at a time, unless there are more than 8192 outputs. */
#define GRADIENT_ERRORS 524288
/* Floats that the copies of a block of channels may take. */
#define GRADIENT_COPY 65536

/* One group of channels. */
struct weight_gradient {
    struct axis y, x;
    int images, channels, outputs;
    int image, error_image; /* floats from one image to the next, of the inputs and the errors */
};

struct weight_gradient_plan {
    int depth, images, rows, pixels; /* channels, images, rows and pixels of a block */
    int panel, taps, results, copy, floats;
};

INLINE struct weight_gradient_plan weight_gradient_plan(const struct weight_gradient *g) {
    struct weight_gradient_plan p;
    int taps = g->y.taps * g->x.taps, rows = g->y.results, image = rows * g->x.results;
    int aim = GRADIENT_ERRORS / g->outputs;
    aim = aim < 64 ? 64 : min_int(aim, GRADIENT_PIXELS);
    p.rows = quotient_up(rows, min_int(rows, quotient_up(image, aim)));
    p.images = p.rows < rows ? 1 : quotient_up(g->images, quotient_up(g->images * image, aim));
    int pixels = p.images * p.rows * g->x.results;
    p.pixels = quotient_up(pixels, quotient_up(pixels, aim));
    struct window w = window_of(&g->y, &g->x, p.rows);
    p.depth = g->channels;
    if (!w.in_place && p.depth * p.images * w.plane > GRADIENT_COPY) {
        p.depth = GRADIENT_COPY / (p.images * w.plane) & ~7;
        p.depth = p.depth ? p.depth : min_int(8, g->channels);
    }
    p.panel = round_up(g->outputs, 4) * p.pixels;
    p.taps = p.panel + 8 * p.pixels;
    p.results = p.taps + p.depth * taps;
    p.copy = p.results + pixels;
    p.floats = p.copy + (w.in_place ? 0 : p.images * p.depth * w.plane);
    return p;
}

/* panels[output / 4][pixel][4] = alpha * errors[output][pixel] for the `count` pixels from `first`
 * on, of images with `band` pixels each. */
NOINLINE void weight_gradient_errors(const struct weight_gradient *g, int first, int count,
                                     int band, float alpha, const float *errors, float *panels) {
    int plane = g->y.results * g->x.results;
    for (int at = first, end; at < first + count; at = end) {
        int image = at / band, pixel = at % band;
        end = min_int(at + band - pixel, first + count);
        panel_rows(g->outputs, end - at, alpha, errors + image * g->error_image + pixel, plane,
                   panels + 4 * (at - first), 4 * count);
    }
}

/* Add what the block that begins with this image and row contributes, to `init` if it is the
 * first one. */
NOINLINE void weight_gradient_block(const struct weight_gradient *g,
                                    const struct weight_gradient_plan *p, int image, int row,
                                    const float *errors, const float *x, float alpha,
                                    const float *init, float *gradient, float *work) {
    int kernel = g->y.taps * g->x.taps, all = g->channels * kernel;
    float *panel = work + p->panel, *copy = work + p->copy;
    place *taps = (place *)(work + p->taps), *results = (place *)(work + p->results);
    struct window window = window_of(&g->y, &g->x, p->rows);
    int first = image == 0 && row == 0, images = min_int(p->images, g->images - image);
    int band = min_int(p->rows, g->y.results - row) * g->x.results, pixels = images * band;
    if (first) {
        window_taps(&g->y, &g->x, &window, p->depth, taps);
        window_results(p->images, window.in_place ? g->image : p->depth * window.plane, p->rows,
                       g->x.results, window.row, results);
    }
    if (!window.in_place && (first || p->rows < g->y.results))
        __builtin_memset(copy, 0, sizeof(float) * (unsigned)(p->floats - p->copy));
    errors += image * g->error_image + row * g->x.results;
    for (int d = 0; d < g->channels; d += p->depth) {
        int depth = min_int(p->depth, g->channels - d);
        const float *source = x + image * g->image + d * g->y.source * g->x.source;
        if (window.in_place) {
            source += (axis_lowest(&g->y) + row) * window.row + axis_lowest(&g->x);
        } else {
            for (int i = 0; i < images; i++)
                window_copy(&g->y, &g->x, &window, row, depth, source + i * g->image,
                            copy + i * p->depth * window.plane);
            source = copy;
        }
        for (int q = 0; q < pixels; q += p->pixels) {
            int count = min_int(p->pixels, pixels - q);
            if (d == 0 || count < pixels)
                weight_gradient_errors(g, q, count, band, alpha, errors, work);
            for (int k = 0; k < depth * kernel; k += 8) {
                int columns = min_int(8, depth * kernel - k), at = d * kernel + k;
                const float *start = first && q == 0 ? init : gradient;
                panel_gather_transposed(count, results + q, taps + k, columns, source, panel);
                panel_multiply(g->outputs, count, work, panel, start ? start + at : tile_zero,
                               start ? all : 0, gradient + at, all, columns);
            }
        }
    }
}

/* gradient[outputs][channels, taps] = init + alpha * the gradient. */
NOINLINE void weight_gradient(const struct weight_gradient *g, const float *errors, const float *x,
                              float alpha, const float *init, float *gradient, float *work) {
    const struct weight_gradient_plan p = weight_gradient_plan(g);
    for (int n = 0; n < g->images; n += p.images)
        for (int r = 0; r < g->y.results; r += p.rows)
            weight_gradient_block(g, &p, n, r, errors, x, alpha, init, gradient, work);
}

#endif
