"""Every operator, forwards and backwards, against PyTorch in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch.utils import _pytree as pytree

from cloister_tasks.errors import BuildError

from . import layer_cases, tensor_cases
from .compiled_function import compile_function
from .tensor_cases import Case, normal

FLOOR = 5e-7
"""Error that is forgiven, by the largest element, where PyTorch's float32 happens to make less."""
FORWARD = {
    # group: cases, compiled together as one function
    "special": tensor_cases.SPECIAL,
    "whole": tensor_cases.WHOLE,
}
BOTH = {
    "unary": tensor_cases.UNARY,
    "binary": tensor_cases.BINARY,
    "reductions": tensor_cases.REDUCTIONS,
    "views": tensor_cases.VIEWS,
    "indexing": tensor_cases.INDEXING,
    "products": layer_cases.PRODUCTS,
    "convolutions": layer_cases.CONVOLUTIONS,
    "pooling": layer_cases.POOLING,
    "norms": layer_cases.NORMS,
    "losses": layer_cases.LOSSES,
    "modules": layer_cases.MODULES,
}


def floats(values: Any) -> list[Tensor]:
    """The floating-point tensors of a nested structure."""
    return [v for v in pytree.tree_leaves(values) if v.is_floating_point()]


def forward(function: Callable[..., Any]) -> Callable[..., list[Tensor]]:
    """A function's results as a flat list."""
    return lambda *arguments: pytree.tree_leaves(function(*arguments))


def both(function: Callable[..., Any]) -> Callable[..., list[Tensor]]:
    """Results, and the gradients by every float argument of their weighted sum.

    The weights are fixed and differ from element to element.
    """

    def run(*arguments: Tensor) -> list[Tensor]:
        places = [i for i, a in enumerate(arguments) if a.is_floating_point()]

        def weighted(*given: Tensor) -> tuple[Tensor, list[Tensor]]:
            full = list(arguments)
            for place, value in zip(places, given, strict=True):
                full[place] = value
            results = pytree.tree_leaves(function(*full))
            total = arguments[places[0]].new_zeros(())
            for result in floats(results):
                weights = torch.linspace(0.5, 1.5, max(result.numel(), 1), dtype=result.dtype)
                total = total + (result * weights[: result.numel()].view(result.shape)).sum()
            return total, results

        gradients, results = torch.func.grad(
            weighted, argnums=tuple(range(len(places))), has_aux=True
        )(*(arguments[i] for i in places))
        return [*results, *gradients]

    return run


@functools.cache
def compiled(group: str, variant: str) -> dict[str, list[np.ndarray]]:
    """The results of every case of a group, from one module."""
    cases = BOTH.get(group) or FORWARD[group]
    wrap = both if group in BOTH else forward

    counts = []

    def every(*arguments: Tensor) -> list[Tensor]:
        rest = iter(arguments)
        results = [
            wrap(function)(*(next(rest) for _ in given)) for function, given in cases.values()
        ]
        counts[:] = map(len, results)
        return [tensor for group in results for tensor in group]

    arguments = [a for _, given in cases.values() for a in given]
    found = iter(
        compile_function(every, *arguments, variant=variant)(*(a.numpy() for a in arguments))
    )
    return {name: [next(found) for _ in range(n)] for name, n in zip(cases, counts, strict=True)}


def in_eager(case: Case, wrap: Callable[..., Any], dtype: torch.dtype) -> list[np.ndarray]:
    """The results of PyTorch itself."""
    function, arguments = case
    cast = [a.to(dtype) if a.is_floating_point() else a for a in arguments]
    return [result.detach().numpy() for result in wrap(function)(*cast)]


def assert_close(
    found: Sequence[np.ndarray], wanted: Sequence[np.ndarray], usual: Sequence[np.ndarray]
) -> None:
    """As close to float64 as PyTorch's float32, times four; integers are equal."""
    for one, exact, rough in zip(found, wanted, usual, strict=True):
        assert one.shape == exact.shape
        if exact.dtype.kind != "f":
            np.testing.assert_array_equal(one, exact)
            continue
        assert one.dtype == np.float32
        finite = np.isfinite(exact)
        np.testing.assert_array_equal(one[~finite], exact[~finite])
        if finite.any():
            size = np.abs(exact[finite]).max() or 1.0
            allowed = 4 * np.abs(rough[finite] - exact[finite]).max() + FLOOR * size
            assert np.abs(one[finite] - exact[finite]).max() <= allowed


def names(groups: dict[str, dict[str, Case]]) -> list[tuple[str, str]]:
    """Group and case, for `parametrize`."""
    return [(group, name) for group, cases in groups.items() for name in cases]


@pytest.mark.parametrize(("group", "name"), names(FORWARD))
def test_results(group, name):
    case = FORWARD[group][name]
    wanted, usual = (in_eager(case, forward, dtype) for dtype in (torch.float64, torch.float32))
    assert_close(compiled(group, "simd128")[name], wanted, usual)


@pytest.mark.parametrize(("group", "name"), names(BOTH))
def test_results_and_gradients(group, name):
    case = BOTH[group][name]
    wanted, usual = (in_eager(case, both, dtype) for dtype in (torch.float64, torch.float32))
    assert_close(compiled(group, "simd128")[name], wanted, usual)


@pytest.mark.parametrize("group", ["unary", "binary", "reductions", "convolutions", "modules"])
def test_scalar_and_simd128_agree_bit_for_bit(group):
    scalar, simd = compiled(group, "scalar"), compiled(group, "simd128")
    for name, results in simd.items():
        for one, other in zip(scalar[name], results, strict=True):
            assert one.tobytes() == other.tobytes(), name


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.sort(1).values,
        lambda x: x.topk(2).values,
        lambda x: x[x > 0],
        lambda x: torch.fft.fft(x).real,
        lambda x: torch.linalg.inv(x @ x.T),
        lambda x: x.double(),
        lambda x: nnf.adaptive_max_pool2d(x[None], (2, 2)),
        lambda x: x if x.sum() > 0 else -x,
    ],
    ids=["sort", "topk", "mask", "fft", "inverse", "float64", "uneven_pool", "branch"],
)
def test_what_cannot_be_compiled_is_refused(function):
    with pytest.raises(BuildError):
        compile_function(lambda x: [function(x)], normal(3, 5))


def test_an_index_computed_from_data_never_leaves_its_tensor():
    table = normal(4, 3)
    run = compile_function(lambda x, t: [t[x.long()]], normal(2), table)
    (found,) = run(np.array([1.2, 3.9], "f4"), table.numpy())
    np.testing.assert_array_equal(found, table[[1, 3]])
    for index in (4.0, -5.0, 1e9, np.inf):
        with pytest.raises(IndexError):
            run(np.array([1, index], "f4"), table.numpy())


def test_extremes_of_integers_that_no_float_tells_apart():
    numbers = torch.tensor([[2**24, 2**24 + 1, -(2**24)], [-7, -(2**24), -(2**24) - 1]])
    run = compile_function(lambda x: [x.argmax(1), x.argmin(1), *x.max(1)], numbers)
    top, low, best, where = run(numbers.numpy())
    np.testing.assert_array_equal(top, [1, 0])
    np.testing.assert_array_equal(low, [2, 2])
    np.testing.assert_array_equal(best, [2**24 + 1, -7])
    np.testing.assert_array_equal(where, [1, 0])
