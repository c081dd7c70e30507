"""What is recorded of jobs, rounds and models, as statements.

Writes are given to the `Journal`; reads run on connections of their own. The statements are made
once, so that SQLAlchemy compiles each once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from cloister_coordinator.job import Plan
from cloister_coordinator.round import Round
from cloister_coordinator.schema import JobRow, MemberRow, RoundRow, SmallBlobRow, VersionRow
from cloister_protos import JobState, MemberState, RoundState

Record: TypeAlias = "Row[*tuple[Any, ...]]"
"""A row, its columns by name."""

_ADD_JOB = insert(JobRow)
_END_JOB = update(JobRow).where(JobRow.id == bindparam("job"))
_OPEN_ROUND = insert(RoundRow)
_ADD_MEMBER = insert(MemberRow)
_STEP_ROUND = update(RoundRow).where(
    RoundRow.job_id == bindparam("job"), RoundRow.number == bindparam("round")
)
_STEP_MEMBER = update(MemberRow).where(
    MemberRow.job_id == bindparam("job"),
    MemberRow.round_number == bindparam("round"),
    MemberRow.client_id == bindparam("client"),
)
_CLEAR_RESULTS = (
    update(MemberRow)
    .where(
        MemberRow.job_id == bindparam("job"),
        MemberRow.round_number == bindparam("round"),
        MemberRow.result.is_not(None),
    )
    .values(result=None, inline_update=None)
)
_ADD_VERSION = insert(VersionRow)
_HAS_BLOB = select(SmallBlobRow.digest).where(SmallBlobRow.digest == bindparam("digest"))
_ADD_BLOB = insert(SmallBlobRow)
_GET_BLOB = select(SmallBlobRow.content).where(SmallBlobRow.digest == bindparam("digest"))
_GET_UPDATE = select(MemberRow.inline_update).where(
    MemberRow.job_id == bindparam("job"),
    MemberRow.round_number == bindparam("round"),
    MemberRow.client_id == bindparam("client"),
)


@dataclass(frozen=True)
class NewVersion:
    """A model version to record."""

    version: int
    digest: bytes
    size: int
    round_number: int
    state_digest: bytes | None = None
    content: bytes | None = None
    """Its bytes, when they go into the database along with it."""
    clip_norm: float = 0.0
    """The clipping norm of rounds that start from it; 0: none."""


@dataclass(frozen=True)
class Spent:
    """What a job with differential privacy has spent."""

    releases: int = 0
    """Sums that were seen."""
    epsilon: float = 0.0


@dataclass(frozen=True)
class Report:
    """What a member handed in."""

    digest: bytes
    """SHA-256 of the report."""
    result: bytes | None = None
    inline_update: bytes | None = None


def add_job(
    c: Connection, job_id: str, spec: bytes, key: str, first: NewVersion, now_ms: int
) -> None:
    """Record a submitted job and its initial model."""
    running = JobState.JOB_STATE_RUNNING
    values = {"id": job_id, "spec": spec, "state": running, "reason": ""}
    c.execute(_ADD_JOB, values | {"submitted_at_ms": now_ms, "idempotency_key": key or None})
    add_version(c, job_id, first, now_ms)


def end_job(c: Connection, job_id: str, state: JobState, reason: str) -> None:
    """Record how a job ended."""
    c.execute(_END_JOB, {"job": job_id, "state": state, "reason": reason})


def open_round(
    c: Connection,
    job_id: str,
    plan: Plan,
    members: Iterable[str],
    began_ms: int,
    deadline_ms: int,
    clip_norm: float,
    spent: Spent,
) -> None:
    """Record a round and its cohort, and what the job spent before it."""
    c.execute(
        _OPEN_ROUND,
        {
            "job_id": job_id,
            "number": plan.number,
            "base_version": plan.base_version,
            "evaluation_only": plan.evaluation_only,
            "evaluate": plan.evaluate,
            "state": RoundState.ROUND_STATE_COLLECTING,
            "reason": "",
            "started_at_ms": began_ms,
            "deadline_at_ms": deadline_ms,
            "ended_at_ms": 0,
            "clip_norm": clip_norm,
            "releases": spent.releases,
            "epsilon": spent.epsilon,
        },
    )
    assigned = MemberState.MEMBER_STATE_ASSIGNED
    key = {"job_id": job_id, "round_number": plan.number, "state": assigned, "reason": ""}
    c.execute(_ADD_MEMBER, [key | {"client_id": client_id} for client_id in members])


def step_member(
    c: Connection, job_id: str, number: int, client_id: str, state: MemberState, reason: str
) -> None:
    """Record what became of a member that handed in nothing."""
    key = {"job": job_id, "round": number, "client": client_id}
    c.execute(_STEP_MEMBER, key | {"state": state, "reason": reason})


def take_report(
    c: Connection,
    job_id: str,
    number: int,
    client_id: str,
    state: MemberState,
    reason: str,
    report: Report,
) -> None:
    """Record what a member handed in."""
    c.execute(
        _STEP_MEMBER,
        {
            "job": job_id,
            "round": number,
            "client": client_id,
            "state": state,
            "reason": reason,
            "report_digest": report.digest,
            "result": report.result,
            "inline_update": report.inline_update,
        },
    )


def fold_round(c: Connection, job_id: str, number: int) -> None:
    """Record that the survivors are fixed."""
    state = RoundState.ROUND_STATE_FOLDING
    c.execute(_STEP_ROUND, {"job": job_id, "round": number, "state": state})


def spend(c: Connection, job_id: str, number: int, spent: Spent) -> None:
    """Record that a round's sum is about to be seen, and what the job spent with it."""
    values = {"releases": spent.releases, "epsilon": spent.epsilon}
    c.execute(_STEP_ROUND, {"job": job_id, "round": number} | values)


