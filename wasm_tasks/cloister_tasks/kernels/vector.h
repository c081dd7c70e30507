/* Four floats at a time, in whatever instructions the variant has.
 *
 * The same source gives the scalar, simd128 and relaxed-simd variants. Nothing is reassociated by
 * the compiler: what is written is what is computed, so scalar and simd128 agree bit for bit, and
 * relaxed-simd differs only where `madd` rounds once instead of twice.
 */
#ifndef CLOISTER_VECTOR_H
#define CLOISTER_VECTOR_H

#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
#define UNROLL _Pragma("unroll")

typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef f32x4 f32x4_unaligned __attribute__((aligned(4), may_alias));

INLINE f32x4 load(const float *p) { return *(const f32x4_unaligned *)p; }
INLINE void store(float *p, f32x4 v) { *(f32x4_unaligned *)p = v; }
INLINE f32x4 splat(float x) { return (f32x4){x, x, x, x}; }

/* The first n < 4 floats at p, the rest zero; reads nothing behind them. */
INLINE f32x4 load_part(const float *p, int n) {
    return (f32x4){n > 0 ? p[0] : 0, n > 1 ? p[1] : 0, n > 2 ? p[2] : 0, 0};
}

/* a * b + c */
INLINE f32x4 madd(f32x4 a, f32x4 b, f32x4 c) {
#ifdef __wasm_relaxed_simd__
    return __builtin_wasm_relaxed_madd_f32x4(a, b, c);
#else
    return a * b + c;
#endif
}

/* mask ? a : b, lane by lane; the mask is all ones or all zeros, as comparisons give it. */
INLINE f32x4 select(i32x4 mask, f32x4 a, f32x4 b) {
    return (f32x4)((mask & (i32x4)a) | (~mask & (i32x4)b));
}

INLINE f32x4 larger(f32x4 a, f32x4 b) { return select(a > b, a, b); }

INLINE int min_int(int a, int b) { return a < b ? a : b; }

#endif
