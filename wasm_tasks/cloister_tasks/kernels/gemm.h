/* The two matrix products of a dense layer, on row-major matrices of any size.
 *
 *     gemm_nt   C[M][N] += A[M][K] B[N][K]^T     forward:  outputs += inputs weight^T
 *     gemm_tn   C[M][N] += A[K][M]^T B[K][N]     backward: weight += errors^T inputs
 *
 * With weights stored [outputs][inputs] neither needs its operands packed. Both compute tiles that
 * fit the 16 vector registers of SSE/AVX (8 accumulators, 6 operands). A tile that hangs over the
 * edge repeats the last row and stores only what is inside, so every size works and no matrix is
 * padded.
 *
 * Two things keep Cranelift from spilling registers: OPAQUE hides from LLVM that the loop counter
 * is regular, and leaving the loop is tested after every step, so that each step is a basic block
 * of its own (within one, Cranelift moves all loads before all arithmetic). Unrolling keeps the
 * epoch check of the host, made at each jump backwards, off the critical path.
 */
#ifndef CLOISTER_GEMM_H
#define CLOISTER_GEMM_H

#include "vector.h"

#define OPAQUE(x) __asm__ volatile("" : "+r"(x))
#define GEMM_UNROLL 8
/* Columns of A and B worked on at a time by gemm_nt: 32 rows of them fit the first-level cache. */
#define GEMM_K_BLOCK 256

/* A scalar load and a splat are faster than WASM's load-and-splat. */
INLINE f32x4 load_splat(const float *p) {
    float x = *p;
    OPAQUE(x);
    return splat(x);
}

/* Sum of the lanes of each of four vectors. */
INLINE f32x4 sum_lanes(f32x4 a, f32x4 b, f32x4 c, f32x4 d) {
#define SHUFFLE __builtin_shufflevector
    f32x4 ab = SHUFFLE(a, b, 0, 4, 1, 5) + SHUFFLE(a, b, 2, 6, 3, 7);
    f32x4 cd = SHUFFLE(c, d, 0, 4, 1, 5) + SHUFFLE(c, d, 2, 6, 3, 7);
    return SHUFFLE(ab, cd, 0, 1, 4, 5) + SHUFFLE(ab, cd, 2, 3, 6, 7);
#undef SHUFFLE
}

/* One tile of gemm_nt: rows a[0..3] times rows b[0..1], added to C where `rows` and `cols` say.
 * Multiplying and adding apart is faster here than madd, for which Cranelift runs out of registers
 * (34 against 24 GFLOP/s where a CPU adds beside multiplying). */
NOINLINE void tile_nt(int k, const float *a, int lda, int rows, const float *b, int ldb, int cols,
                      float *c, int ldc) {
    f32x4 sum[4][2] = {0};
    const float *ap[4], *bp[2];
    UNROLL for (int i = 0; i < 4; i++) ap[i] = a + min_int(i, rows - 1) * lda;
    UNROLL for (int j = 0; j < 2; j++) bp[j] = b + min_int(j, cols - 1) * ldb;
    int steps = k / 4;
    if (steps) {
        for (;;) {
            UNROLL for (int u = 0; u < GEMM_UNROLL; u++) {
                f32x4 b0 = load(bp[0] + 4 * u), b1 = load(bp[1] + 4 * u);
                UNROLL for (int i = 0; i < 4; i++) {
                    f32x4 ai = load(ap[i] + 4 * u);
                    sum[i][0] += ai * b0;
                    sum[i][1] += ai * b1;
                }
                steps--;
                OPAQUE(steps);
                if (__builtin_expect(steps == 0, 0)) goto done;
            }
            UNROLL for (int i = 0; i < 4; i++) ap[i] += 4 * GEMM_UNROLL;
            UNROLL for (int j = 0; j < 2; j++) bp[j] += 4 * GEMM_UNROLL;
        }
    }
done:
    if (k % 4) {
        int left = k % 4;
        UNROLL for (int j = 0; j < 2; j++) {
            f32x4 bj = load_part(b + min_int(j, cols - 1) * ldb + k - left, left);
            UNROLL for (int i = 0; i < 4; i++) {
                f32x4 ai = load_part(a + min_int(i, rows - 1) * lda + k - left, left);
                sum[i][j] += ai * bj;
            }
        }
    }
    UNROLL for (int j = 0; j < 2; j++) {
        f32x4 total = sum_lanes(sum[0][j], sum[1][j], sum[2][j], sum[3][j]);
        if (j < cols)
            UNROLL for (int i = 0; i < 4; i++) if (i < rows) c[i * ldc + j] += total[i];
    }
}

