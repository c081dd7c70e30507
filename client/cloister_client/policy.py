"""What the device's owner allows. No message from outside can lower it.

Decisions are pure: the same policy and assignment always give the same answer, either None
(allowed) or the reason for a no, which the coordinator and the audit log are told.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cloister_client.errors import ConfigError
from cloister_privacy.errors import BelowFloor
from cloister_protos import Assignment, Module
from cloister_sandbox import Limits

if TYPE_CHECKING:
    from cloister_client.config import SecureConfig

_MIB = 1024 * 1024


@dataclass(frozen=True)
class Policy:
    """The `[policy]` section. What is not allowed here is declined, with the reason."""

    any_task: bool = False
    """`any_task = true`: run whatever task the coordinator names, signed or not. Otherwise a
    task must match `publishers` or `digests`."""
    publishers: frozenset[bytes] = frozenset()
    """`publishers = ["<64 hex digits>", ...]`: Ed25519 public keys; a task signed by one of them
    is allowed."""
    digests: frozenset[bytes] = frozenset()
    """`digests = ["<64 hex digits>", ...]`: SHA-256 of single tasks that are allowed."""
    aggregations: frozenset[bytes] | None = None
    """`aggregations = ["<64 hex digits>", ...]`: SHA-256 of the aggregations this device's
    updates may go to. Left out: any."""
    memory_mb: float = 256.0
    """`memory_mb = 256`: MiB of linear memory a task may declare; one that needs more is refused
    before it runs."""
    seconds_per_round: float = 600.0
    """`seconds_per_round = 600`: wall seconds of training and evaluation in one round; past it
    no further chunk of rows begins, and a single chunk that takes as long is stopped. The round
    fails as "out_of_time"."""
    cpu_seconds: float | None = None
    """`cpu_seconds = 600`: CPU seconds one call into a task may burn; past it the sandbox is
    killed and the round fails as "out_of_time". Left out: the same as `seconds_per_round`."""
    seconds_per_day: float | None = None
    """`seconds_per_day = 3600`: seconds all rounds of one UTC day may take on this device; once
    they are used up assignments are declined until midnight UTC. Left out: no limit."""
    local_mb: float = 256.0
    """`local_mb = 256`: MiB that all jobs together may keep in `state_dir` between rounds
    (personal layers, running statistics); a job that needs more is refused."""
    clip_norm: float | None = None
    """`clip_norm = 1.0`: largest L2 norm of an update that leaves; a longer one is scaled down
    to it. Left out: no limit."""

    def __post_init__(self) -> None:
        if not (self.any_task or self.publishers or self.digests):
            raise ConfigError(
                "[policy] allows no task at all; write `publishers = [...]` with the hexadecimal "
                "public keys of those whose tasks may run here, or `digests = [...]` with single "
                "tasks, or `any_task = true` to run whatever the coordinator sends"
            )
        try:
            self.limits()
        except ValueError as error:
            raise ConfigError(f"[policy] gives a limit no sandbox can have: {error}") from error

    def limits(self) -> Limits:
        """What the sandbox enforces on behalf of this policy."""
        return Limits(
            memory_bytes=int(self.memory_mb * _MIB),
            run_seconds=self.seconds_per_round,
            cpu_seconds=self.cpu_seconds or self.seconds_per_round,
        )


def weigh(
    policy: Policy,
    assignment: Assignment,
    *,
    signed: bool,
    datasets: Collection[str],
    seconds_today: float,
    secure: SecureConfig | None = None,
) -> str | None:
    """None if the policy allows the assignment, else the reason why not.

    `signed` tells whether the task's signature by its stated publisher is valid, `datasets` the
    names on offer, `seconds_today` what rounds took on this UTC day so far, and `secure` what the
    owner wants of secure aggregation (None: it is not set up).
    """
    return (
        _weigh_task(policy, assignment.task, signed)
        or _weigh_aggregation(policy, assignment.aggregation)
        or _weigh_dataset(assignment.dataset, datasets)
        or _weigh_day(policy, seconds_today)
        or _weigh_secure(secure, assignment)
    )


def _weigh_task(policy: Policy, task: Module, signed: bool) -> str | None:
    if task.publisher and not signed:
        return "the task's signature is not valid for its publisher"
    if policy.any_task or task.blob.digest in policy.digests:
        return None
    if not task.publisher:
        return "the task is unsigned and its digest is not on this device's list"
    if task.publisher not in policy.publishers:
        return "the task's publisher is not on this device's list"
    return None


def _weigh_aggregation(policy: Policy, aggregation: Module) -> str | None:
    if policy.aggregations is None or aggregation.blob.digest in policy.aggregations:
        return None
    return "the aggregation is not on this device's list"


def _weigh_dataset(dataset: str, datasets: Collection[str]) -> str | None:
    if dataset:
        return None if dataset in datasets else f"there is no dataset {dataset!r} here"
    if len(datasets) == 1:
        return None
    return f"the job names no dataset, and this device has {len(datasets)}"


def _weigh_day(policy: Policy, seconds_today: float) -> str | None:
    if policy.seconds_per_day is None or seconds_today < policy.seconds_per_day:
        return None
    return f"the {policy.seconds_per_day:g} seconds for this UTC day are used up"


def _weigh_secure(secure: SecureConfig | None, assignment: Assignment) -> str | None:
    if not assignment.HasField("secure"):
        if secure is None or not secure.required:
            return None
        return "the job has no secure aggregation, and nothing leaves this device in clear"
    if secure is None:
        return (
            "the job has secure aggregation, which is not set up on this device; its owner gets a "
            "certificate and adds the section [secure_aggregation]"
        )
    # here, for a simulation shares this module and has no cryptography
    from cloister_privacy.terms import Terms

    try:
        # nothing in the task makes a difference to what is checked here
        secure.floors.check_terms(Terms.of(assignment, parameters=0, counters=0))
    except BelowFloor as error:
        return str(error)
    return None
