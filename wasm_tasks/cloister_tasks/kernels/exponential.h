/* Exponentials, logarithms, hyperbolic functions and powers; see elementary.h. */
#ifndef CLOISTER_EXPONENTIAL_H
#define CLOISTER_EXPONENTIAL_H

#include "scalar.h"

#define LN2_F32 0.693147182f
#define LN2_HIGH_F32 0x1.62e4p-1f /* 15 bits: its product with an exponent is exact */
#define LN2_LOW_F32 1.42860682e-6f

/* ---- exponentials ---- */

#define EXP_SHIFT 12582912.f /* 1.5 * 2^23: adding it rounds to an integer, in the low bits */

/* e^r - 1 - r for |r| <= ln(2) / 2 */
INLINE float exp_rest(float r) {
    float p = 1.99459391e-4f;
    p = p * r + 1.39351038e-3f;
    p = p * r + 8.33320618e-3f;
    p = p * r + 4.1666463e-2f;
    p = p * r + 0.166666672f;
    p = p * r + 0.5f;
    return p * (r * r);
}

/* What adding EXP_SHIFT has left in the low bits. */
INLINE int32_t rounded_f32(float shifted) {
    return (int32_t)((uint32_t)bits_f32(shifted) - (uint32_t)bits_f32(EXP_SHIFT));
}

/* 2^n for -127 < n < 128 */
INLINE float power_of_two_f32(int32_t n) {
    return from_bits_f32((int32_t)((uint32_t)(n + 127) << 23));
}

/* p * 2^n for -252 <= n <= 254, rounded once if p is near 1. */
INLINE float scale_f32(float p, int32_t n) {
    int32_t half = n >> 1;
    return p * power_of_two_f32(half) * power_of_two_f32(n - half);
}

/* e^x / 2^halvings */
INLINE float exp_scaled(float x, int32_t halvings) {
    x = clamp_f32(x, -104, 91);
    float shifted = x * 1.44269504f + EXP_SHIFT;
    float n = shifted - EXP_SHIFT, high = x - n * LN2_HIGH_F32, low = n * LN2_LOW_F32;
    float sum = 1 + high, lost = high - (sum - 1) - low; /* for one rounding instead of three */
    float p = sum + (exp_rest(high - low) + lost);
    return scale_f32(p, rounded_f32(shifted) - halvings);
}

/* e^x. 0.75 ulp */
INLINE float exp_f32(float x) { return exp_scaled(x, 0); }

/* 2^x. 1.1 ulp */
INLINE float exp2_f32(float x) {
    x = clamp_f32(x, -151, 129);
    float shifted = x + EXP_SHIFT;
    float r = x - (shifted - EXP_SHIFT), p = 1.54628826e-4f;
    p = p * r + 1.33909844e-3f;
    p = p * r + 9.61806253e-3f;
    p = p * r + 5.55035956e-2f;
    p = p * r + 0.240226507f;
    p = p * r + 0.693147182f;
    return scale_f32(p * r + 1, rounded_f32(shifted));
}

/* e^x - 1. 1.4 ulp */
INLINE float expm1_f32(float x) {
    float y = clamp_f32(x, -18, 89);
    float shifted = y * 1.44269504f + EXP_SHIFT;
    float n = shifted - EXP_SHIFT;
    float r = y - n * LN2_HIGH_F32 - n * LN2_LOW_F32, m = r + exp_rest(r);
    float half = power_of_two_f32(rounded_f32(shifted) - 1); /* 2^n alone may be infinite */
    float scaled = 2 * (half * m + (half - 0.5f));
    return copysign_f32(n == 0 ? m : scaled, x);
}

/* 1 / (1 + e^-x). 2.0 ulp */
INLINE float sigmoid_f32(float x) {
    float e = exp_f32(-abs_f32(x));
    float sum = 1 + e, lost = e - (sum - 1), y = (x < 0 ? e : 1) / sum;
    return y - y * (lost * (0.97f - 0.47f * e)); /* 1 / sum to 3 % */
}

