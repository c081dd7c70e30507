/* The innermost product of every dense kernel: tiles of C, 4 x 8, from packed operands.
 *
 * 4 rows of 2 vectors leave 8 of the 16 vector registers of SSE/AVX to the operands. What keeps
 * Cranelift from spilling them, and what it costs to forget one of these:
 *   - OPAQUE hides from LLVM that the loop counter is regular, and leaving the loop is tested after
 *     every step, so that each step is a basic block of its own (within one, Cranelift moves all
 *     loads before all arithmetic);
 *   - four elements of A are one load and four shuffles: fewer instructions than four loads, and no
 *     more than one register at a time. Each shuffle names its operand twice: for the half that it
 *     does not need LLVM would name one of the sums, which Cranelift then computes too early;
 *   - the sums go to memory before each jump backwards: the host checks its epoch at the jump, and
 *     around that call no vector register survives. Hence also so many steps between two jumps.
 * The sums begin at zero and what they are added to comes last: where C holds weights and the
 * products are steps of gradient descent, each alone would be lost in the rounding of a weight.
 * A column of tiles is done in one call, for a jump from tile to tile is cheap, and a call is not.
 */
#ifndef CLOISTER_TILE_H
#define CLOISTER_TILE_H

#include <stddef.h>

#include "vector.h"

#ifndef OPAQUE
#define OPAQUE(x) __asm__ volatile("" : "+r"(x))
#endif
#define TILE_ROWS 4
#define TILE_COLUMNS 8
#define TILE_UNROLL 64

#ifdef __wasm_simd128__
typedef int8_t tile_bytes __attribute__((vector_size(16)));
#define TILE_WORD(i) 4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3
#define TILE_LANE(v, i)                                                                            \
    (f32x4) __builtin_wasm_shuffle_i8x16((tile_bytes)v, (tile_bytes)v, TILE_WORD(i), TILE_WORD(i), \
                                         TILE_WORD(i), TILE_WORD(i))
#else
#define TILE_LANE(v, i) splat((v)[i])
#endif

/* `count` whole tiles, one below the other: c[i][j] = init[i][j] + sum over k of a[i / 4][k][i % 4]
 * b[k][j], with i from 0 to 4 * count - 1 and j from 0 to 7. count and k are at least 1; a is
 * [count][k][4] and b is [k][8]; row i of c lies at c + i * ldc, of init at init + i * init_row. */
NOINLINE void tile_column(int count, int k, const float *a, const float *b, const float *init,
                          int init_row, float *c, int ldc) {
    /* With the only caller's constants in their place, this loop was five times as slow. */
    OPAQUE(count);
    OPAQUE(k);
    OPAQUE(a);
    OPAQUE(b);
    OPAQUE(init);
    OPAQUE(init_row);
    OPAQUE(c);
    OPAQUE(ldc);
    const float *bk = b, *from = init;
    int left = k, from_row = init_row;
    for (;;) {
        f32x4 sum[4][2];
        UNROLL for (int i = 0; i < 4; i++)
            UNROLL for (int j = 0; j < 2; j++) sum[i][j] = splat(0);
        UNROLL for (int u = 0; u < TILE_UNROLL; u++) {
            const float *p = a + TILE_ROWS * u, *q = bk + TILE_COLUMNS * u;
            f32x4 b0 = load(q), b1 = load(q + 4), ak = load(p);
            f32x4 row[] = {TILE_LANE(ak, 0), TILE_LANE(ak, 1), TILE_LANE(ak, 2), TILE_LANE(ak, 3)};
            UNROLL for (int i = 0; i < 4; i++) {
                sum[i][0] = madd(row[i], b0, sum[i][0]);
                sum[i][1] = madd(row[i], b1, sum[i][1]);
            }
            left--;
            OPAQUE(left);
            if (__builtin_expect(left == 0, 0)) break;
        }
        UNROLL for (int i = 0; i < 4; i++)
            UNROLL for (int j = 0; j < 2; j++)
                store(c + i * ldc + 4 * j, load(from + i * from_row + 4 * j) + sum[i][j]);
        if (left) {
            a += TILE_ROWS * TILE_UNROLL;
            bk += TILE_COLUMNS * TILE_UNROLL;
            from = c;
            from_row = ldc;
            continue;
        }
        if (--count == 0) return;
        a += TILE_ROWS * ((k - 1) % TILE_UNROLL + 1);
        c += TILE_ROWS * ldc;
        init += TILE_ROWS * init_row;
        from = init;
        from_row = init_row;
        bk = b;
        left = k;
    }
}

/* Where the sums of a row begin if there is no init. */
static const float tile_zero[TILE_COLUMNS];

/* A tile that hangs over the edge, or whose init is not in rows: see `tile`. */
NOINLINE void tile_part(int k, const float *a, const float *b, const float *init, int init_row,
                        int init_column, float *c, int ldc, int rows, int columns) {
    float part[TILE_ROWS][TILE_COLUMNS] = {0};
    for (int i = 0; i < rows; i++) {
        const float *from = init + i * init_row;
        if (init_column == 0)
            for (int j = 0; j < TILE_COLUMNS; j += 4) store(part[i] + j, splat(*from));
        else if (init_column == 1 && columns == TILE_COLUMNS)
            for (int j = 0; j < TILE_COLUMNS; j += 4) store(part[i] + j, load(from + j));
        else
            for (int j = 0; j < columns; j++) part[i][j] = from[j * init_column];
    }
    if (k > 0) tile_column(1, k, a, b, part[0], TILE_COLUMNS, part[0], TILE_COLUMNS);
    for (int i = 0; i < rows; i++) {
        if (columns == TILE_COLUMNS)
            for (int j = 0; j < TILE_COLUMNS; j += 4) store(c + i * ldc + j, load(part[i] + j));
        else
            for (int j = 0; j < columns; j++) c[i * ldc + j] = part[i][j];
    }
}

/* One tile: c[i][j] = init[i * init_row + j * init_column] + sum over k of a[k][i] b[k][j] for
 * i < rows <= 4 and j < columns <= 8, where c[i][j] lies at c[i * ldc + j].
 *
 * a is [k][4] and b is [k][8], zero where they hang over the edge; k may be 0. init NULL means 0;
 * it may be c itself (init_row = ldc, init_column = 1). Nothing of c or init outside of rows x
 * columns is read or written. Fast: whole tiles, with init_column 1 or no init. */
INLINE void tile(int k, const float *a, const float *b, const float *init, int init_row,
                 int init_column, float *c, int ldc, int rows, int columns) {
    if (!init) {
        init = tile_zero;
        init_row = 0;
        init_column = 1;
    }
    if (rows == TILE_ROWS && columns == TILE_COLUMNS && init_column == 1 && k > 0)
        tile_column(1, k, a, b, init, init_row, c, ldc);
    else
        tile_part(k, a, b, init, init_row, init_column, c, ldc, rows, columns);
}

#endif
