"""One job: which round comes next, and when it is over. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from cloister_coordinator.errors import IllegalTransition
from cloister_protos import JobState


class JobEvent(Enum):
    """What ends a job."""

    FINISH = auto()
    FAIL = auto()
    CANCEL = auto()


_RUNNING = JobState.JOB_STATE_RUNNING

TRANSITIONS: dict[tuple[JobState, JobEvent], JobState] = {
    (_RUNNING, JobEvent.FINISH): JobState.JOB_STATE_SUCCEEDED,
    (_RUNNING, JobEvent.FAIL): JobState.JOB_STATE_FAILED,
    (_RUNNING, JobEvent.CANCEL): JobState.JOB_STATE_CANCELLED,
}
"""Every legal step of a job; all others raise IllegalTransition."""


@dataclass(frozen=True)
class Plan:
    """The round to run next."""

    number: int
    base_version: int
    evaluate: bool
    """Evaluate the base version."""
    evaluation_only: bool
    """... and train nothing: every version is there, only the last is not evaluated."""


class Job:
    """The progress of one job.

    Version v is evaluated if `evaluate_every` divides it (the initial one included), and the
    last one always, in a round of its own; `evaluate_every` 0 means never.

    Args:
        rounds: model versions to commit.
        evaluate_every: see above.
        max_abandoned: rounds abandoned in a row that make the job fail.
    """

    def __init__(self, rounds: int, evaluate_every: int, max_abandoned: int) -> None:
        self.rounds = rounds
        self.evaluate_every = evaluate_every
        self.max_abandoned = max_abandoned
        self.state: JobState = _RUNNING
        self.reason = ""
        self.version = 0
        self.last_round = 0
        self.abandoned_in_a_row = 0

    def restore(self, version: int, last_round: int, abandoned_in_a_row: int) -> None:
        """Take up a running job as it was recorded."""
        self.version = version
        self.last_round = last_round
        self.abandoned_in_a_row = abandoned_in_a_row

    def plan(self) -> Plan:
        """The next round of a running job."""
        if self.state != _RUNNING:
            raise IllegalTransition(f"the job is {JobState.Name(self.state)}: no more rounds")
        last = self.version == self.rounds
        every = self.evaluate_every
        return Plan(
            number=self.last_round + 1,
            base_version=self.version,
            evaluate=last or (every > 0 and self.version % every == 0),
            evaluation_only=last,
        )

    def opened(self, plan: Plan) -> None:
        """The planned round is running."""
        self.last_round = plan.number

    def committed(self, evaluation_only: bool) -> None:
        """The running round's outcome is recorded."""
        self.abandoned_in_a_row = 0
        self.version += not evaluation_only
        if self.version == self.rounds and (evaluation_only or self.evaluate_every == 0):
            self._step(JobEvent.FINISH, "")

    def abandoned(self, reason: str) -> None:
        """The running round came to nothing."""
        self.abandoned_in_a_row += 1
        if self.abandoned_in_a_row >= self.max_abandoned:
            self.fail(f"{self.abandoned_in_a_row} rounds in a row were abandoned; last: {reason}")

    def finish(self, reason: str) -> None:
        """What is there is all there will be."""
        self._step(JobEvent.FINISH, reason)

    def fail(self, reason: str) -> None:
        """Give up."""
        self._step(JobEvent.FAIL, reason)

    def cancel(self, reason: str) -> None:
        """An operator stops it."""
        self._step(JobEvent.CANCEL, reason)

    def _step(self, event: JobEvent, reason: str) -> None:
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            raise IllegalTransition(f"the job is {JobState.Name(self.state)}; no {event.name} now")
        self.state = after
        self.reason = reason
