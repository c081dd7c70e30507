from __future__ import annotations

import numpy as np
import pytest

from cloister.computation import compute, dtype_of, exactly
from cloister_sandbox import Faulted


def test_integers_wrap_around() -> None:
    assert compute("Mul", [16, -128], [16, -1], dtype="INT8").tolist() == [0, -128]
    most = 2**31 - 1
    assert compute("Add", [most, -1], [1, 1], dtype="INT32").tolist() == [-(2**31), 0]
    found = compute("Sum", [[most, 1], [2, 3]], dtype="INT32", attributes={"axis": 1})
    assert found.dtype == np.int32
    assert found.tolist() == [-(2**31), 5]


def test_a_convolution_by_hand() -> None:
    image = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    found = compute("Conv2d", image, np.ones((1, 1, 2, 2)), [0.5])
    assert found.shape == (1, 1, 2, 2)
    assert found.ravel().tolist() == [8.5, 12.5, 20.5, 24.5]


def test_one_number_is_an_array_too() -> None:
    assert compute("Neg", 3).shape == ()
    assert compute("Neg", 3) == -3


def test_an_index_out_of_range_stays_in_the_sandbox() -> None:
    with pytest.raises(Faulted, match="out of range"):
        compute("Embedding", np.zeros((3, 2)), [0, 3])


@pytest.mark.parametrize("value", [np.array(["a"]), np.array([{}]), [None], np.array([1j])])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="x must be numbers"):
        exactly(value, "FP32", "x")


def test_values_keep_their_value_or_are_refused() -> None:
    np.testing.assert_array_equal(exactly([1, -(2**31)], "INT32", "x"), [1, -(2**31)])
    np.testing.assert_array_equal(exactly([2.0], "INT8", "x"), [2])
    np.testing.assert_array_equal(exactly([np.inf, np.nan], "FP32", "x"), [np.inf, np.nan])
    assert exactly([0.1], "FP32", "x") == np.float32(0.1)
    for value, dtype in ((2**31, "INT32"), (np.nan, "INT32"), (-129, "INT8"), (1e300, "FP32")):
        with pytest.raises(ValueError, match="not representable"):
            exactly([value], dtype, "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="true and false"):
        exactly([1], "BOOL", "condition")


def test_the_type_of_the_first_file_is_asked_for() -> None:
    arrays = {"INT8": np.int8, "INT32": np.int32, "FP32": np.float64}
    for name, dtype in arrays.items():
        assert dtype_of([np.zeros(1, dtype), np.zeros(1, np.float32)]) == name
    assert dtype_of([np.zeros(1, ">i4")]) == "INT32"
    assert dtype_of([]) == "FP32"
