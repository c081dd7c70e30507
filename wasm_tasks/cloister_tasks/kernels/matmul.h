/* Products of float matrices of any size and strides, by packed panels.
 *
 * The blocking is that of Goto and van de Geijn, "Anatomy of High-Performance Matrix
 * Multiplication" (ACM TOMS 34(3), 2008): a block of A stays in the second-level cache and a panel
 * of B in the first while tiles of C are computed from them.
 */
#ifndef CLOISTER_MATMUL_H
#define CLOISTER_MATMUL_H

#include "matvec.h"
#include "pack.h"
#include "tile.h"

/* Most rows, columns and depth of a block; compiler/matmul.py knows these numbers. */
#define MATMUL_MC 128
#define MATMUL_NC 512
#define MATMUL_KC 192
/* Panels of B packed at a time: whole cache lines of a row-major B. */
#define MATMUL_PANELS 2

/* Floats c[at] to c[at + count - 1] of C are final. */
typedef void matmul_finish(int at, int count);

/* How much of `size` to do at a time: at most `most`, in equal parts, in multiples of `unit`. */
INLINE int matmul_block(int size, int most, int unit) {
    int parts = (size + most - 1) / most;
    return parts ? ((size + parts - 1) / parts + unit - 1) / unit * unit : 0;
}

/* Floats of scratch memory for C itself, or for its transpose with m and n exchanged. */
INLINE int matmul_workspace_one_way(int m, int n, int k) {
    int mc = matmul_block(m, MATMUL_MC, TILE_ROWS), kc = matmul_block(k, MATMUL_KC, 4);
    int group = matmul_block(n, MATMUL_PANELS * TILE_COLUMNS, TILE_COLUMNS);
    return mc * kc + group * kc + TILE_COLUMNS * mc;
}

/* Floats of scratch memory that `matmul` needs. */
INLINE int matmul_workspace(int m, int n, int k) {
    int here = matmul_workspace_one_way(m, n, k), there = matmul_workspace_one_way(n, m, k);
    return k == 0 ? 0 : here > there ? here : there;
}

/* Estimate in steps of one tile. What goes through `edge`, because it hangs over the right edge of
 * C or because C is transposed, costs about 20 more a tile. */
INLINE int64_t matmul_cost(int m, int n, int k, int transposed) {
    int64_t rows = (m + TILE_ROWS - 1) / TILE_ROWS;
    int64_t columns = (n + TILE_COLUMNS - 1) / TILE_COLUMNS;
    int64_t detours = transposed ? rows * columns : n % TILE_COLUMNS ? rows : 0;
    return rows * columns * (k + 3) + detours * 20;
}

/* Rows of up to 8 floats from anywhere to `edge`, [rows][8]. What fills the last tile of it up is
 * whatever lies there: it meets no element of C. */
INLINE void matmul_gather(int rows, int columns, const float *x, int row, int column, float *edge) {
    if (row == 1 && column != 1) {
        pack_transpose(columns, rows, x, column, edge, TILE_COLUMNS);
        return;
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) edge[i * TILE_COLUMNS + j] = x[i * row + j * column];
}

/* And back. */
INLINE void matmul_scatter(int rows, int columns, const float *edge, float *x, int row,
                           int column) {
    const int whole = row == 1 && column != 1 ? rows & ~3 : 0;
    pack_transpose(whole, columns, edge, TILE_COLUMNS, x, column);
    for (int i = whole; i < rows; i++)
        for (int j = 0; j < columns; j++) x[i * row + j * column] = edge[i * TILE_COLUMNS + j];
}

/* All rows of a block of A times one panel of B. */
NOINLINE void matmul_panel(int rows, int columns, int depth, const float *a, const float *b,
                           const float *init, int init_row, int init_column, float *c, int c_row,
                           int c_column, float *edge) {
    int whole = rows / TILE_ROWS;
    if (!init) {
        init = tile_zero;
        init_row = 0;
        init_column = 1;
    }
    if (columns == TILE_COLUMNS && init_column == 1 && c_column == 1) {
        if (whole) tile_column(whole, depth, a, b, init, init_row, c, c_row);
        if (rows % TILE_ROWS)
            tile_part(depth, a + whole * TILE_ROWS * depth, b, init + whole * TILE_ROWS * init_row,
                      init_row, 1, c + whole * TILE_ROWS * c_row, c_row, rows % TILE_ROWS, columns);
        return;
    }
    const float *from = tile_zero;
    int from_row = 0;
    if (init != tile_zero) {
        matmul_gather(rows, columns, init, init_row, init_column, edge);
        from = edge;
        from_row = TILE_COLUMNS;
    }
    tile_column((rows + TILE_ROWS - 1) / TILE_ROWS, depth, a, b, from, from_row, edge,
                TILE_COLUMNS);
    matmul_scatter(rows, columns, edge, c, c_row, c_column);
}

/* All rows of a block of A times some panels of B. */
NOINLINE void matmul_panels(int rows, int columns, int depth, const float *a, const float *b,
                            const float *init, int init_row, int init_column, float *c, int c_row,
                            int c_column, float *edge) {
    for (int j = 0; j < columns; j += TILE_COLUMNS)
        matmul_panel(rows, min_int(TILE_COLUMNS, columns - j), depth, a, b + j * depth,
                     init ? init + j * init_column : NULL, init_row, init_column, c + j * c_column,
                     c_row, c_column, edge);
}

