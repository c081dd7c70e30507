"""From a closed round to its model version; blocks, so it runs in a thread."""

from __future__ import annotations

import hashlib

import numpy as np

from cloister_coordinator.aggregation import Aggregator
from cloister_coordinator.blobs import BlobWriter
from cloister_coordinator.blocks import ArrayBlocks, State, Successor, Zeros
from cloister_coordinator.ledger import NewVersion
from cloister_coordinator.open_round import OpenRound
from cloister_coordinator.resources import Resources
from cloister_protos import MAX_INLINE_BYTES


def fold(
    round_: OpenRound, base: NewVersion, aggregator: Aggregator, resources: Resources
) -> NewVersion:
    """The next version; its blob is durable, unless it goes into the database.

    Raises:
        SandboxError: the aggregation failed.
        OSError: storage did.
    """
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
        aggregator.aggregate(size, model, round_.updates(resources), round_.weights(), out, state)
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
        )
    finally:
        for writer in (out, states):
            if isinstance(writer, BlobWriter):
                writer.discard()
