/* ChaCha20: random words that nobody can tell from chance without the key. Y. Nir and A. Langley,
 * "ChaCha20 and Poly1305 for IETF Protocols", RFC 8439, section 2.3.
 *
 * Four blocks side by side, one in each lane: no lane ever needs another.
 */
#ifndef CLOISTER_CHACHA_H
#define CLOISTER_CHACHA_H

#include "vector.h"

#define CHACHA_WORDS 16 /* of a block */
#define CHACHA_BLOCKS 4 /* made at once */
#define CHACHA_DOUBLE_ROUNDS 10

typedef uint32_t u32x4 __attribute__((vector_size(16)));

INLINE u32x4 rotate_left(u32x4 x, int bits) { return x << bits | x >> (32 - bits); }
INLINE u32x4 same_u32(uint32_t x) { return (u32x4){x, x, x, x}; }

/* Section 2.1. */
INLINE void quarter_round(u32x4 *s, int a, int b, int c, int d) {
    s[a] += s[b], s[d] = rotate_left(s[d] ^ s[a], 16);
    s[c] += s[d], s[b] = rotate_left(s[b] ^ s[c], 12);
    s[a] += s[b], s[d] = rotate_left(s[d] ^ s[a], 8);
    s[c] += s[d], s[b] = rotate_left(s[b] ^ s[c], 7);
}

/* The blocks `counter` to `counter` + 3, words in the order of the key stream. */
NOINLINE void chacha20(uint32_t blocks[CHACHA_BLOCKS][CHACHA_WORDS], const uint32_t key[8],
                       uint32_t counter, const uint32_t nonce[3]) {
    u32x4 first[CHACHA_WORDS], s[CHACHA_WORDS];
    first[0] = same_u32(0x61707865), first[1] = same_u32(0x3320646e);
    first[2] = same_u32(0x79622d32), first[3] = same_u32(0x6b206574);
    for (int i = 0; i < 8; i++) first[4 + i] = same_u32(key[i]);
    first[12] = same_u32(counter) + (u32x4){0, 1, 2, 3};
    for (int i = 0; i < 3; i++) first[13 + i] = same_u32(nonce[i]);
    for (int i = 0; i < CHACHA_WORDS; i++) s[i] = first[i];
    for (int round = 0; round < CHACHA_DOUBLE_ROUNDS; round++) {
        UNROLL for (int i = 0; i < 4; i++) quarter_round(s, i, i + 4, i + 8, i + 12);
        UNROLL for (int i = 0; i < 4; i++)
            quarter_round(s, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4);
    }
    for (int i = 0; i < CHACHA_WORDS; i++) {
        s[i] += first[i];
        UNROLL for (int b = 0; b < CHACHA_BLOCKS; b++) blocks[b][i] = s[i][b];
    }
}

#endif
