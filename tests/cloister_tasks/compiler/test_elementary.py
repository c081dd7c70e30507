"""Elementary functions against torch in float64, in units in the last place (ulp) of float32."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_tasks import VARIANTS, compile_c

SIZE = 1 << 16

UNARY = {
    "exp": (torch.exp, 0.9),
    "exp2": (torch.exp2, 1.2),
    "expm1": (torch.expm1, 1.5),
    "log": (torch.log, 0.9),
    "log2": (torch.log2, 1.8),
    "log10": (torch.log10, 2),
    "log1p": (torch.log1p, 1.5),
    "sin": (torch.sin, 1.6),
    "cos": (torch.cos, 1.6),
    "tan": (torch.tan, 3.5),
    "asin": (torch.asin, 1.5),
    "acos": (torch.acos, 1.2),
    "atan": (torch.atan, 1.5),
    "sinh": (torch.sinh, 1.8),
    "cosh": (torch.cosh, 1.3),
    "tanh": (torch.tanh, 1.6),
    "asinh": (torch.asinh, 2.0),
    "acosh": (torch.acosh, 2.2),
    "atanh": (torch.atanh, 2.2),
    "sigmoid": (torch.sigmoid, 2),
    "erf": (torch.erf, 1.3),
    "erfc": (torch.erfc, 0.6),
    "erfinv": (torch.erfinv, 3),
    "lgamma": (torch.lgamma, 2.5),
    "digamma": (torch.digamma, 2),
    "rsqrt": (torch.rsqrt, 1.5),
    "sqrt": (torch.sqrt, 0.5),
    "abs": (torch.abs, 0),
    "floor": (torch.floor, 0),
    "ceil": (torch.ceil, 0),
    "trunc": (torch.trunc, 0),
    "round": (torch.round, 0),
    "frac": (torch.frac, 0),
    "sign": (torch.sign, 0),
}
BINARY = {
    "pow": (torch.pow, 0.6),
    "atan2": (torch.atan2, 1.7),
    "copysign": (torch.copysign, 0),
    "maximum": (torch.maximum, 0),
    "minimum": (torch.minimum, 0),
    "fmax": (torch.fmax, 0),
    "fmin": (torch.fmin, 0),
}
LOOPS = ("fmod", "remainder")  # the functions that do not vectorise
INTEGER = ("floor_divide", "remainder")

HEAD = """
#pragma clang diagnostic error "-Wall"
#pragma clang diagnostic error "-Wextra"
#include <cloister.h>
#include "elementary.h"
#ifdef __wasm_simd128__ /* a loop that clang cannot vectorise does not build */
#pragma clang diagnostic error "-Wpass-failed"
#define VECTORISED _Pragma("clang loop vectorize(enable)")
#else
#define VECTORISED
#endif
CLOISTER_TASK("elementary", "Elementary functions, one by one");
CLOISTER_PARAMETER(out, "Result", SIZE);
CLOISTER_INPUT(float, a, "First operand", SIZE);
CLOISTER_INPUT(float, b, "Second operand", SIZE);
CLOISTER_LOCAL(int32_t, function, "Which function", 1);
CLOISTER_LOCAL(int32_t, whole, "Integer result", SIZE);
CLOISTER_INPUT(int32_t, i, "First operand", SIZE);
CLOISTER_INPUT(int32_t, j, "Second operand", SIZE);
CLOISTER_EXPORT(init) int32_t init(int64_t seed) { return seed != 0; }
CLOISTER_EXPORT(reset) int32_t reset(void) { return 0; }
CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t n) { return n; }
CLOISTER_EXPORT(predict) int32_t predict(int32_t n) { return n; }
"""
NAMES = (*UNARY, *BINARY, *LOOPS, *(f"{name}_i32" for name in INTEGER))


def source() -> str:
    """One loop for every function, and `train` to choose among them."""
    loops, cases = [], []
    for number, name in enumerate(NAMES):
        hint = "" if name in LOOPS or name.endswith("_i32") else "VECTORISED"
        left = f"whole[k] = {name}" if name.endswith("_i32") else f"out[k] = {name}_f32"
        right = "i[k], j[k]" if name.endswith("_i32") else "a[k]" if name in UNARY else "a[k], b[k]"
        loops.append(f"NOINLINE void run_{name}(int n) {{")
        loops.append(f"{hint} for (int k = 0; k < n; k++) {left}({right}); }}")
        cases.append(f"case {number}: run_{name}(n); break;")
    train = "CLOISTER_EXPORT(train) int32_t train(int32_t n) { switch (function[0]) {"
    return "\n".join([HEAD, *loops, train, *cases, "} return 0; }"])


class Functions:
    """The functions of one variant on arrays of any length."""

    def __init__(self, instance):
        self.instance = instance

    def __call__(self, name, *operands):
        integer = name.endswith("_i32")
        buffers, out = (("i", "j"), "whole") if integer else (("a", "b"), "out")
        self.instance["function"] = NAMES.index(name)
        parts = []
        for start in range(0, len(operands[0]), SIZE):
            for buffer, operand in zip(buffers, operands, strict=False):
                part = operand[start : start + SIZE]
                self.instance[buffer][: len(part)] = part
            self.instance("train", len(part))
            parts.append(self.instance[out][: len(part)].copy())
        return np.concatenate(parts)


@pytest.fixture(scope="module")
def variants(guest, tmp_path_factory):
    path = tmp_path_factory.mktemp("elementary") / "elementary.c"
    path.write_text(source())
    build = {v: compile_c(path, variant=v, defines={"SIZE": SIZE}) for v in VARIANTS}
    return {variant: Functions(guest(data)) for variant, data in build.items()}


@pytest.fixture(scope="module")
def run(variants):
    return variants["simd128"]


LARGEST, TINY = np.finfo("f4").max, np.finfo("f4").smallest_subnormal
SPECIAL = np.float32(
    [0, 0.5, 0.75, 1, 1.5, 2, 3, 7, 87, 89, 103, 105, 2**24, LARGEST, np.inf, np.nan]
)
SPECIAL = np.append(SPECIAL, np.float32([TINY, 99 * TINY, 2**-126, 2**-24, 1 - 2**-24, 1 + 2**-23]))
SPECIAL = np.concatenate([SPECIAL, -SPECIAL])


def every(stride: int) -> np.ndarray:
    """One float of `stride`, through all exponents and both signs, and the special ones."""
    patterns = np.arange(0, 1 << 32, stride, dtype=np.uint64).astype(np.uint32)
    return np.concatenate([patterns.view("f4"), SPECIAL])


def bits(x: np.ndarray) -> np.ndarray:
    """Bit patterns, of which all NaN have the same."""
    return np.where(np.isnan(x), np.float32(np.nan), x).view(np.uint32)


def errors(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Distance in ulp of the result as float; infinite where only one is NaN or infinite."""
    with np.errstate(all="ignore"):
        rounded = wanted.astype("f4")
        ulp = np.spacing(np.minimum(np.abs(rounded), LARGEST)).astype("f8")
        distance = np.abs(found - wanted) / ulp
        odd = ~np.isfinite(rounded) | ~np.isfinite(found)
        nearly = np.abs(wanted) > LARGEST * (1 - 1e-7)  # one rounds to infinity, the other below
        same = (found == rounded) | (np.isnan(found) & np.isnan(rounded)) | nearly
    return np.where(odd, np.where(same, 0, np.inf), distance)


