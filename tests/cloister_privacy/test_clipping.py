from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister_privacy.clipping import LEAST_NORM, MOST_NORM, next_norm
from cloister_privacy.encoding import Encoding


@pytest.mark.parametrize(
    ("unclipped", "factor"),
    [
        (0.5, 1.0),
        (1.0, math.exp(-0.1)),
        (0.0, math.exp(0.1)),
        (0.75, math.exp(-0.05)),
        (1.7, math.exp(-0.1)),  # noise took it past all updates
        (-0.3, math.exp(0.1)),
        (math.inf, math.exp(-0.1)),
    ],
)
def test_one_update_by_hand(unclipped: float, factor: float) -> None:
    assert next_norm(2.0, unclipped, 0.5, 0.2) == pytest.approx(2 * factor, rel=1e-15)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("start", [1e-3, 1.0, 1e3])
def test_it_finds_the_quantile_of_the_norms(quantile: float, start: float) -> None:
    norms = np.random.default_rng(0).lognormal(0.0, 1.0, 10_000)
    norm = start
    for _ in range(400):
        norm = next_norm(norm, float((norms <= norm).mean()), quantile, 0.2)
    assert (norms <= norm).mean() == pytest.approx(quantile, abs=0.01)


@given(
    st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    st.floats(allow_nan=False),
    st.floats(0.01, 0.99),
    st.floats(1e-6, 1),
)
def test_every_norm_can_be_encoded(
    norm: float, unclipped: float, quantile: float, learning_rate: float
) -> None:
    found = next_norm(norm, unclipped, quantile, learning_rate)
    assert LEAST_NORM <= found <= MOST_NORM
    assert Encoding(found, 24, 1, 10).step > 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"norm": 0.0}, "a clipping norm of 0"),
        ({"norm": math.inf}, "a clipping norm of inf"),
        ({"norm": math.nan}, "a clipping norm of nan"),
        ({"unclipped": math.nan}, "share of unclipped updates is not a number"),
        ({"quantile": 0.0}, "a quantile of 0"),
        ({"quantile": 1.0}, "a quantile of 1"),
        ({"learning_rate": 0.0}, "a learning rate of 0"),
        ({"learning_rate": 1.01}, "a learning rate of 1.01"),
    ],
)
def test_nonsense_is_refused(change: dict[str, float], reason: str) -> None:
    usual = {"norm": 1.0, "unclipped": 0.5, "quantile": 0.5, "learning_rate": 0.2}
    with pytest.raises(ValueError, match=reason):
        next_norm(**{**usual, **change})
