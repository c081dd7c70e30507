/* The rectifier max(x, 0) and its derivative, over n floats. */
#ifndef CLOISTER_RELU_H
#define CLOISTER_RELU_H

#include "vector.h"

/* No number stays no number. */
NOINLINE void relu(int n, float *x) {
    int i = 0;
    for (; i + 4 <= n; i += 4) store(x + i, select(load(x + i) < splat(0), splat(0), load(x + i)));
    for (; i < n; i++) x[i] = x[i] < 0 ? 0 : x[i];
}

/* errors = 0 where the rectifier was shut; its derivative at 0 counts as 0. */
NOINLINE void relu_backward(int n, const float *outputs, float *errors) {
    int i = 0;
    for (; i + 4 <= n; i += 4)
        store(errors + i, select(load(outputs + i) > splat(0), load(errors + i), splat(0)));
    for (; i < n; i++) errors[i] = outputs[i] > 0 ? errors[i] : 0;
}

#endif
