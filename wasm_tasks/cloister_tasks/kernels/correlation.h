/* Convolution forward, and backward to its inputs, as one product of matrices
 *
 *     results[output][pixel] = sum over (channel, tap) of weights[output][channel, tap]
 *                                                         seen[channel, tap][pixel]
 *
 * of which `seen` is never stored: panels of 8 pixels are gathered from the (bordered) image right
 * before they are multiplied. Pixels are taken in blocks of whole images or of bands of rows,
 * channels in blocks whose panels stay in the first-level cache.
 */
#ifndef CLOISTER_CORRELATION_H
#define CLOISTER_CORRELATION_H

#include "panels.h"

/* Products summed up by one tile. */
#define CORRELATION_DEPTH 256
/* Pixels and results that a block of images or rows aims at. */
#define CORRELATION_PIXELS 1024
#define CORRELATION_RESULTS 131072
/* Floats that the copy of a block may take before its channels are blocked further. */
#define CORRELATION_COPY 262144
/* Panels run on from one image to the next if that saves so many products per result, on average:
 * their results then have to be copied. */
#define CORRELATION_IDLE 16
/* Floats of weights that are packed once, not for every block of pixels. */
#define CORRELATION_WEIGHTS 524288

/* One group of channels. */
struct correlation {
    struct axis y, x;
    int images, channels, outputs;
    int image;                          /* floats from one source image to the next */
    int weight_output, weight_channel;  /* floats between the weights of outputs and of channels */
    int kernel_width;
    struct {
        int image, plane, row, column; /* floats between results */
    } to;
};

/* How the work is cut, and where its parts are in the scratch memory. */
struct correlation_plan {
    int depth, images, rows; /* channels, images and rows of results of a block */
    int resident;            /* all weights are packed at once */
    int folded;              /* panels run on from one image to the next */
    int staged;              /* results are not where tiles can write them */
    int stage_columns;
    int bias, panel, taps, results, copy, stage, floats;
};

INLINE struct correlation_plan correlation_plan(const struct correlation *c) {
    struct correlation_plan p;
    int taps = c->y.taps * c->x.taps, outputs = round_up(c->outputs, 4);
    int rows = c->y.results, pixels = rows * c->x.results;
    int aim = CORRELATION_RESULTS / c->outputs;
    aim = aim < 256 ? 256 : min_int(aim, CORRELATION_PIXELS);
    p.rows = quotient_up(rows, min_int(rows, quotient_up(pixels, aim)));
    p.images = p.rows < rows ? 1 : quotient_up(c->images, quotient_up(c->images * pixels, aim));
    p.images = min_int(c->images, p.images);
    int in_place_rows = c->to.column == 1 && c->to.row == c->x.results;
    int idle = round_up(pixels, 8) - pixels;
    int worth_it = idle * c->channels * taps > CORRELATION_IDLE * pixels;
    p.folded = p.images > 1 && (!in_place_rows || worth_it);
    p.staged = p.folded || !in_place_rows;
    p.stage_columns = p.staged ? p.images * p.rows * c->x.results : 0;

    struct window w = window_of(&c->y, &c->x, p.rows);
    int copies = w.in_place ? 0 : p.folded ? p.images : 1;
    p.depth = quotient_up(c->channels, quotient_up(c->channels * taps, CORRELATION_DEPTH));
    if (copies && p.depth * copies * w.plane > CORRELATION_COPY)
        p.depth = CORRELATION_COPY / (copies * w.plane);
    if (p.depth < 1) p.depth = 1;
    p.resident = outputs * c->channels * taps <= CORRELATION_WEIGHTS;
    p.bias = outputs * taps * (p.resident ? c->channels : p.depth);
    p.panel = p.bias + 8 * c->outputs;
    p.taps = p.panel + 8 * p.depth * taps;
    p.results = p.taps + 2 * p.depth * taps;
    p.copy = p.results + (p.folded ? p.images : 1) * p.rows * c->x.results;
    p.stage = p.copy + copies * p.depth * w.plane + (copies ? 8 : 0);
    p.floats = p.stage + c->outputs * p.stage_columns;
    return p;
}

