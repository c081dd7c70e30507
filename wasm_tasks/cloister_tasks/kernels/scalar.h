/* Floats one by one: their bits, and functions of an instruction or two. */
#ifndef CLOISTER_SCALAR_H
#define CLOISTER_SCALAR_H

#include "vector.h"

#define INFINITY_F32 __builtin_inff()
#define NAN_F32 __builtin_nanf("")

INLINE int32_t bits_f32(float x) {
    union {
        float f;
        int32_t bits;
    } u = {.f = x};
    return u.bits;
}

INLINE float from_bits_f32(int32_t bits) {
    union {
        int32_t bits;
        float f;
    } u = {.bits = bits};
    return u.f;
}

INLINE int64_t bits_f64(double x) {
    union {
        double f;
        int64_t bits;
    } u = {.f = x};
    return u.bits;
}

INLINE double from_bits_f64(int64_t bits) {
    union {
        int64_t bits;
        double f;
    } u = {.bits = bits};
    return u.f;
}

INLINE float abs_f32(float x) { return __builtin_fabsf(x); }
INLINE float copysign_f32(float x, float sign) { return __builtin_copysignf(x, sign); }
INLINE float sqrt_f32(float x) { return __builtin_sqrtf(x); }
INLINE float floor_f32(float x) { return __builtin_floorf(x); }
INLINE float ceil_f32(float x) { return __builtin_ceilf(x); }
INLINE float trunc_f32(float x) { return __builtin_truncf(x); }
INLINE float round_f32(float x) { return __builtin_rintf(x); } /* half to even */
INLINE float frac_f32(float x) { return x - __builtin_truncf(x); }
INLINE float rsqrt_f32(float x) { return 1 / __builtin_sqrtf(x); } /* 1.5 ulp */

/* -1, 0 or 1; 0 for NaN, as torch has it. */
INLINE float sign_f32(float x) { return (float)((x > 0) - (x < 0)); }

/* NaN wins. */
INLINE float maximum_f32(float x, float y) { return __builtin_elementwise_maximum(x, y); }
INLINE float minimum_f32(float x, float y) { return __builtin_elementwise_minimum(x, y); }

/* NaN loses. */
INLINE float fmax_f32(float x, float y) { return x > y || y != y ? x : y; }
INLINE float fmin_f32(float x, float y) { return x < y || y != y ? x : y; }

/* x between the two bounds; NaN stays. */
INLINE float clamp_f32(float x, float low, float high) {
    x = x < low ? low : x; /* in this form one instruction each */
    return x > high ? high : x;
}

INLINE double clamp_f64(double x, double low, double high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

#endif
