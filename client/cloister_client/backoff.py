"""Pauses between attempts to connect."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

_FIRST_SECONDS = 0.5


def pauses(
    longest: float, uniform: Callable[[float, float], float] = random.uniform
) -> Iterator[float]:
    """Seconds to wait before each next attempt: exponential with full jitter.

    The n-th pause is uniform in [0, min(longest, 0.5 * 2**n)], so that clients that lost the
    same coordinator do not come back all at once (Brooker, "Exponential Backoff and Jitter",
    2015).
    """
    bound = _FIRST_SECONDS
    while True:
        yield uniform(0.0, min(longest, bound))
        bound = min(longest, bound * 2)
