"""The tail of a vector: what an update counts for, row counts and metric sums, as integers.

They are summed along with the update and in the same way, so that no single one is seen. A word is
a fixed-point number modulo 2^64, negative ones in two's complement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

WEIGHT = "weight"
UNCLIPPED = "unclipped"
EXAMPLES = "examples"
TRAINED_ROWS = "trained_rows"
EVALUATED_ROWS = "evaluated_rows"

UNCLIPPED_STEPS = 1 << 10
"""A member whose update was not clipped counts for so many: noise on them is fine-grained."""
METRIC_BITS = 20
"""Bits behind the point of a metric's sum."""
MAX_BITS = 62
"""The sum over all members has at most so many."""


class Counters:
    """Which word stands for what.

    Args:
        metrics: names of the task's metrics, in the manifest's order.
        members: most members of a sum.
        private: under differential privacy only the weight and the number of unclipped updates are
            summed: an exact sum of metrics is no private one.
    """

    def __init__(self, metrics: Sequence[str], members: int, private: bool) -> None:
        self._scales = {WEIGHT: 1, UNCLIPPED: UNCLIPPED_STEPS}
        if not private:
            self._scales |= {EXAMPLES: 1, TRAINED_ROWS: 1, EVALUATED_ROWS: 1}
            for phase in ("training", "evaluation"):
                self._scales |= {f"{phase} {name}": 1 << METRIC_BITS for name in metrics}
        self._most = (1 << MAX_BITS) // members

    def __len__(self) -> int:
        return len(self._scales)

    @property
    def names(self) -> tuple[str, ...]:
        """In order; a metric's is ``training <name>`` or ``evaluation <name>``."""
        return tuple(self._scales)

    def encode(self, values: Mapping[str, float], noise: Mapping[str, int] | None = None) -> U64:
        """Words of one member, uint64 (len,); what `values` leaves out is 0.

        Args:
            values: by name; names that are not summed are left aside.
            noise: steps to add, by name.

        Raises:
            ValueError: a value is not finite, or too large for a sum over all members.
        """
        words = []
        for name, scale in self._scales.items():
            value = values.get(name, 0)
            if not math.isfinite(value) or abs(value * scale) > self._most:
                raise ValueError(f"{name} is {value:g}, too large for a sum of 64 bits")
            words.append(round(value * scale) + (noise or {}).get(name, 0))
        return np.array([word % (1 << 64) for word in words], np.uint64)

    def decode(self, words: U64) -> dict[str, float]:
        """Sums by name of words uint64 (len,), summed modulo 2^64."""
        signed = words.astype(np.uint64).view(np.int64).tolist()
        return {
            name: word / scale
            for (name, scale), word in zip(self._scales.items(), signed, strict=True)
        }
