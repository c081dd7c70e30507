"""Convolution kernels of any shape, forward and backward, against float64 torch."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d

from cloister_tasks import VARIANTS, compile_c
from cloister_tasks.compiler.convolution import Conv2d

SIZE, SCRATCH = 9 << 16, 1 << 20
POISON = 0x7FC0BEEF
"""The bits of a number that is none."""
SOURCE = f"""
#include <cloister.h>
#include "convolution.h"
CLOISTER_TASK("convolution", "Convolutions, one by one");
CLOISTER_PARAMETER(x, "Images", {SIZE});
CLOISTER_PARAMETER(w, "Weights", {SIZE});
CLOISTER_PARAMETER(y, "Results", {SIZE});
CLOISTER_PARAMETER(bias, "Bias", 4096);
CLOISTER_PARAMETER(work, "Scratch", {SCRATCH});
CLOISTER_INPUT(float, features, "None", 1);
CLOISTER_LOCAL(int32_t, shape, "struct conv2d", 16);
CLOISTER_LOCAL(int32_t, times, "How often each result was final", {SIZE});
CLOISTER_LOCAL(float, final, "What it was then", {SIZE});
CLOISTER_HYPERPARAMETER(float, alpha, 1, "Factor of the gradient");
static void finish(int at, int count) {{
    for (int i = at; i < at + count; i++) {{
        times[i]++;
        final[i] = y[i];
    }}
}}
#define S (*(const struct conv2d *)shape)
CLOISTER_EXPORT(init) int32_t init(int64_t biased) {{
    conv2d(S, x, w, biased ? bias : 0, y, work, finish);
    return 0;
}}
CLOISTER_EXPORT(train) int32_t train(int32_t n) {{
    conv2d_input_gradient(S, y, w, x, work);
    return n;
}}
CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t in_place) {{
    conv2d_weight_gradient(S, y, x, alpha, in_place ? w : 0, w, work);
    return 0;
}}
CLOISTER_EXPORT(reset) int32_t reset(void) {{ return 0; }}
CLOISTER_EXPORT(predict) int32_t predict(int32_t n) {{ return n; }}
"""


class Kernels:
    """The module, with arrays for pointers; whatever a kernel must not touch is checked."""

    def __init__(self, guest: Any) -> None:
        self.guest = guest

    def _run(self, entry: str, argument: int, shape: Conv2d, scratch: int, **given: Tensor) -> None:
        for name in ("x", "w", "y", "bias"):
            self.guest[name] = np.nan
        for name, tensor in given.items():
            self.guest[name][: tensor.numel()] = tensor.detach().numpy().ravel()
        self.guest["shape"] = astuple(shape)
        work = self.guest["work"].view("i4")
        work[:] = POISON
        self.guest(entry, argument)
        assert (work[scratch:] == POISON).all()
        assert scratch == 0 or work[scratch - 1] != POISON

    def _result(self, name: str, like: tuple[int, ...]) -> Tensor:
        count = int(np.prod(like))
        assert np.isnan(self.guest[name][count:]).all()
        return torch.from_numpy(self.guest[name][:count].reshape(like).copy())

    def forward(self, shape: Conv2d, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        self.guest["times"] = 0
        given = {"x": x, "w": w} | ({} if bias is None else {"bias": bias})
        self._run("init", bias is not None, shape, shape.workspace_forward(), **given)
        size = (shape.batch, shape.outputs, shape.out_height, shape.out_width)
        count = int(np.prod(size))
        assert (self.guest["times"] == (np.arange(SIZE) < count)).all()
        np.testing.assert_array_equal(self.guest["final"][:count], self.guest["y"][:count])
        return self._result("y", size)

    def input_gradient(self, shape: Conv2d, dy: Tensor, w: Tensor) -> Tensor:
        self._run("train", 0, shape, shape.workspace_input_gradient(), y=dy, w=w)
        return self._result("x", (shape.batch, shape.channels, shape.height, shape.width))

    def weight_gradient(
        self, shape: Conv2d, dy: Tensor, x: Tensor, alpha: float = 1, w: Tensor | None = None
    ) -> Tensor:
        self.guest["alpha"] = alpha
        given = {"y": dy, "x": x} | ({} if w is None else {"w": w})
        scratch = shape.workspace_weight_gradient()
        self._run("evaluate", w is not None, shape, scratch, **given)
        size = (shape.outputs, shape.channels // shape.groups)
        return self._result("w", (*size, shape.kernel_height, shape.kernel_width))


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    source = tmp_path_factory.mktemp("convolution") / "convolution.c"
    source.write_text(SOURCE)
    return {variant: compile_c(source, variant=variant) for variant in VARIANTS}


@pytest.fixture(scope="module", params=VARIANTS)
def kernels(request, guest, modules):
    return Kernels(guest(modules[request.param]))


@st.composite
def shapes(draw: st.DrawFn) -> Conv2d:
    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5]))
    channels = groups * draw(st.sampled_from([1, 1, 2, 3, 4, 9, 20]))
    outputs = groups * draw(st.sampled_from([1, 1, 2, 3, 4, 7, 9]))
    kernel, dilation, padding = pair(1, 5), pair(1, 3), pair(0, 4)
    least = [
        max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    size = [n + draw(st.integers(0, 16)) for n in least]
    return Conv2d.of(
        (draw(st.integers(1, 5)), channels, *size),
        (outputs, channels // groups, *kernel),
        stride=pair(1, 3),
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


@st.composite
def filtered_shapes(draw: st.DrawFn) -> Conv2d:
    """Shapes most of which minimal filtering takes, in one direction at least."""
    kernel = draw(st.sampled_from([3, 3, 5]))
    groups = draw(st.sampled_from([1, 1, 1, 2]))
    channels, outputs = draw(st.integers(20, 40)), draw(st.integers(20, 40))
    padding = draw(st.integers(0, kernel)), draw(st.integers(0, kernel))
    height, width = draw(st.integers(kernel + 3, 18)), draw(st.integers(kernel + 3, 18))
    images = (draw(st.integers(2, 5)), groups * channels, height, width)
    weights = (groups * outputs, channels, kernel, kernel)
    return Conv2d.of(images, weights, padding=padding, groups=groups)


def of(images, weights, stride=1, padding=0, dilation=1, groups=1) -> Conv2d:
    return Conv2d.of(
        images,
        weights,
        stride=(stride, stride),
        padding=(padding, padding),
        dilation=(dilation, dilation),
        groups=groups,
    )


NETWORKS = {
    "many channels": of((2, 70, 6, 6), (10, 70, 3, 3), padding=1),
    "more weights than stay packed": of((3, 300, 3, 3), (200, 300, 3, 3), padding=1),
    "rows in bands": of((1, 3, 70, 70), (5, 3, 3, 3), padding=1),
    "rows in bands, strided": of((2, 3, 90, 90), (5, 3, 3, 3), stride=2, padding=1),
    "a large kernel": of((1, 2, 30, 30), (3, 2, 21, 21)),
    "one row": Conv2d.of((2, 3, 1, 900), (4, 3, 1, 7), padding=(0, 3), dilation=(1, 2)),
    "one column": Conv2d.of((2, 3, 200, 1), (4, 3, 7, 1), padding=(3, 0)),
    "shortcut": of((4, 16, 8, 8), (32, 16, 1, 1), stride=2),
    "pointwise": of((2, 32, 7, 7), (12, 32, 1, 1)),
    "one pixel": of((9, 40, 1, 1), (10, 40, 1, 1)),
    "padding beyond the kernel": of((2, 3, 4, 4), (2, 3, 2, 2), padding=5),
    "depthwise": of((2, 12, 20, 20), (12, 1, 3, 3), padding=1, groups=12),
    "depthwise, strided": of((2, 12, 21, 20), (12, 1, 3, 3), stride=2, padding=1, groups=12),
    "depthwise, multiplied": of((2, 6, 9, 9), (18, 1, 3, 3), padding=1, groups=6),
}

FILTERED = {
    "tiles of one block": of((2, 64, 9, 7), (48, 64, 3, 3), padding=1),
    "tiles in place": of((2, 20, 12, 10), (24, 20, 3, 3)),
    "tiles in bands": of((1, 17, 70, 68), (18, 17, 3, 3), padding=1),
    "outputs in blocks": of((5, 256, 9, 8), (250, 256, 3, 3), padding=1),
    "outputs in blocks, tiles in one": of((5, 250, 4, 4), (256, 250, 3, 3), padding=1),
    "five taps": of((3, 32, 14, 14), (40, 32, 5, 5), padding=2),
    "five taps in bands": of((2, 33, 31, 30), (30, 33, 5, 5)),
}
"""Shapes that minimal filtering takes in every direction."""
NETWORKS |= FILTERED


def data(shape: Conv2d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, weights, errors and bias, float32."""
    rng = torch.Generator().manual_seed(hash(shape) % 2**32)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=rng)

    kernel = (shape.channels // shape.groups, shape.kernel_height, shape.kernel_width)
    return (
        normal(shape.batch, shape.channels, shape.height, shape.width),
        normal(shape.outputs, *kernel),
        normal(shape.batch, shape.outputs, shape.out_height, shape.out_width),
        normal(shape.outputs),
    )


def by_torch(shape: Conv2d, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The results and both gradients as PyTorch computes them in the tensors' dtype."""
    x, w, dy, bias = tensors
    x, w = x.requires_grad_(), w.requires_grad_()
    settings = (
        (shape.stride_y, shape.stride_x),
        (shape.pad_y, shape.pad_x),
        (shape.dilation_y, shape.dilation_x),
        shape.groups,
    )
    y = conv2d(x, w, bias, *settings)
    return y.detach(), *torch.autograd.grad(y, (x, w), dy)


def assert_close(found: Tensor, single: Tensor, exact: Tensor, products: int) -> None:
    """At most four times as far from the truth as PyTorch is in float32, or a few roundings."""
    floor = 1e-6 * products**0.5 * max(1, exact.abs().max().item() / products**0.5)
    own = (single.double() - exact).abs().max().item()
    assert (found.double() - exact).abs().max().item() <= 4 * own + floor


def check(kernels: Kernels, shape: Conv2d) -> None:
    x, w, dy, bias = data(shape)
    single = by_torch(shape, *(t.clone() for t in (x, w, dy, bias)))
    exact = by_torch(shape, *(t.double() for t in (x, w, dy, bias)))
    found = (
        kernels.forward(shape, x, w, bias),
        kernels.input_gradient(shape, dy, w),
        kernels.weight_gradient(shape, dy, x),
    )
    taps = shape.kernel_height * shape.kernel_width
    products = (
        shape.channels // shape.groups * taps,
        shape.outputs // shape.groups * taps,
        shape.batch * shape.out_height * shape.out_width,
    )
    for numbers in zip(found, single, exact, products, strict=True):
        assert_close(*numbers)


@settings(max_examples=60, deadline=None)
@given(shape=shapes())
def test_any_shape(kernels, shape):
    check(kernels, shape)


@settings(max_examples=40, deadline=None)
@given(shape=filtered_shapes())
def test_any_shape_that_may_be_filtered(kernels, shape):
    check(kernels, shape)


@pytest.mark.parametrize("name", FILTERED)
def test_filtering_adds_and_halves_only(kernels, name):
    """Hence it is exact for small integers."""
    shape = FILTERED[name]
    x, w, dy, bias = (t.mul(2).round() for t in data(shape))
    exact = by_torch(shape, *(t.double() for t in (x, w, dy, bias)))
    assert torch.equal(kernels.forward(shape, x, w, bias).double(), exact[0])
    assert torch.equal(kernels.input_gradient(shape, dy, w).double(), exact[1])
    assert torch.equal(kernels.weight_gradient(shape, dy, x).double(), exact[2])


@pytest.mark.parametrize("name", FILTERED)
def test_what_is_filtered(name):
    assert FILTERED[name].filtered == (True, True, True)


def test_what_is_not_filtered():
    for name in NETWORKS.keys() - FILTERED.keys() - {"many channels"}:
        assert NETWORKS[name].filtered == (False, False, False), name


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_of_networks(kernels, name):
    check(kernels, NETWORKS[name])


def test_without_bias(kernels):
    for name in ("many channels", "depthwise"):
        x, w, _, _ = data(NETWORKS[name])
        shape = NETWORKS[name]
        found = kernels.forward(shape, x, w, None)
        zeros = kernels.forward(shape, x, w, torch.zeros(shape.outputs))
        assert torch.equal(found, zeros)


@pytest.mark.parametrize(
    "name", ["rows in bands", "pointwise", "depthwise, multiplied", "outputs in blocks"]
)
def test_a_step_of_gradient_descent_in_place(kernels, name):
    shape = NETWORKS[name]
    x, w, dy, _ = data(shape)
    gradient = kernels.weight_gradient(shape, dy, x)
    stepped = kernels.weight_gradient(shape, dy, x, alpha=-0.25, w=w)
    assert torch.allclose(stepped, w - 0.25 * gradient, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("extra", [0, 1])
def test_transposed_convolution_is_the_input_gradient(kernels, extra):
    x = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(1))
    w = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(2))
    arguments = {"stride": 2, "padding": 1, "output_padding": extra}
    exact = conv_transpose2d(x.double(), w.double(), **arguments)
    single = conv_transpose2d(x, w, **arguments)
    height, width = exact.shape[2:]
    shape = Conv2d(2, 1, 4, height, width, 5, 3, 3, 2, 2, 1, 1, 1, 1, 6, 7)
    assert_close(kernels.input_gradient(shape, x, w), single, exact, 5 * 9)


def test_what_is_no_number_stays_where_it_belongs(kernels):
    for name in ("many channels", "shortcut", "depthwise", "rows in bands", *FILTERED):
        shape = NETWORKS[name]
        x, w, dy, bias = data(shape)
        x[0, 1, 2, 2], dy[0, 1, 2, 2] = torch.nan, torch.inf
        wanted = by_torch(shape, x.double(), w.double(), dy.double(), bias.double())
        x, dy = x.detach(), dy.detach()
        found = kernels.forward(shape, x, w, bias)
        assert torch.equal(found.isfinite(), wanted[0].isfinite())
        found = kernels.input_gradient(shape, dy, w)
        assert torch.equal(found.isfinite(), wanted[1].isfinite())


@settings(max_examples=30, deadline=None)
@given(shape=shapes() | filtered_shapes())
def test_scalar_and_simd128_agree(guest, modules, shape):
    x, w, dy, bias = data(shape)
    bits = []
    for variant in ("scalar", "simd128"):
        kernels = Kernels(guest(modules[variant]))
        bits.append(
            (
                kernels.forward(shape, x, w, bias),
                kernels.input_gradient(shape, dy, w),
                kernels.weight_gradient(shape, dy, x),
            )
        )
    for scalar, vector in zip(*bits, strict=True):
        assert torch.equal(scalar, vector)


LARGE = [
    of((32, 32, 14, 14), (64, 32, 5, 5), padding=2),
    of((8, 512, 4, 4), (512, 512, 3, 3), padding=1),
    of((1, 3, 224, 224), (32, 3, 3, 3), stride=2, padding=1),
    of((1, 64, 224, 224), (64, 64, 3, 3), padding=1),
    of((1, 1024, 7, 7), (1024, 1024, 1, 1)),
    of((8, 64, 224, 224), (64, 64, 7, 7), stride=2, padding=3),
    of((1, 32, 112, 112), (32, 1, 3, 3), padding=1, groups=32),
    Conv2d.of((8, 64, 1, 4000), (64, 64, 1, 3), padding=(0, 1)),
]


@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_scratch_stays_modest(shape):
    assert shape.workspace_forward() <= 1_500_000
    assert shape.workspace_input_gradient() <= 1_500_000
    assert shape.workspace_weight_gradient() <= 1_500_000


def test_literal():
    shape = Conv2d.of((2, 3, 8, 9), (4, 3, 3, 5), stride=(1, 2), padding=(1, 2))
    wanted = "(struct conv2d){2, 1, 3, 8, 9, 4, 3, 5, 1, 2, 1, 2, 1, 1, 8, 5}"
    assert shape.literal() == wanted
