/* The shape of a two-dimensional convolution, as in PyTorch's conv2d; one over a single dimension
 * has height 1. */
#ifndef CLOISTER_CONV2D_H
#define CLOISTER_CONV2D_H

#include "window.h"

struct conv2d {
    int batch, groups, channels, height, width;
    int outputs, kernel_height, kernel_width;
    int stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
    int out_height, out_width;
};

/* Every channel has kernels of its own. */
INLINE int conv2d_depthwise(const struct conv2d *s) {
    return s->groups == s->channels && s->groups > 1;
}

/* What result r sees: r * stride - pad + tap * dilation. */
INLINE struct axis conv_axis(int source, int results, int taps, int stride, int pad, int dilation) {
    return (struct axis){source, results, stride, taps, -pad, dilation, 0, 1};
}

/* What the gradients of the inputs phase, phase + stride, ... see of the errors: those taps whose
 * distance from them is a multiple of the stride. */
INLINE struct axis conv_gradient_axis(int errors, int inputs, int taps, int stride, int pad,
                                      int dilation, int phase) {
    int tap = 0, period = 1;
    while (tap < taps && (phase + pad - tap * dilation) % stride) tap++;
    while (period * dilation % stride) period++;
    return (struct axis){.source = errors,
                         .results = inputs > phase ? quotient_up(inputs - phase, stride) : 0,
                         .step = 1,
                         .taps = tap < taps ? quotient_up(taps - tap, period) : 0,
                         .offset = (phase + pad - tap * dilation) / stride,
                         .offset_step = -(period * dilation / stride),
                         .tap = tap,
                         .tap_step = period};
}

INLINE struct axis conv2d_y(const struct conv2d *s) {
    return conv_axis(s->height, s->out_height, s->kernel_height, s->stride_y, s->pad_y,
                     s->dilation_y);
}

INLINE struct axis conv2d_x(const struct conv2d *s) {
    return conv_axis(s->width, s->out_width, s->kernel_width, s->stride_x, s->pad_x, s->dilation_x);
}

/* The same of the gradients, for inputs with these remainders modulo the stride. */
INLINE struct axis conv2d_gradient_y(const struct conv2d *s, int phase) {
    return conv_gradient_axis(s->out_height, s->height, s->kernel_height, s->stride_y, s->pad_y,
                              s->dilation_y, phase);
}

INLINE struct axis conv2d_gradient_x(const struct conv2d *s, int phase) {
    return conv_gradient_axis(s->out_width, s->width, s->kernel_width, s->stride_x, s->pad_x,
                              s->dilation_x, phase);
}

#endif
