"""What all members of a round must have been told alike.

Each member signs its keys together with a digest of what it was told, and checks the others'
signatures against its own. So masks cancel only among members that were given the same model, task,
aggregation, settings and encoding: a coordinator that shows one of them another model
(Pasquini, Francati, Ateniese, "Eluding secure aggregation in federated learning via model
inconsistency", CCS 2022) gets no sum at all.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from cloister_privacy.encoding import Encoding
from cloister_protos import Assignment, Blob, SecureTerms, Training


@dataclass(frozen=True)
class Terms:
    """One round's secure aggregation, as one member was told of it."""

    digest: bytes
    """SHA-256 of everything below and of the assignment, but for what is the member's own."""
    secure: SecureTerms
    clip_norm: float
    """Largest L2 norm of an update."""
    parameters: int
    """Elements of an update; 0: only metrics are summed."""
    counters: int
    """64-bit words of the tail."""

    @classmethod
    def of(cls, assignment: Assignment, parameters: int, counters: int) -> Terms:
        """The terms in an assignment for a task of so many parameters."""
        if not assignment.HasField("training"):
            parameters = 0
        clip_norm = assignment.clip_norm
        return cls(
            _digest(assignment, parameters, counters),
            assignment.secure,
            clip_norm,
            parameters,
            counters,
        )

    @property
    def encoding(self) -> Encoding:
        """How an update becomes integers.

        Raises:
            ValueError: there is none without overflow.
        """
        settings = self.secure.settings
        return Encoding(
            clip_norm=self.clip_norm,
            value_bits=settings.value_bits,
            max_weight=settings.max_weight,
            members=self.secure.members,
            noise_variance=self.secure.noise_variance,
            central_variance=self.secure.central_variance,
        )


def _digest(assignment: Assignment, parameters: int, counters: int) -> bytes:
    """Fields one after the other, each behind its length; numbers little-endian."""
    secure = assignment.secure
    settings = secure.settings
    fields = [
        assignment.job_id.encode(),
        assignment.dataset.encode(),
        _whole(assignment.round, assignment.base_version, assignment.weighting),
        *(_blob(blob) for blob in _blobs(assignment)),
        _training(assignment.training) if assignment.HasField("training") else b"",
        _whole(assignment.evaluate, parameters, counters),
        struct.pack("<d", assignment.clip_norm),
        _whole(settings.graph, settings.value_bits, settings.max_weight),
        struct.pack("<5d", *_fractions(secure)),
        _whole(secure.members, secure.minimum, secure.private),
    ]
    return hashlib.sha256(b"cloister terms v1\0" + joined(fields)).digest()


def joined(fields: list[bytes]) -> bytes:
    """Fields so that no two lists of them give the same bytes."""
    return b"".join(struct.pack("<I", len(field)) + field for field in fields)


def _blobs(assignment: Assignment) -> tuple[Blob, ...]:
    return (
        assignment.task.blob,
        assignment.aggregation.blob,
        assignment.model,
        assignment.frozen,
    )


def _blob(blob: Blob) -> bytes:
    return blob.digest + _whole(blob.size)


def _fractions(secure: SecureTerms) -> tuple[float, ...]:
    settings = secure.settings
    noise = secure.noise_variance, secure.count_variance, secure.central_variance
    return settings.corrupt_fraction, settings.drop_out_fraction, *noise


def _training(training: Training) -> bytes:
    values = sorted((name.encode(), value) for name, value in training.hyperparameters.items())
    return joined(
        [
            _whole(training.epochs, training.keep_order),
            *(name + struct.pack("<d", value) for name, value in values),
        ]
    )


def _whole(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)
