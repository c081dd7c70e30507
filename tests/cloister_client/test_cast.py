from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cloister_client.cast import cast, compact
from cloister_client.errors import DataError

SOURCES = [np.dtype(d) for d in ("?", "u1", "i1", "i2", "u4", "i4", "i8", "u8", "f2", "f4", "f8")]
TARGETS = [np.dtype(d) for d in ("<f4", "<f8", "<i4", "<i8", "u1", "i1")]


def exact(number: float, dtype: np.dtype) -> bool:
    """Whether `dtype` holds this number, by Python's own unbounded arithmetic."""
    if dtype.kind == "f":
        if isinstance(number, float):
            return not math.isfinite(number) or abs(number) <= float(np.finfo(dtype).max)
        return abs(number) <= 2 ** (np.finfo(dtype).nmant + 1)
    bounds = np.iinfo(dtype)
    return math.isfinite(number) and number == int(number) and bounds.min <= number <= bounds.max


@given(
    st.sampled_from(SOURCES).flatmap(lambda d: arrays.arrays(d, st.tuples(st.integers(0, 4)))),
    st.sampled_from(TARGETS),
)
def test_numbers_survive_or_row_and_value_are_named(array: np.ndarray, dtype: np.dtype) -> None:
    numbers = [n.item() for n in array]
    wrong = [row for row, number in enumerate(numbers) if not exact(number, dtype)]
    if wrong:
        with pytest.raises(DataError, match=f"'x' as {dtype}, .* in row {wrong[0]} "):
            cast("x", array, dtype)
        return
    found = cast("x", array, dtype)
    assert found.dtype == dtype
    expected = [np.array(number).astype(dtype) for number in numbers]
    np.testing.assert_array_equal(found, np.array(expected, dtype))


@pytest.mark.parametrize(
    ("array", "dtype", "value"),
    [
        (np.array([0, 2**31]), "i4", "2147483648 in row 1"),
        (np.array([0.0, 1.0, 2.5]), "i4", r"2\.5 in row 2"),
        (np.array([np.nan]), "i8", "nan in row 0"),
        (np.array([[1.0, 2.0**63]]), "i8", r"9\.22.* in row 0"),
        (np.array([1e39]), "f4", "1e.39 in row 0"),
        (np.array([[[-1]]]), "u1", "-1 in row 0"),
        (np.array([2**24 + 1]), "f4", "16777217 in row 0"),
        (np.array([2**53, 2**53 + 1]), "f8", "9007199254740993 in row 1"),
        (np.array([2**53 + 1], np.uint64), "f8", "9007199254740993 in row 0"),
        (np.array(["a"]), "f4", "takes numbers"),
    ],
)
def test_what_a_dtype_cannot_hold(array: np.ndarray, dtype: str, value: str) -> None:
    with pytest.raises(DataError, match=value):
        cast("x", array, np.dtype(dtype))


def test_doubles_are_rounded_to_floats() -> None:
    found = cast("x", np.array([0.1, np.inf]), np.dtype("<f4"))
    assert found.tobytes() == np.array([0.1, np.inf], np.float32).tobytes()


@given(arrays.arrays(np.float64, 3, elements=st.floats(-1e300, 1e300) | st.integers(-9, 9)))
def test_compact_keeps_whole_numbers(values: np.ndarray) -> None:
    found = compact(values)
    if (values == np.floor(values)).all():
        np.testing.assert_array_equal(found, values)
    else:
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(found.astype(np.float32), values.astype(np.float32))
