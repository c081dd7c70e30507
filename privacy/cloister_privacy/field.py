"""Arithmetic in the field of 65,537 elements, on arrays.

It is the smallest field that holds every 16-bit number, and so small that a product of matrices is
exact in float64: a product of two elements is at most 2^32, and sums of whole numbers below 2^53
are exact in whatever order they are added.

Elements are int64 from 0 to 65536.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]

P = 65537
"""A prime, 2^16 + 1."""

INNER = (1 << 21) - 1
"""Terms of a sum of products that float64 holds exactly: INNER * 2^32 < 2^53."""


def multiply(a: NDArray[Any], b: NDArray[Any]) -> I64:
    """The product of matrices modulo P; stacks of them broadcast as in `numpy.matmul`.

    Args:
        a: elements, (..., n, k), of any dtype.
        b: elements, (..., k, m).

    Returns:
        int64 (..., n, m).
    """
    inner = a.shape[-1]
    parts = [
        _product(a[..., first : first + INNER], b[..., first : first + INNER, :])
        for first in range(0, max(inner, 1), INNER)
    ]
    return sum(parts[1:], parts[0]) % P


def _product(a: NDArray[Any], b: NDArray[Any]) -> I64:
    product: NDArray[np.float64] = np.matmul(a.astype(np.float64), b.astype(np.float64))
    return product.astype(np.int64) % P


def inverse(values: I64) -> I64:
    """Element by element what gives 1 when multiplied; 0 for 0, which has no inverse.

    Fermat: x^-1 = x^(P-2), and P - 2 = 2^16 - 1 is one each of the first 16 powers of two.
    """
    power = values % P
    result = power
    for _ in range(15):
        power = power * power % P
        result = result * power % P
    return result


def vandermonde(points: I64, count: int) -> I64:
    """Powers 0 to count - 1 of each point: int64 (n, count) for points (n,)."""
    powers = np.ones((len(points), count), np.int64)
    for exponent in range(1, count):
        powers[:, exponent] = powers[:, exponent - 1] * points % P
    return powers


def lagrange_at_zero(points: I64) -> I64:
    """Weights w with f(0) = sum of w_i f(x_i), for every polynomial f of degree below t.

    w_i = product over j != i of x_j / (x_j - x_i), here as the product of all x_j over that of
    x_i and the differences.

    Args:
        points: x, (..., t); each row is by itself.

    Returns:
        int64 (..., t).

    Raises:
        ValueError: points that `check_points` refuses.
    """
    check_points(points)
    above = np.ones_like(points[..., :1])
    below = points.copy()
    for j in range(points.shape[-1]):
        point = points[..., j : j + 1]
        above = above * point % P
        difference = point - points
        difference[..., j] = 1
        below = below * difference % P  # Python's and numpy's remainder is never negative
    return above * inverse(below) % P


def check_points(points: I64) -> None:
    """Raise ValueError unless the points of each row are from 1 to 65536, each there once.

    A polynomial's value at 0 is the secret itself, and 65537 is another name for 0.
    """
    if points.size and (points.min() < 1 or points.max() >= P):
        raise ValueError(f"points are from 1 to {P - 1}")
    if (np.diff(np.sort(points, axis=-1), axis=-1) == 0).any():
        raise ValueError("a point occurs twice")


__all__ = ["INNER", "P", "check_points", "inverse", "lagrange_at_zero", "multiply", "vandermonde"]
