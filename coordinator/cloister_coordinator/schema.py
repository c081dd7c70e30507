"""The tables. Enumerations are stored as their numbers in the protos, messages as their bytes."""

from __future__ import annotations

from sqlalchemy import BigInteger, Double, ForeignKey, LargeBinary, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_COMPACT = {"sqlite_with_rowid": False}
"""SQLite keeps the rows in the index of the primary key: one page to write instead of two."""


class Base(DeclarativeBase):
    """What all tables share."""

    type_annotation_map = {int: BigInteger, float: Double, bytes: LargeBinary, str: Text}  # noqa: RUF012


class ClientRow(Base):
    """A client that has enrolled."""

    __tablename__ = "client"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    public_key: Mapped[bytes]
    name: Mapped[str]
    capabilities: Mapped[bytes]
    """A `Capabilities` message, as of the last check-in."""
    last_seen_at_ms: Mapped[int]


class JobRow(Base):
    """A job as submitted, and how it ended."""

    __tablename__ = "job"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    """Ascending in order of submission."""
    spec: Mapped[bytes]
    """A `JobSpec` message with every default filled in."""
    state: Mapped[int] = mapped_column(index=True)
    reason: Mapped[str]
    submitted_at_ms: Mapped[int]
    idempotency_key: Mapped[str | None] = mapped_column(String(64), unique=True)


class RoundRow(Base):
    """A round of a job."""

    __tablename__ = "round"
    __table_args__ = _COMPACT

    job_id: Mapped[str] = mapped_column(ForeignKey(JobRow.id), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    base_version: Mapped[int]
    evaluation_only: Mapped[bool]
    evaluate: Mapped[bool]
    state: Mapped[int]
    reason: Mapped[str]
    started_at_ms: Mapped[int]
    deadline_at_ms: Mapped[int]
    ended_at_ms: Mapped[int]
    """0 while it runs."""
    training: Mapped[bytes | None]
    """A `Metrics` message."""
    evaluation: Mapped[bytes | None]
    """A `Metrics` message."""
    clip_norm: Mapped[float]
    """The clipping norm in force; 0: none."""
    releases: Mapped[int]
    """Sums that the job has released under differential privacy, up to and with this round; its
    own is counted before the first member is asked for a share."""
    epsilon: Mapped[float]
    """What they cost."""


class MemberRow(Base):
    """A member of a round's cohort."""

    __tablename__ = "member"

    job_id: Mapped[str] = mapped_column(ForeignKey(JobRow.id), primary_key=True)
    round_number: Mapped[int] = mapped_column(primary_key=True)
    client_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    state: Mapped[int]
    reason: Mapped[str]
    report_digest: Mapped[bytes | None]
    """SHA-256 of the report as it came: a repetition is recognised by it."""
    result: Mapped[bytes | None]
    """A `Result` message without its inline update; cleared when the round ends."""
    inline_update: Mapped[bytes | None]
    """Cleared when the round ends."""


class VersionRow(Base):
    """A committed model version."""

    __tablename__ = "version"
    __table_args__ = _COMPACT

    job_id: Mapped[str] = mapped_column(ForeignKey(JobRow.id), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[bytes]
    size: Mapped[int]
    round_number: Mapped[int]
    """0 for the initial model."""
    committed_at_ms: Mapped[int]
    state_digest: Mapped[bytes | None]
    """The aggregation's server state after it; None: there is none, or it is zero."""
    clip_norm: Mapped[float]
    """The clipping norm of rounds that start from it; 0: none."""


class SmallBlobRow(Base):
    """A blob small enough to be made durable along with the round it comes out of."""

    __tablename__ = "small_blob"

    digest: Mapped[bytes] = mapped_column(primary_key=True)
    content: Mapped[bytes]
