"""From masked vectors to the sums they hide: of counters, and of the updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister_coordinator.blocks import U8, PackedReader, Sink
from cloister_coordinator.ring_sum import RingSum
from cloister_privacy.counters import UNCLIPPED, UNCLIPPED_STEPS, Counters
from cloister_privacy.keystream import Entropy
from cloister_privacy.noise import gaussian
from cloister_privacy.terms import Terms
from cloister_protos import DifferentialPrivacy, Noise
from cloister_sandbox import SandboxPool

U64 = NDArray[np.uint64]


class SecureSum:
    """Takes the masks off sums of vectors, any number of times, one sum at a time.

    Args:
        pool: where sandboxes come from.
        workers: sandboxes at once.
    """

    def __init__(self, pool: SandboxPool, workers: int = 2) -> None:
        self._ring_sum = RingSum(pool, workers)

    def open(
        self,
        terms: Terms,
        counters: Counters,
        vectors: Sequence[PackedReader],
        tail_mask: U64,
        body_mask: NDArray[Any],
        out: Sink,
    ) -> dict[str, float]:
        """Write the weighted sum of updates to ``out``; the counters' sums by name.

        Args:
            vectors: masked, each with its tail, in any order.
            tail_mask: uint64 (counters,), what the masks of all vectors come to.
            body_mask: uint32 or uint64 (parameters,), the same.
            out: takes f32 (parameters,); left alone without parameters.

        Raises:
            SandboxError: a sum is past float32, or the sandbox failed.
            OSError: a vector could not be read.
        """
        size = 8 * terms.counters
        tails = np.empty((len(vectors), size), np.uint8)
        for vector, tail in zip(vectors, tails, strict=True):
            vector.read_into(0, tail)
        sums = counters.decode(tails.view("<u8").sum(axis=0, dtype=np.uint64) - tail_mask)
        if terms.parameters:
            encoding = terms.encoding
            bodies = [_Body(vector, size) for vector in vectors]
            bits, step = encoding.ring_bits, encoding.step
            self._ring_sum.sum(terms.parameters, bodies, body_mask, bits, step, out)
        return sums


class _Body:
    """A vector without its tail."""

    def __init__(self, vector: PackedReader, tail: int) -> None:
        self._vector, self._tail = vector, tail

    def read_into(self, start: int, out: U8) -> None:
        """See PackedReader."""
        self._vector.read_into(self._tail + start, out)


def central_noise(
    privacy: DifferentialPrivacy,
    terms: Terms,
    counters: Counters,
    tail_mask: U64,
    body_mask: NDArray[Any],
    entropy: Entropy,
) -> None:
    """Put the coordinator's noise into masks, if that is what a job asks for.

    With the masks it is taken off the sum, so nobody sees the sum without it. Noise and its
    negative are distributed alike.
    """
    if privacy.noise != Noise.NOISE_CENTRAL:
        return
    if terms.parameters:
        deviation = privacy.noise_multiplier * terms.clip_norm / terms.encoding.step
        noise = gaussian(deviation, terms.parameters, entropy)
        body_mask += noise.view(np.uint64).astype(body_mask.dtype)
    if privacy.HasField("adaptive"):
        deviation = privacy.adaptive.count_noise * UNCLIPPED_STEPS
        at = counters.names.index(UNCLIPPED)
        tail_mask[at : at + 1] += gaussian(deviation, 1, entropy).view(np.uint64)
