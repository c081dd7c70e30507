/* Circular functions and their inverses; see elementary.h. */
#ifndef CLOISTER_CIRCULAR_H
#define CLOISTER_CIRCULAR_H

#include "scalar.h"

#define PI_HIGH_F32 3.14159274f
#define PI_LOW_F32 -8.74227766e-8f

struct angle {
    float r;          /* x - quadrant pi/2, in [-pi/4, pi/4] */
    int32_t quadrant; /* modulo 4 in its low bits */
};

/* Reduction in double (Cody and Waite, two parts): the product with the first is exact up to
 * |x| = 1.6e6; the error of r stays below 1e-7 up to |x| = 2^29, beyond it is meaningless. */
INLINE struct angle angle(float x) {
    const double shift = 0x1.8p52;
    double shifted = x * 0.63661977236758138 + shift;
    double n = shifted - shift;
    double r = (x - n * 0x1.921fb544p0) - n * 0x1.0b4611a626331p-34;
    return (struct angle){(float)clamp_f64(r, -0.7853982, 0.7853982), (int32_t)bits_f64(shifted)};
}

INLINE float sin_reduced(float r) {
    float z = r * r, p = -1.95187909e-4f;
    p = p * z + 8.33219197e-3f;
    p = p * z - 0.166666552f;
    return r + r * z * p;
}

INLINE float cos_reduced(float r) {
    float z = r * r, p = 2.44306684e-5f;
    p = p * z - 1.38873013e-3f;
    p = p * z + 4.16666456e-2f;
    return z * z * p - 0.5f * z + 1;
}

/* sin(r + quadrant pi/2) */
INLINE float sin_quadrant(float r, int32_t quadrant) {
    float y = quadrant & 1 ? cos_reduced(r) : sin_reduced(r);
    return from_bits_f32(bits_f32(y) ^ (int32_t)((uint32_t)(quadrant & 2) << 30));
}

/* 1.6 ulp up to |x| = 1e5; in [-1, 1] always, absolutely within 2e-7 up to 2^29 */
INLINE float sin_f32(float x) {
    struct angle a = angle(x);
    return x == 0 ? x : sin_quadrant(a.r, a.quadrant);
}

/* As for sin: 1.5 ulp up to |x| = 1e5 */
INLINE float cos_f32(float x) {
    struct angle a = angle(x);
    return sin_quadrant(a.r, a.quadrant + 1);
}

/* 3.2 ulp up to |x| = 1e5 */
INLINE float tan_f32(float x) {
    struct angle a = angle(x);
    float s = sin_reduced(a.r), c = cos_reduced(a.r);
    return x == 0 ? x : a.quadrant & 1 ? -c / s : s / c;
}

/* asin r for 0 <= r <= 0.55, given z = r^2 */
INLINE float asin_reduced(float r, float z) {
    float p = 4.27606143e-2f;
    p = p * z + 3.38634185e-4f;
    p = p * z + 2.70668454e-2f;
    p = p * z + 2.9700689e-2f;
    p = p * z + 4.46942523e-2f;
    p = p * z + 7.49982148e-2f;
    p = p * z + 0.166666687f;
    return r + r * z * p;
}

/* 1.4 ulp */
INLINE float asin_f32(float x) {
    float y = abs_f32(x);
    int outer = y > 0.55f;
    float z = outer ? 0.5f - 0.5f * y : y * y;
    float a = asin_reduced(outer ? sqrt_f32(z) : y, z);
    return copysign_f32(outer ? PI_HIGH_F32 / 2 - (2 * a - PI_LOW_F32 / 2) : a, x);
}

/* 1.1 ulp */
INLINE float acos_f32(float x) {
    float y = abs_f32(x);
    int outer = y > 0.55f;
    float z = outer ? 0.5f - 0.5f * y : y * y;
    float a = asin_reduced(outer ? sqrt_f32(z) : y, z);
    float b = x < 0 ? a : -a; /* so that both halves are sums */
    float inner = PI_HIGH_F32 / 2 + (b + PI_LOW_F32 / 2);
    float outside = x < 0 ? PI_HIGH_F32 - (2 * a - PI_LOW_F32) : 2 * a;
    return outer ? outside : inner;
}

/* atan t for 0 <= t <= 1 */
INLINE float atan_reduced(float t) {
    float z = t * t, p = 1.13452214e-3f;
    p = p * z - 7.42536318e-3f;
    p = p * z + 2.2777617e-2f;
    p = p * z - 4.49832566e-2f;
    p = p * z + 6.76364899e-2f;
    p = p * z - 8.82146209e-2f;
    p = p * z + 0.110612333f;
    p = p * z - 0.142803431f;
    p = p * z + 0.199997157f;
    p = p * z - 0.333333284f;
    return t + t * z * p;
}

/* 1.5 ulp */
INLINE float atan_f32(float x) {
    float y = abs_f32(x);
    int steep = y > 1;
    float a = atan_reduced(steep ? 1 / y : y);
    return copysign_f32(steep ? PI_HIGH_F32 / 2 - (a - PI_LOW_F32 / 2) : a, x);
}

/* The angle of the point (x, y). 1.5 ulp */
INLINE float atan2_f32(float y, float x) {
    float u = abs_f32(x), v = abs_f32(y);
    int steep = v > u;
    float small = steep ? u : v, large = steep ? v : u;
    float t = small == large ? 1 : small / large; /* of two infinities, too */
    float a = atan_reduced(large == 0 ? 0 : t);
    a = steep ? PI_HIGH_F32 / 2 - (a - PI_LOW_F32 / 2) : a;
    a = bits_f32(x) < 0 ? PI_HIGH_F32 - (a - PI_LOW_F32) : a;
    return u + v == u + v ? copysign_f32(a, y) : NAN_F32;
}

#endif
