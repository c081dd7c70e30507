"""How jobs, rounds and clients are shown: words for people, JSON for programs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from google.protobuf import json_format
from rich.markup import escape
from rich.table import Table

from cloister_protos import (
    ClientStatus,
    DifferentialPrivacy,
    Graph,
    JobSpec,
    JobState,
    JobStatus,
    MemberState,
    ModelVersion,
    Noise,
    PrivacySpent,
    RoundRecord,
    RoundState,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cloister.job import Job

_COLOURS = {
    JobState.JOB_STATE_RUNNING: "cyan",
    JobState.JOB_STATE_SUCCEEDED: "green",
    JobState.JOB_STATE_FAILED: "red",
    JobState.JOB_STATE_CANCELLED: "yellow",
}
ENDED = (RoundState.ROUND_STATE_COMMITTED, RoundState.ROUND_STATE_ABANDONED)
"""States in which a round stays."""


def job_state(status: JobStatus) -> str:
    """One word."""
    return JobState.Name(status.state).removeprefix("JOB_STATE_").lower()


def round_state(record: RoundRecord) -> str:
    """One word."""
    return RoundState.Name(record.state).removeprefix("ROUND_STATE_").lower()


def member_state(state: MemberState) -> str:
    """One word."""
    return MemberState.Name(state).removeprefix("MEMBER_STATE_").lower()


def coloured_state(status: JobStatus) -> str:
    """One word in the colour of the state."""
    return f"[{_COLOURS.get(status.state, 'default')}]{job_state(status)}[/]"


def moment(milliseconds: int) -> str:
    """A time as UTC; a dash for none."""
    if not milliseconds:
        return "-"
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def reported(record: RoundRecord) -> int:
    """How many members handed in a result."""
    return sum(m.state == MemberState.MEMBER_STATE_REPORTED for m in record.members)


def job_table(jobs: Iterable[Job]) -> Table:
    """One line a job."""
    table = Table("job", "name", "state", "versions", "cohort", "submitted (UTC)", "remark")
    for job in jobs:
        status = job.status
        table.add_row(
            status.job_id,
            escape(status.spec.name),
            coloured_state(status),
            f"{status.version}/{status.spec.rounds}",
            str(status.spec.cohort.target),
            moment(status.submitted_at_ms),
            escape(status.reason),
        )
    return table


def _hyperparameters(spec: JobSpec) -> list[str]:
    """The job's own, and those that change."""
    fixed = sorted(spec.training.hyperparameters.items())
    changing = sorted(spec.schedules.items())
    return [
        *(f"{escape(name)} = {value:g}" for name, value in fixed if name not in spec.schedules),
        *(f"{escape(name)} by {schedule.WhichOneof('kind')}" for name, schedule in changing),
    ]


def protection(spec: JobSpec) -> dict[str, str]:
    """What protects the updates of a job, in words."""
    secure, privacy = spec.secure_aggregation, spec.differential_privacy
    found = {"clipping norm": f"{spec.clip_norm:g}" if spec.clip_norm else "none"}
    found["secure aggregation"] = "none: the coordinator sees single updates"
    if spec.HasField("secure_aggregation"):
        graph = Graph.Name(secure.graph).removeprefix("GRAPH_").lower()
        found["secure aggregation"] = (
            f"{graph} graph, {secure.corrupt_fraction:.0%} may collude,"
            f" {secure.value_bits} bits a coordinate"
        )
    if spec.HasField("differential_privacy"):
        budget = f"up to epsilon {privacy.epsilon:g}" if privacy.epsilon else "without a budget"
        adaptive = ", the clipping norm adapts" if privacy.HasField("adaptive") else ""
        found["differential privacy"] = (
            f"{_noise(privacy)} noise of {privacy.noise_multiplier:g} clipping norms,"
            f" {budget}{adaptive}"
        )
    return found


def _noise(privacy: DifferentialPrivacy) -> str:
    return Noise.Name(privacy.noise).removeprefix("NOISE_").lower()


def spent(privacy: PrivacySpent) -> str:
    """Privacy that was spent, in words."""
    rounds = f"{privacy.rounds} round{'s' * (privacy.rounds != 1)}"
    return f"epsilon {privacy.epsilon:.4g} at delta {privacy.delta:g}, by {rounds}"


def status_table(status: JobStatus) -> Table:
    """Everything about one job."""
    spec = status.spec
    least, most = spec.cohort.minimum, spec.cohort.target
    updates = f"{most} updates" if least == most else f"{least} to {most} updates"
    over = spec.cohort.over_selection
    table = Table("", "", title=f"job {status.job_id}", show_header=False)
    rows = {
        "name": escape(spec.name),
        "state": coloured_state(status) + (f" ({escape(status.reason)})" if status.reason else ""),
        "versions": f"{status.version} of {spec.rounds}",
        "submitted": f"{moment(status.submitted_at_ms)} UTC",
        "task": spec.task.blob.digest.hex(),
        "publisher": spec.task.publisher.hex() or "unsigned",
        "aggregation": spec.aggregation.blob.digest.hex(),
        "cohort": updates + (f", {over:g} clients selected for each" if over > 1 else ""),
        "deadline": f"{spec.round_deadline_seconds:g} s a round",
        "epochs": str(spec.training.epochs),
        "hyperparameters": ", ".join(_hyperparameters(spec)) or "the task's defaults",
        "evaluation": f"every {spec.evaluate_every} versions" if spec.evaluate_every else "never",
        "dataset": escape(spec.eligibility.dataset) or "the clients' only one",
        "tags": escape(", ".join(spec.eligibility.tags)) or "any",
        "seed": str(spec.seed),
        **protection(spec),
    }
    if status.HasField("privacy_spent"):
        rows["privacy spent"] = spent(status.privacy_spent)
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def version_table(versions: Iterable[ModelVersion]) -> Table:
    """One line a model version."""
    table = Table("version", "round", "committed (UTC)", "bytes", "SHA-256", title="model versions")
    for version in versions:
        table.add_row(
            str(version.version),
            str(version.round or "-"),
            moment(version.committed_at_ms),
            f"{version.blob.size:,}",
            version.blob.digest.hex(),
        )
    return table


