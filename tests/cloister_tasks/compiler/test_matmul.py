"""Products of matrices against float64 numpy: any shape, any strides, all three variants."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloister_tasks import VARIANTS, compile_c, toolchain
from cloister_tasks.compiler import matmul

ROOM = 300_000
CANARY = 64
SOURCE = """
#include <cloister.h>
#include "matmul.h"
CLOISTER_TASK("matmul", "C = init + alpha A B");
CLOISTER_PARAMETER(c, "Result", ROOM);
CLOISTER_INPUT(float, a, "Left", ROOM);
CLOISTER_INPUT(float, b, "Right", ROOM);
CLOISTER_INPUT(float, first, "What the sums begin with", ROOM);
CLOISTER_LOCAL(float, work, "Scratch", ROOM);
CLOISTER_LOCAL(int32_t, finished, "How often each element was announced as final", ROOM);
CLOISTER_LOCAL(int32_t, shape, "m, n, k; strides of a, b, first; ldc; init; finish", 12);
CLOISTER_HYPERPARAMETER(float, alpha, 1, "Factor");

/* Doubles what is final: what comes too early shows in the result. */
static void finish(int at, int count) {
    for (int i = at; i < at + count; i++) {
        finished[i]++;
        c[i] *= 2;
    }
}

CLOISTER_EXPORT(train) int32_t train(int32_t n) {
    const int *s = shape;
    const float *init[] = {NULL, first, c};
    if (s[11])
        matmul(s[0], s[1], s[2], alpha, a, s[3], s[4], b, s[5], s[6], init[s[10]], s[7], s[8], c,
               s[9], work, finish);
    else
        matmul(s[0], s[1], s[2], alpha, a, s[3], s[4], b, s[5], s[6], init[s[10]], s[7], s[8], c,
               s[9], work, NULL);
    return n;
}
CLOISTER_EXPORT(predict) int32_t predict(int32_t n) {
    shape[0] = matmul_workspace(shape[0], shape[1], shape[2]);
    return n;
}
/* A product whose numbers are known when it is compiled, as all are in a task. */
CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t n) {
    matmul(M, N, K, alpha, a, 1, M, b, N, 1, c, N, 1, c, N, work, finish);
    return n;
}
/* One tile: k; rows, columns; strides of first; ldc; init. */
CLOISTER_EXPORT(init) int32_t init(int64_t seed) {
    const int *s = shape;
    const float *init[] = {NULL, first, c};
    tile(s[0], a, b, init[s[6]], s[3], s[4], c, s[5], s[1], s[2]);
    return (int32_t)seed;
}
CLOISTER_EXPORT(reset) int32_t reset(void) { return 0; }
"""
FIXED = {"M": 13, "N": 40, "K": 70}


@pytest.fixture(scope="module")
def guests(guest, tmp_path_factory):
    source = tmp_path_factory.mktemp("matmul") / "matmul.c"
    source.write_text(SOURCE)
    defines = {"ROOM": ROOM, **FIXED}
    return {v: guest(compile_c(source, variant=v, defines=defines)) for v in VARIANTS}


def strided(layout: str, rows: int, columns: int) -> tuple[int, int]:
    """Strides of a matrix, in floats."""
    return {
        "rows": (columns, 1),
        "columns": (1, rows),
        "padded rows": (columns + 3, 1),
        "padded columns": (1, rows + 5),
        "apart": (2 * columns + 1, 2),
        "one row": (0, 1),
        "one column": (1, 0),
        "one number": (0, 0),
    }[layout]


LAYOUTS = ("rows", "columns", "padded rows", "padded columns", "apart", "one row", "one column")


@dataclass(frozen=True)
class Product:
    m: int
    n: int
    k: int
    a: str = "rows"
    b: str = "rows"
    init: str = "none"
    """none, in place, or the layout of a matrix."""
    gap: int = 0
    """Floats between two rows of C."""
    alpha: float = 1
    finish: bool = False

    def run(self, guest, seed: int = 0, spoil=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """C, what float64 makes of the same numbers, and the size of the errors to expect."""
        m, n, k = self.m, self.n, self.k
        rng = np.random.default_rng(seed)
        guest["alpha"] = self.alpha
        a = self._fill(guest["a"], rng, self.a, m, k)
        b = self._fill(guest["b"], rng, self.b, k, n)
        guest["c"], guest["work"], guest["finished"] = 7, 7, 0
        ldc = n + self.gap
        c = np.lib.stride_tricks.as_strided(guest["c"], (m, n), (4 * ldc, 4))
        first = c
        init, strides = 0, (0, 0)
        if self.init == "in place":
            init, strides = 2, (ldc, 1)
            c[...] = rng.standard_normal((m, n))
        elif self.init != "none":
            init, strides = 1, strided(self.init, m, n)
            first = self._fill(guest["first"], rng, self.init, m, n)
        if spoil:
            spoil(a, b)
        before = first.astype("f8") if init else np.zeros((m, n))
        alpha = float(np.float32(self.alpha))
        with np.errstate(invalid="ignore"):
            wanted = before + alpha * (a.astype("f8") @ b.astype("f8"))
            sizes = abs(before) + abs(alpha) * (abs(a.astype("f8")) @ abs(b.astype("f8")))
        bound = 2 * np.sqrt(max(k, 1)) * np.finfo("f4").eps * sizes
        a_strides, b_strides = strided(self.a, m, k), strided(self.b, k, n)
        guest["shape"] = (m, n, k, *a_strides, *b_strides, *strides, ldc, init, self.finish)
        guest("train", 0)
        room = matmul.workspace(m, n, k)
        assert (guest["work"][room : room + CANARY] == 7).all()
        outside = guest["c"][: m * ldc + CANARY].copy()
        np.lib.stride_tricks.as_strided(outside, (m, n), (4 * ldc, 4))[...] = 7
        assert (outside == 7).all()
        announced = guest["finished"][: m * n + CANARY]
        assert (announced[: m * n] == self.finish).all()
        assert not announced[m * n :].any()
        times = 2 if self.finish else 1
        return c.copy(), times * wanted, times * bound

    @staticmethod
    def _fill(buffer, rng, layout: str, rows: int, columns: int) -> np.ndarray:
        """Random numbers where the matrix lies, NaN around it."""
        strides = tuple(4 * s for s in strided(layout, rows, columns))
        buffer[:] = np.nan
        view = np.lib.stride_tricks.as_strided(buffer, (rows, columns), strides)
        view[...] = rng.standard_normal((rows, columns))
        return view

    def check(self, guests) -> None:
        found = {}
        for variant, guest in guests.items():
            found[variant], wanted, bound = self.run(guest)
            wrong = abs(found[variant] - wanted) > bound
            assert not wrong.any(), f"{variant} at {np.argwhere(wrong)[:5]}"
        assert found["scalar"].tobytes() == found["simd128"].tobytes()


@st.composite
def products(draw) -> Product:
    size = st.one_of(st.integers(1, 9), st.integers(1, 40))
    finish = draw(st.booleans())
    return Product(
        m=draw(size),
        n=draw(size),
        k=draw(st.one_of(st.integers(0, 9), st.integers(0, 600))),
        a=draw(st.sampled_from(LAYOUTS)),
        b=draw(st.sampled_from(LAYOUTS)),
        init=draw(st.sampled_from(("none", "in place", "one number", *LAYOUTS))),
        gap=0 if finish else draw(st.integers(0, 5)),
        alpha=draw(st.sampled_from((1.0, -0.1, 0.0, 3.0))),
        finish=finish,
    )


@settings(max_examples=300, deadline=None)
@given(products())
@example(Product(150, 530, 70, init="in place", alpha=-0.01, finish=True))
@example(Product(530, 30, 390, "columns", "columns", finish=True))
@example(Product(700, 10, 30, finish=True))
@example(Product(10, 700, 30, "columns", init="in place", finish=True))
@example(Product(1, 1, 0, init="none", finish=True))
@example(Product(2, 50, 600, b="columns"))
@example(Product(50, 2, 600, b="columns"))
def test_products(guests, product):
    product.check(guests)


@pytest.mark.parametrize("m", [1, 2, 3, 5, 8, 17])
@pytest.mark.parametrize("n", [1, 2, 7, 10, 33])
@pytest.mark.parametrize("k", [1, 4, 64, 65, 200])
def test_thin_products(guests, m, n, k):
    for a in ("rows", "columns"):
        for b in ("rows", "columns"):
            Product(m, n, k, a, b, init="in place").check(guests)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 20, 30), (2, 3, 9), (6, 9, 5), (40, 10, 200)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_where_it_belongs(guests, m, n, k, value):
    def spoil(a, b):
        a[m // 2, k // 2] = value
        b[k // 3, n - 1] = value

    for guest in guests.values():
        found, wanted, _ = Product(m, n, k).run(guest, spoil=spoil)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
        np.testing.assert_array_equal(np.isinf(found), np.isinf(wanted))
        assert np.isfinite(found[:, : n - 1]).sum() == (m - 1) * (n - 1)


def test_sizes_known_to_the_compiler(guests):
    """An update in place, as a weight takes it."""
    m, n, k = FIXED.values()
    rng = np.random.default_rng(1)
    a, b, c = (rng.standard_normal(s).astype("f4") for s in ((k, m), (k, n), (m, n)))
    found = {}
    for variant, guest in guests.items():
        guest["alpha"], guest["finished"] = -0.1, 0
        guest["a"][: a.size], guest["b"][: b.size] = a.ravel(), b.ravel()
        guest["c"][: c.size] = c.ravel()
        guest("evaluate", 0)
        found[variant] = guest["c"][: c.size].reshape(c.shape).copy()
        wanted = 2 * (c - np.float32(0.1) * (a.astype("f8").T @ b))
        np.testing.assert_allclose(found[variant], wanted, atol=1e-5)
        assert (guest["finished"][: c.size] == 1).all()
    assert found["scalar"].tobytes() == found["simd128"].tobytes()


@settings(max_examples=200, deadline=None)
@given(
    k=st.integers(0, 200),
    rows=st.integers(1, 4),
    columns=st.integers(1, 8),
    init=st.sampled_from(("none", "rows", "columns", "one column", "one row", "in place")),
    gap=st.integers(0, 3),
)
def test_one_tile(guests, k, rows, columns, init, gap):
    rng = np.random.default_rng((k, rows, columns))
    a, b = np.zeros((k, 4), "f4"), np.zeros((k, 8), "f4")
    a[:, :rows], b[:, :columns] = rng.standard_normal((k, rows)), rng.standard_normal((k, columns))
    ldc = columns + gap
    strides = (ldc, 1) if init in ("none", "in place") else strided(init, rows, columns)
    first = np.zeros(64, "f4")
    begin = np.lib.stride_tricks.as_strided(first, (rows, columns), [4 * s for s in strides])
    if init != "none":
        begin[...] = rng.standard_normal((rows, columns))
    found = {}
    for variant, guest in guests.items():
        guest["a"], guest["b"], guest["c"], guest["first"] = np.nan, np.nan, 7, np.nan
        guest["a"][: a.size], guest["b"][: b.size] = a.ravel(), b.ravel()
        guest["first"][: first.size] = first
        c = np.lib.stride_tricks.as_strided(guest["c"], (rows, columns), (4 * ldc, 4))
        if init == "in place":
            c[...] = begin
        mode = {"none": 0, "in place": 2}.get(init, 1)
        guest["shape"][:7] = k, rows, columns, *strides, ldc, mode
        guest("init", 0)
        found[variant] = c.copy()
        wanted = begin + a[:, :rows].T.astype("f8") @ b[:, :columns]
        np.testing.assert_allclose(found[variant], wanted, atol=1e-6 * (k + 4))
        c[...] = 7
        assert (guest["c"][:CANARY] == 7).all()
    assert found["scalar"].tobytes() == found["simd128"].tobytes()


@settings(max_examples=200, deadline=None)
@given(*(st.integers(low, 5000) for low in (1, 1, 0)))
def test_the_header_needs_as_much_scratch_memory_as_we_say(guests, m, n, k):
    guest = guests["simd128"]
    guest["shape"][:3] = m, n, k
    guest("predict", 0)
    assert guest["shape"][0] == matmul.workspace(m, n, k) <= 160_000


def test_scratch_memory_counted_by_hand():
    """4 x 8 of depth 4, and its transpose: a panel of A, one of B, a column of tiles."""
    assert matmul.workspace(4, 8, 4) == max(4 * 4 + 8 * 4 + 8 * 4, 8 * 4 + 8 * 4 + 8 * 8)
    assert matmul.workspace(4, 8, 0) == 0


def test_the_numbers_are_those_of_the_header():
    text = (toolchain.PACKAGE / "kernels" / "matmul.h").read_text()
    for name in ("MC", "NC", "KC", "PANELS"):
        assert f"#define MATMUL_{name} {getattr(matmul, name)}\n" in text
