"""What an earlier process left: jobs and the rounds they were in. Blocks, for the start."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Connection

from cloister_coordinator import ledger
from cloister_coordinator.assignments import template
from cloister_coordinator.job import Job, Plan
from cloister_coordinator.ledger import NewVersion, Record, Spent
from cloister_coordinator.open_round import OpenRound
from cloister_coordinator.resources import Resources
from cloister_coordinator.round import Round
from cloister_coordinator.submission import Submission, read_module
from cloister_protos import (
    MAX_INLINE_BYTES,
    Blob,
    JobSpec,
    Result,
    RoundState,
)

UNDER_WAY = (RoundState.ROUND_STATE_COLLECTING, RoundState.ROUND_STATE_FOLDING)


@dataclass(frozen=True)
class Resumed:
    """A running job as it was recorded."""

    submission: Submission
    base: NewVersion
    job: Job
    round: OpenRound | None
    spent: Spent = field(default_factory=Spent)


def job_of(spec: JobSpec) -> Job:
    """The progress of a job that has not begun."""
    return Job(spec.rounds, spec.evaluate_every, spec.max_abandoned_rounds)


def with_content(version: NewVersion, resources: Resources) -> NewVersion:
    """A version with its bytes at hand, if they go inline."""
    if version.size > MAX_INLINE_BYTES:
        return version
    content = resources.blobs.read(version.digest)
    return NewVersion(
        version.version,
        version.digest,
        version.size,
        version.round_number,
        version.state_digest,
        content,
        version.clip_norm,
    )


def resume(job_id: str, resources: Resources) -> Resumed:
    """Read a running job back."""
    with resources.engine.connect() as c:
        row = ledger.job(c, job_id)
        assert row is not None
        spec = JobSpec.FromString(row.spec)
        limits = resources.config.sandbox
        submission = Submission(
            spec,
            read_module("task", spec.task, resources.blobs, limits),
            read_module("aggregation", spec.aggregation, resources.blobs, limits),
        )
        v = ledger.latest_version(c, job_id)
        base = with_content(
            NewVersion(
                v.version,
                v.digest,
                v.size,
                v.round_number,
                v.state_digest,
                clip_norm=v.clip_norm,
            ),
            resources,
        )
        latest = ledger.latest_round(c, job_id)
        job = job_of(spec)
        job.restore(v.version, latest.number if latest else 0, ledger.abandoned_in_a_row(c, job_id))
        round_ = None
        if latest is not None and latest.state in UNDER_WAY:
            round_ = _round(c, job_id, submission, base, latest)
        spent = ledger.spent(c, [job_id]).get(job_id, Spent())
        return Resumed(submission, base, job, round_, spent)


def _round(
    c: Connection, job_id: str, submission: Submission, base: NewVersion, row: Record
) -> OpenRound:
    spec = submission.spec
    members = ledger.members(c, job_id, row.number)
    plan = Plan(row.number, row.base_version, row.evaluate, row.evaluation_only)
    core = Round.restore(
        row.number,
        row.base_version,
        {m.client_id: (m.state, m.reason) for m in members},
        spec.cohort.target,
        spec.cohort.minimum,
        row.evaluation_only,
    )
    if spec.HasField("secure_aggregation") and core.state in UNDER_WAY:
        core.abandon("the coordinator was restarted, which forgets the keys of a round")
    model = Blob(digest=base.digest, size=base.size)
    return OpenRound(
        job_id=job_id,
        spec=spec,
        manifest=submission.task.manifest,
        plan=plan,
        core=core,
        shared=template(job_id, spec, plan, model, base.content or b"", base.clip_norm),
        started_ms=row.started_at_ms,
        deadline_ms=row.deadline_at_ms,
        # Their inline updates stay in the database until they are folded.
        results={m.client_id: Result.FromString(m.result) for m in members if m.result is not None},
    )
