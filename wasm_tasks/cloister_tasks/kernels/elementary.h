/* Elementary functions of floats, for loops `for (i) out[i] = f(in[i])` that clang vectorises.
 *
 * Every function is a scalar without branches, tables or libc: selects, bit patterns and integer
 * arithmetic that exist for four lanes as for one. (Division with remainder has a loop.) Nothing is
 * contracted or reassociated, so every variant computes the same bits (of a NaN: only that it is
 * one). Special values are those of torch, signed zeros are kept, results underflow gradually.
 *
 * The figure before a function is its largest error in units in the last place (ulp) against double
 * precision, over 17 million floats of all exponents. The coefficients are our own minimax fits
 * (reweighted least squares, rounded one by one from the lowest order on). Where floats alone would
 * lose digits the inside is double: still two lanes.
 */
#ifndef CLOISTER_ELEMENTARY_H
#define CLOISTER_ELEMENTARY_H

#include "circular.h"
#include "error_function.h"
#include "exponential.h"
#include "gamma.h"
#include "remainder.h"
#include "scalar.h"

#endif
