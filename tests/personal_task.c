/* Linear regression with a part of its own for each device: what tests of local state, frozen
 * parameters, a seed and named inputs train. prediction = (weight + base) . patch + times + own */
#include <cloister.h>

#define ROWS 16
#define HEIGHT 2
#define WIDTH 3
#define SIZE (HEIGHT * WIDTH)

CLOISTER_TASK("personal", "Shared weights, and an offset that stays on the device");
CLOISTER_NAMED_PARAMETER(weight, "0.weight", "Trained and shared", HEIGHT, WIDTH);
CLOISTER_FROZEN(base, "Sent along, never trained", HEIGHT, WIDTH);
CLOISTER_LOCAL(float, own, "Offset of this device", 2);
CLOISTER_LOCAL(int32_t, visits, "Rows trained on by this device", 1);
CLOISTER_INPUT(float, patch, "Explanatory values", ROWS, HEIGHT, WIDTH);
CLOISTER_INPUT(int32_t, times, "Added as it is", ROWS);
CLOISTER_INPUT(uint8_t, code, "Divided by 256 and added", ROWS);
CLOISTER_INPUT(float, target, "What to predict", ROWS);
CLOISTER_HYPERPARAMETER(float, learning_rate, 0.05f, "Step size");
CLOISTER_HYPERPARAMETER(int64_t, seed, 0, "Of the noise added to predictions");
CLOISTER_METRIC(loss, "Squared error");
CLOISTER_OUTPUT(float, output, "Predictions", ROWS);
CLOISTER_FAULT;

float own[2] = {0.5f, -0.25f}; /* where a device begins */

static float predict_row(int32_t row) {
    const float *w = &weight[0][0], *b = &base[0][0], *x = &patch[row][0][0];
    float sum = own[0] + own[1] + (float)times[row] + (float)code[row] / 256.0f;
    for (int i = 0; i < SIZE; i++) sum += (w[i] + b[i]) * x[i];
    return sum;
}

CLOISTER_EXPORT(init) int32_t init(int64_t first_seed) {
    for (int i = 0; i < SIZE; i++) (&weight[0][0])[i] = (float)((first_seed + i) % 5) / 8.0f;
    return CLOISTER_OK;
}

CLOISTER_EXPORT(reset) int32_t reset(void) {
    loss = 0;
    fault = -1;
    return CLOISTER_OK;
}

CLOISTER_EXPORT(train) int32_t train(int32_t rows) {
    if (rows < 0 || rows > ROWS) return CLOISTER_TOO_MANY;
    for (int32_t row = 0; row < rows; row++) {
        float noise = (float)((uint64_t)seed >> 40) / 16777216.0f - 0.5f;
        float error = predict_row(row) + 0.125f * noise - target[row];
        loss += error * error;
        for (int i = 0; i < SIZE; i++)
            (&weight[0][0])[i] -= learning_rate * error * (&patch[row][0][0])[i];
        own[0] -= learning_rate * error;
        visits[0]++;
    }
    return CLOISTER_OK;
}

CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t rows) {
    if (rows < 0 || rows > ROWS) return CLOISTER_TOO_MANY;
    for (int32_t row = 0; row < rows; row++) {
        float error = predict_row(row) - target[row];
        loss += error * error;
    }
    return CLOISTER_OK;
}

CLOISTER_EXPORT(predict) int32_t predict(int32_t rows) {
    if (rows < 0 || rows > ROWS) return CLOISTER_TOO_MANY;
    for (int32_t row = 0; row < rows; row++) output[row] = predict_row(row);
    return CLOISTER_OK;
}
