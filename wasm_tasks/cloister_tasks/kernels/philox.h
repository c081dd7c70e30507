/* Random numbers as a function of a counter and a key, after J. K. Salmon, M. A. Moraes, R. O. Dror
 * and D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3.
 *
 * Nothing is carried from one number to the next: a loop over `index` vectorises, any number can be
 * drawn again (a dropout mask in the backward pass), and every variant draws the same.
 *
 *     uint32_t key = philox_key(seed, step);                      once a step
 *     mask[i] = philox_uniform(key, layer, i) < keep;             one stream for every use
 */
#ifndef CLOISTER_PHILOX_H
#define CLOISTER_PHILOX_H

#include "circular.h"
#include "exponential.h"

#define PHILOX_ROUNDS 10

struct philox2x32 {
    uint32_t word[2];
};

struct philox4x32 {
    uint32_t word[4];
};

/* Philox-2x32-10: two random words for one counter. They live in the low halves of 64 bits, what is
 * above them is noise: so clang keeps to two lanes of 64 bits and shuffles nothing. */
INLINE struct philox2x32 philox2x32(uint32_t key, uint32_t counter0, uint32_t counter1) {
    uint64_t left = counter0, right = counter1;
    UNROLL for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint64_t product = (uint32_t)left * 0xd256d193ull;
        left = (product >> 32) ^ key ^ right;
        right = product;
        key += 0x9e3779b9; /* the golden ratio */
    }
    return (struct philox2x32){{(uint32_t)left, (uint32_t)right}};
}

/* Philox-4x32-10: four random words for one counter. */
INLINE struct philox4x32 philox4x32(uint32_t key0, uint32_t key1, struct philox4x32 counter) {
    uint32_t *c = counter.word;
    UNROLL for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint64_t a = c[0] * 0xd2511f53ull, b = c[2] * 0xcd9e8d57ull;
        c[0] = (uint32_t)(b >> 32) ^ c[1] ^ key0;
        c[1] = (uint32_t)b;
        c[2] = (uint32_t)(a >> 32) ^ c[3] ^ key1;
        c[3] = (uint32_t)a;
        key0 += 0x9e3779b9; /* the golden ratio */
        key1 += 0xbb67ae85; /* sqrt(3) - 1 */
    }
    return counter;
}

/* The key of one step of one seed; neighbouring seeds and steps have nothing in common. */
INLINE uint32_t philox_key(uint64_t seed, uint32_t step) {
    struct philox4x32 counter = {{step, 0, 0, 0}};
    return philox4x32((uint32_t)seed, (uint32_t)(seed >> 32), counter).word[0];
}

/* The key of one row of a step, where rows are computed one by one; rows count from 0. */
INLINE uint32_t philox_row_key(uint64_t seed, uint32_t step, uint32_t row) {
    struct philox4x32 counter = {{step, row + 1, 0, 0}};
    return philox4x32((uint32_t)seed, (uint32_t)(seed >> 32), counter).word[0];
}

/* 32 random bits. */
INLINE uint32_t philox_u32(uint32_t key, uint32_t stream, uint32_t index) {
    return philox2x32(key, index, stream).word[0];
}

/* Uniform in [0, 1), in steps of 2^-24. */
INLINE float philox_uniform(uint32_t key, uint32_t stream, uint32_t index) {
    return (float)(int32_t)(philox_u32(key, stream, index) >> 8) * 0x1p-24f;
}

/* Standard normal; never beyond 6.77. G. E. P. Box and M. E. Muller, "A note on the generation of
 * random normal deviates", Annals of Mathematical Statistics 29, 1958, equation 1. */
INLINE float philox_normal(uint32_t key, uint32_t stream, uint32_t index) {
    struct philox2x32 random = philox2x32(key, index, stream);
    float u = (float)random.word[0] * 0x1p-32f + 0x1p-33f; /* in (0, 1] */
    /* Two bits choose the quadrant, the others the angle from its middle. */
    float angle = (float)(int32_t)(random.word[1] << 2) * (PI_HIGH_F32 * 0x1p-33f);
    return sqrt_f32(-2 * log_f32(u)) * sin_quadrant(angle, (int32_t)(random.word[1] >> 30));
}

#endif
