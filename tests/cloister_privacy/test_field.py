"""The field against Python's integers, with the values at which float64 would fail first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cloister_privacy.field import (
    INNER,
    P,
    check_points,
    inverse,
    lagrange_at_zero,
    multiply,
    vandermonde,
)

ELEMENTS = st.one_of(st.sampled_from([0, 1, P - 2, P - 1]), st.integers(0, P - 1))
POINTS = st.lists(st.integers(1, P - 1), min_size=1, max_size=12, unique=True)


def product(a: np.ndarray, b: np.ndarray) -> list[list[int]]:
    """Rows times columns in unbounded integers."""
    columns = b.T.tolist()
    return [
        [sum(x * y for x, y in zip(row, column, strict=True)) % P for column in columns]
        for row in a.tolist()
    ]


def weights(points: list[int]) -> list[int]:
    """Lagrange's, term by term."""
    found = []
    for i, x in enumerate(points):
        weight = 1
        for j, y in enumerate(points):
            if i != j:
                weight = weight * y * pow(y - x, -1, P) % P
        found.append(weight)
    return found


def test_it_is_a_field():
    assert all(P % divisor for divisor in range(2, 257))


# Products


@given(st.tuples(*[st.integers(1, 8)] * 3), st.data())
def test_products(shape, data):
    n, k, m = shape
    a = data.draw(arrays.arrays(np.int64, (n, k), elements=ELEMENTS))
    b = data.draw(arrays.arrays(np.int64, (k, m), elements=ELEMENTS))
    found = multiply(a, b)
    assert found.dtype == np.int64
    assert found.tolist() == product(a, b)


@pytest.mark.parametrize("inner", [1, 2, 127, 1000, 1999, 2000])
@pytest.mark.parametrize("dtype", [np.uint32, np.int64])
def test_products_of_the_largest_elements(inner, dtype):
    """65536 is -1, so each term is 1: the sum is the number of terms, and 2^32 times it before."""
    a, b = np.full((3, inner), P - 1, dtype), np.full((inner, 5), P - 1, dtype)
    assert multiply(a, b).tolist() == product(a, b) == [[inner % P] * 5] * 3


@settings(max_examples=20)
@given(st.integers(1, 2000), st.integers(0, 2**32 - 1))
def test_long_products_of_large_elements(inner, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(P - 50, P, (2, inner)), rng.integers(P - 50, P, (inner, 2))
    assert multiply(a, b).tolist() == product(a, b)


def test_sums_that_float64_cannot_hold_are_divided():
    assert INNER * 2**32 < 2**53 <= (INNER + 1) * 2**32
    inner = INNER + 1000
    a, b = np.full((1, inner), P - 1, np.uint32), np.full((inner, 1), P - 1, np.uint32)
    a[0, -1] = 7  # 7 * -1 instead of 1
    assert multiply(a, b).tolist() == [[(inner - 8) % P]]


def test_stacks_of_matrices_and_empty_ones():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, P, (1, 6)), rng.integers(0, P, (4, 6, 3))
    assert multiply(a, b).tolist() == [product(a, matrix) for matrix in b]
    assert multiply(np.zeros((2, 0)), np.zeros((0, 3))).tolist() == [[0] * 3] * 2
    assert multiply(a, np.zeros((0, 6, 3))).shape == (0, 1, 3)


# Inverses


def test_every_inverse():
    values = np.arange(1, P)
    found = inverse(values)
    assert (values * found % P == 1).all()
    assert found.min() >= 1
    assert found.max() < P
    assert inverse(np.array([0, 1, P - 1])).tolist() == [0, 1, P - 1]


@given(st.integers(-(2**40), 2**40).filter(lambda value: value % P))
def test_inverses_of_numbers_outside(value):
    assert inverse(np.array([value])).tolist() == [pow(value, -1, P)]


# Polynomials


@given(st.lists(ELEMENTS, min_size=1, max_size=8), st.integers(0, 30))
def test_powers(points, count):
    found = vandermonde(np.array(points), count)
    assert found.shape == (len(points), count)
    assert found.tolist() == [[pow(x, k, P) for k in range(count)] for x in points]


@given(POINTS)
def test_weights(points):
    given_points = np.array(points)
    found = lagrange_at_zero(given_points)
    assert found.dtype == np.int64
    assert found.tolist() == weights(points)
    assert given_points.tolist() == points


@given(POINTS, st.data())
def test_weights_bring_back_polynomials(points, data):
    size = len(points)
    coefficients = data.draw(st.lists(ELEMENTS, min_size=size, max_size=size))
    values = [sum(c * x**k for k, c in enumerate(coefficients)) % P for x in points]
    found = lagrange_at_zero(np.array(points)).tolist()
    assert sum(w * y for w, y in zip(found, values, strict=True)) % P == coefficients[0]


def test_weights_of_many_points():
    rng = np.random.default_rng(3)
    points = rng.permutation(P - 1)[:551] + 1
    assert lagrange_at_zero(points).tolist() == weights(points.tolist())


def test_rows_of_points_are_by_themselves():
    rng = np.random.default_rng(4)
    rows = np.stack([rng.permutation(60)[:9] + 1 for _ in range(12)]).reshape(3, 4, 9)
    found = lagrange_at_zero(rows)
    assert found.shape == (3, 4, 9)
    for row, weight in zip(rows.reshape(12, 9), found.reshape(12, 9), strict=True):
        assert weight.tolist() == weights(row.tolist())


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([1, 2, 0], "from 1 to 65536"),
        ([1, P], "from 1 to 65536"),
        ([-1, 2], "from 1 to 65536"),
        ([3, 1, 3], "occurs twice"),
        ([[1, 2], [5, 5]], "occurs twice"),
    ],
)
def test_points_that_cannot_be(points, reason):
    for refuses in (check_points, lagrange_at_zero):
        with pytest.raises(ValueError, match=reason):
            refuses(np.array(points))


def test_points_that_can_be():
    check_points(np.array([P - 1, 1]))
    check_points(np.array([[1, 2], [2, 1]]))
    check_points(np.zeros(0, np.int64))
