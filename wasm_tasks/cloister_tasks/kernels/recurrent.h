/* LSTM and GRU layers over all time steps, forward and backward, as PyTorch defines them.
 *
 * Steps are the outermost dimension: x [steps][batch][...]. `x` holds what the inputs contribute to
 * the gates (one large product beforehand); `weight`, [gates][hidden], is by what the state does. It
 * is packed once for all steps. Gradients by weights and inputs are large products afterwards.
 *
 * S. Hochreiter and J. Schmidhuber, "Long short-term memory", 1997; K. Cho et al., "Learning phrase
 * representations using RNN encoder-decoder", 2014 (the variant that resets after the product).
 */
#ifndef CLOISTER_RECURRENT_H
#define CLOISTER_RECURRENT_H

#include "exponential.h"
#include "matmul.h"

/* out [batch][n] = init + x [batch][k] weight, where `panels` holds the weight as `tile.h` takes it
 * and init (NULL: 0) has rows init_row apart. `rows` is scratch: batch, rounded up to 4, times k. */
NOINLINE void recurrent_product(int batch, int n, int k, const float *x, const float *panels,
                                const float *init, int init_row, float *out, float *rows) {
    pack_lines(TILE_ROWS, batch, k, 1, x, k, rows);
    if (!init) init_row = 0;
    int whole = batch / TILE_ROWS, done = whole * TILE_ROWS;
    for (int j = 0; j < n; j += TILE_COLUMNS, panels += TILE_COLUMNS * k) {
        int columns = min_int(TILE_COLUMNS, n - j);
        const float *from = init ? init + j : tile_zero;
        if (whole && columns == TILE_COLUMNS)
            tile_column(whole, k, rows, panels, from, init_row, out + j, n);
        for (int i = columns == TILE_COLUMNS ? done : 0; i < batch; i += TILE_ROWS)
            tile(k, rows + i * k, panels, from + i * init_row, init_row, 1, out + i * n + j, n,
                 min_int(TILE_ROWS, batch - i), columns);
    }
}

/* The weight [gates][hidden] in panels for the way forward, and for the way back; what follows the
 * panels is scratch for `recurrent_product`. */
INLINE float *recurrent_forward_panels(int gates, int hidden, const float *weight, float *panels) {
    pack_lines(TILE_COLUMNS, gates, hidden, 1, weight, hidden, panels);
    return panels + (gates + 7) / 8 * 8 * hidden;
}
INLINE float *recurrent_backward_panels(int gates, int hidden, const float *weight, float *panels) {
    pack_across(TILE_COLUMNS, hidden, gates, 1, weight, hidden, panels);
    return panels + (hidden + 7) / 8 * 8 * gates;
}

/* One step of an LSTM: gates [4 hidden] (input, forget, cell, output) of one row, before their
 * functions when it begins and after when it ends. */
NOINLINE void lstm_cell(int hidden, float *restrict gates, const float *restrict before,
                        float *restrict cell, float *restrict out) {
    for (int i = 0; i < 2 * hidden; i++) gates[i] = sigmoid_f32(gates[i]);
    for (int i = 2 * hidden; i < 3 * hidden; i++) gates[i] = tanh_f32(gates[i]);
    for (int i = 3 * hidden; i < 4 * hidden; i++) gates[i] = sigmoid_f32(gates[i]);
    const float *in = gates, *forget = gates + hidden, *new = gates + 2 * hidden;
    for (int i = 0; i < hidden; i++) cell[i] = forget[i] * before[i] + in[i] * new[i];
    for (int i = 0; i < hidden; i++) out[i] = gates[3 * hidden + i] * tanh_f32(cell[i]);
}

/* states, cells [steps][batch][hidden]; gates [steps][batch][4 hidden]. */
INLINE void lstm_forward(int steps, int batch, int hidden, const float *x, const float *state,
                         const float *cell, const float *weight, float *states, float *cells,
                         float *gates, float *work) {
    int row = batch * hidden;
    float *rows = recurrent_forward_panels(4 * hidden, hidden, weight, work);
    for (int t = 0; t < steps; t++) {
        recurrent_product(batch, 4 * hidden, hidden, state, work, x, 4 * hidden, gates, rows);
        for (int b = 0; b < batch; b++)
            lstm_cell(hidden, gates + 4 * b * hidden, cell + b * hidden, cells + b * hidden,
                      states + b * hidden);
        state = states;
        cell = cells;
        x += 4 * row;
        gates += 4 * row;
        states += row;
        cells += row;
    }
}

/* One step back for n elements of one row: `gates` gives the functions' values, `dgates` takes the
 * gradients before the functions, `dcell` goes from after the step to before it. */
NOINLINE void lstm_cell_gradient(int hidden, const float *restrict gates,
                                 const float *restrict before, const float *restrict cell,
                                 const float *restrict dstate, float *restrict dcell,
                                 float *restrict dgates) {
    for (int i = 0; i < hidden; i++) {
        float in = gates[i], forget = gates[hidden + i], new = gates[2 * hidden + i];
        float open = gates[3 * hidden + i], squashed = tanh_f32(cell[i]);
        float d = dcell[i] + dstate[i] * open * (1 - squashed * squashed);
        dgates[i] = d * new * in * (1 - in);
        dgates[hidden + i] = d * before[i] * forget * (1 - forget);
        dgates[2 * hidden + i] = d * in * (1 - new * new);
        dgates[3 * hidden + i] = dstate[i] * squashed * open * (1 - open);
        dcell[i] = d * forget;
    }
}

