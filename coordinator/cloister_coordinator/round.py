"""One round: who is in it, what became of each member, and when it is decided.

Pure: events in, state out. Rounds and members follow the two tables below. A round closes as
soon as nothing could improve it: when `target` members reported, or when nobody is outstanding;
else at its deadline. It closes into FOLDING with at least `minimum` reports, and is ABANDONED
with fewer.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto

from cloister_coordinator.errors import IllegalTransition
from cloister_protos import MemberState, RoundState


class RoundEvent(Enum):
    """What happens to a round as a whole."""

    ENOUGH = auto()
    TOO_FEW = auto()
    FOLDED = auto()
    ABANDON = auto()


_COLLECTING, _FOLDING = RoundState.ROUND_STATE_COLLECTING, RoundState.ROUND_STATE_FOLDING
_COMMITTED, _ABANDONED = RoundState.ROUND_STATE_COMMITTED, RoundState.ROUND_STATE_ABANDONED
_ASSIGNED, _LOST = MemberState.MEMBER_STATE_ASSIGNED, MemberState.MEMBER_STATE_LOST
_REPORTED = MemberState.MEMBER_STATE_REPORTED
_DECLINED, _FAILED = MemberState.MEMBER_STATE_DECLINED, MemberState.MEMBER_STATE_FAILED

TRANSITIONS: dict[tuple[RoundState, RoundEvent], RoundState] = {
    (_COLLECTING, RoundEvent.ENOUGH): _FOLDING,
    (_COLLECTING, RoundEvent.TOO_FEW): _ABANDONED,
    (_COLLECTING, RoundEvent.ABANDON): _ABANDONED,
    (_FOLDING, RoundEvent.FOLDED): _COMMITTED,
    (_FOLDING, RoundEvent.ABANDON): _ABANDONED,
}
"""Every legal step of a round; all others raise IllegalTransition."""

MEMBER_TRANSITIONS: frozenset[tuple[MemberState, MemberState]] = frozenset(
    {
        (_ASSIGNED, _REPORTED),
        (_ASSIGNED, _DECLINED),
        (_ASSIGNED, _FAILED),
        (_ASSIGNED, _LOST),
        # A connection that is gone says nothing about the work: what comes after all counts.
        (_LOST, _REPORTED),
        (_LOST, _DECLINED),
        (_LOST, _FAILED),
    }
)
"""Every legal step of a member, only while the round collects."""

MAX_REASON = 1024
"""Characters of a reason; a longer one is cut."""


class Round:
    """The state of one round.

    Args:
        number: counts the job's rounds from 1.
        base_version: the model version it starts from.
        members: the cohort's client ids.
        target: reports that complete it.
        minimum: fewest reports it may commit with.
        evaluation_only: no update is expected.
    """

    def __init__(
        self,
        number: int,
        base_version: int,
        members: Iterable[str],
        target: int,
        minimum: int,
        evaluation_only: bool = False,
    ) -> None:
        self.number = number
        self.base_version = base_version
        self.target = target
        self.minimum = minimum
        self.evaluation_only = evaluation_only
        self.state: RoundState = _COLLECTING
        self.reason = ""
        self.members: dict[str, MemberState] = dict.fromkeys(sorted(members), _ASSIGNED)
        self.reasons: dict[str, str] = {}
        self._reports = 0
        self._outstanding = len(self.members)

    @classmethod
    def restore(
        cls,
        number: int,
        base_version: int,
        members: dict[str, tuple[MemberState, str]],
        target: int,
        minimum: int,
        evaluation_only: bool,
    ) -> Round:
        """A round as it was recorded (members: state and reason by id).

        Reports come last: a round never closes over members that had already ended otherwise.
        """
        self = cls(number, base_version, members, target, minimum, evaluation_only)
        ended = [(i, s, r) for i, (s, r) in members.items() if s != _ASSIGNED]
        for client_id, state, reason in sorted(ended, key=lambda m: (m[1] == _REPORTED, m[0])):
            self._member(client_id, state, reason)
        return self

    @property
    def survivors(self) -> tuple[str, ...]:
        """Members whose reports count, in ascending order: the order of folding."""
        return tuple(i for i, state in self.members.items() if state == _REPORTED)

    @property
    def open_members(self) -> tuple[str, ...]:
        """Members whose report would still be taken, in ascending order."""
        if self.state != _COLLECTING:
            return ()
        return tuple(i for i, state in self.members.items() if state in (_ASSIGNED, _LOST))

    @property
    def outstanding(self) -> tuple[str, ...]:
        """Members from whom nothing has come, and whose connection stands, in ascending order."""
        return tuple(i for i, state in self.members.items() if state == _ASSIGNED)

    def reported(self, client_id: str) -> None:
        """A member's result was taken."""
        self._member(client_id, _REPORTED, "")

    def declined(self, client_id: str, reason: str) -> None:
        """A member's policy said no."""
        self._member(client_id, _DECLINED, reason)

    def failed(self, client_id: str, reason: str) -> None:
        """A member tried and could not."""
        self._member(client_id, _FAILED, reason)

    def lost(self, client_id: str, reason: str) -> None:
        """A member's connection is gone; it may still report while the round collects."""
        self._member(client_id, _LOST, reason)

    def deadline(self) -> None:
        """The time is up: whoever is outstanding is lost, and what is there decides."""
        if self.state == _COLLECTING:
            for client_id in self.outstanding:
                self.members[client_id] = _LOST
                self.reasons[client_id] = "no report by the deadline"
            self._outstanding = 0
        enough = self._reports >= self.minimum
        self._step(RoundEvent.ENOUGH if enough else RoundEvent.TOO_FEW)
        if not enough:
            self.reason = f"{self._count()} by the deadline"

    def folded(self) -> None:
        """The outcome is recorded."""
        self._step(RoundEvent.FOLDED)

    def abandon(self, reason: str) -> None:
        """Nothing will come of it."""
        self._step(RoundEvent.ABANDON)
        self.reason = reason[:MAX_REASON]

    def _member(self, client_id: str, state: MemberState, reason: str) -> None:
        before = self.members.get(client_id)
        if before is None or self.state != _COLLECTING:
            raise IllegalTransition(
                f"round {self.number} is {RoundState.Name(self.state)} and takes nothing"
                f" from {client_id}"
            )
        if (before, state) not in MEMBER_TRANSITIONS:
            raise IllegalTransition(
                f"member {client_id} of round {self.number} cannot go from"
                f" {MemberState.Name(before)} to {MemberState.Name(state)}"
            )
        self.members[client_id] = state
        self.reasons[client_id] = reason[:MAX_REASON]
        self._outstanding -= before == _ASSIGNED
        self._reports += state == _REPORTED
        if self._reports == self.target:
            self._step(RoundEvent.ENOUGH)
        elif self._outstanding == 0:
            if self._reports >= self.minimum:
                self._step(RoundEvent.ENOUGH)
            else:
                self._step(RoundEvent.TOO_FEW)
                self.reason = f"{self._count()}, and nobody is left"

    def _count(self) -> str:
        return f"{self._reports} of at least {self.minimum} members reported"

    def _step(self, event: RoundEvent) -> None:
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            raise IllegalTransition(
                f"round {self.number} is {RoundState.Name(self.state)}; no {event.name} now"
            )
        self.state = after
