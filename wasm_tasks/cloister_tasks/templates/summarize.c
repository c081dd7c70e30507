/* Statistics of each feature: count, sum, sum of squares and a histogram.
 *
 * The builder defines TITLE, ABOUT, FEATURES, BINS, LOW, HIGH and CAPACITY.
 *
 * A value that is no number counts as missing. Values below LOW or above HIGH fall into the first
 * or last bin; bin b holds LOW + b * (HIGH - LOW) / BINS and what follows, up to the next.
 *
 * The statistics are the parameters, which start at zero: so the update of one client is its
 * statistics, and their sum over clients the statistics of all. Counting and adding is done in
 * double; the parameters are its f32 image (counts are exact up to 2^24).
 */
#include <cloister.h>

#include "math.h"

CLOISTER_TASK(TITLE, ABOUT);

CLOISTER_PARAMETER(count, "Values that are numbers", FEATURES);
CLOISTER_PARAMETER(sum, "Sum of the values", FEATURES);
CLOISTER_PARAMETER(square_sum, "Sum of the squares of the values", FEATURES);
CLOISTER_PARAMETER(histogram, "Values in each bin", FEATURES, BINS);

CLOISTER_INPUT(float, features, "Features of each row", CAPACITY, FEATURES);

CLOISTER_OPTIMIZER(double, exact_count, "count in double", FEATURES);
CLOISTER_OPTIMIZER(double, exact_sum, "sum in double", FEATURES);
CLOISTER_OPTIMIZER(double, exact_square_sum, "square_sum in double", FEATURES);
CLOISTER_OPTIMIZER(double, exact_histogram, "histogram in double", FEATURES, BINS);
CLOISTER_FAULT;

CLOISTER_EXPORT(reset) int32_t reset(void) {
    CLOISTER_ZERO(exact_count);
    CLOISTER_ZERO(exact_sum);
    CLOISTER_ZERO(exact_square_sum);
    CLOISTER_ZERO(exact_histogram);
    fault = -1;
    return CLOISTER_OK;
}

static int bin_of(double x) {
    double place = (x - LOW) / ((double)HIGH - LOW) * BINS;
    if (!(place > 0)) return 0;
    return place < BINS ? (int)place : BINS - 1;
}

CLOISTER_EXPORT(summarize) int32_t summarize(int32_t rows) {
    if (rows < 0 || rows > CAPACITY) return CLOISTER_TOO_MANY;
    for (int r = 0; r < rows; r++)
        for (int f = 0; f < FEATURES; f++) {
            double x = features[r][f];
            if (x != x) continue;
            if (!is_finite(x)) {
                fault = r;
                return CLOISTER_NOT_FINITE;
            }
            exact_count[f] += 1;
            exact_sum[f] += x;
            exact_square_sum[f] += x * x;
            exact_histogram[f][bin_of(x)] += 1;
        }
    for (int f = 0; f < FEATURES; f++) {
        count[f] = (float)exact_count[f];
        sum[f] = (float)exact_sum[f];
        square_sum[f] = (float)exact_square_sum[f];
        for (int b = 0; b < BINS; b++) histogram[f][b] = (float)exact_histogram[f][b];
    }
    return CLOISTER_OK;
}
