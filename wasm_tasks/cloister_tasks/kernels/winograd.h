/* Convolution forward, and backward to its inputs, with 3 x 3 or 5 x 5 taps in steps of 1, by
 * minimal filtering (winograd_transform.h): for every point a product of matrices
 *
 *     products[output][tile] = sum over channels of weights[output][channel]
 *                                                   seen[channel][tile].
 *
 * Tiles are taken in blocks of whole images or bands of rows whose points stay in the second-level
 * cache, outputs in blocks whose transformed weights are kept for all tiles.
 */
#ifndef CLOISTER_WINOGRAD_H
#define CLOISTER_WINOGRAD_H

#include "correlation.h"
#include "winograd_transform.h"

/* Floats of transformed weights that are kept. */
#define WINOGRAD_WEIGHTS 524288
/* Floats of points that a block of tiles aims at. */
#define WINOGRAD_BLOCK 393216
/* Floats that the copies of a block of channels aim at. */
#define WINOGRAD_COPY 16384
/* Most floats of scratch memory. */
#define WINOGRAD_FLOATS 1500000
/* What keeps the points from falling into the same lines of the cache. */
#define WINOGRAD_APART 16

/* The tiles of a block, and what they see of images with planes side by side. */
struct winograd_source {
    struct axis y, x; /* of an even number of results */
    struct window window;
    int image, channels;       /* of the images: floats from one to the next, planes */
    int images, rows, columns; /* images, rows and columns of tiles of a block */
    int depth;                 /* channels that are copied at a time */
    int copy;                  /* floats of the copies */
};

INLINE struct winograd_source winograd_source(struct axis y, struct axis x, int image, int channels,
                                              int images, int aim) {
    struct winograd_source s = {.y = y, .x = x, .image = image, .channels = channels};
    s.y.results = round_up(y.results, 2);
    s.x.results = round_up(x.results, 2);
    int rows = s.y.results / 2, tiles = rows * s.x.results / 2;
    s.columns = s.x.results / 2;
    s.rows = quotient_up(rows, min_int(rows, quotient_up(tiles, aim)));
    s.images = s.rows < rows ? 1 : quotient_up(images, quotient_up(images * tiles, aim));
    s.window = window_of(&s.y, &s.x, 2 * s.rows);
    int copy = s.images * s.window.plane;
    s.depth = s.window.in_place ? channels : WINOGRAD_COPY / copy & ~7;
    s.depth = min_int(channels, s.depth < 8 ? 8 : s.depth);
    s.copy = s.window.in_place ? 0 : s.depth * copy;
    return s;
}

/* Places of the tiles of a block. */
NOINLINE void winograd_places(const struct winograd_source *s, place *places) {
    int image = s->window.in_place ? s->image : s->depth * s->window.plane;
    for (int n = 0; n < s->images; n++)
        for (int i = 0; i < s->rows; i++)
            for (int j = 0; j < s->columns; j++)
                *places++ = n * image + 2 * i * s->window.row + 2 * j;
}

/* Where the block of tiles that begins with this image and row sees `depth` channels from `channel`
 * on, copied if need be; all of block (0, 0) is to come first. */
NOINLINE const float *winograd_look(const struct winograd_source *s, int image, int images, int row,
                                    int channel, const float *x, float *copy) {
    x += image * s->image + channel * s->y.source * s->x.source;
    if (s->window.in_place)
        return x + (axis_lowest(&s->y) + 2 * row) * s->window.row + axis_lowest(&s->x);
    int banded = 2 * s->rows < s->y.results, depth = min_int(s->depth, s->channels - channel);
    if ((image == 0 && row == 0 && channel == 0) || banded)
        __builtin_memset(copy, 0, sizeof(float) * (unsigned)s->copy);
    for (int i = 0; i < images; i++)
        window_copy(&s->y, &s->x, &s->window, 2 * row, depth, x + i * s->image,
                    copy + i * s->depth * s->window.plane);
    return copy;
}

/* to[tile / 8][point][channel][8] = the points of all tiles in these channels; panels of 8 tiles
 * are filled up with the last one. */
INLINE void winograd_patches(const int taps, const struct winograd_source *s, int channels,
                             int tiles, const place *places, const float *x, float *to, int point,
                             int panel) {
    for (int t = 0; t < tiles; t += 8) {
        const float *from[8];
        UNROLL for (int l = 0; l < 8; l++) from[l] = x + places[min_int(t + l, tiles - 1)];
        float *out = to + t / 8 * panel;
        for (int c = 0; c < channels; c++, out += 8) {
            winograd_patch(taps, from, s->window.row, out, point);
            winograd_patch(taps, from + 4, s->window.row, out + 4, point);
            UNROLL for (int l = 0; l < 8; l++) from[l] += s->window.plane;
        }
    }
}

