/* Two-dimensional convolution as in PyTorch's conv2d, and its gradients; images are NCHW, weights
 * OIHW, all float. A convolution over one dimension has height 1.
 *
 * The backward pass to the inputs is also the forward pass of a transposed convolution: `height`
 * and `width` need not follow from `out_height` and `out_width`.
 */
#ifndef CLOISTER_CONVOLUTION_H
#define CLOISTER_CONVOLUTION_H

#include "correlation.h"
#include "depthwise.h"
#include "winograd_weight_gradient.h"

/* Called when y[at .. at + count) is final. */
typedef void conv_finish(int at, int count);

INLINE struct correlation conv2d_correlation(const struct conv2d *s) {
    int kernel = s->kernel_height * s->kernel_width, plane = s->out_height * s->out_width;
    int channels = s->channels / s->groups;
    return (struct correlation){
        .y = conv2d_y(s),
        .x = conv2d_x(s),
        .images = s->batch,
        .channels = channels,
        .outputs = s->outputs / s->groups,
        .image = s->channels * s->height * s->width,
        .weight_output = channels * kernel,
        .weight_channel = kernel,
        .kernel_width = s->kernel_width,
        .to = {s->outputs * plane, plane, s->out_width, 1},
    };
}

/* The part of the gradient with respect to the inputs (phase_y, phase_x) modulo the stride. */
INLINE struct correlation conv2d_gradient_correlation(const struct conv2d *s, int phase_y,
                                                      int phase_x) {
    int kernel = s->kernel_height * s->kernel_width, plane = s->height * s->width;
    int channels = s->channels / s->groups;
    return (struct correlation){
        .y = conv2d_gradient_y(s, phase_y),
        .x = conv2d_gradient_x(s, phase_x),
        .images = s->batch,
        .channels = s->outputs / s->groups,
        .outputs = channels,
        .image = s->outputs * s->out_height * s->out_width,
        .weight_output = kernel,
        .weight_channel = channels * kernel,
        .kernel_width = s->kernel_width,
        .to = {s->channels * plane, plane, s->stride_y * s->width, s->stride_x},
    };
}

/* Call `finish` for the results of these images, outputs and rows. */
INLINE void conv2d_finish(const struct conv2d *s, int image, int images, int output, int outputs,
                          int row, int rows, conv_finish *finish) {
    int plane = s->out_height * s->out_width;
    if (!finish) return;
    if (rows == s->out_height)
        for (int n = image; n < image + images; n++)
            finish((n * s->outputs + output) * plane, outputs * plane);
    else
        for (int o = output; o < output + outputs; o++)
            finish((image * s->outputs + o) * plane + row * s->out_width, rows * s->out_width);
}

/* y[batch][outputs][out_height][out_width] = bias + convolution of x with w. `bias` may be NULL,
 * and so may `finish`, which is called for every result once. */
INLINE void conv2d(const struct conv2d s, const float *x, const float *w, const float *bias,
                   float *y, float *work, conv_finish *finish) {
    int plane = s.out_height * s.out_width;
    if (conv2d_depthwise(&s)) {
        int step = depthwise_depth(&s), each = s.outputs / s.channels;
        for (int n = 0; n < s.batch; n++)
            for (int c = 0; c < s.channels; c += step) {
                int depth = min_int(step, s.channels - c);
                depthwise_forward(&s, n, c, depth, x, w, bias, y, work);
                if (finish) finish((n * s.outputs + c * each) * plane, depth * each * plane);
            }
        return;
    }
    const struct correlation c = conv2d_correlation(&s);
    const int filtered = winograd_pays(&c);
    for (int g = 0; g < s.outputs; g += c.outputs) {
        const float *from = x + g / c.outputs * c.channels * s.height * s.width;
        const float *weights = w + g * c.weight_output, *start = bias ? bias + g : 0;
        float *to = y + g * plane;
        if (filtered) {
            const struct winograd_plan p = winograd_plan(&c);
            int images = p.source.images, rows = p.source.rows;
            for (int o = 0; o < c.outputs; o += p.outputs)
                for (int n = 0; n < s.batch; n += images)
                    for (int r = 0; 2 * r < s.out_height; r += rows) {
                        winograd_block(s.kernel_height, &c, &p, o, n, r, from, weights, start, to,
                                       work);
                        conv2d_finish(&s, n, min_int(images, s.batch - n), g + o,
                                      min_int(p.outputs, c.outputs - o), 2 * r,
                                      min_int(2 * rows, s.out_height - 2 * r), finish);
                    }
            continue;
        }
        const struct correlation_plan p = correlation_plan(&c);
        for (int n = 0; n < s.batch; n += p.images)
            for (int r = 0; r < s.out_height; r += p.rows) {
                correlation_block(&c, &p, n, r, from, weights, start, to, work);
                conv2d_finish(&s, n, min_int(p.images, s.batch - n), g, c.outputs, r,
                              min_int(p.rows, s.out_height - r), finish);
            }
    }
}

