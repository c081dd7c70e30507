/* Gaussian noise for differential privacy: normal numbers from ChaCha20, added to a vector.
 *
 * Two of them from four words: G. E. P. Box and M. E. Muller, "A note on the generation of random
 * normal deviates", Annals of Mathematical Statistics 29, 1958, equation 1. The radius has 64 random
 * bits: it ends at 9.49 deviations, which chance passes once in 2^65.
 */
#ifndef CLOISTER_GAUSSIAN_NOISE_H
#define CLOISTER_GAUSSIAN_NOISE_H

#include "chacha.h"
#include "circular.h"
#include "exponential.h"

#define NORMALS (CHACHA_BLOCKS * CHACHA_WORDS / 2) /* of one call of chacha20 */

/* sqrt(-2 log(u)) for u = (high : low + 1/2) / 2^64, exact to the last bits at both ends of u. */
INLINE float normal_radius(uint32_t high, uint32_t low) {
    int upper = high >> 31; /* log1p then keeps what 1 - u would lose */
    if (upper) high = ~high, low = ~low;
    float u = (float)high * 0x1p-32f + ((float)low * 0x1p-64f + 0x1p-65f);
    float minus_log = upper ? -log1p_f32(-u) : -log_f32(u);
    return sqrt_f32(2 * minus_log);
}

/* values[i] += deviation * a standard normal number, for i < n <= 2^35. Numbers depend on key and
 * nonce alone: never use both again. */
NOINLINE void add_gaussian_noise(float *restrict values, int n, float deviation,
                                 const uint32_t key[8], const uint32_t nonce[3]) {
    uint32_t blocks[CHACHA_BLOCKS][CHACHA_WORDS];
    const uint32_t *words = blocks[0];
    float normals[NORMALS];
    for (int at = 0; at < n; at += NORMALS) {
        chacha20(blocks, key, (uint32_t)(at / NORMALS * CHACHA_BLOCKS), nonce);
        for (int i = 0; i < NORMALS / 2; i++) {
            float radius = normal_radius(words[4 * i], words[4 * i + 1]);
            /* Two bits choose the quadrant, the others the angle from its middle. */
            uint32_t turn = words[4 * i + 2];
            int32_t quadrant = (int32_t)(turn >> 30);
            float angle = (float)(int32_t)(turn << 2) * (PI_HIGH_F32 * 0x1p-33f);
            normals[2 * i] = radius * sin_quadrant(angle, quadrant);
            normals[2 * i + 1] = radius * sin_quadrant(angle, quadrant + 1);
        }
        int some = min_int(NORMALS, n - at);
        for (int i = 0; i < some; i++) values[at + i] += deviation * normals[i];
    }
}

#endif
