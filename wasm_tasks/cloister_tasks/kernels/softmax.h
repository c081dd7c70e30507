/* Softmax, and softmax with cross-entropy, over the rows of a matrix. */
#ifndef CLOISTER_SOFTMAX_H
#define CLOISTER_SOFTMAX_H

#include "math.h"

INLINE float row_maximum(int n, const float *row) {
    float m = row[0];
    for (int j = 1; j < n; j++) m = row[j] > m ? row[j] : m;
    return m;
}

/* out = exp(row - maximum), which may be the row itself; returns its sum. */
INLINE float exp_row(int n, const float *row, float maximum, float *out) {
    f32x4 sums = splat(0);
    int j = 0;
    for (; j + 4 <= n; j += 4) {
        f32x4 e = exp_f32x4(load(row + j) - splat(maximum));
        sums += e;
        store(out + j, e);
    }
    float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    if (j < n) {
        f32x4 e = exp_f32x4(load_part(row + j, n - j) - splat(maximum));
        for (int i = 0; j < n; i++, j++) {
            sum += e[i];
            out[j] = e[i];
        }
    }
    return sum;
}

INLINE void scale_row(int n, float *row, float factor) {
    for (int j = 0; j < n; j++) row[j] *= factor;
}

/* probabilities[rows][classes] of logits of the same shape. */
NOINLINE void softmax(int rows, int classes, const float *logits, float *probabilities) {
    for (int i = 0; i < rows; i++, logits += classes, probabilities += classes) {
        float sum = exp_row(classes, logits, row_maximum(classes, logits), probabilities);
        scale_row(classes, probabilities, 1 / sum);
    }
}

/* Adds each row's cross-entropy to *loss, and 1 to *correct where the label is the first among the
 * largest logits. Then, if there are errors[rows][classes] to be filled,
 *     errors = factor * (softmax(logits) - onehot(label)).
 * `scratch` holds one row. Returns the first row whose loss is not finite, or -1. */
NOINLINE int softmax_cross_entropy(int rows, int classes, const float *logits,
                                   const int32_t *labels, double *loss, double *correct,
                                   float *errors, float factor, float *scratch) {
    double total = 0, hits = 0;
    for (int i = 0; i < rows; i++, logits += classes) {
        int label = labels[i];
        float maximum = row_maximum(classes, logits);
        float *out = errors ? errors + i * classes : scratch;
        float sum = exp_row(classes, logits, maximum, out);
        float row_loss = log_f32(sum) - (logits[label] - maximum);
        if (!is_finite(row_loss) || !is_finite(sum)) return i;
        total += row_loss;
        int first = 0;
        while (logits[first] != maximum) first++;
        hits += first == label;
        if (errors) {
            scale_row(classes, out, factor / sum);
            out[label] -= factor;
        }
    }
    *loss += total;
    *correct += hits;
    return -1;
}

#endif
