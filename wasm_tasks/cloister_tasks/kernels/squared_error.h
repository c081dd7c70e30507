/* Squared error over the rows of a matrix. */
#ifndef CLOISTER_SQUARED_ERROR_H
#define CLOISTER_SQUARED_ERROR_H

#include "math.h"

/* Adds each row's mean squared difference to *loss. Then, if there are errors[rows][outputs] to be
 * filled, errors = factor * its gradient = factor * 2 / outputs * (predictions - targets).
 * Returns the first row whose loss is not finite, or -1. */
NOINLINE int squared_error(int rows, int outputs, const float *predictions, const float *targets,
                           double *loss, float *errors, float factor) {
    double total = 0;
    float slope = factor * 2 / (float)outputs;
    for (int i = 0; i < rows; i++) {
        double sum = 0;
        for (int j = 0; j < outputs; j++) {
            int at = i * outputs + j;
            float difference = predictions[at] - targets[at];
            sum += (double)difference * difference;
            if (errors) errors[at] = slope * difference;
        }
        if (!is_finite(sum)) return i;
        total += sum / outputs;
    }
    *loss += total;
    return -1;
}

#endif