/* 1.5 ulp */
INLINE float tanh_f32(float x) {
    float y = abs_f32(x), z = x * x, p = -6.24599261e-3f;
    p = p * z + 2.10524723e-2f;
    p = p * z - 5.38478494e-2f;
    p = p * z + 0.133325458f;
    p = p * z - 0.333333164f;
    float far = 1 - 2 / (exp_f32(2 * y) + 1);
    return copysign_f32(y < 0.55f ? y + y * z * p : far, x);
}

/* 1.6 ulp */
INLINE float sinh_f32(float x) {
    float y = abs_f32(x), z = x * x;
    float half = exp_scaled(y, 1), p = 2.78221319e-6f;
    p = p * z + 1.98428956e-4f;
    p = p * z + 8.33331048e-3f;
    p = p * z + 0.166666672f;
    return copysign_f32(y < 1 ? y + y * z * p : half - 0.25f / half, x);
}

/* 1.1 ulp */
INLINE float cosh_f32(float x) {
    float half = exp_scaled(abs_f32(x), 1);
    return half + 0.25f / half;
}

/* ---- logarithms ---- */

struct logarithm {
    float f;   /* x = (1 + f) 2^n with sqrt(1/2) <= 1 + f < sqrt(2) */
    float low; /* ln(1 + f) - f */
    int32_t n;
};

/* ln(1 + f) - f */
INLINE float log1p_reduced(float f) {
    float p = 6.74926788e-2f;
    p = p * f - 0.116700977f;
    p = p * f + 0.118835486f;
    p = p * f - 0.124062337f;
    p = p * f + 0.142203584f;
    p = p * f - 0.166679889f;
    p = p * f + 0.200020716f;
    p = p * f - 0.250000089f;
    p = p * f + 0.333333135f;
    float z = f * f;
    return p * f * z - 0.5f * z;
}

/* The bits of x * 2^n from those of x, for normal results. */
INLINE int32_t shifted_exponent(int32_t bits, int32_t n) {
    return (int32_t)((uint32_t)bits + ((uint32_t)n << 23));
}

/* Exponent and mantissa of a positive, normal float; the mantissa's bits remain in *bits. */
INLINE int32_t split_exponent(int32_t *bits) {
    int32_t n = (int32_t)((uint32_t)*bits - 0x3f3504f3) >> 23;
    *bits = shifted_exponent(*bits, -n);
    return n;
}

INLINE struct logarithm logarithm(float x) {
    int subnormal = x < 0x1p-126f;
    int32_t bits = bits_f32(subnormal ? x * 0x1p24f : x);
    int32_t n = split_exponent(&bits) - (subnormal ? 24 : 0);
    float f = from_bits_f32(bits) - 1;
    return (struct logarithm){f, log1p_reduced(f), n};
}

/* What a logarithm is where x is not positive and finite; `finite` elsewhere. */
INLINE float log_special(float x, float finite) {
    float y = x < INFINITY_F32 ? finite : x;
    return x > 0 ? y : x == 0 ? -INFINITY_F32 : NAN_F32;
}

/* ln x. 0.86 ulp */
INLINE float log_f32(float x) {
    struct logarithm l = logarithm(x);
    float n = (float)l.n;
    return log_special(x, (l.low + n * LN2_LOW_F32) + l.f + n * LN2_HIGH_F32);
}

/* 1.9 ulp */
INLINE float log2_f32(float x) {
    struct logarithm l = logarithm(x);
    return log_special(x, (l.low + l.f) * 1.44269504f + (float)l.n);
}

/* 2.0 ulp */
INLINE float log10_f32(float x) {
    struct logarithm l = logarithm(x);
    float n = (float)l.n;
    return log_special(x, (l.low + l.f) * 0.434294482f + n * 4.60503907e-6f + n * 0x1.344p-2f);
}

