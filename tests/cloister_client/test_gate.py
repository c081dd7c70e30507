import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister_client.errors import GateError
from cloister_client.gate import Gate


def test_short_updates_pass_unchanged_and_long_ones_are_scaled() -> None:
    updates = np.array([[3.0, 4.0], [0.3, 0.4], [-30.0, 40.0]], dtype=np.float32)
    norms = Gate(clip_norm=5.0).clip(updates)
    np.testing.assert_allclose(norms, [5.0, 0.5, 50.0], rtol=1e-6)
    np.testing.assert_array_equal(updates[:2], np.float32([[3.0, 4.0], [0.3, 0.4]]))
    np.testing.assert_allclose(updates[2], [-3.0, 4.0], rtol=1e-6)


@given(st.integers(1, 4), st.integers(1, 200_000), st.integers(0, 2**32))
def test_a_row_of_a_matrix_gives_the_bits_of_a_single_update(
    rows: int, size: int, seed: int
) -> None:
    size = max(1, size // rows)
    updates = np.random.default_rng(seed).standard_normal((rows, size), dtype=np.float32)
    singles = [row.copy() for row in updates]
    gate = Gate(clip_norm=0.5 * size**0.5)
    norms = gate.clip(updates)
    for row, single, norm in zip(updates, singles, norms, strict=True):
        assert gate.admit(single, size) == norm
        assert single.tobytes() == row.tobytes()


def test_norm_of_huge_values_does_not_overflow() -> None:
    update = np.full(4, np.finfo(np.float32).max, dtype=np.float32)
    assert Gate().admit(update, 4) == pytest.approx(2 * 3.4028235e38)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_stays_here(value: float) -> None:
    updates = np.ones((2, 100_000), dtype=np.float32)
    updates[1, 70_000] = value
    norms = Gate(clip_norm=1.0).clip(updates)
    assert np.isfinite(norms).tolist() == [True, False]
    with pytest.raises(GateError, match="not finite"):
        Gate().admit(updates[1], 100_000)


@pytest.mark.parametrize(
    "update", [np.zeros(3, np.float32), np.zeros(4, np.float64), np.zeros((1, 4), np.float32)]
)
def test_another_shape_or_dtype_is_refused(update: np.ndarray) -> None:
    with pytest.raises(GateError, match=r"not float32\[4\]"):
        Gate().admit(update, 4)
