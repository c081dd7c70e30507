"""Noise in whole steps, from the cryptographic generator, for differential privacy.

Members add Skellam noise, whose sum is Skellam noise again (Agarwal, Kairouz, Liu, "The Skellam
mechanism for differentially private federated learning", NeurIPS 2021). The coordinator adds
discrete Gaussian noise (Canonne, Kamath, Steinke, "The discrete Gaussian for differential privacy",
NeurIPS 2020), which costs on integers what the Gaussian costs on real numbers. Either is an integer
from the start, so that no low bits of a float give anything away (Mironov, "On significance of the
least significant bits for differential privacy", CCS 2012).

Draws are by inversion, of tables with 127 bits a number. How long a draw takes depends on what is
drawn: whoever measures times on the device itself is beyond what this holds against.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from cloister_privacy.counters import UNCLIPPED_STEPS
from cloister_privacy.keystream import Entropy

MAX_DEVIATION = 1 << 16
"""Steps; of Skellam noise. Its table takes 16 bytes for each of 12 deviations: 13 MB."""
MAX_GAUSSIAN_DEVIATION = 1 << 40
"""Steps."""

_TAIL_BITS = 104
"""Magnitudes with a chance of 2^-104 or less altogether are not drawn."""
_GUARD_BITS = 128
"""Behind the point of the least number of a recurrence."""
_BLOCK = 32 * 1024
"""Draws that are made together: words and results, 256 KiB each, stay in cache."""
_MOST_GUIDE_BITS = 20
_CELLS = 1 << 10
"""Least cells of a Gaussian in each deviation: fewer than one draw in 1000 is made again."""


def honest_survivors(minimum: int, members: int, corrupt_fraction: float) -> int:
    """Members that are sure to have put honest noise into a sum.

    Args:
        minimum: fewest survivors a sum is taken over.
        members: most members of the roster.
        corrupt_fraction: share of the members that may collude, and then leave their noise out.
    """
    return max(0, minimum - math.floor(corrupt_fraction * members + 1e-9))


def member_variance(noise_multiplier: float, value_bits: int, honest: int) -> float:
    """Of the Skellam noise that each member adds to each coordinate, in squared steps.

    The noise of `honest` members has the deviation `noise_multiplier` * 2^(value_bits - 1), where
    2^(value_bits - 1) steps are the clipping norm.

    Raises:
        ValueError: nobody is sure to be honest, or the noise is out of bounds.
    """
    return _share(noise_multiplier * (1 << value_bits - 1), honest, "value_bits")


def count_variance(count_noise: float, honest: int) -> float:
    """Of the Skellam noise that each member adds to the count of unclipped updates.

    In squared steps, of which an unclipped update counts for `UNCLIPPED_STEPS`; `honest` members
    give the count the deviation `count_noise`.

    Raises:
        ValueError: as `member_variance`.
    """
    return _share(count_noise * UNCLIPPED_STEPS, honest, "the count's noise")


def skellam(variance: float, size: int, entropy: Entropy) -> NDArray[np.int64]:
    """The difference of two Poisson variables of mean `variance` / 2, int64 (size,).

    The statistical distance of a draw from that distribution is less than 2^-100. A table is made
    for each variance, in up to half a second, and kept for the next call.

    Args:
        variance: in squared steps; 0 gives zeros.

    Raises:
        ValueError: a variance that is negative or not finite, or a deviation of more than 2^16.
    """
    if not 0 <= variance <= MAX_DEVIATION**2:
        raise ValueError(
            f"noise of variance {variance:g}; at least 0, and a deviation of at most"
            f" {MAX_DEVIATION} steps: lower value_bits"
        )
    drawn = np.zeros(size, np.int64)
    if variance:
        table = _skellam_table(float(variance))
        for first in range(0, size, _BLOCK):
            block = drawn[first : first + _BLOCK]
            words = entropy.uint64(len(block))
            block[:] = _signed(table.draw(words, entropy), words)
    return drawn


def gaussian(deviation: float, size: int, entropy: Entropy) -> NDArray[np.int64]:
    """Integers k with chances proportional to exp(-k^2 / (2 deviation^2)), int64 (size,).

    The statistical distance of a draw is less than 2^-100 from chances that are each right to a
    factor of 1 +- 2^-44. So noise on d coordinates costs at most d * 2^-43 more of epsilon than is
    accounted for, 10^-7 for a million. A magnitude is a cell of a table and a place inside, which
    is taken, or both are drawn again.

    Args:
        deviation: in steps.

    Raises:
        ValueError: a deviation that is not above 0, or more than 2^40.
    """
    if not 0 < deviation <= MAX_GAUSSIAN_DEVIATION:
        raise ValueError(
            f"noise of deviation {deviation:g}; above 0, and at most {MAX_GAUSSIAN_DEVIATION}"
        )
    table, cell = _gaussian_table(float(deviation))
    drawn, filled = np.empty(size, np.int64), 0
    while filled < size:
        words = entropy.uint64(min(_BLOCK, size - filled))
        magnitudes = table.draw(words, entropy) * cell
        inside = (entropy.uint64(len(words)) & np.uint64(cell - 1)).astype(np.int64)
        fall = inside * (2.0 * magnitudes + inside) / (2 * deviation) / deviation
        taken = entropy.uniform(len(words)) < np.exp(-fall)
        magnitudes += inside
        taken &= (magnitudes > 0) | (words & np.uint64(1) == 0)  # there is only one 0
        found = _signed(magnitudes, words)[taken]
        drawn[filled : filled + len(found)] = found
        filled += len(found)
    return drawn


class _Table:
    """Draws of 0, 1, ... with chances proportional to `weights`, by inversion.

    A number of 127 random bits is compared with the chances of the highest values, summed from the
    highest one down. Its first 63 bits nearly always decide, and the very first ones do for most:
    those lead to a value at once.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        self._last = len(weights) - 1
        sums = list(accumulate(reversed(weights)))
        total, shift = sums.pop(), 64 + sums[-1].bit_length()
        scale = (1 << 127 + shift) // total
        bounds = [of_total * scale >> shift for of_total in sums]
        # the least number that stands for less than the last value, than the last but one, ...
        self._high = np.array([bound >> 64 for bound in bounds], np.uint64)
        self._low = np.array([bound & ~(~0 << 64) for bound in bounds], np.uint64)
        bits = min(self._last.bit_length() + 1, _MOST_GUIDE_BITS)
        self._shift = np.uint64(64 - bits)
        edges = np.arange((1 << bits) + 1, dtype=np.uint64) << np.uint64(63 - bits)
        below = np.searchsorted(self._high, edges)
        self._guide = np.where(below[1:] == below[:-1], self._last - below[:-1], -1).astype(
            np.int32
        )

    def draw(self, words: NDArray[np.uint64], entropy: Entropy) -> NDArray[np.int64]:
        """One value for each random word, int64, of which the lowest bit is not used."""
        drawn: NDArray[np.int64] = self._guide[words >> self._shift].astype(np.int64)
        undecided = np.flatnonzero(drawn < 0)
        drawn[undecided] = self._search(words[undecided] >> np.uint64(1), entropy)
        return drawn

    def _search(self, numbers: NDArray[np.uint64], entropy: Entropy) -> NDArray[np.int64]:
        bounds = np.searchsorted(self._high, numbers, side="right")
        tied = (bounds > 0) & (self._high[bounds - 1] == numbers)
        for place in np.flatnonzero(tied):
            first = np.searchsorted(self._high, numbers[place])
            lower = self._low[first : bounds[place]]
            bounds[place] = first + np.searchsorted(lower, entropy.uint64(1)[0], side="right")
        found: NDArray[np.int64] = self._last - bounds
        return found


