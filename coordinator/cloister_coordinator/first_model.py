"""The model a job begins with, when the operator brings none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from cloister_coordinator.blobs import Blobs
from cloister_coordinator.blocks import F32
from cloister_coordinator.errors import Invalid
from cloister_coordinator.ledger import NewVersion
from cloister_coordinator.submission import Submission
from cloister_protos import Kind, Role
from cloister_sandbox import Limits, SandboxError, SandboxPool

_PIECE = 1 << 18
"""Elements written at once."""


def first_version(submission: Submission, blobs: Blobs, limits: Limits) -> NewVersion:
    """Version 0, durable: as submitted, zeros for a summary, else the task's ``init(seed)``.

    Raises:
        Invalid: the task cannot be run here, or fails.
    """
    spec, manifest = submission.spec, submission.task.manifest
    first = NewVersion(
        version=0,
        digest=b"",
        size=4 * manifest.parameter_count,
        round_number=0,
        clip_norm=spec.clip_norm,
    )
    if spec.HasField("initial_model"):
        return replace(first, digest=spec.initial_model.digest)
    if manifest.kind == Kind.KIND_SUMMARY:
        return replace(first, digest=_write(blobs, _zeros(manifest.parameter_count)))
    try:
        # A pool of its own: a task's memory may be large and is needed but once.
        with SandboxPool(limits, capacity=1) as pool, pool.lease(submission.task) as sandbox:
            sandbox.run(("init", spec.seed), receive=[Role.ROLE_PARAMETER])
            model = sandbox.view(Role.ROLE_PARAMETER)
            return replace(first, digest=_write(blobs, _pieces(model)))
    except SandboxError as e:
        raise Invalid(
            "NO_FIRST_MODEL",
            f"the task's init could not be run: {e.message}",
            "Bring an initial model with the job, or mend the task.",
        ) from e


def _write(blobs: Blobs, pieces: Iterator[F32]) -> bytes:
    writer, start = blobs.writer(), 0
    try:
        for piece in pieces:
            if not np.isfinite(piece).all():
                raise Invalid(
                    "NO_FIRST_MODEL",
                    "the task's init makes parameters that are not finite",
                    "Bring an initial model with the job, or mend the task.",
                )
            writer.write_from(start, piece)
            start += len(piece)
        return writer.commit()
    finally:
        writer.discard()


def _pieces(model: F32) -> Iterator[F32]:
    for start in range(0, len(model), _PIECE):
        yield model[start : start + _PIECE]


def _zeros(count: int) -> Iterator[F32]:
    yield from _pieces(np.broadcast_to(np.float32(0), (count,)))
