/* Copying a matrix into the panels that tile.h works on.
 *
 * A panel is [depth][width]: `width` lines of the matrix (rows of A: 4, columns of B: 8) side by
 * side, so that one step of the product reads consecutive floats; panel follows panel. The last
 * one is filled up with zeros. Line l at depth d lies at x[l * line + d * deep]; every element is
 * multiplied by alpha on its way.
 */
#ifndef CLOISTER_PACK_H
#define CLOISTER_PACK_H

#include "vector.h"

/* Rows copied between two jumps backwards. */
#define PACK_UNROLL 4

/* out[d * width + l] = x[l][d] for four lines l and four depths d. */
INLINE void pack_transposed(f32x4 scale, const float *x0, const float *x1, const float *x2,
                            const float *x3, float *out, int width) {
#define SHUFFLE __builtin_shufflevector
    f32x4 r0 = load(x0), r1 = load(x1), r2 = load(x2), r3 = load(x3);
    f32x4 low01 = SHUFFLE(r0, r1, 0, 4, 1, 5), high01 = SHUFFLE(r0, r1, 2, 6, 3, 7);
    f32x4 low23 = SHUFFLE(r2, r3, 0, 4, 1, 5), high23 = SHUFFLE(r2, r3, 2, 6, 3, 7);
    store(out, SHUFFLE(low01, low23, 0, 1, 4, 5) * scale);
    store(out + width, SHUFFLE(low01, low23, 2, 3, 6, 7) * scale);
    store(out + 2 * width, SHUFFLE(high01, high23, 0, 1, 4, 5) * scale);
    store(out + 3 * width, SHUFFLE(high01, high23, 2, 3, 6, 7) * scale);
#undef SHUFFLE
}

/* Four lines of the matrix become four columns of the panel; lines that do not exist are zero. */
INLINE void pack_four(int lines, int depth, f32x4 scale, const float *x, int line, float *out,
                      int width) {
    static const float none[4 * PACK_UNROLL];
    const float *x0 = lines > 0 ? x : none, *x1 = lines > 1 ? x + line : none;
    const float *x2 = lines > 2 ? x + 2 * line : none, *x3 = lines > 3 ? x + 3 * line : none;
    const int s0 = lines > 0, s1 = lines > 1, s2 = lines > 2, s3 = lines > 3;
    int d = 0;
#define PACK_STEP(n) \
    x0 += (n) * s0, x1 += (n) * s1, x2 += (n) * s2, x3 += (n) * s3, out += (n) * width, d += (n)
    while (d + 4 * PACK_UNROLL <= depth) {
        UNROLL for (int u = 0; u < 4 * PACK_UNROLL; u += 4)
            pack_transposed(scale, x0 + u, x1 + u, x2 + u, x3 + u, out + u * width, width);
        PACK_STEP(4 * PACK_UNROLL);
    }
    while (d + 4 <= depth) {
        pack_transposed(scale, x0, x1, x2, x3, out, width);
        PACK_STEP(4);
    }
    while (d < depth) {
        store(out, (f32x4){*x0, *x1, *x2, *x3} * scale);
        PACK_STEP(1);
    }
#undef PACK_STEP
}

/* deep is 1: lines are contiguous. */
NOINLINE void pack_lines(int width, int lines, int depth, float alpha, const float *x, int line,
                         float *out) {
    f32x4 scale = splat(alpha);
    for (int at = 0; at < lines; at += width, out += depth * width)
        for (int l = 0; l < width; l += 4) {
            const float *from = x + (at + l) * line;
            const int left = lines - at - l;
            if (left >= 4)
                pack_four(4, depth, scale, from, line, out + l, width);
            else
                pack_four(left, depth, scale, from, line, out + l, width);
        }
}

/* out[d * width + l] = x[l * line + d] for depth rows of as many floats as there are lines, rounded
 * up to 4. */
NOINLINE void pack_transpose(int lines, int depth, const float *x, int line, float *out,
                             int width) {
    for (int l = 0; l < lines; l += 4)
        pack_four(lines - l, depth, splat(1), x + l * line, line, out + l, width);
}

/* The first 4 * vectors lines, `width` of them side by side in a panel, panels depth * width apart:
 * whole cache lines of the matrix at a time. */
INLINE void pack_rows(const int vectors, const int width, int depth, f32x4 scale, const float *x,
                      int deep, float *out) {
    const int apart = depth * width;
#define PACK_ROW                                                                     \
    UNROLL for (int v = 0; v < vectors; v++)                                         \
        store(out + 4 * v / width * apart + 4 * v % width, load(x + 4 * v) * scale); \
    x += deep;                                                                       \
    out += width;
    int d = 0;
    for (; d + PACK_UNROLL <= depth; d += PACK_UNROLL)
        UNROLL for (int u = 0; u < PACK_UNROLL; u++) { PACK_ROW }
    for (; d < depth; d++) { PACK_ROW }
#undef PACK_ROW
}

/* line is 1: what stands side by side in the panel does so in the matrix too. */
NOINLINE void pack_across(int width, int lines, int depth, float alpha, const float *x, int deep,
                          float *out) {
    f32x4 scale = splat(alpha);
    for (; lines >= 16; lines -= 16, x += 16, out += 16 * depth) {
        if (width == 8)
            pack_rows(4, 8, depth, scale, x, deep, out);
        else
            pack_rows(4, 4, depth, scale, x, deep, out);
    }
    for (; lines >= width; lines -= width, x += width, out += width * depth) {
        if (width == 8)
            pack_rows(2, 8, depth, scale, x, deep, out);
        else
            pack_rows(1, 4, depth, scale, x, deep, out);
    }
    if (lines <= 0) return;
    for (int d = 0; d < depth; d++, x += deep)
        for (int l = 0; l < width; l++) *out++ = l < lines ? x[l] * alpha : 0;
}

/* Any strides. */
NOINLINE void pack_any(int width, int lines, int depth, float alpha, const float *x, int line,
                       int deep, float *out) {
    for (int at = 0; at < lines; at += width)
        for (int d = 0; d < depth; d++, out += width)
            for (int l = 0; l < width; l++)
                out[l] = at + l < lines ? x[(at + l) * line + d * deep] * alpha : 0;
}

/* The strides are known when this is compiled. */
INLINE void pack(int width, int lines, int depth, float alpha, const float *x, int line, int deep,
                 float *out) {
    if (deep == 1)
        pack_lines(width, lines, depth, alpha, x, line, out);
    else if (line == 1)
        pack_across(width, lines, depth, alpha, x, deep, out);
    else
        pack_any(width, lines, depth, alpha, x, line, deep, out);
}

#endif
