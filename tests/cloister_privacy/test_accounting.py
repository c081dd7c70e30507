"""Costs against the conversion written out, the analytic Gaussian mechanism, and divergences of
the distributions themselves."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats  # type: ignore[import-untyped]

from cloister_privacy.accounting import MAX_ROUNDS, Release
from cloister_privacy.counters import UNCLIPPED_STEPS
from cloister_privacy.encoding import Encoding
from cloister_protos import AdaptiveClipping, DifferentialPrivacy, Noise


def release(**change: Any) -> Release:
    usual: dict[str, Any] = {"noise_multiplier": 5.0, "value_bits": 16, "parameters": 10_000}
    return Release(**{**usual, **change})


def converted(divergence: Any, delta: float) -> float:
    """Least epsilon over a fine grid of real orders: r(a) + log((a - 1) / a) - log(delta a) /
    (a - 1), Canonne, Kamath, Steinke, 2020."""
    a = 1 + np.geomspace(1e-2, 1e6, 200_000)
    return float(
        (divergence(a) + np.log((a - 1) / a) - (np.log(delta) + np.log(a)) / (a - 1)).min()
    )


def analytic(sensitivity: float, deviation: float, delta: float) -> float:
    """What one release of Gaussian noise costs exactly: Balle and Wang, ICML 2018, theorem 8."""
    ratio = sensitivity / deviation

    def excess(epsilon: float) -> float:
        near, far = ratio / 2 - epsilon / ratio, -ratio / 2 - epsilon / ratio
        return float(stats.norm.cdf(near) - np.exp(epsilon + stats.norm.logcdf(far))) - delta

    return float(optimize.brentq(excess, 0, 1e4, xtol=1e-12))


@pytest.mark.parametrize("multiplier", [0.5, 1.0, 5.0, 50.0])
@pytest.mark.parametrize("rounds", [1, 30, 1000])
@pytest.mark.parametrize("delta", [1e-4, 1e-9])
def test_gaussian_noise_by_the_formula_and_against_the_exact_cost(
    multiplier: float, rounds: int, delta: float
) -> None:
    one = release(noise_multiplier=multiplier)
    ratio = one.sensitivity / one.deviation
    found = one.epsilon(rounds, delta)
    expected = converted(lambda a: rounds * a * ratio**2 / 2, delta)
    assert expected * (1 - 1e-6) <= found <= expected * 1.001
    # rounds of Gaussian noise are one with sqrt(rounds) times the sensitivity
    exact = analytic(one.sensitivity * math.sqrt(rounds), one.deviation, delta)
    assert exact < found < 1.3 * exact + 0.01


def test_the_count_of_unclipped_updates_costs_as_well() -> None:
    plain, counting = release(), release(count_noise=2.0)
    ratio = plain.sensitivity / plain.deviation
    expected = converted(lambda a: 10 * a * (ratio**2 + 1 / 2.0**2) / 2, 1e-6)
    assert counting.epsilon(10, 1e-6) == pytest.approx(expected, rel=1e-3)
    assert counting.epsilon(10, 1e-6) > plain.epsilon(10, 1e-6)


def test_skellam_noise_by_the_formula() -> None:
    one = release(honest=20, count_noise=3.0, noise_multiplier=2.0)
    l2 = Encoding(1.0, 16, 1, 1).sensitivity(10_000)
    assert one.sensitivity == l2
    m, n = (2.0 * 2**15) ** 2, (3.0 * UNCLIPPED_STEPS) ** 2
    l1 = 100 * l2
    for order, found in zip((2, 17, 300), one.rdp((2, 17, 300)), strict=True):
        body = order * l2**2 / (2 * m)
        body += min(((2 * order - 1) * l2**2 + 6 * l1) / (4 * m**2), 3 * l1 / (2 * m))
        c = UNCLIPPED_STEPS
        count = order * c**2 / (2 * n)
        count += min(((2 * order - 1) * c**2 + 6 * c) / (4 * n**2), 3 * c / (2 * n))
        assert found == pytest.approx(body + count, rel=1e-12)


def test_integers_of_one_step_are_no_more_than_the_square_of_their_norm() -> None:
    """The L1 norm of many small integers: min(sqrt(d) D2, D2^2), here the second."""
    one = release(honest=1, value_bits=2, parameters=1_000_000, noise_multiplier=1.0)
    l2 = one.sensitivity
    expected = l2**2 / 4 + min(9 * l2**2 / (4 * 16), 3 * l2**2 / 8)  # of variance 4, order 2
    assert one.rdp((2,))[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("variance", [0.3, 2.0, 30.0, 400.0])
@pytest.mark.parametrize("shift", [1, 2, 4])
@pytest.mark.parametrize("order", [2, 5, 20])
def test_the_bound_for_skellam_noise_is_above_the_divergence_and_near(
    variance: float, shift: int, order: int
) -> None:
    """Of two distributions of mpmath's, one moved by the sensitivity."""
    with mpmath.workdps(40):
        mean = mpmath.mpf(variance)
        reach = 60 + 3 * order * shift + int(14 * math.sqrt(variance))
        chance = [mpmath.exp(-mean) * mpmath.besseli(k, mean) for k in range(reach + shift + 1)]
        total = mpmath.fsum(
            chance[abs(k)] * (chance[abs(k)] / chance[abs(k - shift)]) ** (order - 1)
            for k in range(-reach, reach + 1)
        )
        divergence = float(mpmath.log(total) / (order - 1))
    one = release(honest=1, noise_multiplier=1.0)
    (bound,) = one._rdp((order,), float(shift), 1, math.sqrt(variance))
    assert divergence <= bound * (1 + 1e-12)
    if variance >= 30:
        # an L2 norm of a shift gives an L1 norm of its square at most, and the order has its part
        assert bound <= divergence * (1 + 3 * order * shift / variance)


