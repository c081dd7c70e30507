/* The sum of masked vectors without the sum of their masks: model = signed(sum - mask) * step.
 *
 * Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", CCS
 * 2017, section 4: integers modulo 2^bits, so that masks cancel exactly. An update is packed: value
 * k of a row is its bits k * bits .. (k + 1) * bits - 1, the first bit being the lowest of the
 * first byte, and a row ends with its last byte.
 *
 * Sums are kept modulo 2^64, whatever the ring: what stands above a value's own bits then changes
 * nothing that counts, and need not be cut off before it is added.
 */
#include <cloister.h>

#include "math.h"

#define COLUMNS 65536
#define UPDATE_BYTES (2 * 1024 * 1024)

CLOISTER_TASK("ring_sum", "Sum of masked vectors, their masks taken off");

CLOISTER_MODEL(COLUMNS);
CLOISTER_PACKED_UPDATE(UPDATE_BYTES);
CLOISTER_MASK(COLUMNS);
CLOISTER_HYPERPARAMETER(int32_t, bits, 32, "Bits of a value, 2 to 62; up to 32, masks have 4 bytes");
CLOISTER_HYPERPARAMETER(double, step, 1, "What an integer is multiplied by");

static uint64_t accumulator[COLUMNS];

/* Every width, as a list of calls. */
#define WIDTHS(_)                                                                       \
    _(2) _(3) _(4) _(5) _(6) _(7) _(8) _(9) _(10) _(11) _(12) _(13) _(14) _(15) _(16)   \
    _(17) _(18) _(19) _(20) _(21) _(22) _(23) _(24) _(25) _(26) _(27) _(28) _(29) _(30) \
    _(31) _(32) _(33) _(34) _(35) _(36) _(37) _(38) _(39) _(40) _(41) _(42) _(43) _(44) \
    _(45) _(46) _(47) _(48) _(49) _(50) _(51) _(52) _(53) _(54) _(55) _(56) _(57) _(58) \
    _(59) _(60) _(61) _(62)
INLINE int in_range(void) { return 2 <= bits && bits <= 62; }

CLOISTER_EXPORT(reset) int32_t reset(int32_t columns) {
    if (columns < 0 || columns > COLUMNS) return CLOISTER_TOO_MANY;
    __builtin_memset(accumulator, 0, sizeof(uint64_t) * columns);
    return CLOISTER_OK;
}

/* The value that begins `first` bits behind p, anything above its own bits; of 9 bytes at most. */
#define PEEKED 9
INLINE uint64_t peek(const uint8_t *p, int first, int width) {
    uint64_t word;
    int shift = first % 8;
    p += first / 8;
    __builtin_memcpy(&word, p, 8);
    word >>= shift;
    return shift + width > 64 ? word | (uint64_t)p[8] << (64 - shift) : word;
}

/* The same where fewer than 9 bytes may follow: reads none from `end` on. */
static uint64_t peek_before(const uint8_t *p, int first, int width, const uint8_t *end) {
    uint8_t bytes[PEEKED] = {0};
    p += first / 8;
    for (int i = 0; i < PEEKED && p + i < end; i++) bytes[i] = p[i];
    return peek(bytes, first % 8, width);
}

/* Add so many groups of eight columns, which begin with a whole byte. Always inlined: with the
 * width known, every shift and offset is part of an instruction. */
INLINE void add_groups(int groups, int rows, int row_bytes, int width) {
    for (int g = 0; g < groups; g++) {
        const uint8_t *p = update + g * width;
        uint64_t sum[8];
        UNROLL for (int k = 0; k < 8; k++) sum[k] = accumulator[8 * g + k];
        for (int r = 0; r < rows; r++, p += row_bytes)
            UNROLL for (int k = 0; k < 8; k++) sum[k] += peek(p, k * width, width);
        UNROLL for (int k = 0; k < 8; k++) accumulator[8 * g + k] = sum[k];
    }
}

/* How many groups can be peeked at without leaving a row. */
static int groups_within(int columns, int row_bytes) {
    int last = 7 * bits / 8 + PEEKED;
    return row_bytes < last ? 0 : min_int(columns / 8, (row_bytes - last) / bits + 1);
}

CLOISTER_EXPORT(fold) int32_t fold(int32_t rows, int32_t columns) {
    if (!in_range()) return CLOISTER_VALUE;
    if (rows < 0 || columns < 0 || columns > COLUMNS) return CLOISTER_TOO_MANY;
    int row_bytes = (columns * bits + 7) / 8;
    if ((int64_t)rows * row_bytes > UPDATE_BYTES) return CLOISTER_TOO_MANY;
    int groups = groups_within(columns, row_bytes);
    switch (bits) {
#define ADD(width)                                   \
    case width:                                      \
        add_groups(groups, rows, row_bytes, width);  \
        break;
        WIDTHS(ADD)
    }
    for (int c = 8 * groups; c < columns; c++)
        for (int r = 0; r < rows; r++) {
            const uint8_t *row = update + r * row_bytes;
            accumulator[c] += peek_before(row, c * bits, bits, row + row_bytes);
        }
    return CLOISTER_OK;
}

/* Store every column of the result. Always inlined: with the number of bytes of a mask known, it
 * is loaded by one instruction. */
INLINE int32_t store_columns(int columns, int mask_bytes) {
    int32_t status = CLOISTER_OK;
    int above = 64 - bits;
    double factor = step;
    for (int c = 0; c < columns; c++) {
        uint64_t word = 0;
        __builtin_memcpy(&word, mask + c * mask_bytes, mask_bytes);
        int64_t value = (int64_t)((accumulator[c] - word) << above) >> above;
        model[c] = (float)((double)value * factor);
        if (!is_finite(model[c])) status = CLOISTER_NOT_FINITE;
    }
    return status;
}

CLOISTER_EXPORT(finish) int32_t finish(int32_t columns) {
    if (!in_range() || !is_finite(step) || step <= 0) return CLOISTER_VALUE;
    if (columns < 0 || columns > COLUMNS) return CLOISTER_TOO_MANY;
    return bits <= 32 ? store_columns(columns, 4) : store_columns(columns, 8);
}
