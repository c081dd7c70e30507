"""The kernels alone, at sizes the templates never have, against float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_tasks import VARIANTS, compile_c

SOURCE = """
#include <cloister.h>
#include "gemm.h"
#include "math.h"
#define SIZE (40 * 600)
CLOISTER_TASK("kernels", "Kernels, one by one");
CLOISTER_PARAMETER(c, "Result", SIZE);
CLOISTER_INPUT(float, a, "Left", SIZE);
CLOISTER_INPUT(float, b, "Right", SIZE);
CLOISTER_LOCAL(int32_t, sizes, "m, n, k", 3);
static float edge[8 * 604];
CLOISTER_EXPORT(init) int32_t init(int64_t seed) {
    int m = sizes[0], n = sizes[1], k = sizes[2];
    if (seed) gemm_tn(m, n, k, a, m, b, n, c, n, edge);
    else gemm_nt(m, n, k, a, k, b, k, c, n);
    return 0;
}
CLOISTER_EXPORT(reset) int32_t reset(void) { return 0; }
CLOISTER_EXPORT(train) int32_t train(int32_t n) {
    for (int i = 0; i < n; i++) c[i] = exp_f32(a[i]);
    return 0;
}
CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t n) {
    for (int i = 0; i < n; i++) c[i] = log_f32(a[i]);
    return 0;
}
CLOISTER_EXPORT(predict) int32_t predict(int32_t n) { return n; }
"""


@pytest.fixture(scope="module", params=VARIANTS)
def kernels(request, guest, tmp_path_factory):
    source = tmp_path_factory.mktemp("kernels") / "kernels.c"
    source.write_text(SOURCE)
    return guest(compile_c(source, variant=request.param))


SIZES = {"m": st.integers(1, 40), "n": st.integers(1, 40), "k": st.integers(1, 600)}


@settings(max_examples=60, deadline=None)
@given(**SIZES, transposed=st.booleans())
def test_matrix_products(kernels, m, n, k, transposed):
    rng = np.random.default_rng((m, n, k))
    a = rng.standard_normal((k, m) if transposed else (m, k)).astype("f4")
    b = rng.standard_normal((k, n) if transposed else (n, k)).astype("f4")
    c = rng.standard_normal((m, n)).astype("f4")
    kernels["a"], kernels["b"], kernels["c"] = np.nan, np.nan, 7
    kernels["a"][: a.size], kernels["b"][: b.size] = a.ravel(), b.ravel()
    kernels["c"][: c.size] = c.ravel()
    kernels["sizes"] = m, n, k
    kernels("init", int(transposed))
    found = kernels["c"][: c.size].reshape(c.shape)
    a64, b64 = a.astype("f8"), b.astype("f8")
    wanted = c + (a64.T @ b64 if transposed else a64 @ b64.T)
    scale = np.sqrt(k) + 1
    np.testing.assert_allclose(found, wanted, atol=1e-5 * scale)
    assert (kernels["c"][c.size :] == 7).all()  # nothing is written behind the result


def test_exp_and_log(kernels):
    x = np.linspace(-87, 88, 20_000).astype("f4")
    kernels["a"][: x.size] = x
    kernels("train", x.size)
    np.testing.assert_allclose(kernels["c"][: x.size], np.exp(x.astype("f8")), rtol=3e-7)
    kernels["a"][:5] = np.nan, np.inf, -np.inf, 0, 100
    kernels("train", 5)
    found = kernels["c"][:5]
    assert np.isnan(found[0])
    assert found[3] == 1
    assert found[2] < 2e-38
    assert found[1] == found[4] > 1e38
    positive = np.exp(np.linspace(-80, 80, 20_000)).astype("f4")
    kernels["a"][: positive.size] = positive
    kernels("evaluate", positive.size)
    wanted = np.log(positive.astype("f8"))
    np.testing.assert_allclose(kernels["c"][: positive.size], wanted, rtol=2e-7, atol=1e-9)