def spent(c: Connection, job_ids: Iterable[str]) -> dict[str, Spent]:
    """What each job has spent."""
    most = func.max(RoundRow.releases), func.max(RoundRow.epsilon)
    query = select(RoundRow.job_id, *most).group_by(RoundRow.job_id)
    rows = c.execute(query.where(RoundRow.job_id.in_(list(job_ids))))
    return {row[0]: Spent(row[1], row[2]) for row in rows}


def end_round(
    c: Connection,
    job_id: str,
    round_: Round,
    ended_ms: int,
    training: bytes | None = None,
    evaluation: bytes | None = None,
) -> None:
    """Record a round's outcome and forget what its members handed in."""
    c.execute(
        _STEP_ROUND,
        {
            "job": job_id,
            "round": round_.number,
            "state": round_.state,
            "reason": round_.reason,
            "ended_at_ms": ended_ms,
            "training": training,
            "evaluation": evaluation,
        },
    )
    c.execute(_CLEAR_RESULTS, {"job": job_id, "round": round_.number})


def add_version(c: Connection, job_id: str, new: NewVersion, now_ms: int) -> None:
    """Record a model version."""
    if new.content is not None and c.execute(_HAS_BLOB, {"digest": new.digest}).first() is None:
        c.execute(_ADD_BLOB, {"digest": new.digest, "content": new.content})
    c.execute(
        _ADD_VERSION,
        {
            "job_id": job_id,
            "version": new.version,
            "digest": new.digest,
            "size": new.size,
            "round_number": new.round_number,
            "committed_at_ms": now_ms,
            "state_digest": new.state_digest,
            "clip_norm": new.clip_norm,
        },
    )


def small_blob(c: Connection, digest: bytes) -> bytes | None:
    """The bytes of a blob kept in the database."""
    return c.execute(_GET_BLOB, {"digest": digest}).scalar()


def inline_update(c: Connection, job_id: str, number: int, client_id: str) -> bytes | None:
    """The update a member handed in with its report."""
    key = {"job": job_id, "round": number, "client": client_id}
    return c.execute(_GET_UPDATE, key).scalar()


