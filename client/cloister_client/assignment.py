"""An assignment as it came from outside, held against the bounds of the wire contract."""

from __future__ import annotations

import math

import numpy as np

from cloister_client.errors import UnfitAssignment
from cloister_privacy.noise import MAX_DEVIATION
from cloister_privacy.terms import Terms
from cloister_protos import (
    MAX_INLINE_BYTES,
    Assignment,
    Blob,
    Graph,
    Module,
    SecureAggregation,
    SecureTerms,
)

MAX_MEMBERS = 5000
"""Of a round with secure aggregation; their roster still fits a message."""

_MAX_BLOB_BYTES = 4 * 1024**3
_MAX_EPOCHS = 1000
_MAX_ID = 256
_MAX_FRACTION = 0.5
_MAX_STEP_SECONDS = 3600.0
_FLOAT32 = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


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
    if not 0 <= assignment.clip_norm < math.inf:
        raise UnfitAssignment("clip_norm must be 0 or more, and finite")
    if assignment.HasField("secure"):
        _between("clip_norm under secure aggregation", assignment.clip_norm, *_FLOAT32)
        _secure(assignment.secure)
        try:
            _ = Terms.of(assignment, parameters=0, counters=0).encoding
        except ValueError as error:
            raise UnfitAssignment(f"secure: no sum of updates can be had: {error}") from error


def _secure(terms: SecureTerms) -> None:
    """All but what the encoding has its own bounds for."""
    settings: SecureAggregation = terms.settings
    if settings.graph not in (Graph.GRAPH_COMPLETE, Graph.GRAPH_RING):
        raise UnfitAssignment(f"secure.settings.graph is {settings.graph}, which is not known here")
    for name in ("corrupt_fraction", "drop_out_fraction"):
        _between(f"secure.settings.{name}", getattr(settings, name), 0.0, _MAX_FRACTION)
    _between("secure.settings.step_seconds", settings.step_seconds, 0.1, _MAX_STEP_SECONDS)
    _between("secure.members", terms.members, 2, MAX_MEMBERS)
    _between("secure.minimum", terms.minimum, 2, terms.members)
    for name in ("noise_variance", "count_variance"):
        _between(f"secure.{name}", getattr(terms, name), 0.0, MAX_DEVIATION**2)


def _between(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # so that NaN is refused too
        raise UnfitAssignment(f"{name} is {value:g}; it must be from {least:g} to {most:g}")


def _module(module: Module, name: str) -> None:
    _blob(module.blob, name)
    if len(module.publisher) not in (0, 32) or len(module.signature) not in (0, 64):
        raise UnfitAssignment(f"{name}: publisher has 32 bytes and signature 64, or both are empty")


def _blob(blob: Blob, name: str) -> None:
    if len(blob.digest) != 32 or not 0 < blob.size <= _MAX_BLOB_BYTES:
        raise UnfitAssignment(f"{name}: a digest has 32 bytes, a size is 1 byte to 4 GiB")
