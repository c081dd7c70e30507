"""Pooling kernels of any shape, forward and backward, against torch."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

from cloister_tasks import VARIANTS, compile_c
from cloister_tasks.compiler.pooling import Pool2d

SIZE = 1 << 16
SOURCE = f"""
#include <cloister.h>
#include "pooling.h"
CLOISTER_TASK("pooling", "Poolings, one by one");
CLOISTER_PARAMETER(x, "Images", {SIZE});
CLOISTER_PARAMETER(y, "Results", {SIZE});
CLOISTER_INPUT(float, features, "None", 1);
CLOISTER_LOCAL(int32_t, shape, "struct pool2d", 13);
CLOISTER_LOCAL(int32_t, indices, "Where maxima were", {SIZE});
CLOISTER_LOCAL(int32_t, padded, "count_include_pad", 1);
#define S (*(const struct pool2d *)shape)
CLOISTER_EXPORT(init) int32_t init(int64_t indexed) {{
    max_pool2d(S, x, y, indexed ? indices : 0);
    return 0;
}}
CLOISTER_EXPORT(reset) int32_t reset(void) {{
    max_pool2d_gradient(S, y, indices, x);
    return 0;
}}
CLOISTER_EXPORT(train) int32_t train(int32_t divisor) {{
    avg_pool2d(S, padded[0], divisor, x, y);
    return 0;
}}
CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t divisor) {{
    avg_pool2d_gradient(S, padded[0], divisor, y, x);
    return 0;
}}
CLOISTER_EXPORT(predict) int32_t predict(int32_t n) {{ return n; }}
"""


class Kernels:
    """The module, with arrays for pointers; nothing but the results may be written."""

    def __init__(self, guest: Any) -> None:
        self.guest = guest

    def run(self, entry: str, argument: int | None, shape: Pool2d, **given: Tensor) -> None:
        for name in ("x", "y"):
            self.guest[name] = np.nan
        for name, tensor in given.items():
            self.guest[name][: tensor.numel()] = tensor.detach().numpy().ravel()
        self.guest["shape"] = astuple(shape)
        self.guest(entry, *([] if argument is None else [argument]))

    def result(self, name: str, like: Tensor) -> Tensor:
        assert np.isnan(self.guest[name][like.numel() :]).all()
        return torch.from_numpy(self.guest[name][: like.numel()].reshape(like.shape).copy())

    @property
    def indices(self) -> np.ndarray:
        indices: np.ndarray = self.guest["indices"]
        return indices


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    source = tmp_path_factory.mktemp("pooling") / "pooling.c"
    source.write_text(SOURCE)
    return {variant: compile_c(source, variant=variant) for variant in VARIANTS}


@pytest.fixture(scope="module", params=VARIANTS)
def kernels(request, guest, modules):
    return Kernels(guest(modules[request.param]))


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The shape of the images, and PyTorch's arguments."""

    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    kernel, stride, dilation = draw(
        st.one_of(
            st.just(((2, 2), (2, 2), (1, 1))),
            st.tuples(st.just((3, 3)), pairs(1, 2), st.just((1, 1))),
            st.tuples(pairs(1, 6), pairs(1, 4), pairs(1, 3)),
        )
    )
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    least = [
        max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)
    ]
    size = [n + draw(st.integers(0, 20)) for n in least]
    images = (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *size)
    return images, {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "ceil_mode": draw(st.booleans()),
    }


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


def shape_of(images: tuple[int, ...], arguments: dict[str, Any]) -> Pool2d:
    return Pool2d.of(
        images,
        arguments["kernel_size"],
        stride=arguments["stride"],
        padding=arguments["padding"],
        dilation=arguments.get("dilation", (1, 1)),
        ceil_mode=arguments["ceil_mode"],
    )


def random(*size: int) -> Tensor:
    """Numbers with many ties."""
    rng = torch.Generator().manual_seed(hash(size) % 2**32)
    return torch.randint(-9, 9, size, generator=rng).float() / 8


