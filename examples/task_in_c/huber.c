/* Robust linear regression: prediction = weight . features + bias, trained on the Huber loss,
 * which is quadratic near zero and linear beyond `delta`, so that outliers pull but little. */
#include <cloister.h>

#define FEATURES 4
#define ROWS 256

CLOISTER_TASK("huber", "Linear regression on the Huber loss, plain SGD row by row");
CLOISTER_PARAMETER(weight, "Coefficients", FEATURES);
CLOISTER_PARAMETER(bias, "Intercept", 1);
CLOISTER_INPUT(float, features, "Explanatory values", ROWS, FEATURES);
CLOISTER_INPUT(float, target, "Value to predict", ROWS, 1);
CLOISTER_OUTPUT(float, prediction, "Value predicted", ROWS, 1);
CLOISTER_HYPERPARAMETER(float, learning_rate, 0.05f, "Step size");
CLOISTER_HYPERPARAMETER(float, delta, 1, "Where the loss turns from quadratic to linear");
CLOISTER_METRIC(loss, "Huber loss");
CLOISTER_FAULT;

CLOISTER_EXPORT(init) int32_t init(int64_t seed) {
    (void)seed; /* convex: any start will do */
    CLOISTER_ZERO(weight);
    CLOISTER_ZERO(bias);
    return CLOISTER_OK;
}

CLOISTER_EXPORT(reset) int32_t reset(void) {
    loss = 0;
    fault = -1;
    return CLOISTER_OK;
}

static float predict_row(int row) {
    float sum = bias[0];
    for (int i = 0; i < FEATURES; i++) sum += weight[i] * features[row][i];
    return sum;
}

/* Adds the row's loss; returns its derivative by the prediction. */
static float measure(int row) {
    float error = predict_row(row) - target[row][0];
    float size = error < 0 ? -error : error;
    loss += size <= delta ? error * error / 2 : delta * (size - delta / 2);
    return size <= delta ? error : error < 0 ? -delta : delta;
}

CLOISTER_EXPORT(train) int32_t train(int32_t rows) {
    if (rows < 0 || rows > ROWS) return CLOISTER_TOO_MANY;
    for (int row = 0; row < rows; row++) {
        float step = learning_rate * measure(row);
        for (int i = 0; i < FEATURES; i++) weight[i] -= step * features[row][i];
        bias[0] -= step;
    }
    return CLOISTER_OK;
}

CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t rows) {
    if (rows < 0 || rows > ROWS) return CLOISTER_TOO_MANY;
    for (int row = 0; row < rows; row++) measure(row);
    return CLOISTER_OK;
}

CLOISTER_EXPORT(predict) int32_t predict(int32_t rows) {
    if (rows < 0 || rows > ROWS) return CLOISTER_TOO_MANY;
    for (int row = 0; row < rows; row++) prediction[row][0] = predict_row(row);
    return CLOISTER_OK;
}
