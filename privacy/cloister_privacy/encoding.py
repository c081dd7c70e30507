"""Updates as integers whose sum is exact, in a ring large enough that it cannot overflow.

A coordinate x of an update with weight w becomes w * x / step, rounded at random to one of the two
integers around it so that its mean is right (stochastic rounding), modulo 2^ring_bits. A sum of
such integers, times step, is the weighted sum of updates.

Rounding may lengthen an update. Where each counts for 1 at most, which differential privacy asks
for, one that came out too long is rounded again: conditional rounding, Kairouz, Liu, Steinke, "The
distributed discrete Gaussian mechanism for federated learning with secure aggregation" (ICML 2021).
The mean is then only nearly right.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister_privacy.keystream import Entropy

MAX_RING_BITS = 62
"""So that signed sums and their bounds fit a 64-bit integer."""
MIN_VALUE_BITS, MAX_VALUE_BITS = 2, 24
"""Bits of one coordinate with weight 1; a float32 has 24."""
MAX_WEIGHT = 1 << 32
"""So that weights, and their products with 2^(value_bits - 1), are exact in float64."""
MAX_MEMBERS = 1 << 16
"""As many as there are points for shares."""
DEVIATIONS = 12
"""Standard deviations of all noise in a sum that have room in the ring."""

_BETA_BITS = 1.0
"""2 ln(1 / beta): rounding is too long with a chance of at most beta = e^(-1/2), 61 %."""
_BLOCK = 16 * 1024
"""Values rounded together: 128 KiB of float64, which stay in cache."""


@dataclass(frozen=True)
class Encoding:
    """The same for all members of a round.

    Raises:
        ValueError: a field is out of bounds, or a sum could overflow.
    """

    clip_norm: float
    """Largest L2 norm of an update, and so the largest magnitude of a coordinate."""
    value_bits: int
    """Bits of one coordinate with weight 1, its sign included."""
    max_weight: int
    members: int
    """Most vectors in a sum."""
    noise_variance: float = 0.0
    """Of the noise that one member adds to each of its integers, in squared steps."""
    central_variance: float = 0.0
    """Of the noise that is added to each integer of the sum, in squared steps."""

    def __post_init__(self) -> None:
        float32 = np.finfo(np.float32)
        if not float(float32.tiny) <= self.clip_norm <= float(float32.max):
            raise ValueError(f"a clipping norm of {self.clip_norm:g} is no positive float32")
        for name, value, low, high in (
            ("value_bits", self.value_bits, MIN_VALUE_BITS, MAX_VALUE_BITS),
            ("max_weight", self.max_weight, 1, MAX_WEIGHT),
            ("members", self.members, 1, MAX_MEMBERS),
        ):
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; it must be from {low} to {high}")
        for name, variance in (
            ("noise_variance", self.noise_variance),
            ("central_variance", self.central_variance),
        ):
            if not 0 <= variance < math.inf:
                raise ValueError(f"{name} is {variance:g}; it must be 0 or more")
        if self.ring_bits > MAX_RING_BITS:
            raise ValueError(
                f"a sum takes {self.ring_bits} bits, of at most {MAX_RING_BITS}:"
                " lower value_bits, max_weight, members or the noise"
            )

    @property
    def step(self) -> float:
        """What an integer of 1 stands for."""
        return self.clip_norm / (1 << self.value_bits - 1)

    @cached_property
    def ring_bits(self) -> int:
        """Bits of the smallest ring that holds every sum, with its sign."""
        sums = self.members * (self.max_weight * (1 << self.value_bits - 1) + 1)
        members = math.sqrt(self.members) * math.sqrt(self.noise_variance)
        noise = DEVIATIONS * math.hypot(members, math.sqrt(self.central_variance))
        # 2^(b - 1) is whole: it exceeds the bound if it exceeds the bound's whole part
        return (sums + math.floor(noise)).bit_length() + 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the ring's integers: uint32 up to 32 bits, else uint64."""
        return np.dtype(np.uint32 if self.ring_bits <= 32 else np.uint64)

    def sensitivity(self, parameters: int) -> float:
        """Largest L2 norm of the integers of one update, in steps.

        min(c + sqrt(d), sqrt(c^2 + d / 4 + sqrt(2 ln(1 / beta)) (c + sqrt(d) / 2))) for d
        parameters and a clipping norm of c = 2^(value_bits - 1) steps.

        Raises:
            ValueError: updates may count for more than 1.
        """
        if self.max_weight != 1:
            raise ValueError(f"an update counts for up to {self.max_weight}; it must be 1")
        norm, root = 1 << self.value_bits - 1, math.sqrt(parameters)
        rounded = norm**2 + parameters / 4 + math.sqrt(_BETA_BITS) * (norm + root / 2)
        return min(norm + root, math.sqrt(rounded))

    def encode(
        self, update: NDArray[np.float32], weight: int, entropy: Entropy
    ) -> NDArray[np.uint32] | NDArray[np.uint64]:
        """An update times its weight, as integers.

        Args:
            update: float32 (P,), already clipped. What rounding left beyond the clipping norm is
                taken for the clipping norm: in each coordinate, and with a `max_weight` of 1 in the
                update's norm as well.
            weight: from 0 to `max_weight`.

        Returns:
            Integers modulo 2^ring_bits, (P,), of magnitude `weight` * 2^(value_bits - 1) or less;
            with a `max_weight` of 1, of L2 norm `sensitivity` or less.

        Raises:
            ValueError: another dtype or shape, a value that is not finite, or such a weight.
        """
        if update.dtype != np.float32 or update.ndim != 1:
            raise ValueError(f"an update is float32 (P,), not {update.dtype} {update.shape}")
        if not 0 <= weight <= self.max_weight:
            raise ValueError(f"a weight of {weight}; it must be from 0 to {self.max_weight}")
        squares = sum(_squares(update, 1 / self.step))
        if not math.isfinite(squares):
            raise ValueError("an update with values that are not finite cannot be encoded")
        scale, longest = weight / self.step, math.inf
        if self.max_weight == 1:
            scale *= min(1.0, (1 << self.value_bits - 1) / math.sqrt(squares or 1.0))
            longest = self.sensitivity(len(update)) ** 2
        encoded = np.empty(len(update), self.dtype)
        while self._round(update, scale, weight, entropy, encoded) > longest:
            pass
        return encoded

    def _round(
        self,
        update: NDArray[np.float32],
        scale: float,
        weight: int,
        entropy: Entropy,
        encoded: NDArray[Any],
    ) -> float:
        """Fill `encoded`; the sum of the integers' squares, exact below 2^53."""
        largest = float(weight * (1 << self.value_bits - 1))
        mask = np.uint64((1 << self.ring_bits) - 1)
        squares = 0.0
        for first in range(0, len(update), _BLOCK):
            block = update[first : first + _BLOCK]
            exact = np.multiply(block, scale, dtype=np.float64)
            np.clip(exact, -largest, largest, out=exact)
            below = np.floor(exact)
            np.subtract(exact, below, out=exact)
            # exact, where floor(value + uniform) would round first
            below += entropy.uniform(len(block)) < exact
            squares += float(below @ below)
            ring = below.astype(np.int64).view(np.uint64)
            ring &= mask
            encoded[first : first + _BLOCK] = ring
        return squares

    def decode(self, sums: NDArray[np.uint32] | NDArray[np.uint64]) -> NDArray[np.float64]:
        """What sums of encoded updates stand for.

        Args:
            sums: of `dtype`, (P,), modulo 2^ring_bits; higher bits are ignored.

        Returns:
            float64 (P,), exact integers times `step` while they are below 2^53.

        Raises:
            ValueError: another dtype.
        """
        if sums.dtype != self.dtype:
            raise ValueError(f"sums are {self.dtype}, not {sums.dtype}")
        unused = 8 * sums.itemsize - self.ring_bits
        signed = np.int32 if sums.dtype == np.uint32 else np.int64
        high = np.left_shift(sums, sums.dtype.type(unused)).view(signed)
        decoded: NDArray[np.float64] = np.right_shift(high, signed(unused)).astype(np.float64)
        decoded *= self.step
        return decoded


def _squares(update: NDArray[np.float32], scale: float) -> Iterator[float]:
    """Of the L2 norms of an update's parts, `scale` times as long."""
    for first in range(0, len(update), _BLOCK):
        with np.errstate(invalid="ignore"):  # a signalling NaN
            block = update[first : first + _BLOCK] * np.float64(scale)
        yield float(block @ block)


__all__ = [
    "DEVIATIONS",
    "MAX_MEMBERS",
    "MAX_RING_BITS",
    "MAX_VALUE_BITS",
    "MAX_WEIGHT",
    "MIN_VALUE_BITS",
    "Encoding",
]