struct winograd_plan {
    struct winograd_source source;
    int single;                            /* all tiles are one block */
    int points, outputs, tiles;            /* outputs and tiles of a block, filled up */
    int weight_point, point, result_point; /* floats from one point to the next */
    int seen, results, places, copy, floats;
};

INLINE struct winograd_plan winograd_plan(const struct correlation *c) {
    struct winograd_plan p;
    p.points = winograd_points(c->y.taps) * winograd_points(c->x.taps);
    p.outputs = round_up(c->outputs, 4);
    int parts = quotient_up(p.points * p.outputs * c->channels, WINOGRAD_WEIGHTS);
    p.outputs = round_up(quotient_up(p.outputs, parts), 4);
    int aim = WINOGRAD_BLOCK / (p.points * (c->channels + p.outputs)) & ~7;
    p.source = winograd_source(c->y, c->x, c->image, c->channels, c->images, aim < 8 ? 8 : aim);
    p.single = p.source.images == c->images && 2 * p.source.rows == p.source.y.results;
    int tiles = p.source.images * p.source.rows * p.source.columns;
    p.tiles = round_up(tiles, 8);
    p.weight_point = p.outputs * c->channels + WINOGRAD_APART;
    p.point = 8 * c->channels + WINOGRAD_APART;
    p.result_point = p.outputs * p.tiles + WINOGRAD_APART;
    p.seen = p.points * p.weight_point;
    p.results = p.seen + p.tiles / 8 * p.points * p.point;
    p.places = p.results + p.points * p.result_point;
    p.copy = p.places + tiles;
    p.floats = p.copy + p.source.copy;
    return p;
}

/* Whether it can be done here. */
INLINE int winograd_fits(const struct axis *y, const struct axis *x) {
    int turned = y->offset_step * y->offset_step == 1 && x->offset_step * x->offset_step == 1;
    return turned && y->step == 1 && x->step == 1 && y->taps == x->taps &&
           (y->taps == 3 || y->taps == 5);
}

/* Whether it takes a tenth less time than `correlation`, in multiplications; the factors are
 * measured. */
INLINE int winograd_pays(const struct correlation *c) {
    if (!winograd_fits(&c->y, &c->x)) return 0;
    if (c->to.column != 1 || c->to.row != c->x.results) return 0;
    const struct winograd_plan p = winograd_plan(c);
    const struct winograd_source *s = &p.source;
    int rows = s->y.results / 2, blocks = quotient_up(c->images, s->images);
    int64_t tiles = c->images * rows * s->columns, in = c->channels, out = c->outputs;
    int64_t results = c->images * c->y.results * c->x.results, taps = c->y.taps * c->x.taps;
    int64_t filled = blocks * quotient_up(rows, s->rows) * p.tiles;
    int64_t times = p.single ? 1 : quotient_up(c->outputs, p.outputs);
    int64_t plain = taps * in * (out * results + 4 * tiles) + 20 * out * tiles;
    int64_t here = p.points * (in * (out * (filled + 5) + 5 * times * tiles) + 7 * out * tiles);
    return p.floats <= WINOGRAD_FLOATS && 10 * plain > 11 * here;
}

/* to[point][output / 4][channel][4] = the points of the weights; panels of 4 outputs are filled up
 * with the last one. */
INLINE void winograd_weights(const int taps, const struct correlation *c, int outputs,
                             const float *w, float *to, int point) {
    int flip_y = c->y.offset_step < 0, flip_x = c->x.offset_step < 0;
    for (int o = 0; o < outputs; o += 4) {
        const float *from[4];
        UNROLL for (int l = 0; l < 4; l++)
            from[l] = w + min_int(o + l, outputs - 1) * c->weight_output;
        for (int d = 0; d < c->channels; d++, to += 4) {
            winograd_kernel(taps, from, flip_y, flip_x, to, point);
            UNROLL for (int l = 0; l < 4; l++) from[l] += c->weight_channel;
        }
    }
}

/* The first n > 0 of eight floats. */
INLINE void store_first(float *to, int n, f32x4 low, f32x4 high) {
    if (n >= 4) {
        store(to, low);
        if (n >= 8) store(to + 4, high);
        if (n >= 8 || n == 4) return;
        to += 4;
        low = high;
    }
    to[0] = low[0];
    if (n & 2) to[1] = low[1];
    if ((n & 3) == 3) to[2] = low[2];
}