def exact(function, *operands: np.ndarray) -> np.ndarray:
    return function(*(torch.from_numpy(x).double() for x in operands)).numpy()


@pytest.mark.parametrize("name", UNARY)
def test_accuracy(run, name):
    function, limit = UNARY[name]
    x = every(7919)
    if name in ("sin", "cos", "tan"):
        x = x[~(np.abs(x) > 1e5)]
    found, wanted = run(name, x), exact(function, x)
    error = errors(found, wanted)
    worst = int(np.argmax(error))
    assert error[worst] <= limit, f"{name}({x[worst]!r}) = {found[worst]!r}, not {wanted[worst]!r}"
    zero = (wanted == 0) & (name != "sign")
    assert (np.signbit(found) == np.signbit(wanted))[zero].all()


@pytest.mark.parametrize("name", BINARY)
def test_accuracy_of_two_operands(run, name):
    function, limit = BINARY[name]
    rng = np.random.default_rng(1)
    x, y = (rng.permutation(every(65537)) for _ in range(2))
    near = rng.standard_normal((2, 20_000)).astype("f4")
    pairs = np.stack(np.meshgrid(SPECIAL, SPECIAL)).reshape(2, -1)
    base = np.exp(rng.uniform(-80, 80, 20_000)).astype("f4")  # powers neither 0 nor infinite
    power = (rng.uniform(-103, 89, 20_000) / np.log(base)).astype("f4")
    x = np.concatenate([x, near[0], pairs[0], base])
    y = np.concatenate([y, near[1], pairs[1], power])
    found, wanted = run(name, x, y), exact(function, x, y)
    error = errors(found, wanted)
    worst = int(np.argmax(error))
    assert error[worst] <= limit, (
        f"{name}({x[worst]!r}, {y[worst]!r}) = {found[worst]!r}, not {wanted[worst]!r}"
    )
    if name in ("pow", "atan2", "copysign"):
        assert (np.signbit(found) == np.signbit(wanted))[wanted == 0].all()