NOINLINE void gemm_nt(int m, int n, int k, const float *a, int lda, const float *b, int ldb,
                      float *c, int ldc) {
    for (int at = 0; at < k; at += GEMM_K_BLOCK) {
        int depth = min_int(k - at, GEMM_K_BLOCK);
        for (int j = 0; j < n; j += 2)
            for (int i = 0; i < m; i += 4)
                tile_nt(depth, a + i * lda + at, lda, min_int(4, m - i), b + j * ldb + at, ldb,
                        min_int(2, n - j), c + i * ldc + j, ldc);
    }
}

/* One tile of gemm_tn, 4 x 8; reads A four columns wide whatever `rows` says. */
NOINLINE void tile_tn(int k, const float *a, int lda, const float *b, int ldb, float *c, int ldc,
                      int rows) {
    f32x4 sum[4][2];
    UNROLL for (int i = 0; i < 4; i++)
        UNROLL for (int j = 0; j < 2; j++) sum[i][j] = load(c + min_int(i, rows - 1) * ldc + 4 * j);
    for (;;) {
        UNROLL for (int u = 0; u < GEMM_UNROLL; u++) {
            f32x4 b0 = load(b), b1 = load(b + 4);
            UNROLL for (int i = 0; i < 4; i++) {
                f32x4 ai = load_splat(a + i);
                sum[i][0] = madd(ai, b0, sum[i][0]);
                sum[i][1] = madd(ai, b1, sum[i][1]);
            }
            a += lda;
            b += ldb;
            k--;
            OPAQUE(k);
            if (__builtin_expect(k == 0, 0)) goto done;
        }
    }
done:
    UNROLL for (int i = 0; i < 4; i++)
        if (i < rows)
            UNROLL for (int j = 0; j < 2; j++) store(c + i * ldc + 4 * j, sum[i][j]);
}

/* k is at least 1. A lies in an array that goes on for three floats behind its last row. `edge`
 * holds 8 * (k + 4) floats, used only if n is no multiple of 8. */
NOINLINE void gemm_tn(int m, int n, int k, const float *a, int lda, const float *b, int ldb,
                      float *c, int ldc, float *edge) {
    int whole = n & ~7;
    for (int j = 0; j < whole; j += 8)
        for (int i = 0; i < m; i += 4)
            tile_tn(k, a + i, lda, b + j, ldb, c + i * ldc + j, ldc, min_int(4, m - i));
    if (whole == n) return;
    /* The last columns of B and of C, widened with zeros to a tile of their own. */
    int left = n - whole;
    float *tile = edge + 8 * k;
    for (int r = 0; r < k; r++)
        for (int j = 0; j < 8; j++) edge[8 * r + j] = j < left ? b[r * ldb + whole + j] : 0;
    for (int i = 0; i < m; i += 4) {
        int rows = min_int(4, m - i);
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < 8; j++)
                tile[8 * r + j] = j < left ? c[(i + r) * ldc + whole + j] : 0;
        tile_tn(k, a + i, lda, edge, 8, tile, 8, rows);
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < left; j++) c[(i + r) * ldc + whole + j] = tile[8 * r + j];
    }
}

#endif
