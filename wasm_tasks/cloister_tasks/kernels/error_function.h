/* The error function, its complement and its inverse; see elementary.h. */
#ifndef CLOISTER_ERROR_FUNCTION_H
#define CLOISTER_ERROR_FUNCTION_H

#include "exponential.h"

/* 1.2 ulp */
INLINE float erf_f32(float x) {
    float y = abs_f32(x), z = x * x;
    /* Below 1 an odd polynomial, above 1 - e^(ln erfc); from 3.95 on it is 1 to the last bit. */
    float p = 7.80690316e-5f;
    p = p * z - 7.9978531e-4f;
    p = p * z + 5.1871622e-3f;
    p = p * z - 2.68533472e-2f;
    p = p * z + 0.112835787f;
    p = p * z - 0.37612626f;
    p = p * z + 0.128379166f;
    float near = y + y * p;
    y = y > 3.95f ? 3.95f : y;
    float q = 2.10644915e-4f;
    q = q * y - 3.18696699e-3f;
    q = q * y + 2.27985438e-2f;
    q = q * y - 0.105116285f;
    q = q * y - 0.635831356f;
    q = q * y - 1.12848008f;
    float far = 1 - exp_f32(q * y);
    return copysign_f32(y < 1 ? near : far, x);
}

/* 1 - erf x, for large x too. 0.51 ulp */
INLINE float erfc_f32(float x) {
    double y = abs_f32(x);
    y = y > 10.2 ? 10.2 : y;
    double t = (y - 3) / (y + 3); /* e^(y^2) erfc(y) is smooth in t */
    double p = -6.6945753176739879e-06;
    p = p * t - 9.5471157939037084e-06;
    p = p * t + 6.3953705590479018e-05;
    p = p * t + 4.3258516243697e-05;
    p = p * t - 0.00059729259067057671;
    p = p * t + 0.00070832722785776274;
    p = p * t + 0.0042692150488688775;
    p = p * t - 0.024392583885521537;
    p = p * t + 0.071665828810378682;
    p = p * t - 0.15011593102962095;
    p = p * t + 0.24560380195532755;
    p = p * t - 0.32623356014602983;
    p = p * t + 0.17900115118091414;
    double tail = p * exp2_f64(y * y * -1.4426950408889634);
    return (float)(x < 0 ? 2 - tail : tail);
}

/* The x with erf(x) = y, as y times a function of w = -ln(1 - y^2). 2.8 ulp */
INLINE float erfinv_f32(float y) {
    float w = -log_f32((1 - y) * (1 + y));
    float u = w - 3, v = sqrt_f32(w) - 3.25f;
    float near = -5.82918558e-9f, far = -2.34720166e-4f;
    near = near * u - 4.40448611e-9f;
    near = near * u + 4.55591959e-7f;
    near = near * u - 1.88395131e-6f;
    near = near * u - 1.27568637e-5f;
    near = near * u + 1.95467277e-4f;
    near = near * u - 8.3607441e-4f;
    near = near * u - 5.73855918e-3f;
    near = near * u + 0.241630331f;
    near = near * u + 1.62354207f;
    far = far * v + 9.31425835e-4f;
    far = far * v - 1.75477983e-3f;
    far = far * v + 2.5069199e-3f;
    far = far * v - 3.73737165e-3f;
    far = far * v + 5.36859129e-3f;
    far = far * v + 1.0052582f;
    far = far * v + 3.08388567f;
    return w == INFINITY_F32 ? y * INFINITY_F32 : y * (w < 6 ? near : far);
}

#endif