/* From the stage to where the results belong. */
NOINLINE void correlation_unstage(const struct correlation *c, int images, int rows,
                                  int stage_columns, const float *stage, float *y) {
    int joined = c->to.row == c->x.results && c->to.column == 1;
    int width = joined ? rows * c->x.results : c->x.results;
    if (joined) rows = 1;
    for (int o = 0; o < c->outputs; o++, stage += stage_columns) {
        const float *from = stage;
        for (int n = 0; n < images; n++)
            for (int i = 0; i < rows; i++, from += width) {
                float *to = y + n * c->to.image + o * c->to.plane + i * c->to.row;
                if (c->to.column == 1)
                    copy_strided(width, 1, from, to);
                else
                    for (int j = 0; j < width; j++) to[j * c->to.column] = from[j];
            }
    }
}

/* The block of results that begins with this image and row; block (0, 0) is to come first. */
NOINLINE void correlation_block(const struct correlation *c, const struct correlation_plan *p,
                                int image, int row, const float *x, const float *w,
                                const float *bias, float *y, float *work) {
    float *panel = work + p->panel, *copy = work + p->copy, *stage = work + p->stage;
    place *taps = (place *)(work + p->taps), *results = (place *)(work + p->results);
    int kernel = c->y.taps * c->x.taps, first = image == 0 && row == 0;
    place *weight_taps = taps + p->depth * kernel;
    struct window window = window_of(&c->y, &c->x, p->rows);
    int images = min_int(p->images, c->images - image);
    int rows = min_int(p->rows, c->y.results - row), pixels = rows * c->x.results;
    int together = p->folded ? images : 1;
    if (first) {
        window_taps(&c->y, &c->x, &window, p->depth, taps);
        window_results(p->folded ? p->images : 1,
                       window.in_place ? c->image : p->depth * window.plane, p->rows,
                       c->x.results, window.row, results);
        float *start = work + p->bias;
        for (int o = 0; o < c->outputs; o++)
            for (int j = 0; j < 8; j++) *start++ = bias ? bias[o] : 0;
        window_weights(&c->y, &c->x, c->kernel_width, p->depth, c->weight_channel, weight_taps);
    }
    if (!window.in_place && (first || p->rows < c->y.results))
        __builtin_memset(copy, 0, sizeof(float) * (unsigned)(p->stage - p->copy));
    x += image * c->image;
    y += image * c->to.image + row * c->to.row;
    for (int d = 0; d < c->channels; d += p->depth) {
        int depth = min_int(p->depth, c->channels - d), k = depth * kernel;
        float *packed = work + (p->resident ? d * kernel * round_up(c->outputs, 4) : 0);
        if (first || !p->resident)
            panel_weights(c->outputs, k, weight_taps, w + d * c->weight_channel, c->weight_output,
                         packed);
        for (int n = 0; n < images; n += together) {
            const float *source = x + n * c->image + d * c->y.source * c->x.source;
            if (window.in_place) {
                source += (axis_lowest(&c->y) + row) * window.row + axis_lowest(&c->x);
            } else {
                for (int i = 0; i < together; i++)
                    window_copy(&c->y, &c->x, &window, row, depth, source + i * c->image,
                                copy + i * p->depth * window.plane);
                source = copy;
            }
            float *out = p->staged ? stage + n * pixels : y + n * c->to.image;
            int plane = p->staged ? p->stage_columns : c->to.plane;
            for (int q = 0; q < together * pixels; q += 8) {
                int columns = min_int(8, together * pixels - q);
                panel_gather(k, taps, source, results + q, columns, panel);
                panel_multiply(c->outputs, k, packed, panel, d ? out + q : work + p->bias,
                               d ? plane : 8, out + q, plane, columns);
            }
        }
    }
    if (p->staged) correlation_unstage(c, images, rows, p->stage_columns, stage, y);
}

#endif
