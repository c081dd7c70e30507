/* exp and log of floats, to about one unit in the last place; no tables, no libc.
 *
 * Polynomials after S. L. Moshier, Cephes Mathematical Library (expf, logf).
 */
#ifndef CLOISTER_MATH_H
#define CLOISTER_MATH_H

#include "vector.h"

#define LN2_HIGH 0.693359375f
#define LN2_LOW -2.12194440e-4f

/* e^x; below -87 as at -87 (1.6e-38), above 88 as at 88; no number stays no number. */
INLINE f32x4 exp_f32x4(f32x4 x) {
    x = select(x < splat(-87), splat(-87), x);
    x = select(x > splat(88), splat(88), x);
    const f32x4 shift = splat(12582912); /* 1.5 * 2^23: adding it rounds to an integer */
    f32x4 shifted = x * splat(1.44269504f) + shift;
    i32x4 exponent = (i32x4)shifted - (i32x4)shift;
    f32x4 n = shifted - shift;
    f32x4 r = x - n * splat(LN2_HIGH) - n * splat(LN2_LOW);
    f32x4 p = splat(1.9875691500e-4f);
    p = p * r + splat(1.3981999507e-3f);
    p = p * r + splat(8.3334519073e-3f);
    p = p * r + splat(4.1665795894e-2f);
    p = p * r + splat(1.6666665459e-1f);
    p = p * r + splat(5.0000001201e-1f);
    p = p * r * r + r + splat(1);
    return p * (f32x4)((exponent + 127) << 23);
}

INLINE float exp_f32(float x) { return exp_f32x4(splat(x))[0]; }

/* log x for positive, normal x. */
INLINE float log_f32(float x) {
    union {
        float f;
        int32_t bits;
    } u = {x};
    int exponent = (u.bits >> 23) - 126;
    u.bits = (u.bits & 0x7fffff) | 0x3f000000; /* the mantissa, in [0.5, 1) */
    float m = u.f;
    if (m < 0.70710678f) {
        exponent--;
        m += m;
    }
    m -= 1;
    float z = m * m, n = (float)exponent;
    float y = 7.0376836292e-2f;
    y = y * m - 1.1514610310e-1f;
    y = y * m + 1.1676998740e-1f;
    y = y * m - 1.2420140846e-1f;
    y = y * m + 1.4249322787e-1f;
    y = y * m - 1.6668057665e-1f;
    y = y * m + 2.0000714765e-1f;
    y = y * m - 2.4999993993e-1f;
    y = y * m + 3.3333331174e-1f;
    y = y * m * z + n * LN2_LOW - 0.5f * z;
    return m + y + n * LN2_HIGH;
}

/* Neither infinite nor no number. */
INLINE int is_finite(double x) { return x - x == 0; }

#endif
