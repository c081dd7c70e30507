"""What releasing sums with noise costs, in epsilon at a given delta.

The guarantee is for whole clients, whatever rows they have: two worlds differ in that one client's
contribution to each sum is all zeros. Everything is counted in whole steps. Nobody gains privacy
from not being selected, because the coordinator knows whom it selects.

The noise is in proportion to the clipping norm, so that each release of a job costs the same and a
job's ledger is a number: how many sums it has released. Costs are Renyi divergences, which add up
over releases and become epsilon in the end (Mironov, "Renyi differential privacy", CSF 2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cloister_privacy.counters import UNCLIPPED_STEPS
from cloister_privacy.encoding import Encoding
from cloister_privacy.noise import MAX_DEVIATION, count_variance, member_variance
from cloister_protos import DifferentialPrivacy, Noise

ORDERS = tuple(1 + 2 ** (k / 16) for k in range(-96, 321))
"""Of the Renyi divergences, above 1; the best one counts."""
WHOLE_ORDERS = (*range(2, 129), *(round(2 ** (k / 8)) for k in range(57, 161)))
"""For Skellam noise, whose bound is for whole ones."""
MAX_ROUNDS = 1 << 40
LEAST_NOISE_MULTIPLIER, MAX_NOISE_MULTIPLIER = 1e-6, 1000.0


@dataclass(frozen=True, kw_only=True)
class Release:
    """One sum with noise.

    Raises:
        ValueError: a field is out of bounds, or nobody is sure to be honest.
    """

    noise_multiplier: float
    """Standard deviation of the noise in the sum, over the clipping norm."""
    value_bits: int
    """Bits of one coordinate, its sign included."""
    parameters: int
    """Coordinates of an update."""
    honest: int | None = None
    """Members that are sure to have added their part of the noise, Skellam's; None: the
    coordinator adds it, discrete Gaussian."""
    count_noise: float | None = None
    """Standard deviation of the noise on the number of unclipped updates; None: it is not
    released."""

    def __post_init__(self) -> None:
        least, most = LEAST_NOISE_MULTIPLIER, MAX_NOISE_MULTIPLIER
        if not least <= self.noise_multiplier <= most:
            raise ValueError(
                f"a noise multiplier of {self.noise_multiplier:g};"
                f" it must be from {least:g} to {most:g}"
            )
        if self.parameters < 0:
            raise ValueError(f"{self.parameters} parameters")
        if self.count_noise is not None and not 0 < self.count_noise < math.inf:
            raise ValueError(f"noise of {self.count_noise:g} on the count; it must be above 0")
        if self.honest is not None:
            member_variance(self.noise_multiplier, self.value_bits, self.honest)
            count_variance(self.count_noise or 0.0, self.honest)
        _ = self.sensitivity

    @classmethod
    def of(
        cls, settings: DifferentialPrivacy, *, value_bits: int, parameters: int, honest: int
    ) -> Release:
        """What each round of a job releases.

        Args:
            settings: of the job, with its defaults filled in.
            value_bits: bits of one coordinate, its sign included.
            parameters: coordinates of an update.
            honest: see `honest_survivors`.

        Raises:
            ValueError: as for the fields.
        """
        return cls(
            noise_multiplier=settings.noise_multiplier,
            value_bits=value_bits,
            parameters=parameters,
            honest=honest if settings.noise == Noise.NOISE_DISTRIBUTED else None,
            count_noise=settings.adaptive.count_noise if settings.HasField("adaptive") else None,
        )

    @cached_property
    def sensitivity(self) -> float:
        """Most by which one client changes the sum, L2 norm in steps."""
        one = Encoding(clip_norm=1.0, value_bits=self.value_bits, max_weight=1, members=1)
        return one.sensitivity(self.parameters)

    @property
    def deviation(self) -> float:
        """Of the noise in the sum, in steps."""
        return self.noise_multiplier * (1 << self.value_bits - 1)

    @property
    def orders(self) -> Sequence[float]:
        """Those of which the best counts."""
        return ORDERS if self.honest is None else WHOLE_ORDERS

    def rdp(self, orders: Sequence[float]) -> NDArray[np.float64]:
        """Renyi divergences of one release, float64 (n,), for orders such as `orders`."""
        body = self._rdp(orders, self.sensitivity, self.parameters, self.deviation)
        return body + self._count_rdp(orders)

    def epsilon(self, rounds: int, delta: float) -> float:
        """What so many releases cost; the conversion is that of Google's dp-accounting.

        Raises:
            ValueError: a negative number of rounds, or a delta not between 0 and 1.
        """
        if rounds < 0:
            raise ValueError(f"{rounds} rounds")
        if not 0 < delta < 1:
            raise ValueError(f"a delta of {delta:g}; it must be above 0 and below 1")
        return self._converted(rounds * self._costs, delta) if rounds else 0.0

    def rounds(self, epsilon: float, delta: float) -> int:
        """The most releases that cost no more than `epsilon`; at most `MAX_ROUNDS`.

        Raises:
            ValueError: a negative epsilon, or a delta not between 0 and 1.
        """
        if not epsilon >= 0:
            raise ValueError(f"an epsilon of {epsilon:g}; it must be 0 or more")
        # the last number of rounds that is within the budget, and the first that is not
        within, beyond = 0, 1
        while beyond <= MAX_ROUNDS and self.epsilon(beyond, delta) <= epsilon:
            within, beyond = beyond, 2 * beyond
        if beyond > MAX_ROUNDS:
            return MAX_ROUNDS
        while within + 1 < beyond:
            middle = (within + beyond) // 2
            if self.epsilon(middle, delta) <= epsilon:
                within = middle
            else:
                beyond = middle
        return within

    def with_least_noise(self, rounds: int, epsilon: float, delta: float) -> Release:
        """The same with the least noise multiplier for which `rounds` cost no more than `epsilon`.

        Raises:
            ValueError: there is none: the count of unclipped updates alone costs as much, or the
                noise is out of bounds.
        """

        def costs(multiplier: float) -> float:
            return replace(self, noise_multiplier=multiplier).epsilon(rounds, delta)

        low, high = LEAST_NOISE_MULTIPLIER, MAX_NOISE_MULTIPLIER
        if self.honest is not None:
            members = MAX_DEVIATION * math.sqrt(self.honest) * (1 - 1e-12)
            high = min(high, members / (1 << self.value_bits - 1))
        if costs(high) > epsilon:
            counting = self._converted(rounds * self._count_rdp(self.orders), delta)
            if counting > epsilon:
                raise ValueError(
                    f"the count of unclipped updates alone costs an epsilon of {counting:.4g} in"
                    f" {rounds} rounds: put more noise on it, or let the clipping norm stay"
                )
            raise ValueError(
                f"no noise multiplier up to {high:.4g} keeps {rounds} rounds within an epsilon of"
                f" {epsilon:g}: allow a larger epsilon, or fewer rounds"
                + (", or lower value_bits" if high < MAX_NOISE_MULTIPLIER else "")
            )
        while high > low * (1 + 1e-6):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if costs(middle) <= epsilon else (middle, high)
        return replace(self, noise_multiplier=high)

    @cached_property
    def _costs(self) -> NDArray[np.float64]:
        return self.rdp(self.orders)

    def _converted(self, divergences: NDArray[np.float64], delta: float) -> float:
        # only here: with scipy and more it takes a second
        from dp_accounting.rdp import compute_epsilon

        epsilon, _ = compute_epsilon(self.orders, divergences, delta)
        return float(epsilon)

    def _count_rdp(self, orders: Sequence[float]) -> NDArray[np.float64]:
        """Of the number of unclipped updates, in which a client counts for one or nothing."""
        if self.count_noise is None:
            return np.zeros(len(orders))
        steps = UNCLIPPED_STEPS
        return self._rdp(orders, float(steps), 1, self.count_noise * steps)

    def _rdp(
        self, orders: Sequence[float], l2: float, dimensions: int, deviation: float
    ) -> NDArray[np.float64]:
        """Of integers with noise: `l2` is their sensitivity, and `deviation` the noise's."""
        order, variance = np.array(orders, np.float64), deviation**2
        cost = _gaussian(order, l2, variance)
        if self.honest is not None:
            cost += _skellam(order, min(math.sqrt(dimensions) * l2, l2**2), l2, variance)
        return cost


def _gaussian(order: NDArray[np.float64], l2: float, variance: float) -> NDArray[np.float64]:
    """a D2^2 / (2 s^2), for discrete noise on integers as well: Canonne, Kamath, Steinke, "The
    discrete Gaussian for differential privacy" (NeurIPS 2020)."""
    cost: NDArray[np.float64] = order * l2**2 / (2 * variance)
    return cost


def _skellam(
    order: NDArray[np.float64], l1: float, l2: float, variance: float
) -> NDArray[np.float64]:
    """min(((2 a - 1) D2^2 + 6 D1) / (4 s^4), 3 D1 / (2 s^2)) more: Agarwal, Kairouz, Liu, "The
    Skellam mechanism for differentially private federated learning" (NeurIPS 2021). Integers of L2
    norm D2 have an L1 norm of D1 = min(sqrt(d) D2, D2^2) at most."""
    some = ((2 * order - 1) * l2**2 + 6 * l1) / (4 * variance**2)
    return np.minimum(some, 3 * l1 / (2 * variance))


__all__ = [
    "LEAST_NOISE_MULTIPLIER",
    "MAX_NOISE_MULTIPLIER",
    "MAX_ROUNDS",
    "ORDERS",
    "WHOLE_ORDERS",
    "Release",
]
