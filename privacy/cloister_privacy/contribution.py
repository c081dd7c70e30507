"""What a member puts into a sum, before it is masked: its update and its counters as integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister_privacy.counters import U64, UNCLIPPED, WEIGHT, Counters
from cloister_privacy.keystream import Entropy
from cloister_privacy.noise import skellam
from cloister_privacy.terms import Terms
from cloister_protos import Weighting


def weight(terms: Terms, weighting: Weighting, examples: int) -> int:
    """What an update of so many rows counts for."""
    if terms.secure.private or weighting == Weighting.WEIGHTING_UNIFORM:
        return 1
    return min(examples, terms.secure.settings.max_weight)


def contribution(
    terms: Terms,
    counters: Counters,
    update: NDArray[np.float32] | None,
    values: Mapping[str, float],
    entropy: Entropy,
) -> tuple[U64, NDArray[Any]]:
    """The tail and the body of a member's vector, with its part of the noise.

    Args:
        update: f32 (parameters,), clipped; None: nothing was trained.
        values: counters by name, the weight among them.
        entropy: what rounding and noise are drawn from.

    Returns:
        uint64 (counters,), and (parameters,) of the encoding's dtype.

    Raises:
        ValueError: a value is not finite, or too large for a sum.
    """
    secure, noise = terms.secure, {}
    if secure.count_variance:
        noise[UNCLIPPED] = int(skellam(secure.count_variance, 1, entropy)[0])
    elif secure.noise_variance:
        # the coordinator is not trusted with exact sums, and has not asked for this one
        values = {**values, UNCLIPPED: 0}
    tail = counters.encode(values, noise)
    if update is None:
        return tail, np.zeros(0, np.uint32)
    encoding = terms.encoding
    body = encoding.encode(update, int(values[WEIGHT]), entropy)
    if secure.noise_variance:
        body += skellam(secure.noise_variance, len(body), entropy).astype(body.dtype)
        body &= body.dtype.type((1 << encoding.ring_bits) - 1)
    return tail, body


__all__ = ["contribution", "weight"]