@lru_cache(maxsize=4)
def _skellam_table(variance: float) -> _Table:
    """Of magnitudes.

    Chances of k are exp(-variance) I_k(variance). With all of them to one factor, that is
    I_(k-1) = I_(k+1) + 2 k / variance * I_k, from the highest k down (Miller's algorithm), here in
    integers. All terms are positive, so errors never grow; what the start is wrong by decreases as
    the square of the chances.
    """
    numerator, denominator = variance.as_integer_ratio()
    last = _reach(variance)
    weights = [0, 1 << _GUARD_BITS]
    for k in range(last, 0, -1):
        weights.append(weights[-2] + 2 * k * denominator * weights[-1] // numerator)
    weights.reverse()
    weights.pop()
    return _Table([weights[0], *(2 * weight for weight in weights[1:])])


def _reach(variance: float) -> int:
    """The least k for which |X| >= k has a chance of 2^-104 or less, by Chernoff's bound.

    P(X >= k) <= exp(sqrt(k^2 + v^2) - v - k asinh(k / v)), from E exp(t X) = exp(v (cosh t - 1)).
    """
    least = (_TAIL_BITS + 1) * math.log(2)

    def exponent(k: int) -> float:
        return k * math.asinh(k / variance) - k * k / (math.hypot(k, variance) + variance)

    high = 1
    while exponent(high) < least:
        high *= 2
    low = high // 2
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if exponent(middle) < least else (low, middle)
    return high


@lru_cache(maxsize=4)
def _gaussian_table(deviation: float) -> tuple[_Table, int]:
    """Of cells, each with the weight of its first magnitude; and how many magnitudes one has."""
    cell = 1 << max(0, math.floor(math.log2(deviation)) - _CELLS.bit_length() + 1)
    reach = math.sqrt(2 * (_TAIL_BITS + 1) * math.log(2)) * deviation
    shift = _TAIL_BITS + _GUARD_BITS
    return _Table(
        [
            int(math.ldexp(math.exp(-x * x / 2), shift))
            for place in range(math.ceil(reach / cell) + 1)
            for x in [place * cell / deviation]
        ]
    ), cell


def _signed(magnitudes: NDArray[np.int64], words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Negative where the lowest bit of its word is set."""
    sign = (words & np.uint64(1)).view(np.int64)
    return (magnitudes ^ -sign) + sign


def _share(deviation: float, honest: int, what: str) -> float:
    if honest < 1:
        raise ValueError(
            "of the fewest survivors all might collude and leave out their noise:"
            " raise the cohort's minimum, or assume fewer corrupt members"
        )
    if not 0 <= deviation <= MAX_DEVIATION * math.sqrt(honest):
        raise ValueError(
            f"noise of deviation {deviation / math.sqrt(honest):g} steps for each member;"
            f" at least 0 and at most {MAX_DEVIATION}: lower {what}"
        )
    return min(deviation**2 / honest, float(MAX_DEVIATION**2))


__all__ = [
    "MAX_DEVIATION",
    "MAX_GAUSSIAN_DEVIATION",
    "count_variance",
    "gaussian",
    "honest_survivors",
    "member_variance",
    "skellam",
]
