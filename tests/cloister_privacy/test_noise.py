"""Noise against chances that others compute: mpmath to 60 digits, scipy, and sums by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import pairwise

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from cloister_privacy.counters import UNCLIPPED_STEPS
from cloister_privacy.keystream import Entropy
from cloister_privacy.noise import (
    MAX_DEVIATION,
    MAX_GAUSSIAN_DEVIATION,
    _gaussian_table,
    _skellam_table,
    _Table,
    count_variance,
    gaussian,
    honest_survivors,
    member_variance,
    skellam,
)

KEY = bytes(range(32))

Draw = Callable[[int, Entropy], NDArray[np.int64]]


def chances(table: _Table) -> list[Fraction]:
    """Of the table's values, from the highest one down, read off its bounds."""
    bounds = [
        (int(high) << 64) + int(low) for high, low in zip(table._high, table._low, strict=True)
    ]
    assert bounds == sorted(bounds)
    edges = [0, *bounds, 1 << 127]
    return [Fraction(b - a, 1 << 127) for a, b in pairwise(edges)]


@pytest.mark.parametrize("variance", [1e-300, 1e-6, 0.1, 1 / 3, 1.0, 7.7, 1000.0, 10_000.5])
def test_the_statistical_distance_from_skellam_is_less_than_2_to_the_minus_100(
    variance: float,
) -> None:
    with mpmath.workdps(60):
        found = chances(_skellam_table(variance))[::-1]
        exact = _skellam_chances(mpmath.mpf(variance), len(found))
        both = [mpmath.mpf(f.numerator) / f.denominator for f in found]
        differences = mpmath.fsum(abs(a - b) for a, b in zip(both, exact, strict=True))
        beyond = 1 - mpmath.fsum(exact)
        assert (differences + beyond) / 2 < mpmath.mpf(2) ** -100


def _skellam_chances(variance: mpmath.mpf, count: int) -> list[mpmath.mpf]:
    """Of |X|, by the recurrence for the ratios I_(k+1) / I_k; the first is mpmath's own."""
    bessel = partial(mpmath.besseli, z=variance, maxterms=10**7)
    ratio = bessel(count + 1) / bessel(count)
    ratios = []
    for k in range(count, 0, -1):
        ratio = 1 / (2 * k / variance + ratio)  # I_k / I_(k-1)
        ratios.append(ratio)
    chance = mpmath.exp(-variance) * bessel(0)
    found = [chance]
    for ratio in ratios[:0:-1]:
        chance *= ratio
        found.append(2 * chance)
    return found


@pytest.mark.parametrize("variance", [0.05, 1.0, 20.0, 1e4])
def test_chances_are_those_of_scipy(variance: float) -> None:
    found = [float(chance) for chance in chances(_skellam_table(variance))[::-1]]
    k = np.arange(len(found))
    expected = stats.skellam.pmf(k, variance / 2, variance / 2) * np.where(k, 2, 1)
    np.testing.assert_allclose(found[:40], expected[:40], rtol=1e-9, atol=2.0**-100)


@pytest.mark.parametrize("deviation", [0.2, 1.0, 33.3, 1234.5, 3e4, 1e7, 2.0**40])
def test_the_cells_of_a_gaussian_have_their_chances(deviation: float) -> None:
    table, cell = _gaussian_table(deviation)
    found = chances(table)[::-1]
    assert cell == 1 or 512 < deviation / cell < 2048
    with mpmath.workdps(60):
        weights = [
            mpmath.exp(-((mpmath.mpf(k * cell) / mpmath.mpf(deviation)) ** 2) / 2)
            for k in range(len(found) + 100)
        ]
        total = mpmath.fsum(weights)
        assert mpmath.fsum(weights[len(found) :]) / total < mpmath.mpf(2) ** -104
        both = [mpmath.mpf(f.numerator) / f.denominator for f in found]
        for one, weight in zip(both, weights, strict=False):
            expected = weight / total
            room = expected * mpmath.mpf(2) ** -44 + mpmath.mpf(2) ** -115
            assert abs(one - expected) < room