/* The inputs with these remainders modulo the stride. */
NOINLINE void conv2d_gradient_phase(const struct conv2d *s, int phase_y, int phase_x,
                                    const float *dy, const float *w, float *dx, float *work) {
    const struct correlation c = conv2d_gradient_correlation(s, phase_y, phase_x);
    if (!axis_is_seen(&c.y) || !axis_is_seen(&c.x)) return;
    const struct correlation_plan p = correlation_plan(&c);
    dx += phase_y * s->width + phase_x;
    for (int g = 0; g < s->groups; g++) {
        for (int n = 0; n < s->batch; n += p.images)
            for (int r = 0; r < c.y.results; r += p.rows)
                correlation_block(&c, &p, n, r, dy, w, 0, dx, work);
        dy += c.channels * s->out_height * s->out_width;
        w += c.channels * c.weight_channel;
        dx += c.outputs * c.to.plane;
    }
}

NOINLINE void conv2d_input_gradient_of(const struct conv2d *s, const float *dy, const float *w,
                                       float *dx, float *work) {
    int unseen = 0; /* steps larger than the kernel leave inputs that no result sees */
    for (int f = 0; f < s->stride_y; f++) unseen |= conv2d_gradient_y(s, f).taps == 0;
    for (int f = 0; f < s->stride_x; f++) unseen |= conv2d_gradient_x(s, f).taps == 0;
    unsigned size = (unsigned)(s->batch * s->channels * s->height * s->width);
    if (unseen) __builtin_memset(dx, 0, sizeof(float) * size);
    for (int fy = 0; fy < s->stride_y; fy++)
        for (int fx = 0; fx < s->stride_x; fx++)
            if (conv2d_depthwise(s) && s->outputs == s->channels)
                depthwise_input_gradient(s, fy, fx, dy, w, dx, work);
            else
                conv2d_gradient_phase(s, fy, fx, dy, w, dx, work);
}

/* dx[batch][channels][height][width] = the gradient with respect to the inputs. */
INLINE void conv2d_input_gradient(const struct conv2d s, const float *dy, const float *w, float *dx,
                                  float *work) {
    if (s.stride_y == 1 && s.stride_x == 1) {
        const struct correlation c = conv2d_gradient_correlation(&s, 0, 0);
        if (winograd_pays(&c)) {
            for (int g = 0; g < s.groups; g++)
                winograd(s.kernel_height, &c, dy + g * c.channels * s.out_height * s.out_width,
                         w + g * c.channels * c.weight_channel, dx + g * c.outputs * c.to.plane,
                         work);
            return;
        }
    }
    conv2d_input_gradient_of(&s, dy, w, dx, work);
}

INLINE struct weight_gradient conv2d_gradient(const struct conv2d *s) {
    return (struct weight_gradient){
        .y = conv2d_y(s),
        .x = conv2d_x(s),
        .images = s->batch,
        .channels = s->channels / s->groups,
        .outputs = s->outputs / s->groups,
        .image = s->channels * s->height * s->width,
        .error_image = s->outputs * s->out_height * s->out_width,
    };
}

NOINLINE void conv2d_weight_gradient_of(const struct conv2d *s, const float *dy, const float *x,
                                        float alpha, const float *init, float *dw, float *work) {
    if (conv2d_depthwise(s)) {
        depthwise_weight_gradient(s, dy, x, alpha, init, dw, work);
        return;
    }
    const struct weight_gradient g = conv2d_gradient(s);
    int weights = g.outputs * g.channels * s->kernel_height * s->kernel_width;
    for (int i = 0; i < s->groups; i++)
        weight_gradient(&g, dy + i * g.outputs * s->out_height * s->out_width,
                        x + i * g.channels * s->height * s->width, alpha,
                        init ? init + i * weights : 0, dw + i * weights, work);
}

/* dw[outputs][channels / groups][kernel_height][kernel_width] = init + alpha * the gradient with
 * respect to the weights; `init` may be NULL, which means 0, or dw itself. */
INLINE void conv2d_weight_gradient(const struct conv2d s, const float *dy, const float *x,
                                   float alpha, const float *init, float *dw, float *work) {
    const struct weight_gradient g = conv2d_gradient(&s);
    if (!conv2d_depthwise(&s) && winograd_gradient_pays(&g)) {
        int weights = g.outputs * g.channels * s.kernel_height * s.kernel_width;
        for (int i = 0; i < s.groups; i++)
            winograd_weight_gradient(
                s.kernel_height, &g, dy + i * g.outputs * s.out_height * s.out_width,
                x + i * g.channels * s.height * s.width, alpha, init ? init + i * weights : 0,
                dw + i * weights, work);
        return;
    }
    conv2d_weight_gradient_of(&s, dy, x, alpha, init, dw, work);
}

#endif
