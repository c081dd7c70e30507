"""An assignment as it came from outside, held against the bounds of the wire contract."""

from __future__ import annotations

import math

from cloister_client.errors import UnfitAssignment
from cloister_protos import MAX_INLINE_BYTES, Assignment, Blob, Module

_MAX_BLOB_BYTES = 4 * 1024**3
_MAX_EPOCHS = 1000
_MAX_ID = 256


def validate(assignment: Assignment) -> None:
    """Raises UnfitAssignment for the first field that breaks its documented bounds."""
    for name in ("assignment_id", "job_id", "job_name", "dataset"):
        text = getattr(assignment, name)
        if len(text) > _MAX_ID or not text.isprintable():
            raise UnfitAssignment(f"{name} is no printable text of at most {_MAX_ID} characters")
    if not 0 < assignment.deadline_seconds < math.inf:
        raise UnfitAssignment("deadline_seconds must be above 0 and finite")
    _module(assignment.task, "task")
    _module(assignment.aggregation, "aggregation")
    _blob(assignment.model, "model")
    if assignment.HasField("frozen"):
        _blob(assignment.frozen, "frozen")
    inline = len(assignment.inline_model)
    if inline and (inline != assignment.model.size or inline > MAX_INLINE_BYTES):
        raise UnfitAssignment(f"inline_model has {inline} bytes, which is not the model's size")
    if assignment.HasField("training"):
        if not 1 <= assignment.training.epochs <= _MAX_EPOCHS:
            raise UnfitAssignment(f"epochs must be 1 to {_MAX_EPOCHS}")
    elif not assignment.evaluate:
        raise UnfitAssignment("the assignment asks for neither training nor evaluation")


def _module(module: Module, name: str) -> None:
    _blob(module.blob, name)
    if len(module.publisher) not in (0, 32) or len(module.signature) not in (0, 64):
        raise UnfitAssignment(f"{name}: publisher has 32 bytes and signature 64, or both are empty")


def _blob(blob: Blob, name: str) -> None:
    if len(blob.digest) != 32 or not 0 < blob.size <= _MAX_BLOB_BYTES:
        raise UnfitAssignment(f"{name}: a digest has 32 bytes, a size is 1 byte to 4 GiB")
