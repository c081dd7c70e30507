from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cloister_coordinator.errors import IllegalTransition
from cloister_coordinator.round import MEMBER_TRANSITIONS, TRANSITIONS, Round, RoundEvent
from cloister_protos import MemberState, RoundState

COLLECTING, FOLDING = RoundState.ROUND_STATE_COLLECTING, RoundState.ROUND_STATE_FOLDING
COMMITTED, ABANDONED = RoundState.ROUND_STATE_COMMITTED, RoundState.ROUND_STATE_ABANDONED
ASSIGNED, REPORTED = MemberState.MEMBER_STATE_ASSIGNED, MemberState.MEMBER_STATE_REPORTED
LOST = MemberState.MEMBER_STATE_LOST
CLIENTS = "abcdef"


def test_it_closes_at_the_target() -> None:
    r = Round(1, 0, "abc", target=2, minimum=1)
    r.reported("c")
    assert r.state == COLLECTING
    r.reported("a")
    assert r.state == FOLDING
    assert r.survivors == ("a", "c")
    with pytest.raises(IllegalTransition, match="takes nothing"):
        r.reported("b")


def test_it_closes_when_nobody_is_outstanding() -> None:
    r = Round(1, 0, "abc", target=3, minimum=2)
    r.reported("a")
    r.declined("b", "no power")
    r.reported("c")
    assert r.state == FOLDING
    assert r.reasons["b"] == "no power"


def test_it_is_abandoned_when_nobody_is_left() -> None:
    r = Round(1, 0, "ab", target=2, minimum=1)
    r.failed("a", "trapped")
    r.lost("b", "gone")
    assert r.state == ABANDONED
    assert r.reason == "0 of at least 1 members reported, and nobody is left"


def test_the_deadline_decides_with_what_is_there() -> None:
    r = Round(1, 0, "abc", target=3, minimum=1)
    r.reported("b")
    r.deadline()
    assert r.state == FOLDING
    assert (r.members["a"], r.reasons["a"]) == (LOST, "no report by the deadline")
    few = Round(1, 0, "abc", target=3, minimum=2)
    few.reported("b")
    few.deadline()
    assert few.state == ABANDONED
    assert few.reason == "1 of at least 2 members reported by the deadline"


def test_a_lost_member_may_still_report() -> None:
    r = Round(1, 0, "abc", target=3, minimum=1)
    r.lost("a", "gone")
    assert "a" in r.open_members
    assert "a" not in r.outstanding
    r.reported("a")
    assert r.members["a"] == REPORTED
    assert r.reasons["a"] == ""


def test_folding_ends_in_a_commit_or_is_abandoned() -> None:
    for step, state in ((Round.folded, COMMITTED), (lambda r: r.abandon("no"), ABANDONED)):
        r = Round(1, 0, "a", target=1, minimum=1)
        r.reported("a")
        step(r)
        assert r.state == state
        for again in (r.folded, r.deadline, lambda r=r: r.abandon("again")):
            with pytest.raises(IllegalTransition):
                again()


def test_the_tables_end_where_they_should() -> None:
    assert {state for state, _ in TRANSITIONS} == {COLLECTING, FOLDING}
    assert {event for _, event in TRANSITIONS} == set(RoundEvent)
    assert {before for before, _ in MEMBER_TRANSITIONS} == {ASSIGNED, LOST}


@given(st.data())
def test_a_restored_round_is_the_same(data: st.DataObject) -> None:
    target = data.draw(st.integers(1, 6))
    r = Round(4, 2, CLIENTS, target, data.draw(st.integers(1, target)))
    for client in data.draw(st.permutations(CLIENTS)):
        event = data.draw(st.sampled_from(["reported", "declined", "failed", "lost", "none"]))
        if event == "none" or r.state != COLLECTING:
            continue
        getattr(r, event)(*([client] if event == "reported" else [client, event]))
    again = Round.restore(
        4, 2, {c: (s, r.reasons.get(c, "")) for c, s in r.members.items()}, target, r.minimum, False
    )
    assert (again.state, again.members, again.survivors) == (r.state, r.members, r.survivors)


class RoundMachine(RuleBasedStateMachine):
    """Any events in any order: what is illegal changes nothing, and the rules hold."""

    @initialize(wanted=st.integers(1, 6), data=st.data())
    def begin(self, wanted: int, data: st.DataObject) -> None:
        self.round = Round(1, 0, CLIENTS, wanted, data.draw(st.integers(1, wanted)))

    @rule(
        event=st.sampled_from(["reported", "declined", "failed", "lost"]),
        client=st.sampled_from([*CLIENTS, "stranger"]),
    )
    def member(self, event: str, client: str) -> None:
        before = self.round.members.get(client)
        took = self.attempt(event, *([client] if event == "reported" else [client, "why"]))
        if took:
            assert (before, self.round.members[client]) in MEMBER_TRANSITIONS
        else:
            assert self.closed_before or before not in (ASSIGNED, LOST) or event == "lost"

    @rule()
    def deadline(self) -> None:
        if self.attempt("deadline"):
            enough = len(self.round.survivors) >= self.round.minimum
            assert self.round.state == (FOLDING if enough else ABANDONED)

    @rule()
    def folded(self) -> None:
        before = self.round.state
        assert self.attempt("folded") == (before == FOLDING)

    @rule()
    def abandon(self) -> None:
        before = self.round.state
        assert self.attempt("abandon", "why") == (before in (COLLECTING, FOLDING))

    def attempt(self, event: str, *arguments: Any) -> bool:
        before = copy.deepcopy(vars(self.round))
        self.closed_before = self.round.state != COLLECTING
        try:
            getattr(self.round, event)(*arguments)
        except IllegalTransition:
            assert vars(self.round) == before
            return False
        return True

    @invariant()
    def rules(self) -> None:
        r = self.round
        reports = len(r.survivors)
        assert reports <= r.target
        if r.state == COLLECTING:
            assert reports < r.target
            assert r.outstanding
        if r.state in (FOLDING, COMMITTED):
            assert reports >= r.minimum
            assert reports == r.target or not r.outstanding
        assert not r.open_members or r.state == COLLECTING


TestRoundMachine = RoundMachine.TestCase