/* y = bias + the results of the points m[point][output][tile]. */
INLINE void winograd_results(const int taps, const struct correlation *c,
                             const struct winograd_plan *p, int row, int images, int rows,
                             int outputs, const float *m, const float *bias, float *y) {
#define SHUFFLE __builtin_shufflevector
    for (int o = 0; o < outputs; o++, m += p->tiles) {
        const float *from = m;
        f32x4 start = splat(bias ? bias[o] : 0);
        for (int n = 0; n < images; n++)
            for (int i = row; i < row + rows; i++, from += p->source.columns) {
                float *to = y + n * c->to.image + o * c->to.plane + 2 * i * c->to.row;
                int second = 2 * i + 1 < c->y.results;
                for (int j = 0; j < p->source.columns; j += 4, to += 8) {
                    f32x4 v[4];
                    int left = c->x.results - 2 * j;
                    winograd_tile(taps, from + j, p->result_point, v);
                    UNROLL for (int l = 0; l < 4; l++) v[l] += start;
                    store_first(to, left, SHUFFLE(v[0], v[1], 0, 4, 1, 5),
                                SHUFFLE(v[0], v[1], 2, 6, 3, 7));
                    if (!second) continue;
                    store_first(to + c->to.row, left, SHUFFLE(v[2], v[3], 0, 4, 1, 5),
                                SHUFFLE(v[2], v[3], 2, 6, 3, 7));
                }
            }
    }
#undef SHUFFLE
}

/* The block of results that begins with this output, image and row of tiles; for each output block
 * (0, 0) is to come first. `bias` may be NULL. */
INLINE void winograd_block_of(const int taps, const struct correlation *c,
                              const struct winograd_plan *p, int output, int image, int row,
                              const float *x, const float *w, const float *bias, float *y,
                              float *work) {
    const struct winograd_source *s = &p->source;
    float *seen = work + p->seen, *results = work + p->results, *copy = work + p->copy;
    place *places = (place *)(work + p->places);
    int outputs = min_int(p->outputs, c->outputs - output);
    int images = min_int(s->images, c->images - image);
    int rows = min_int(s->rows, s->y.results / 2 - row), tiles = images * rows * s->columns;
    int panel = p->points * p->point;
    if (image == 0 && row == 0) {
        winograd_weights(taps, c, outputs, w + output * c->weight_output, work, p->weight_point);
        if (output == 0) winograd_places(s, places);
    }
    if (output == 0 || !p->single)
        for (int d = 0; d < c->channels; d += s->depth) {
            const float *from = winograd_look(s, image, images, row, d, x, copy);
            winograd_patches(taps, s, min_int(s->depth, c->channels - d), tiles, places, from,
                             seen + 8 * d, p->point, panel);
        }
    for (int k = 0; k < p->points; k++)
        for (int t = 0; t < tiles; t += 8)
            tile_column(quotient_up(outputs, 4), c->channels, work + k * p->weight_point,
                        seen + t / 8 * panel + k * p->point, tile_zero, 0,
                        results + k * p->result_point + t, p->tiles);
    winograd_results(taps, c, p, row, images, rows, outputs, results, bias ? bias + output : 0,
                     y + image * c->to.image + output * c->to.plane);
}

NOINLINE void winograd_block_3(const struct correlation *c, const struct winograd_plan *p,
                               int output, int image, int row, const float *x, const float *w,
                               const float *bias, float *y, float *work) {
    winograd_block_of(3, c, p, output, image, row, x, w, bias, y, work);
}

NOINLINE void winograd_block_5(const struct correlation *c, const struct winograd_plan *p,
                               int output, int image, int row, const float *x, const float *w,
                               const float *bias, float *y, float *work) {
    winograd_block_of(5, c, p, output, image, row, x, w, bias, y, work);
}

/* `taps` is known when this is compiled: what is for the other number is then left out. */
INLINE void winograd_block(int taps, const struct correlation *c, const struct winograd_plan *p,
                           int output, int image, int row, const float *x, const float *w,
                           const float *bias, float *y, float *work) {
    if (taps == 3)
        winograd_block_3(c, p, output, image, row, x, w, bias, y, work);
    else
        winograd_block_5(c, p, output, image, row, x, w, bias, y, work);
}

/* y = the results, without a bias. */
INLINE void winograd(int taps, const struct correlation *c, const float *x, const float *w,
                     float *y, float *work) {
    const struct winograd_plan p = winograd_plan(c);
    for (int o = 0; o < c->outputs; o += p.outputs)
        for (int n = 0; n < c->images; n += p.source.images)
            for (int r = 0; 2 * r < c->y.results; r += p.source.rows)
                winograd_block(taps, c, &p, o, n, r, x, w, 0, y, work);
}

#endif