/* ln(1 + x). 1.4 ulp */
INLINE float log1p_f32(float x) {
    float u = 1 + x;
    int32_t bits = bits_f32(u), n = split_exponent(&bits);
    /* (1 + x) / 2^n - 1, where rounding 1 + x would have lost the digits of x */
    float scale = n < 127 ? power_of_two_f32(-n) : 0;
    float f = from_bits_f32(shifted_exponent(bits_f32(x), -n)) + (scale - 1);
    f = n == 0 ? x : f;
    float y = log1p_reduced(f) + (float)n * LN2_LOW_F32 + f + (float)n * LN2_HIGH_F32;
    return x == 0 ? x : log_special(u, y);
}

/* ---- inverse hyperbolic functions ---- */

/* 1.8 ulp */
INLINE float asinh_f32(float x) {
    float y = abs_f32(x), z = y * y;
    int large = y > 0x1p30f;
    float t = large ? y : y + z / (1 + sqrt_f32(z + 1));
    return copysign_f32(log1p_f32(t) + (large ? LN2_F32 : 0), x);
}

/* 2.1 ulp */
INLINE float acosh_f32(float x) {
    float t = x - 1;
    int large = x > 0x1p30f;
    float y = log1p_f32(large ? x : t + sqrt_f32(t * (t + 2))) + (large ? LN2_F32 : 0);
    return x >= 1 ? y : NAN_F32;
}

/* 2.0 ulp */
INLINE float atanh_f32(float x) {
    float y = abs_f32(x);
    return copysign_f32(0.5f * log1p_f32(2 * y / (1 - y)), x);
}

/* ---- powers ---- */

/* 2^x for finite results of a float's range, to 2^-34 */
INLINE double exp2_f64(double x) {
    const double shift = 0x1.8p52;
    x = clamp_f64(x, -200, 200);
    double shifted = x + shift;
    double r = x - (shifted - shift);
    double p = 1.5316461233980978e-05;
    p = p * r + 0.00015469731656085563;
    p = p * r + 0.0013333422647017099;
    p = p * r + 0.0096180256041476109;
    p = p * r + 0.055504109761079612;
    p = p * r + 0.24022651213584167;
    p = p * r + 0.69314718053502633;
    p = p * r + 0.9999999999595498;
    return p * from_bits_f64((int64_t)(((uint64_t)bits_f64(shifted) << 52) + (1023ull << 52)));
}

/* log2 x for positive, finite, normal x, to 2^-45 */
INLINE double log2_f64(double x) {
    uint64_t bits = (uint64_t)bits_f64(x);
    uint64_t biased = (bits + 0x00095f619980c433) >> 52; /* mantissas from sqrt(1/2) on */
    double n = from_bits_f64((int64_t)(biased | 0x4330000000000000)) - (0x1p52 + 1023);
    double m = from_bits_f64((int64_t)(bits - (biased << 52) + (1023ull << 52)));
    double s = (m - 1) / (m + 1), z = s * s;
    double p = 0.28292073416579855;
    p = p * z + 0.31990432369019939;
    p = p * z + 0.41220928412180169;
    p = p * z + 0.57707794206951457;
    p = p * z + 0.96179669411429658;
    p = p * z + 2.8853900817778495;
    return p * s + n;
}

/* x^y with the special cases of IEEE 754 (pow). 0.51 ulp */
INLINE float pow_f32(float x, float y) {
    float u = abs_f32(x);
    double l = u == 0 ? -__builtin_inf() : u < INFINITY_F32 ? log2_f64(u) : u;
    double exponent = clamp_f32(y, -0x1.fffffep127f, 0x1.fffffep127f); /* -1^inf = 1 */
    float magnitude = (float)exp2_f64(exponent * l);
    float half = 0.5f * y;
    int whole = trunc_f32(y) == y, odd = whole & (trunc_f32(half) != half);
    magnitude = x < 0 && u < INFINITY_F32 && !whole ? NAN_F32 : magnitude;
    float signed_ = odd ? copysign_f32(magnitude, x) : magnitude;
    return y == 0 || x == 1 ? 1 : signed_;
}

#endif