@pytest.mark.parametrize("deviation", [0.4, 1.0, 6.0])
@pytest.mark.parametrize("order", [2, 7])
def test_discrete_gaussian_noise_costs_no_more_than_gaussian(deviation: float, order: int) -> None:
    with mpmath.workdps(40):
        s, reach = mpmath.mpf(deviation), 40 + int(30 * deviation) + 5 * order
        weight = [mpmath.exp(-((k / s) ** 2) / 2) for k in range(reach + 4)]
        total = 2 * mpmath.fsum(weight) - weight[0]
        for shift in (1, 3):
            moment = mpmath.fsum(
                weight[abs(k)] * (weight[abs(k)] / weight[abs(k - shift)]) ** (order - 1)
                for k in range(-reach, reach + 1)
            )
            divergence = float(mpmath.log(moment / total) / (order - 1))
            (bound,) = release()._rdp((order,), float(shift), 1, deviation)
            assert divergence <= bound * (1 + 1e-12)


@given(
    st.floats(0.3, 100),
    st.integers(0, 1000),
    st.floats(1e-12, 0.1),
    st.sampled_from([None, 5, 1000]),
)
def test_more_rounds_cost_more_and_more_noise_less(
    multiplier: float, rounds: int, delta: float, honest: int | None
) -> None:
    one = release(noise_multiplier=multiplier, honest=honest, value_bits=8, parameters=100)
    cost = one.epsilon(rounds, delta)
    assert cost <= one.epsilon(rounds + 1, delta)
    assert replace(one, noise_multiplier=multiplier * 1.1).epsilon(rounds, delta) <= cost
    assert one.epsilon(rounds, delta / 2) >= cost


@given(st.floats(0.05, 50), st.floats(0.3, 100), st.floats(1e-9, 1e-2))
def test_the_last_round_within_a_budget_is_within_and_the_next_is_not(
    epsilon: float, multiplier: float, delta: float
) -> None:
    one = release(noise_multiplier=multiplier)
    rounds = one.rounds(epsilon, delta)
    assert one.epsilon(rounds, delta) <= epsilon < one.epsilon(rounds + 1, delta)


@pytest.mark.parametrize(("honest", "value_bits"), [(None, 16), (40, 12)])
def test_the_least_noise_is_enough_and_a_little_less_is_not(
    honest: int | None, value_bits: int
) -> None:
    one = release(honest=honest, value_bits=value_bits, count_noise=30.0)
    found = one.with_least_noise(100, 2.0, 1e-6)
    assert replace(found, noise_multiplier=one.noise_multiplier) == one
    assert found.epsilon(100, 1e-6) <= 2.0
    less = replace(found, noise_multiplier=found.noise_multiplier * (1 - 1e-5))
    assert less.epsilon(100, 1e-6) > 2.0
    assert found.rounds(2.0, 1e-6) == 100


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"count_noise": 0.1},
            "the count of unclipped updates alone costs .*: put more noise on it",
        ),
        ({"honest": 3, "value_bits": 24}, "or lower value_bits"),
    ],
)
def test_where_no_noise_is_enough_there_is_a_way_out(change: dict[str, Any], words: str) -> None:
    one = release(**{"noise_multiplier": 1e-3, **change})
    with pytest.raises(ValueError, match=words):
        one.with_least_noise(100, 1.0, 1e-6)


