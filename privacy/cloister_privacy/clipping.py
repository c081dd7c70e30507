"""A clipping norm that follows a quantile of the updates' norms.

Andrew, Thakkar, McMahan, Ramaswamy, "Differentially private learning with adaptive clipping"
(NeurIPS 2021): all the coordinator learns of norms is how many updates were not clipped, a sum with
noise. Updates themselves are clipped by the device's gate.
"""

from __future__ import annotations

import math
import sys

LEAST_NORM, MOST_NORM = 1e-30, 1e30
"""Between these a norm and the steps it is divided into are far from the ends of float32."""


def next_norm(norm: float, unclipped: float, quantile: float, learning_rate: float) -> float:
    """The next round's clipping norm: norm * exp(-learning_rate (unclipped - quantile)).

    Section 2.1 of the paper, geometric updates. It falls while more updates stay below it than
    wanted, and rises while fewer do.

    Args:
        norm: of this round, above 0.
        unclipped: share of this round's updates that were not clipped, with noise; taken for 0 or 1
            beyond these.
        quantile: share of the updates that are not to be clipped, above 0 and below 1.
        learning_rate: of the norm's logarithm, above 0 and at most 1.

    Returns:
        From `LEAST_NORM` to `MOST_NORM`.

    Raises:
        ValueError: an argument is out of bounds.
    """
    if not 0 < norm <= sys.float_info.max:
        raise ValueError(f"a clipping norm of {norm:g}; it must be above 0")
    if math.isnan(unclipped):
        raise ValueError("the share of unclipped updates is not a number")
    if not 0 < quantile < 1:
        raise ValueError(f"a quantile of {quantile:g}; it must be above 0 and below 1")
    if not 0 < learning_rate <= 1:
        raise ValueError(f"a learning rate of {learning_rate:g}; it must be above 0 and at most 1")
    share = min(max(unclipped, 0.0), 1.0)
    moved = norm * math.exp(-learning_rate * (share - quantile))
    return min(max(moved, LEAST_NORM), MOST_NORM)


__all__ = ["LEAST_NORM", "MOST_NORM", "next_norm"]