def client_table(clients: Iterable[ClientStatus]) -> Table:
    """One line a client."""
    table = Table("client", "name", "connected", "last seen (UTC)", "memory", "datasets", "tags")
    for client in clients:
        offer = client.capabilities
        table.add_row(
            client.client_id,
            escape(client.name),
            "[green]yes[/]" if client.connected else "no",
            moment(client.last_seen_at_ms),
            f"{offer.memory_bytes / (1 << 20):g} MiB",
            escape(", ".join(offer.datasets)),
            escape(", ".join(offer.tags)),
        )
    return table


def job_document(status: JobStatus) -> dict[str, Any]:
    """A job as JSON values."""
    spec = status.spec
    return {
        "job_id": status.job_id,
        "name": spec.name,
        "state": job_state(status),
        "reason": status.reason,
        "version": status.version,
        "rounds": spec.rounds,
        "submitted_at_ms": status.submitted_at_ms,
        "task": spec.task.blob.digest.hex(),
        "publisher": spec.task.publisher.hex(),
        "aggregation": spec.aggregation.blob.digest.hex(),
        "cohort": spec.cohort.target,
        "minimum": spec.cohort.minimum,
        "over_selection": spec.cohort.over_selection,
        "round_deadline_seconds": spec.round_deadline_seconds,
        "epochs": spec.training.epochs,
        "hyperparameters": dict(spec.training.hyperparameters),
        "schedules": {
            name: json_format.MessageToDict(schedule)
            for name, schedule in sorted(spec.schedules.items())
        },
        "evaluate_every": spec.evaluate_every,
        "dataset": spec.eligibility.dataset,
        "tags": list(spec.eligibility.tags),
        "seed": spec.seed,
        "clip_norm": spec.clip_norm,
        "secure_aggregation": _settings(spec, "secure_aggregation"),
        "differential_privacy": _settings(spec, "differential_privacy"),
        "privacy_spent": _spent(status),
    }


def _settings(
    spec: JobSpec, field: Literal["secure_aggregation", "differential_privacy"]
) -> dict[str, Any] | None:
    """A message of the job as JSON values, by the names of the TOML; None: it is not there."""
    if not spec.HasField(field):
        return None
    found: dict[str, Any] = json_format.MessageToDict(
        getattr(spec, field), preserving_proto_field_name=True
    )
    for name in ("graph", "noise"):
        if name in found:
            found[name] = found[name].rpartition("_")[2].lower()
    if "max_weight" in found:
        found["max_weight"] = int(found["max_weight"])  # 64 bits are a text in that mapping
    return found


def _spent(of: JobStatus | RoundRecord) -> dict[str, Any] | None:
    if not of.HasField("privacy_spent"):
        return None
    privacy = of.privacy_spent
    return {"epsilon": privacy.epsilon, "delta": privacy.delta, "rounds": privacy.rounds}


def round_document(record: RoundRecord, spec: JobSpec) -> dict[str, Any]:
    """A round as JSON values."""
    return {
        "round": record.number,
        "base_version": record.base_version,
        "evaluation_only": record.evaluation_only,
        "state": round_state(record),
        "reason": record.reason,
        "members": [
            {"client_id": m.client_id, "state": member_state(m.state), "reason": m.reason}
            for m in record.members
        ],
        "training": {"examples": record.training.examples, **record.training.means},
        "evaluation": {"examples": record.evaluation.examples, **record.evaluation.means},
        "started_at_ms": record.started_at_ms,
        "ended_at_ms": record.ended_at_ms,
        "secure": spec.HasField("secure_aggregation"),
        "clip_norm": record.clip_norm,
        "privacy_spent": _spent(record),
    }


def version_document(version: ModelVersion) -> dict[str, Any]:
    """A model version as JSON values."""
    return {
        "version": version.version,
        "round": version.round,
        "digest": version.blob.digest.hex(),
        "bytes": version.blob.size,
        "committed_at_ms": version.committed_at_ms,
    }


def client_document(client: ClientStatus) -> dict[str, Any]:
    """A client as JSON values."""
    return {
        "client_id": client.client_id,
        "name": client.name,
        "connected": client.connected,
        "last_seen_at_ms": client.last_seen_at_ms,
        "memory_bytes": client.capabilities.memory_bytes,
        "datasets": list(client.capabilities.datasets),
        "tags": list(client.capabilities.tags),
        "software": client.capabilities.software,
    }