floats = st.floats(width=32)


@settings(max_examples=300, deadline=None)
@given(x=floats, y=floats)
def test_remainders_are_exact(run, x, y):
    operands = np.array([x], "f4"), np.array([y], "f4")
    defined = math.isfinite(x) and not math.isnan(y) and y != 0
    truncated = math.fmod(x, y) if defined else math.nan
    floored = truncated
    if truncated != 0 and (truncated < 0) != (y < 0):
        floored = float(np.float32(truncated) + np.float32(y))
    np.testing.assert_array_equal(bits(run("fmod", *operands)), bits(np.array([truncated], "f4")))
    np.testing.assert_array_equal(
        bits(run("remainder", *operands)), bits(np.array([floored], "f4"))
    )


def test_remainders_are_those_of_torch(run):
    rng = np.random.default_rng(2)
    x, y = (rng.standard_normal(10_000).astype("f4") * 20 for _ in range(2))
    x[:8], y[:8] = [5, -5, 5, -5, np.inf, 5, 0, np.nan], [3, 3, -3, -3, 2, np.inf, 0, 1]
    for name in LOOPS:
        wanted = getattr(torch, name)(torch.from_numpy(x), torch.from_numpy(y)).numpy()
        np.testing.assert_array_equal(run(name, x, y), wanted)


integers = st.integers(-(2**31), 2**31 - 1)


@settings(max_examples=200, deadline=None)
@given(x=integers, y=integers.filter(bool))
def test_integer_division_rounds_down(run, x, y):
    operands = np.array([x], "i4"), np.array([y], "i4")
    quotient = (x // y + 2**31) % 2**32 - 2**31  # the only overflow is that of -2^31 / -1
    assert run("floor_divide_i32", *operands) == [quotient]
    assert run("remainder_i32", *operands) == [x % y]


@pytest.mark.parametrize("name", INTEGER)
def test_integer_division_by_zero_traps(variants, name):
    for functions in variants.values():
        with pytest.raises(wasmtime.Trap):
            functions(f"{name}_i32", np.array([1], "i4"), np.array([0], "i4"))


@pytest.mark.parametrize("name", [*UNARY, *BINARY, *LOOPS])
def test_variants_compute_the_same_bits(variants, name):
    rng = np.random.default_rng(3)
    x = rng.permutation(every(65537))
    y = rng.permutation(x)
    operands = (x,) if name in UNARY else (x, y)
    scalar, *others = (bits(functions(name, *operands)) for functions in variants.values())
    for other in others:
        np.testing.assert_array_equal(other, scalar)


def test_a_loop_of_any_length_computes_the_same_bits(run):
    x = np.random.default_rng(4).standard_normal(23).astype("f4")
    for name in UNARY:
        whole = run(name, x)
        for n in (1, 2, 3, 5, 7, 11, 22):
            np.testing.assert_array_equal(bits(run(name, x[:n])), bits(whole[:n]))


def test_large_angles(run):
    x = np.geomspace(1e5, 2.0**29, 200_000).astype("f4")
    for name in ("sin", "cos"):
        wanted = exact(UNARY[name][0], x)
        assert np.abs(run(name, x) - wanted).max() < 2e-7
        huge = np.geomspace(2.0**29, LARGEST, 200_000).astype("f4")
        assert np.abs(run(name, np.concatenate([huge, -huge]))).max() <= 1


def test_results_stay_in_range(run):
    x = every(7919)
    x = x[~np.isnan(x)]
    for name, low, high in (
        ("tanh", -1, 1),
        ("erf", -1, 1),
        ("sigmoid", 0, 1),
        ("erfc", 0, 2),
        ("exp", 0, np.inf),
    ):
        y = run(name, x)
        assert low <= y.min(), name
        assert y.max() <= high, name