@settings(max_examples=80, deadline=None)
@given(window=windows(), special=st.sampled_from([None, np.nan, np.inf, -np.inf]))
def test_maximum(kernels, window, special):
    images, arguments = window
    x = random(*images)
    if special is not None:
        x[torch.rand(images, generator=torch.Generator().manual_seed(1)) < 0.2] = special
    x.requires_grad_()
    y, places = max_pool2d(x, **arguments, return_indices=True)
    shape = shape_of(images, arguments)
    assert (shape.out_height, shape.out_width) == y.shape[2:]
    kernels.indices[:] = -7
    kernels.run("init", 1, shape, x=x)
    assert torch.equal(kernels.result("y", y).nan_to_num(77), y.detach().nan_to_num(77))
    assert (kernels.indices[: y.numel()] == places.numpy().ravel()).all()
    assert (kernels.indices[y.numel() :] == -7).all()
    kernels.indices[:] = -7
    kernels.run("init", 0, shape, x=x)
    assert torch.equal(kernels.result("y", y).nan_to_num(77), y.detach().nan_to_num(77))
    assert (kernels.indices == -7).all()
    kernels.indices[: y.numel()] = places.numpy().ravel()
    dy = random(*y.shape)
    kernels.run("reset", None, shape, y=dy)
    (wanted,) = torch.autograd.grad(y, x, dy)
    assert torch.equal(kernels.result("x", x), wanted)


@settings(max_examples=80, deadline=None)
@given(window=windows(), padded=st.booleans(), divisor=st.sampled_from([0, 0, 1, 5]))
def test_average(kernels, window, padded, divisor):
    images, arguments = window
    dilation = arguments.pop("dilation")
    images = (*images[:2], *(n + d * 6 for n, d in zip(images[2:], dilation, strict=True)))
    x = random(*images).double().requires_grad_()
    y = avg_pool2d(x, **arguments, count_include_pad=padded, divisor_override=divisor or None)
    shape = shape_of(images, arguments)
    assert (shape.out_height, shape.out_width) == y.shape[2:]
    kernels.guest["padded"] = int(padded)
    kernels.run("train", divisor, shape, x=x)
    torch.testing.assert_close(kernels.result("y", y).double(), y.detach(), rtol=1e-6, atol=1e-6)
    dy = random(*y.shape)
    kernels.run("evaluate", divisor, shape, y=dy)
    (wanted,) = torch.autograd.grad(y, x, dy.double())
    torch.testing.assert_close(kernels.result("x", x).double(), wanted, rtol=1e-6, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(window=windows(), padded=st.booleans())
def test_scalar_and_simd128_agree(guest, modules, window, padded):
    images, arguments = window
    shape = shape_of(images, arguments)
    x = torch.randn(images, generator=torch.Generator().manual_seed(1))
    dy = torch.randn(
        *images[:2], shape.out_height, shape.out_width, generator=torch.Generator().manual_seed(2)
    )
    found = []
    for variant in ("scalar", "simd128"):
        kernels = Kernels(guest(modules[variant]))
        kernels.guest["padded"] = int(padded)
        kernels.run("init", 1, shape, x=x)
        results = [kernels.result("y", dy)]
        kernels.run("reset", None, shape, y=dy)
        results.append(kernels.result("x", x))
        if arguments["dilation"] == (1, 1):
            kernels.run("train", 0, shape, x=x)
            results.append(kernels.result("y", dy))
            kernels.run("evaluate", 0, shape, y=dy)
            results.append(kernels.result("x", x))
        found.append(results)
    for scalar, vector in zip(*found, strict=True):
        assert torch.equal(scalar, vector)


def test_literal():
    shape = Pool2d.of((2, 3, 9, 8), (2, 2), ceil_mode=True)
    assert shape.literal() == "(struct pool2d){6, 9, 8, 2, 2, 2, 2, 0, 0, 1, 1, 5, 4}"
