/* Division with remainder, as torch and Python have it. */
#ifndef CLOISTER_REMAINDER_H
#define CLOISTER_REMAINDER_H

#include "scalar.h"

/* The exact remainder with the sign of x: the only loop here, and it turns once for quotients
 * below 2^29. Each turn subtracts a multiple of y short enough for an exact product. */
INLINE float fmod_f32(float x, float y) {
    double r = abs_f32(x), d = abs_f32(y);
    if (!(r < __builtin_inf()) || !(d > 0)) return NAN_F32;
    while (r >= d) {
        double q = __builtin_trunc(from_bits_f64(bits_f64(r / d) & ~((1ll << 24) - 1)));
        double left = r - q * d;
        r = left < 0 ? left + d : left;
    }
    return copysign_f32((float)r, x);
}

/* The remainder with the sign of the divisor (torch.remainder, Python's %). */
INLINE float remainder_f32(float x, float y) {
    float r = fmod_f32(x, y);
    return r != 0 && (r < 0) != (y < 0) ? r + y : r;
}

/* The quotient rounded down; like remainder_i32 it traps where torch raises: y = 0. */
INLINE int32_t floor_divide_i32(int32_t x, int32_t y) {
    if (y == -1) return (int32_t)(0u - (uint32_t)x);
    if (y == 0) __builtin_trap();
    int32_t q = x / y;
    return x % y != 0 && (x ^ y) < 0 ? q - 1 : q;
}

INLINE int32_t remainder_i32(int32_t x, int32_t y) {
    if (y == -1) return 0;
    if (y == 0) __builtin_trap();
    int32_t r = x % y;
    return r != 0 && (r ^ y) < 0 ? r + y : r;
}

#endif