/* C = init. */
NOINLINE void matmul_copy(int m, int n, const float *init, int init_row, int init_column, float *c,
                          int ldc) {
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++)
            c[i * ldc + j] = init ? init[i * init_row + j * init_column] : 0;
}

/* C = init + alpha A B, block by block. */
INLINE void matmul_blocks(int m, int n, int k, float alpha, const float *a, int a_row, int a_column,
                          const float *b, int b_row, int b_column, const float *init, int init_row,
                          int init_column, float *c, int c_row, int c_column, float *work,
                          matmul_finish *finish) {
    const int mc = matmul_block(m, MATMUL_MC, TILE_ROWS);
    const int nc = matmul_block(n, MATMUL_NC, TILE_COLUMNS);
    const int kc = matmul_block(k, MATMUL_KC, 4);
    const int group = matmul_block(n, MATMUL_PANELS * TILE_COLUMNS, TILE_COLUMNS);
    float *a_panels = work, *b_panels = a_panels + mc * kc, *edge = b_panels + group * kc;
    for (int i0 = 0; i0 < m; i0 += mc) {
        const int rows = min_int(mc, m - i0);
        for (int j0 = 0; j0 < n; j0 += nc) {
            const int columns = min_int(nc, n - j0);
            const float *from = init ? init + i0 * init_row + j0 * init_column : NULL;
            int from_row = init_row, from_column = init_column;
            float *to = c + i0 * c_row + j0 * c_column;
            for (int k0 = 0; k0 < k; k0 += kc) {
                const int depth = min_int(kc, k - k0);
                pack(TILE_ROWS, rows, depth, alpha, a + i0 * a_row + k0 * a_column, a_row, a_column,
                     a_panels);
                for (int j = 0; j < columns; j += group) {
                    const int some = min_int(group, columns - j);
                    pack(TILE_COLUMNS, some, depth, 1, b + k0 * b_row + (j0 + j) * b_column,
                         b_column, b_row, b_panels);
                    matmul_panels(rows, some, depth, a_panels, b_panels,
                                  from ? from + j * from_column : NULL, from_row, from_column,
                                  to + j * c_column, c_row, c_column, edge);
                }
                from = to;
                from_row = c_row;
                from_column = c_column;
            }
            if (!finish) continue;
            if (c_column == 1 && columns == n) finish(i0 * n, rows * n);
            else if (c_column == 1)
                for (int i = 0; i < rows; i++) finish((i0 + i) * n + j0, columns);
            else if (rows == m) finish(j0 * m, columns * m);
            else
                for (int j = 0; j < columns; j++) finish((j0 + j) * m + i0, rows);
        }
    }
}

/* C = init + alpha A B.
 *
 * A is m x k with element (i, k) at a[i * a_row + k * a_column], B is k x n with element (k, j) at
 * b[k * b_row + j * b_column], C is m x n with element (i, j) at c[i * ldc + j]. init, likewise at
 * init[i * init_row + j * init_column], may be NULL (0) or C itself; else C overlaps nothing. m and
 * n are at least 1, k may be 0.
 *
 * All integers are known when this is compiled: give each shape one function of its own, not to be
 * inlined. `work` is scratch memory, as many floats as compiler/matmul.py says, best on a cache
 * line. `finish` is NULL or a function, known when this is compiled, that is called for each run of
 * C as soon as it is final, while it is in the cache; it requires ldc = n. */
INLINE void matmul(int m, int n, int k, float alpha, const float *a, int a_row, int a_column,
                   const float *b, int b_row, int b_column, const float *init, int init_row,
                   int init_column, float *c, int ldc, float *work, matmul_finish *finish) {
    const int from_row = init ? init_row : ldc, from_column = init ? init_column : 1;
    const int thin = matvec_fits(m, a_column, b_row, b_column, from_column, 1);
    const int narrow = matvec_fits(n, b_row, a_column, a_row, from_row, ldc);
    if (k == 0 || (!init && (thin || narrow))) {
        matmul_copy(m, n, init, init_row, init_column, c, ldc);
        init = init ? init : c;
    }
    if (k == 0 || thin || narrow) {
        if (k > 0 && thin)
            matvec(m, n, k, alpha, a, a_row, a_column, b, b_row, b_column, init, from_row,
                   from_column, c, ldc, 1);
        else if (k > 0)
            matvec(n, m, k, alpha, b, b_column, b_row, a, a_column, a_row, init, from_column,
                   from_row, c, 1, ldc);
        if (finish) finish(0, m * n);
    } else if (matmul_cost(n, m, k, 1) < matmul_cost(m, n, k, 0)) {
        /* The transposed product fills more of its tiles. */
        matmul_blocks(n, m, k, alpha, b, b_column, b_row, a, a_column, a_row, init, init_column,
                      init_row, c, 1, ldc, work, finish);
    } else {
        matmul_blocks(m, n, k, alpha, a, a_row, a_column, b, b_row, b_column, init, init_row,
                      init_column, c, ldc, 1, work, finish);
    }
}

#endif
