"""Rows as the messages operators see."""

from __future__ import annotations

from collections.abc import Iterable

from cloister_coordinator.ledger import Record, Spent
from cloister_protos import (
    Blob,
    Capabilities,
    ClientStatus,
    JobSpec,
    JobStatus,
    Member,
    Metrics,
    ModelVersion,
    PrivacySpent,
    RoundRecord,
)

MAX_RECORD_BYTES = 3 * 1024 * 1024
"""Bytes of a round's record; a larger one goes out without the members' reasons."""


def job_status(row: Record, version: int, spent: Spent, waiting: str = "") -> JobStatus:
    """A job's row, with its newest version, what it spent and what it waits for."""
    spec = JobSpec.FromString(row.spec)
    return JobStatus(
        job_id=row.id,
        spec=spec,
        state=row.state,
        privacy_spent=privacy_spent(spec, spent),
        reason=row.reason or waiting,
        version=version,
        submitted_at_ms=row.submitted_at_ms,
    )


def privacy_spent(spec: JobSpec, spent: Spent) -> PrivacySpent | None:
    """What a job has spent; None: it has no differential privacy."""
    if not spec.HasField("differential_privacy"):
        return None
    delta = spec.differential_privacy.delta
    return PrivacySpent(epsilon=spent.epsilon, delta=delta, rounds=spent.releases)


def round_record(spec: JobSpec, row: Record, members: Iterable[Record]) -> RoundRecord:
    """A round's row with those of its members."""
    record = RoundRecord(
        number=row.number,
        base_version=row.base_version,
        evaluation_only=row.evaluation_only,
        state=row.state,
        reason=row.reason,
        members=[Member(client_id=m.client_id, state=m.state, reason=m.reason) for m in members],
        training=None if row.training is None else Metrics.FromString(row.training),
        evaluation=None if row.evaluation is None else Metrics.FromString(row.evaluation),
        started_at_ms=row.started_at_ms,
        ended_at_ms=row.ended_at_ms,
        clip_norm=row.clip_norm,
        privacy_spent=privacy_spent(spec, Spent(row.releases, row.epsilon)),
    )
    if record.ByteSize() > MAX_RECORD_BYTES:
        for member in record.members:
            member.reason = ""
    return record


def model_version(row: Record) -> ModelVersion:
    """A version's row."""
    return ModelVersion(
        version=row.version,
        blob=Blob(digest=row.digest, size=row.size),
        round=row.round_number,
        committed_at_ms=row.committed_at_ms,
    )


def client_status(row: Record, connected: bool) -> ClientStatus:
    """A client's row."""
    return ClientStatus(
        client_id=row.id,
        name=row.name,
        capabilities=Capabilities.FromString(row.capabilities),
        connected=connected,
        last_seen_at_ms=row.last_seen_at_ms,
    )