/* dstates [steps][batch][hidden] is what comes from outside, dlast [batch][hidden] the gradient by
 * the last cell; dstate and dcell take those by the first state and cell. */
INLINE void lstm_backward(int steps, int batch, int hidden, const float *dstates,
                          const float *dlast, const float *gates, const float *cells,
                          const float *first_cell, const float *weight, float *dgates,
                          float *dstate, float *dcell, float *work) {
    int row = batch * hidden;
    float *rows = recurrent_backward_panels(4 * hidden, hidden, weight, work);
    for (int i = 0; i < row; i++) dstate[i] = dstates[(steps - 1) * row + i];
    for (int i = 0; i < row; i++) dcell[i] = dlast[i];
    for (int t = steps - 1; t >= 0; t--) {
        const float *before = t ? cells + (t - 1) * row : first_cell;
        for (int b = 0; b < batch; b++)
            lstm_cell_gradient(hidden, gates + 4 * (t * row + b * hidden), before + b * hidden,
                               cells + t * row + b * hidden, dstate + b * hidden,
                               dcell + b * hidden, dgates + 4 * (t * row + b * hidden));
        /* The gradient from outside joins here; before the first step there is none. */
        recurrent_product(batch, hidden, 4 * hidden, dgates + 4 * t * row, work,
                          t ? dstates + (t - 1) * row : 0, hidden, dstate, rows);
    }
}

/* One step of a GRU: gates [3 hidden] (reset, update, new) of one row from the inputs' part x and
 * the state's part `inner`. */
NOINLINE void gru_cell(int hidden, const float *restrict x, const float *restrict inner,
                       const float *restrict before, float *restrict gates, float *restrict out) {
    for (int i = 0; i < 2 * hidden; i++) gates[i] = sigmoid_f32(x[i] + inner[i]);
    const float *reset = gates, *update = gates + hidden;
    float *new = gates + 2 * hidden;
    for (int i = 0; i < hidden; i++)
        new[i] = tanh_f32(x[2 * hidden + i] + reset[i] * inner[2 * hidden + i]);
    for (int i = 0; i < hidden; i++) out[i] = new[i] + update[i] * (before[i] - new[i]);
}

/* states [steps][batch][hidden]; gates and inner [steps][batch][3 hidden]; bias [3 hidden]. */
INLINE void gru_forward(int steps, int batch, int hidden, const float *x, const float *state,
                        const float *weight, const float *bias, float *states, float *gates,
                        float *inner, float *work) {
    int row = batch * hidden;
    float *rows = recurrent_forward_panels(3 * hidden, hidden, weight, work);
    for (int t = 0; t < steps; t++) {
        recurrent_product(batch, 3 * hidden, hidden, state, work, bias, 0, inner, rows);
        for (int b = 0; b < batch; b++)
            gru_cell(hidden, x + 3 * b * hidden, inner + 3 * b * hidden, state + b * hidden,
                     gates + 3 * b * hidden, states + b * hidden);
        state = states;
        x += 3 * row;
        gates += 3 * row;
        inner += 3 * row;
        states += row;
    }
}

/* One step back: gradients by the inputs' part, by the state's part, and straight by the state. */
NOINLINE void gru_cell_gradient(int hidden, const float *restrict gates,
                                const float *restrict inner, const float *restrict before,
                                float *restrict dstate, float *restrict dx,
                                float *restrict dinner) {
    for (int i = 0; i < hidden; i++) {
        float reset = gates[i], update = gates[hidden + i], new = gates[2 * hidden + i];
        float d = dstate[i], dnew = d * (1 - update) * (1 - new * new);
        float dreset = dnew * inner[2 * hidden + i] * reset * (1 - reset);
        float dupdate = d * (before[i] - new) * update * (1 - update);
        dx[i] = dinner[i] = dreset;
        dx[hidden + i] = dinner[hidden + i] = dupdate;
        dx[2 * hidden + i] = dnew;
        dinner[2 * hidden + i] = dnew * reset;
        dstate[i] = d * update;
    }
}

/* dstate [batch][hidden] takes the gradient by the first state. */
INLINE void gru_backward(int steps, int batch, int hidden, const float *dstates,
                         const float *gates, const float *inner, const float *states,
                         const float *first, const float *weight, float *dx, float *dinner,
                         float *dstate, float *work) {
    int row = batch * hidden;
    float *rows = recurrent_backward_panels(3 * hidden, hidden, weight, work);
    for (int i = 0; i < row; i++) dstate[i] = 0;
    for (int t = steps - 1; t >= 0; t--) {
        const float *before = t ? states + (t - 1) * row : first;
        for (int i = 0; i < row; i++) dstate[i] += dstates[t * row + i];
        for (int b = 0; b < batch; b++)
            gru_cell_gradient(hidden, gates + 3 * (t * row + b * hidden),
                              inner + 3 * (t * row + b * hidden), before + b * hidden,
                              dstate + b * hidden, dx + 3 * (t * row + b * hidden),
                              dinner + 3 * (t * row + b * hidden));
        recurrent_product(batch, hidden, 3 * hidden, dinner + 3 * t * row, work, dstate, hidden,
                          dstate, rows);
    }
}

#endif
