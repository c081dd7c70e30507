"""From a closed round to its model version; blocks, so it runs in a thread.

Under secure aggregation there are no single updates. The masks are taken off their weighted sum,
and that sum goes to the aggregation as one update of weight 1, beside the total of the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloister_coordinator.aggregation import Aggregator
from cloister_coordinator.blobs import BlobWriter
from cloister_coordinator.blocks import ArrayBlocks, Blocks, State, Successor, Zeros
from cloister_coordinator.ledger import NewVersion
from cloister_coordinator.open_round import OpenRound
from cloister_coordinator.resources import Resources
from cloister_coordinator.secure_sum import SecureSum, central_noise
from cloister_privacy.clipping import next_norm
from cloister_privacy.counters import UNCLIPPED, WEIGHT
from cloister_privacy.errors import Unrecoverable
from cloister_privacy.keystream import Entropy
from cloister_privacy.server import Server
from cloister_protos import MAX_INLINE_BYTES


def fold(
    round_: OpenRound, base: NewVersion, aggregator: Aggregator, resources: Resources
) -> NewVersion:
    """The next version; its blob is durable, unless it goes into the database.

    Raises:
        SandboxError: the aggregation failed.
        OSError: storage did.
    """
    inputs = _Inputs(round_.updates(resources), round_.weights())
    return _version(round_, base, aggregator, resources, inputs, base.clip_norm)


def fold_secure(
    round_: OpenRound,
    server: Server,
    base: NewVersion,
    aggregator: Aggregator,
    resources: Resources,
) -> NewVersion | None:
    """The same for masked vectors, from what members revealed; None after an evaluation.

    Raises:
        Unrecoverable: the masks cannot be taken off.
        SandboxError, OSError: as for `fold`.
    """
    assert round_.secure is not None
    spec, terms, counters = round_.spec, round_.secure.terms, round_.secure.counters
    tail, body = server.close_unmaskings()
    central_noise(spec.differential_privacy, terms, counters, tail, body, Entropy())
    opener = SecureSum(resources.pool, resources.config.fold_workers)
    total = ArrayBlocks(np.empty(terms.parameters, np.float32))
    vectors = round_.vectors(resources)
    round_.sums = opener.open(terms, counters, vectors, tail, body, total)
    if not terms.parameters:
        return None
    weight = round_.sums[WEIGHT]
    if weight <= 0:
        raise Unrecoverable("no member's update counts for anything")
    inputs = _Inputs([total], np.ones(1), weight)
    clip_norm = base.clip_norm
    if spec.differential_privacy.HasField("adaptive"):
        adaptive = spec.differential_privacy.adaptive
        share = round_.sums[UNCLIPPED] / weight
        clip_norm = next_norm(clip_norm, share, adaptive.quantile, adaptive.learning_rate)
    return _version(round_, base, aggregator, resources, inputs, clip_norm)


@dataclass(frozen=True)
class _Inputs:
    """What the aggregation is given; see Aggregator."""

    updates: Sequence[Blocks]
    weights: NDArray[np.float64]
    total: float | None = None


def _version(
    round_: OpenRound,
    base: NewVersion,
    aggregator: Aggregator,
    resources: Resources,
    inputs: _Inputs,
    clip_norm: float,
) -> NewVersion:
    size = base.size // 4
    old = Zeros() if base.state_digest is None else resources.blobs.vector(base.state_digest)
    model = (
        resources.blobs.vector(base.digest)
        if base.content is None
        else ArrayBlocks(np.frombuffer(base.content, "<f4"))
    )
    small = base.size <= MAX_INLINE_BYTES
    out = ArrayBlocks(np.empty(size, "<f4")) if small else resources.blobs.writer()
    states = resources.blobs.writer() if aggregator.state_size(size) else None
    state: State = (
        ArrayBlocks(np.empty(0, np.float32)) if states is None else Successor(old, states)
    )
    try:
        aggregator.aggregate(size, model, inputs.updates, inputs.weights, out, state, inputs.total)
        if isinstance(out, BlobWriter):
            content, digest = None, out.commit()
        else:
            content = out.array.tobytes()
            digest = hashlib.sha256(content).digest()
        return NewVersion(
            version=base.version + 1,
            digest=digest,
            size=base.size,
            round_number=round_.plan.number,
            state_digest=None if states is None else states.commit(),
            content=content,
            clip_norm=clip_norm,
        )
    finally:
        for writer in (out, states):
            if isinstance(writer, BlobWriter):
                writer.discard()
