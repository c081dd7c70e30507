/* Random numbers that are the same everywhere: splitmix64 (Steele, Lea and Flood, "Fast splittable
 * pseudorandom number generators", OOPSLA 2014). */
#ifndef CLOISTER_RANDOM_H
#define CLOISTER_RANDOM_H

#include "vector.h"

INLINE uint64_t random_next(uint64_t *state) {
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Uniform in [-bound, bound), in steps of bound / 2^23. */
INLINE float random_uniform(uint64_t *state, float bound) {
    return ((float)(random_next(state) >> 40) * 0x1p-23f - 1) * bound;
}

#endif