def test_nothing_released_costs_nothing_and_nothing_costs_less_than_nothing() -> None:
    assert release().epsilon(0, 1e-6) == 0
    assert release().rounds(0.0, 1e-6) == 0
    assert release(noise_multiplier=0.01).epsilon(1, 1e-6) > 1000
    assert release(noise_multiplier=1000.0).rounds(1e6, 0.5) > 10**6
    assert release(noise_multiplier=1000.0).rounds(math.inf, 0.5) == MAX_ROUNDS


def test_a_job_says_what_each_of_its_rounds_releases() -> None:
    settings = DifferentialPrivacy(
        noise=Noise.NOISE_DISTRIBUTED,
        noise_multiplier=1.5,
        adaptive=AdaptiveClipping(count_noise=2.0),
    )
    facts: dict[str, Any] = {"value_bits": 14, "parameters": 77, "honest": 9}
    assert Release.of(settings, **facts) == Release(noise_multiplier=1.5, count_noise=2.0, **facts)
    central = DifferentialPrivacy(noise=Noise.NOISE_CENTRAL, noise_multiplier=1.5)
    assert Release.of(central, **facts) == Release(
        noise_multiplier=1.5, value_bits=14, parameters=77
    )


def test_orders_ascend_and_reach_far() -> None:
    central, distributed = release().orders, release(honest=40).orders
    assert all(isinstance(order, int) for order in distributed)
    assert (distributed[0], distributed[-1]) == (2, 1 << 20)
    assert 1.01 < central[0] < 1.02  # the conversion takes none below
    for orders in (central, distributed):
        assert list(orders) == sorted(set(orders))


def test_skellam_noise_costs_hardly_more_than_gaussian_where_there_is_much_of_it() -> None:
    for multiplier, rounds in ((2.0, 1), (5.0, 50), (20.0, 1000)):
        central = release(noise_multiplier=multiplier)
        distributed = replace(central, honest=400)
        cost = central.epsilon(rounds, 1e-6)
        assert cost < distributed.epsilon(rounds, 1e-6) < 1.01 * cost


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"noise_multiplier": 0.0}, "a noise multiplier of 0; it must be from 1e-06 to 1000"),
        ({"noise_multiplier": math.nan}, "a noise multiplier of nan"),
        ({"noise_multiplier": 1001.0}, "a noise multiplier of 1001"),
        ({"parameters": -1}, "-1 parameters"),
        ({"value_bits": 1}, "value_bits is 1"),
        ({"value_bits": 25}, "value_bits is 25"),
        ({"count_noise": 0.0}, "noise of 0 on the count"),
        ({"count_noise": math.nan}, "noise of nan on the count"),
        ({"honest": 0}, "raise the cohort's minimum"),
        ({"honest": 2}, "lower value_bits"),
        ({"honest": 30, "count_noise": 1e6}, "lower the count's noise"),
    ],
)
def test_a_release_that_cannot_be(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        release(**change)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-6, math.nan])
def test_a_delta_is_a_chance(delta: float) -> None:
    with pytest.raises(ValueError, match="a delta of"):
        release().epsilon(1, delta)


def test_rounds_and_epsilon_are_not_negative() -> None:
    with pytest.raises(ValueError, match="-1 rounds"):
        release().epsilon(-1, 1e-6)
    for epsilon in (-1.0, math.nan):
        with pytest.raises(ValueError, match="an epsilon of"):
            release().rounds(epsilon, 1e-6)


def test_the_library_is_imported_by_those_who_ask_and_warns_of_nothing() -> None:
    script = (
        "import sys; from cloister_privacy.accounting import Release;"
        "one = Release(noise_multiplier=1.0, value_bits=16, parameters=10);"
        "assert 'dp_accounting' not in sys.modules and 'scipy' not in sys.modules;"
        "print(one.epsilon(1, 1e-6))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert float(done.stdout) > 0
