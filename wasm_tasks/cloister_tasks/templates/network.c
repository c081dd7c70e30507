/* A dense network trained by SGD: softmax regression, linear regression and the multilayer
 * perceptron are the same program with other shapes.
 *
 * The builder defines
 *     TITLE, ABOUT     name and description
 *     LAYERS(LAYER)    LAYER(index, name prefix, inputs, outputs) for each layer, first to last
 *     DEPTH            number of layers
 *     FEATURES         inputs of the first layer
 *     OUTPUTS          outputs of the last layer
 *     WIDEST           the largest number of outputs of any layer
 *     CAPACITY         rows the buffers hold
 *     CLASSIFY         1: softmax and cross-entropy against `label`; 0: squared error, `target`
 *
 * Layers are stored as in PyTorch: weight[outputs][inputs], bias[outputs]. A rectifier stands
 * between any two layers.
 */
#include <cloister.h>

#include "gemm.h"
#include "random.h"
#include "relu.h"
#include "sgd.h"
#include "softmax.h"
#include "squared_error.h"

CLOISTER_TASK(TITLE, ABOUT);

#define DECLARE_PARAMETERS(i, prefix, inputs, outputs)                                            \
    CLOISTER_NAMED_PARAMETER(weight##i, prefix "weight", "Weights", outputs, inputs);             \
    CLOISTER_NAMED_PARAMETER(bias##i, prefix "bias", "Biases", outputs);
LAYERS(DECLARE_PARAMETERS)

CLOISTER_INPUT(float, features, "Features of each row", CAPACITY, FEATURES);
#if CLASSIFY
CLOISTER_INPUT(int32_t, label, "Class of each row, from 0", CAPACITY);
CLOISTER_OUTPUT(float, probability, "Probability of each class", CAPACITY, OUTPUTS);
#else
CLOISTER_INPUT(float, target, "Values to predict", CAPACITY, OUTPUTS);
CLOISTER_OUTPUT(float, prediction, "Values predicted", CAPACITY, OUTPUTS);
#endif

CLOISTER_HYPERPARAMETER(float, learning_rate, 0.1f, "Step size of SGD");
CLOISTER_HYPERPARAMETER(float, momentum, 0, "Momentum of SGD, from 0 to below 1");
CLOISTER_HYPERPARAMETER(float, weight_decay, 0, "L2 penalty, added to the gradient");
CLOISTER_HYPERPARAMETER(int32_t, batch_size, 32, "Rows of one step; the last batch may be partial");

CLOISTER_METRIC(loss, "Loss in the forward pass");
#if CLASSIFY
CLOISTER_METRIC(accuracy, "1 where the most probable class is the label");
#endif
CLOISTER_FAULT;

#define DECLARE_STATE(i, prefix, inputs, outputs)                                                 \
    CLOISTER_NAMED_BUFFER(OPTIMIZER, float, weight_velocity##i, prefix "weight.velocity",         \
                          "Momentum", outputs, inputs);                                           \
    CLOISTER_NAMED_BUFFER(OPTIMIZER, float, bias_velocity##i, prefix "bias.velocity",             \
                          "Momentum", outputs);                                                   \
    static float activation##i[CAPACITY * (outputs)];                                             \
    static float error##i[CAPACITY * (outputs) + 4]; /* gemm_tn reads up to 3 behind the end */
LAYERS(DECLARE_STATE)

#define TABLE_ROW(i, prefix, inputs, outputs)                                                     \
    {inputs, outputs, &weight##i[0][0], bias##i, &weight_velocity##i[0][0],                       \
     bias_velocity##i, activation##i, error##i},
static const struct layer {
    int inputs, outputs;
    float *weight, *bias, *weight_velocity, *bias_velocity;
    float *activation; /* [rows][outputs] */
    float *error;      /* [rows][outputs]: factor * gradient of the loss by the pre-activation */
} layers[DEPTH] = {LAYERS(TABLE_ROW)};

#define EVALUATION_ROWS (CAPACITY < 64 ? CAPACITY : 64)
static float transposed[WIDEST * CAPACITY + 4];
static float edge[8 * ((WIDEST > CAPACITY ? WIDEST : CAPACITY) + 4)];

CLOISTER_EXPORT(init) int32_t init(int64_t seed) {
    uint64_t state = (uint64_t)seed;
    for (int l = 0; l < DEPTH; l++) {
        const struct layer *y = &layers[l];
        /* A single layer is convex and starts at zero; deeper ones like PyTorch's Linear. */
        float bound = DEPTH == 1 ? 0 : 1 / __builtin_sqrtf((float)y->inputs);
        int weights = y->outputs * y->inputs;
        for (int i = 0; i < weights; i++) y->weight[i] = random_uniform(&state, bound);
        for (int i = 0; i < y->outputs; i++) y->bias[i] = random_uniform(&state, bound);
    }
    return CLOISTER_OK;
}

CLOISTER_EXPORT(reset) int32_t reset(void) {
#define CLEAR(i, prefix, inputs, outputs)                                                         \
    CLOISTER_ZERO(weight_velocity##i);                                                            \
    CLOISTER_ZERO(bias_velocity##i);
    LAYERS(CLEAR)
    loss = 0;
#if CLASSIFY
    accuracy = 0;
#endif
    fault = -1;
    return CLOISTER_OK;
}

/* The last layer's activation for rows [first, first + rows). */
static const float *forward(int first, int rows) {
    const float *x = features[first];
    for (int l = 0; l < DEPTH; l++) {
        const struct layer *y = &layers[l];
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < y->outputs; j++) y->activation[r * y->outputs + j] = y->bias[j];
        gemm_nt(rows, y->outputs, y->inputs, x, y->inputs, y->weight, y->inputs, y->activation,
                y->outputs);
        if (l < DEPTH - 1) relu(rows * y->outputs, y->activation);
        x = y->activation;
    }
    return x;
}

/* Adds to the metrics; fills the last layer's error if there is one to fill. */
static int32_t measure(int first, int rows, const float *outputs, float *error, float factor) {
#if CLASSIFY
    static float row[OUTPUTS];
    int bad = softmax_cross_entropy(rows, OUTPUTS, outputs, label + first, &loss, &accuracy, error,
                                    factor, row);
#else
    int bad = squared_error(rows, OUTPUTS, outputs, target[first], &loss, error, factor);
#endif
    if (bad < 0) return CLOISTER_OK;
    fault = first + bad;
    return CLOISTER_NOT_FINITE;
}

/* error of the layer below = error * weight, where its rectifier was open */
static void propagate(const struct layer *y, const struct layer *below, int rows) {
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < y->outputs; j++)
            transposed[j * rows + r] = y->error[r * y->outputs + j];
    __builtin_memset(below->error, 0, sizeof(float) * rows * y->inputs);
    gemm_tn(rows, y->inputs, y->outputs, transposed, rows, y->weight, y->inputs, below->error,
            y->inputs, edge);
    relu_backward(rows * y->inputs, below->activation, below->error);
}

/* One step of SGD on a layer; x are its inputs. */
static void update(const struct layer *y, const float *x, int rows, struct sgd s) {
    int weights = y->outputs * y->inputs;
    float *weight = sgd_begin(s, weights, y->weight, y->weight_velocity);
    gemm_tn(y->outputs, y->inputs, rows, y->error, y->outputs, x, y->inputs, weight, y->inputs,
            edge);
    sgd_end(s, weights, y->weight, y->weight_velocity);
    float *bias = sgd_begin(s, y->outputs, y->bias, y->bias_velocity);
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < y->outputs; j++) bias[j] += y->error[r * y->outputs + j];
    sgd_end(s, y->outputs, y->bias, y->bias_velocity);
}

/* Whether rows 0 .. rows-1 can be worked on. */
static int32_t check(int32_t rows, int labelled) {
    if (rows < 0 || rows > CAPACITY) return CLOISTER_TOO_MANY;
#if CLASSIFY
    for (int i = 0; labelled && i < rows; i++)
        if (label[i] < 0 || label[i] >= OUTPUTS) {
            fault = i;
            return CLOISTER_INDEX;
        }
#endif
    (void)labelled;
    return CLOISTER_OK;
}

CLOISTER_EXPORT(train) int32_t train(int32_t rows) {
    int32_t status = check(rows, 1);
    if (status) return status;
    struct sgd s = {learning_rate, momentum, weight_decay};
    if (batch_size < 1 || !is_finite(s.learning_rate + s.momentum + s.weight_decay))
        return CLOISTER_VALUE;
    for (int first = 0, batch; first < rows; first += batch) {
        batch = min_int(batch_size, rows - first);
        const struct layer *last = &layers[DEPTH - 1];
        const float *outputs = forward(first, batch);
        status = measure(first, batch, outputs, last->error, sgd_factor(s) / (float)batch);
        if (status) return status;
        for (int l = DEPTH - 1; l > 0; l--) {
            propagate(&layers[l], &layers[l - 1], batch);
            update(&layers[l], layers[l - 1].activation, batch, s);
        }
        update(&layers[0], features[first], batch, s);
    }
    return CLOISTER_OK;
}

CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t rows) {
    int32_t status = check(rows, 1);
    for (int first = 0, some; !status && first < rows; first += some) {
        some = min_int(EVALUATION_ROWS, rows - first);
        status = measure(first, some, forward(first, some), 0, 0);
    }
    return status;
}

CLOISTER_EXPORT(predict) int32_t predict(int32_t rows) {
    int32_t status = check(rows, 0);
    for (int first = 0, some; !status && first < rows; first += some) {
        some = min_int(EVALUATION_ROWS, rows - first);
        const float *outputs = forward(first, some);
#if CLASSIFY
        softmax(some, OUTPUTS, outputs, probability[first]);
#else
        __builtin_memcpy(prediction[first], outputs, sizeof(float) * some * OUTPUTS);
#endif
    }
    return status;
}