def jobs(c: Connection, limit: int, after: str) -> Sequence[Record]:
    """Jobs, newest first, below an id."""
    query = select(JobRow.__table__).order_by(JobRow.id.desc()).limit(limit)
    return c.execute(query.where(JobRow.id < after) if after else query).all()


def job(c: Connection, job_id: str) -> Record | None:
    """One job."""
    return c.execute(select(JobRow.__table__).where(JobRow.id == job_id)).first()


def job_by_key(c: Connection, key: str) -> Record | None:
    """The job submitted under an idempotency key."""
    return c.execute(select(JobRow.__table__).where(JobRow.idempotency_key == key)).first()


def running_jobs(c: Connection) -> Sequence[str]:
    """Ids of the jobs to take up, oldest first."""
    running = JobRow.state == JobState.JOB_STATE_RUNNING
    return c.execute(select(JobRow.id).where(running).order_by(JobRow.id)).scalars().all()


def latest_version(c: Connection, job_id: str) -> Record:
    """The newest model version of a job."""
    query = select(VersionRow.__table__).where(VersionRow.job_id == job_id)
    return c.execute(query.order_by(VersionRow.version.desc()).limit(1)).one()


def version_numbers(c: Connection, job_ids: Iterable[str]) -> dict[str, int]:
    """The newest version of each job."""
    query = select(VersionRow.job_id, func.max(VersionRow.version)).group_by(VersionRow.job_id)
    rows = c.execute(query.where(VersionRow.job_id.in_(list(job_ids))))
    return {row[0]: row[1] for row in rows}


def versions(c: Connection, job_id: str, limit: int, after: int) -> Sequence[Record]:
    """Model versions above a number, oldest first."""
    query = select(VersionRow.__table__).where(
        VersionRow.job_id == job_id, VersionRow.version > after
    )
    return c.execute(query.order_by(VersionRow.version).limit(limit)).all()


def latest_round(c: Connection, job_id: str) -> Record | None:
    """The newest round of a job."""
    query = select(RoundRow.__table__).where(RoundRow.job_id == job_id)
    return c.execute(query.order_by(RoundRow.number.desc()).limit(1)).first()


def abandoned_in_a_row(c: Connection, job_id: str) -> int:
    """Rounds abandoned since the last one that was committed."""
    of_job = RoundRow.job_id == job_id
    committed = RoundRow.state == RoundState.ROUND_STATE_COMMITTED
    last = select(func.max(RoundRow.number)).where(of_job, committed).scalar_subquery()
    query = select(func.count()).where(
        of_job,
        RoundRow.state == RoundState.ROUND_STATE_ABANDONED,
        RoundRow.number > func.coalesce(last, 0),
    )
    return c.execute(query).scalar_one()


def ended_rounds(c: Connection, job_id: str, first: int, limit: int) -> Sequence[Record]:
    """Rounds that are over, from a number on."""
    query = select(RoundRow.__table__).where(
        RoundRow.job_id == job_id, RoundRow.number >= first, RoundRow.ended_at_ms > 0
    )
    return c.execute(query.order_by(RoundRow.number).limit(limit)).all()


def members(c: Connection, job_id: str, number: int) -> Sequence[Record]:
    """Members of a round in ascending order, without what they handed in inline."""
    query = select(
        MemberRow.client_id,
        MemberRow.state,
        MemberRow.reason,
        MemberRow.report_digest,
        MemberRow.result,
    ).where(MemberRow.job_id == job_id, MemberRow.round_number == number)
    return c.execute(query.order_by(MemberRow.client_id)).all()


def member(c: Connection, job_id: str, number: int, client_id: str) -> Record | None:
    """One member's record."""
    query = select(MemberRow.state, MemberRow.report_digest).where(
        MemberRow.job_id == job_id,
        MemberRow.round_number == number,
        MemberRow.client_id == client_id,
    )
    return c.execute(query).first()
