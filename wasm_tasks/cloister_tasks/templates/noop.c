/* A task that trains nothing: the cost of everything around training.
 *
 * The builder defines TITLE, ABOUT, PARAMETERS and CAPACITY.
 */
#include <cloister.h>

CLOISTER_TASK(TITLE, ABOUT);

CLOISTER_PARAMETER(weight, "Left as they are", PARAMETERS);
CLOISTER_INPUT(float, features, "Not looked at", CAPACITY, 1);
CLOISTER_HYPERPARAMETER(int32_t, batch_size, 32, "Without effect");
CLOISTER_METRIC(loss, "Always 0");
CLOISTER_FAULT;

static int32_t check(int32_t rows) {
    return rows < 0 || rows > CAPACITY ? CLOISTER_TOO_MANY : CLOISTER_OK;
}

CLOISTER_EXPORT(init) int32_t init(int64_t seed) {
    (void)seed;
    CLOISTER_ZERO(weight);
    return CLOISTER_OK;
}

CLOISTER_EXPORT(reset) int32_t reset(void) {
    loss = 0;
    fault = -1;
    return CLOISTER_OK;
}

CLOISTER_EXPORT(train) int32_t train(int32_t rows) { return check(rows); }
CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t rows) { return check(rows); }
CLOISTER_EXPORT(predict) int32_t predict(int32_t rows) { return check(rows); }
