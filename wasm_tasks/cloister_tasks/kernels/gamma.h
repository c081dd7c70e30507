/* The logarithm of the gamma function and its derivative; see elementary.h. */
#ifndef CLOISTER_GAMMA_H
#define CLOISTER_GAMMA_H

#include "exponential.h"

#define LN2_F64 0.69314718055994531
#define PI_F64 3.1415926535897931

/* sin(pi r) for |r| <= 1/2, given z = r^2 */
INLINE double sin_pi_reduced(double r, double z) {
    double p = 0.00044720187642269867;
    p = p * z - 0.0073637861577687475;
    p = p * z + 0.082144732416091285;
    p = p * z - 0.59926442577235184;
    p = p * z + 2.5501640354213269;
    p = p * z - 5.1677127799773546;
    p = p * z + 3.1415926535895977;
    return p * r;
}

/* cos(pi r) for |r| <= 1/2, given z = r^2 */
INLINE double cos_pi_reduced(double z) {
    double p = 0.0018400221671785448;
    p = p * z - 0.025776340958100732;
    p = p * z + 0.23532544348344411;
    p = p * z - 1.3352623161552581;
    p = p * z + 4.0587121075898187;
    p = p * z - 4.9348022002509717;
    p = p * z + 0.99999999999925171;
    return p;
}

/* ln |gamma(y)| for 0 < y. From 3 on Stirling's series, below it the recurrence to [1, 2], where
 * u (u - 1) q is exact about the zeros of the function. */
INLINE double lgamma_positive(double y) {
    double u = y < 1 ? y : y < 2 ? y - 1 : y - 2, v = u - 0.5;
    double q = 0.000959165191881775 - 0.00060809589102508402 * v;
    q = q * v - 0.0011073897689155147;
    q = q * v + 0.0018487781745615917;
    q = q * v - 0.003220954539008758;
    q = q * v + 0.005456374365085591;
    q = q * v - 0.0094249583936349014;
    q = q * v + 0.016796506399332535;
    q = q * v - 0.031308508669322194;
    q = q * v + 0.062911413931028129;
    q = q * v - 0.14595989572187723;
    q = q * v + 0.48312895049591015;
    double w = 1 / y, z = w * w, s = 0.00050732006154674558;
    s = s * z - 0.00056780453674779171;
    s = s * z + 0.00079265490537011292;
    s = s * z - 0.0027777647580795473;
    s = s * z + 0.083333333305888879;
    double l = LN2_F64 * log2_f64(y < 1 || y >= 3 ? y : y < 2 ? 1 : y - 1);
    double near = u * (u - 1) * q + (y < 1 ? -l : l);
    double far = (y - 0.5) * l - y + 0.91893853320467274 + s * w;
    return y < 3 ? near : far;
}

/* ln |gamma(x)|. 0.51 ulp for x > 0; near a zero left of it the absolute error is 1e-11 */
INLINE float lgamma_f32(float x) {
    double y = abs_f32(x), r = y - __builtin_rint(y);
    double l = lgamma_positive(y);
    double sine = sin_pi_reduced(r, r * r) * y;
    double reflected = LN2_F64 * log2_f64(PI_F64 / (sine < 0 ? -sine : sine)) - l;
    float result = (float)(x < 0 ? reflected : l);
    /* at 0, the negative integers and the infinities; huge negative numbers are integers, too */
    int pole = y == 0 || y == __builtin_inf() || (x < 0 && r == 0);
    return pole ? INFINITY_F32 : x == x ? result : x;
}

/* The derivative of ln gamma(x). 0.51 ulp; near a zero the absolute error is 1e-11 */
INLINE float digamma_f32(float x) {
    double y = x < 0 ? 1 - (double)x : x, r = x - __builtin_rint((double)x);
    /* below 6 the recurrence: the sum of 1 / (y + k), k from 0 to 5, is p' / p */
    double t = y < 6 ? y : 6;
    double p = (((((t + 15) * t + 85) * t + 225) * t + 274) * t + 120) * t;
    double derivative = ((((6 * t + 75) * t + 340) * t + 675) * t + 548) * t + 120;
    double n = y < 6 ? y + 6 : y, w = 1 / n, z = w * w;
    double s = -0.0061417982142656351;
    s = s * z + 0.0041257418844233658;
    s = s * z - 0.003967706942447506;
    s = s * z + 0.0083333301043291702;
    s = s * z - 0.083333333327112805;
    double sum = LN2_F64 * log2_f64(n) - 0.5 * w + s * z - (y < 6 ? derivative / p : 0);
    double cotangent = cos_pi_reduced(r * r) / sin_pi_reduced(r, r * r);
    float result = (float)(x < 0 ? sum - PI_F64 * cotangent : sum);
    result = x < 0 && r == 0 ? NAN_F32 : result;
    result = x == 0 ? -copysign_f32(INFINITY_F32, x) : result;
    return x < INFINITY_F32 ? result : x;
}

#endif
