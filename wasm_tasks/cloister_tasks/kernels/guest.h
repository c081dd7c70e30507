/* What the code written by the compiler uses beside the kernels: one include for all of it. */
#ifndef CLOISTER_GUEST_H
#define CLOISTER_GUEST_H

#include "convolution.h"
#include "elementary.h"
#include "matmul.h"
#include "philox.h"
#include "pooling.h"
#include "recurrent.h"

/* Set when an index that was computed from data left its range; the call fails afterwards. */
static int32_t index_out_of_range;

/* An index held in 0 .. n - 1, so that nothing outside is ever touched. */
INLINE int32_t within(int32_t i, int32_t n) {
    if ((uint32_t)i < (uint32_t)n) return i;
    index_out_of_range = 1;
    return 0;
}

/* Both values are computed before one is chosen: no branch in a loop. */
INLINE float select_f32(int32_t condition, float yes, float no) { return condition ? yes : no; }
INLINE int32_t select_i32(int32_t condition, int32_t yes, int32_t no) {
    return condition ? yes : no;
}

INLINE float relu_f32(float x) { return x < 0 ? 0 : x; }
INLINE float square_f32(float x) { return x * x; }

INLINE int32_t abs_i32(int32_t x) { return x < 0 ? (int32_t)(0u - (uint32_t)x) : x; }
INLINE int32_t sign_i32(int32_t x) { return (x > 0) - (x < 0); }
INLINE int32_t maximum_i32(int32_t x, int32_t y) { return x > y ? x : y; }
INLINE int32_t minimum_i32(int32_t x, int32_t y) { return x < y ? x : y; }

/* Rounded towards zero; a divisor of 0 traps, as torch raises. */
INLINE int32_t divide_i32(int32_t x, int32_t y) {
    if (y == -1) return (int32_t)(0u - (uint32_t)x);
    if (y == 0) __builtin_trap();
    return x / y;
}
INLINE int32_t fmod_i32(int32_t x, int32_t y) {
    if (y == -1) return 0;
    if (y == 0) __builtin_trap();
    return x % y;
}

/* Python's and torch's `//` of floats. */
INLINE float floor_divide_f32(float x, float y) {
    if (y == 0) return x / y;
    float r = fmod_f32(x, y), q = (x - r) / y;
    if (r != 0 && (y < 0) != (r < 0)) q -= 1;
    float whole = __builtin_floorf(q);
    if (q - whole > 0.5f) whole += 1;
    return q == 0 ? copysign_f32(0, x / y) : whole;
}

#define maximum(x, y) \
    _Generic((x), float: maximum_f32, double: maximum_f64, default: maximum_i32)(x, y)
#define minimum(x, y) \
    _Generic((x), float: minimum_f32, double: minimum_f64, default: minimum_i32)(x, y)
INLINE double maximum_f64(double x, double y) { return x > y || x != x ? x : y; }
INLINE double minimum_f64(double x, double y) { return x < y || x != x ? x : y; }

/* x^n for n >= 0, by squaring. */
INLINE double power_f64(double x, int32_t n) {
    double result = 1;
    for (; n > 0; n >>= 1, x *= x)
        if (n & 1) result *= x;
    return result;
}

#endif
