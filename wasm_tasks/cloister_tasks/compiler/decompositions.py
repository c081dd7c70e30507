"""Operators in terms of those the compiler knows: torch's decompositions, and what they lack.

Resampling of images is linear and separable, so forwards and backwards it is two products with
small constant matrices, one for each side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.overrides import TorchFunctionMode

from cloister_tasks.errors import BuildError

aten = torch.ops.aten


class OneHot(TorchFunctionMode):
    """While it is entered, ``one_hot`` asks for no value of its argument, as torch's own does."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if function is torch.nn.functional.one_hot:
            return _one_hot(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _one_hot(classes: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 0:
        raise BuildError("one_hot: say num_classes, or the result's shape depends on data")
    zeros = classes.new_zeros((*classes.shape, num_classes))
    return zeros.scatter(-1, classes.unsqueeze(-1), 1)


def table() -> dict[Any, Callable[..., Any]]:
    """Torch's core decompositions, more of its own, and ours."""
    known = {
        **core_aten_decompositions(),
        **get_decompositions(
            [
                aten.native_layer_norm,
                aten.native_group_norm,
                aten.native_batch_norm,
                aten._native_batch_norm_legit,
                aten._native_batch_norm_legit_functional,
                aten._softmax,
                aten._log_softmax,
                aten.gelu,
                aten.hardtanh,
                aten.leaky_relu,
                aten.elu,
                aten.softplus,
                aten.log_sigmoid_forward,
                aten._cdist_forward,
                aten.var,
                aten.std,
                aten.linalg_vector_norm,
                aten.unfold,
            ]
        ),
        aten.var_mean.correction: _var_mean,
        aten.var.correction: lambda x, dim=None, **options: _var_mean(x, dim, **options)[0],
        aten.hypot.default: _hypot,
        aten.cumprod.default: _cumprod,
        aten.diagonal_scatter.default: _diagonal_scatter,
        aten.softshrink_backward.default: _shrink_gradient,
        aten.hardshrink_backward.default: _shrink_gradient,
        aten._trilinear.default: _trilinear,
        aten.replication_pad1d_backward.default: _replication_gradient,
        aten.replication_pad2d_backward.default: _replication_gradient,
        aten.adaptive_max_pool2d.default: _adaptive_max_pool2d,
        aten.adaptive_max_pool2d_backward.default: _adaptive_max_pool2d_gradient,
        aten._adaptive_avg_pool2d.default: _adaptive_avg_pool2d,
        aten._adaptive_avg_pool2d_backward.default: _adaptive_avg_pool2d_gradient,
        aten.upsample_nearest2d.default: _nearest,
        aten.upsample_nearest2d_backward.default: _nearest_gradient,
        aten.upsample_bilinear2d.default: _bilinear,
        aten.upsample_bilinear2d_backward.default: _bilinear_gradient,
    }
    del known[aten.embedding_dense_backward.default]  # there is a kernel for it
    return known


def _var_mean(
    x: Tensor,
    dim: Sequence[int] | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> tuple[Tensor, Tensor]:
    """Two passes, as precision asks for."""
    dims = list(range(x.ndim)) if dim is None else list(dim)
    count = math.prod(x.shape[d] for d in dims)
    mean = x.sum(dims, keepdim=True) / count
    centred = x - mean
    variance = (centred * centred).sum(dims, keepdim=True) / (
        count - (1 if correction is None else correction)
    )
    if keepdim:
        return variance, mean
    return variance.squeeze(dims), mean.squeeze(dims)


def _shrink_gradient(gradient: Tensor, x: Tensor, bound: float) -> Tensor:
    return torch.where((x >= -bound) & (x <= bound), 0.0, gradient)


def _hypot(x: Tensor, y: Tensor) -> Tensor:
    larger, smaller = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    ratio = torch.where(smaller == larger, 1.0, smaller / larger)  # of zeros or infinities as well
    return torch.where(larger == 0, larger, larger * torch.sqrt(1 + ratio * ratio))


def _cumprod(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """Each product on its own: short dimensions only."""
    x = x if dtype is None else x.to(dtype)
    if not x.ndim:
        return x
    place = torch.arange(x.shape[dim])
    lines = x.movedim(dim, -1).unsqueeze(-2)
    return torch.where(place <= place[:, None], lines, 1).prod(-1).movedim(-1, dim)


def _diagonal_scatter(
    x: Tensor, source: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Tensor:
    """A copy whose diagonal over two dimensions is replaced."""
    x = x.contiguous()
    a, b = dim1 % x.ndim, dim2 % x.ndim
    first, second = max(-offset, 0), max(offset, 0)
    strides = [x.stride(d) for d in range(x.ndim) if d not in (a, b)]
    strides.append(x.stride(a) + x.stride(b))
    start = first * x.stride(a) + second * x.stride(b)
    result: Tensor = aten.as_strided_scatter.default(x, source, source.shape, strides, start)
    return result


def _trilinear(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    expand_a: Sequence[int],
    expand_b: Sequence[int],
    expand_c: Sequence[int],
    summed: Sequence[int],
    unroll: int = 1,
) -> Tensor:
    """The sum of a product of three tensors that are expanded to meet each other."""
    del unroll
    for d in expand_a:
        a = a.unsqueeze(d)
    for d in expand_b:
        b = b.unsqueeze(d)
    for d in expand_c:
        c = c.unsqueeze(d)
    product = a * b * c
    return product.sum(list(summed)) if summed else product


def _replication_gradient(gradient: Tensor, x: Tensor, padding: Sequence[int]) -> Tensor:
    """Every padded place adds to the place at the border it copied; last dimension first."""
    for place, (before, after) in enumerate(zip(padding[::2], padding[1::2], strict=True)):
        dim = gradient.ndim - 1 - place
        size = gradient.shape[dim] - before - after
        copied = np.clip(np.arange(-before, size + after), 0, size - 1)
        sums = np.eye(size, dtype=np.float32)[:, copied]
        gradient = _along(gradient, dim, torch.tensor(sums.tolist()))
    return gradient.reshape(x.shape)


# -- pooling to a given size -----------------------------------------------------------------------


def _window(x: Tensor, size: Sequence[int]) -> list[int]:
    """The window of a pooling whose windows are all alike."""
    if any(n % m for n, m in zip(x.shape[-2:], size, strict=True)):
        raise BuildError(
            f"adaptive max-pooling of {tuple(x.shape[-2:])} to {tuple(size)}: choose a size that"
            " divides the image's"
        )
    return [n // m for n, m in zip(x.shape[-2:], size, strict=True)]


def _adaptive_max_pool2d(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    window = _window(x, size)
    values, places = aten.max_pool2d_with_indices.default(x, window, window)
    return values, places


def _adaptive_max_pool2d_gradient(gradient: Tensor, x: Tensor, places: Tensor) -> Tensor:
    window = _window(x, gradient.shape[-2:])
    result: Tensor = aten.max_pool2d_with_indices_backward.default(
        gradient, x, window, window, [0, 0], [1, 1], False, places
    )
    return result


def _means(size: int, results: int) -> list[list[float]]:
    """Row r averages the places from floor(r n / m) to ceil((r + 1) n / m)."""
    rows = [[0.0] * size for _ in range(results)]
    for r, row in enumerate(rows):
        first, last = r * size // results, -(-(r + 1) * size // results)
        row[first:last] = [1 / (last - first)] * (last - first)
    return rows


def _adaptive_avg_pool2d(x: Tensor, size: Sequence[int]) -> Tensor:
    if list(size) == [1, 1]:
        return x.mean((-2, -1), keepdim=True)
    return _resampled(x, [_means(n, m) for n, m in zip(x.shape[-2:], size, strict=True)])


def _adaptive_avg_pool2d_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    if tuple(gradient.shape[-2:]) == (1, 1):
        return (gradient / (height * width)).expand(x.shape)
    matrices = [_means(n, m) for n, m in zip((height, width), gradient.shape[-2:], strict=True)]
    return _resampled(gradient, matrices, transposed=True)


# -- interpolation ---------------------------------------------------------------------------------


def _nearest_rows(size: int, results: int, scale: float | None) -> list[list[float]]:
    """Row r picks place floor(r / scale), in float32 as torch computes it."""
    step = np.float32(1 / scale if scale else size / results)
    places = [min(int(np.float32(r) * step), size - 1) for r in range(results)]
    return [[float(i == place) for i in range(size)] for place in places]


def _linear_rows(size: int, results: int, aligned: bool, scale: float | None) -> list[list[float]]:
    """Row r mixes the two places around (r + 1/2) / scale - 1/2, or corner to corner."""
    rows = [[0.0] * size for _ in range(results)]
    for r, row in enumerate(rows):
        if aligned:
            at = r * (size - 1) / (results - 1) if results > 1 else 0.0
        else:
            at = max((r + 0.5) * (1 / scale if scale else size / results) - 0.5, 0.0)
        first = min(math.floor(at), size - 1)
        row[first] += 1 - (at - first)
        row[min(first + 1, size - 1)] += at - first
    return rows


def _nearest(
    x: Tensor, size: Sequence[int], height: float | None = None, width: float | None = None
) -> Tensor:
    sides = zip(x.shape[-2:], size, (height, width), strict=True)
    return _resampled(x, [_nearest_rows(*side) for side in sides])


def _nearest_gradient(
    gradient: Tensor,
    size: Sequence[int],
    shape: Sequence[int],
    height: float | None = None,
    width: float | None = None,
) -> Tensor:
    sides = zip(shape[-2:], size, (height, width), strict=True)
    return _resampled(gradient, [_nearest_rows(*side) for side in sides], transposed=True)


def _bilinear(
    x: Tensor,
    size: Sequence[int],
    aligned: bool,
    height: float | None = None,
    width: float | None = None,
) -> Tensor:
    sides = zip(x.shape[-2:], size, (height, width), strict=True)
    return _resampled(x, [_linear_rows(n, m, aligned, scale) for n, m, scale in sides])


def _bilinear_gradient(
    gradient: Tensor,
    size: Sequence[int],
    shape: Sequence[int],
    aligned: bool,
    height: float | None = None,
    width: float | None = None,
) -> Tensor:
    sides = zip(shape[-2:], size, (height, width), strict=True)
    matrices = [_linear_rows(n, m, aligned, scale) for n, m, scale in sides]
    return _resampled(gradient, matrices, transposed=True)


def _resampled(
    x: Tensor, matrices: Sequence[list[list[float]]], *, transposed: bool = False
) -> Tensor:
    """Both sides of each image through their matrices [results][places]."""
    for dim, rows in zip((-2, -1), matrices, strict=True):
        matrix = torch.tensor(rows, dtype=torch.float32)
        x = _along(x, dim, matrix.T if transposed else matrix)
    return x


def _along(x: Tensor, dim: int, matrix: Tensor) -> Tensor:
    """A matrix times every line along a dimension."""
    return (x.movedim(dim, -1) @ matrix.T).movedim(-1, dim)