@pytest.mark.parametrize("variance", [0.3, 2.0, 50.0, 3000.0, 4.9e7, float(2**32)])
def test_skellam_draws_have_the_distribution(variance: float) -> None:
    def pmf(k: NDArray[np.int64]) -> NDArray[np.float64]:
        if variance > 1e6:  # where scipy's would not do, and the two are one
            z = (k[:, None] + np.array([-0.5, 0.5])) / math.sqrt(variance)
            return np.diff(stats.norm.cdf(z), axis=1)[:, 0]
        half = variance / 2
        found: NDArray[np.float64] = stats.skellam.pmf(k, half, half)
        return found

    _fits(lambda n, entropy: skellam(variance, n, entropy), math.sqrt(variance), variance, pmf)


@pytest.mark.parametrize("deviation", [0.3, 0.7, 5.0, 2047.0, 32768.0, 1e5])
def test_gaussian_draws_have_the_distribution(deviation: float) -> None:
    reach = np.arange(-math.ceil(40 * deviation), math.ceil(40 * deviation) + 1)
    total = np.exp(-((reach / deviation) ** 2) / 2).sum() if deviation < 1e4 else None
    if total is None:  # one to 10^-300, by Poisson's formula
        total = deviation * math.sqrt(2 * math.pi)
    spread = float(np.exp(-((reach / deviation) ** 2) / 2) @ (1.0 * reach**2) / total)

    def pmf(k: NDArray[np.int64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.exp(-((k / deviation) ** 2) / 2) / total
        return found

    _fits(lambda n, entropy: gaussian(deviation, n, entropy), deviation, spread, pmf)


def _fits(
    draw: Draw, deviation: float, variance: float, pmf: Callable[[NDArray[np.int64]], NDArray]
) -> None:
    """Mean, variance and frequencies of 500,000 draws with a fixed key."""
    count = 500_000
    drawn = draw(count, Entropy(KEY))
    assert drawn.dtype == np.int64
    assert abs(drawn.mean()) < 5 * math.sqrt(variance / count)
    squares = drawn.astype(np.float64) ** 2
    assert abs(squares.mean() - variance) < 5 * squares.std() / math.sqrt(count)
    width = max(1, round(deviation / 8))  # about 70 bins
    bins = np.arange(-5 * math.ceil(deviation) - 5 * width, 5 * math.ceil(deviation), width)
    found = np.histogram(drawn, [*bins, bins[-1] + width])[0]
    inside = np.arange(bins[0], bins[-1] + width)
    expected = count * pmf(inside).reshape(len(bins), width).sum(axis=1)
    kept = expected >= 10
    rest = (count - found[kept].sum(), count - expected[kept].sum())
    statistic = ((found[kept] - expected[kept]) ** 2 / expected[kept]).sum()
    statistic += (rest[0] - rest[1]) ** 2 / max(rest[1], 10)
    assert statistic < stats.chi2.ppf(1 - 1e-6, kept.sum())


def test_every_low_bit_is_noise() -> None:
    """Residues of wide noise are uniform; a draw with a grid of its own would show there."""
    for drawn in (skellam(7000.0**2, 400_000, Entropy(KEY)), gaussian(1e6, 400_000, Entropy(KEY))):
        for modulus in (2, 16, 61, 128):
            found = np.bincount(drawn % modulus, minlength=modulus)
            expected = len(drawn) / modulus
            statistic = ((found - expected) ** 2 / expected).sum()
            assert statistic < stats.chi2.ppf(1 - 1e-6, modulus - 1)


def test_draws_are_independent_of_their_neighbours() -> None:
    for drawn in (skellam(100.0**2, 300_000, Entropy(KEY)), gaussian(1e5, 300_000, Entropy(KEY))):
        x = drawn / drawn.std()
        for lag in (1, 2, 1024, 32 * 1024):
            assert abs((x[lag:] * x[:-lag]).mean()) < 5 / math.sqrt(len(x) - lag)


def test_the_noise_of_members_adds_up() -> None:
    """Five members' Skellam noise is Skellam noise of the sum's variance."""
    entropy = Entropy(KEY)
    total = sum(skellam(0.4, 200_000, entropy) for _ in range(5))
    k = np.arange(-6, 7)
    expected = stats.skellam.pmf(k, 1.0, 1.0)
    found = np.array([(total == value).mean() for value in k])
    assert (np.abs(found - expected) < 5 * np.sqrt(expected / 200_000)).all()


@given(st.integers(0, 2**63 - 1), st.sampled_from([0.3, 40.0, 1e5]), st.data())
def test_a_number_stands_for_what_its_127_bits_say(
    place: int, variance: float, data: st.DataObject
) -> None:
    """Also where the first 63 bits are those of a bound, and more are drawn."""
    table = _skellam_table(variance)
    if data.draw(st.booleans()):
        place = int(table._high[data.draw(st.integers(0, len(table._high) - 1))])
    more = int(Entropy(KEY).uint64(1)[0])
    number = (place << 64) + more
    bounds = zip(table._high.tolist(), table._low.tolist(), strict=True)
    above = sum(number < (high << 64) + low for high, low in bounds)
    for sign in (0, 1):
        words = np.array([place << 1 | sign], np.uint64)
        assert table.draw(words, Entropy(KEY)).tolist() == [above]


def test_any_number_of_draws() -> None:
    for size in (0, 1, 32 * 1024, 32 * 1024 + 1):
        assert skellam(9.0, size, Entropy(KEY)).shape == (size,)
        assert gaussian(3.0, size, Entropy(KEY)).shape == (size,)


def test_the_same_key_draws_alike() -> None:
    for draw in (skellam, gaussian):
        once, again = (draw(50.0, 100, Entropy(KEY)).tolist() for _ in range(2))
        assert once == again
        assert once != draw(50.0, 100, Entropy(bytes(32))).tolist()


def test_extremes() -> None:
    assert skellam(0.0, 3, Entropy(KEY)).tolist() == [0, 0, 0]
    assert skellam(5e-324, 3, Entropy(KEY)).tolist() == [0, 0, 0]
    assert gaussian(5e-324, 3, Entropy(KEY)).tolist() == [0, 0, 0]
    wide = gaussian(MAX_GAUSSIAN_DEVIATION, 10_000, Entropy(KEY))
    assert wide.std() / MAX_GAUSSIAN_DEVIATION == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("variance", [-1.0, math.nan, math.inf, MAX_DEVIATION**2 * 1.001])
def test_skellam_noise_out_of_bounds(variance: float) -> None:
    with pytest.raises(ValueError, match="65536 steps: lower value_bits"):
        skellam(variance, 1, Entropy(KEY))


@pytest.mark.parametrize("deviation", [0.0, -1.0, math.nan, math.inf, 2.0**41])
def test_gaussian_noise_out_of_bounds(deviation: float) -> None:
    with pytest.raises(ValueError, match="noise of deviation"):
        gaussian(deviation, 1, Entropy(KEY))


@pytest.mark.parametrize(
    ("minimum", "members", "corrupt", "honest"),
    [(10, 12, 0.0, 10), (10, 12, 0.25, 7), (10, 30, 0.1, 7), (3, 30, 0.1, 0), (2, 30, 0.3, 0)],
)
def test_who_is_sure_to_be_honest(minimum: int, members: int, corrupt: float, honest: int) -> None:
    assert honest_survivors(minimum, members, corrupt) == honest


def test_shares_of_the_noise_by_hand() -> None:
    # 2^15 steps are the norm; (1.5 * 32768)^2 / 4 = 24576^2
    assert member_variance(1.5, 16, 4) == 24576.0**2
    assert count_variance(0.5, 4) == (UNCLIPPED_STEPS / 4) ** 2
    # 2 norms of 2^15 are 2^16 steps, as many as one member may add
    assert member_variance(2.0, 16, 1) == MAX_DEVIATION**2


@given(st.floats(1e-3, 1000), st.integers(2, 24), st.integers(1, 100_000))
def test_what_is_shared_out_can_be_drawn(multiplier: float, bits: int, honest: int) -> None:
    deviation = multiplier * 2 ** (bits - 1)
    if deviation > MAX_DEVIATION * math.sqrt(honest):
        with pytest.raises(ValueError, match="lower value_bits"):
            member_variance(multiplier, bits, honest)
        return
    variance = member_variance(multiplier, bits, honest)
    assert variance <= MAX_DEVIATION**2
    assert math.sqrt(honest * variance) == pytest.approx(deviation, rel=1e-12)


def test_noise_that_nobody_is_sure_to_add_is_refused() -> None:
    with pytest.raises(ValueError, match="raise the cohort's minimum"):
        member_variance(1.0, 16, 0)
    with pytest.raises(ValueError, match="lower the count's noise"):
        count_variance(1e6, 1)
