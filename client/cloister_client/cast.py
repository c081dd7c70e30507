"""Numbers from one dtype to another: exactly, or not at all.

Only the rounding of floats to shorter floats is allowed. Whatever else would change a number (a
fraction that becomes whole, an id that wraps around) is an error that names row and value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister_client.errors import DataError


def cast(name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The numbers of `array`, whose first dimension counts rows, as `dtype`.

    Raises DataError for the first number that `dtype` cannot hold; `name` is what it calls the
    array.
    """
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name!r} holds {array.dtype}, and a task takes numbers")
    # numpy calls i64 to f64 safe, which it is not past 2^53: only a wider dtype holds all there is
    if np.can_cast(array.dtype, dtype, "safe") and array.dtype.itemsize < dtype.itemsize:
        return array.astype(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        values = array.astype(dtype)
    wrong = _wrong(array, values)
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0])
        raise DataError(
            f"the task takes {name!r} as {dtype}, which cannot hold"
            f" {array[place].item()!r} in row {place[0]} (counted from 0)"
        )
    return values


def compact(values: NDArray[np.float64]) -> NDArray[Any]:
    """Numbers read from text in the shorter of i32 and f32 that keeps whole numbers exact.

    Whole numbers too large for i32, and numbers too large for f32, stay f64.
    """
    if values.size and (np.abs(values) <= np.iinfo(np.int32).max).all():
        whole = values.astype(np.int32)
        if (whole == values).all():
            return whole
        return values.astype(np.float32)
    return values


def _wrong(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.bool_]:
    """Which numbers a cast has changed by more than the rounding of floats."""
    wrong: NDArray[np.bool_]
    if after.dtype.kind == "f" and before.dtype.kind == "f":
        wrong = np.isfinite(before) & ~np.isfinite(after)
    elif after.dtype.kind == "f":
        exact = 1 << (np.finfo(after.dtype).nmant + 1)  # every whole number up to here is a float
        wrong = (before > exact) | (before < -exact)
    elif before.dtype.kind == "f":
        # the largest i64 is no float, but the power of two above it is
        bounds, wide = np.iinfo(after.dtype), before.astype(np.float64)
        inside = (wide >= float(bounds.min)) & (wide < float(bounds.max) + 1)
        wrong = ~inside | (wide != np.floor(wide))
    else:
        bounds = np.iinfo(after.dtype)
        wrong = (before > bounds.max) | (before < bounds.min)
    return wrong
