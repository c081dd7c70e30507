/* Stochastic gradient descent with momentum and weight decay, as in PyTorch's SGD:
 *
 *     g += weight_decay * p;   v = momentum * v + g;   p -= learning_rate * v
 *
 * The gradient is never stored: the kernel that computes it adds it, times sgd_factor, to the
 * buffer that sgd_begin returns. Without momentum that buffer is the parameters themselves, so the
 * step costs nothing.
 */
#ifndef CLOISTER_SGD_H
#define CLOISTER_SGD_H

#include "vector.h"

struct sgd {
    float learning_rate, momentum, weight_decay;
};

/* x[n] = a * x + b * y */
NOINLINE void combine(int n, float a, float *x, float b, const float *y) {
    int i = 0;
    for (; i + 4 <= n; i += 4) store(x + i, splat(a) * load(x + i) + splat(b) * load(y + i));
    for (; i < n; i++) x[i] = a * x[i] + b * y[i];
}

/* What a gradient is multiplied by on its way into the buffer of sgd_begin. */
INLINE float sgd_factor(struct sgd s) { return s.momentum != 0 ? 1 : -s.learning_rate; }

/* Call when the parameters' old values are no longer needed. */
INLINE float *sgd_begin(struct sgd s, int n, float *parameters, float *velocity) {
    if (s.momentum != 0) {
        combine(n, s.momentum, velocity, s.weight_decay, parameters);
        return velocity;
    }
    if (s.weight_decay != 0)
        combine(n, 1, parameters, -s.learning_rate * s.weight_decay, parameters);
    return parameters;
}

/* Call when the gradient has been added. */
INLINE void sgd_end(struct sgd s, int n, float *parameters, const float *velocity) {
    if (s.momentum != 0) combine(n, 1, parameters, -s.learning_rate, velocity);
}

#endif
