from __future__ import annotations

import copy

import pytest

from cloister_coordinator.errors import IllegalTransition
from cloister_coordinator.job import Job, Plan
from cloister_protos import JobState


def run(job: Job, outcomes: str) -> list[Plan]:
    """Rounds with these outcomes: c(ommitted) or a(bandoned)."""
    plans = []
    for outcome in outcomes:
        plan = job.plan()
        plans.append(plan)
        job.opened(plan)
        if outcome == "c":
            job.committed(plan.evaluation_only)
        else:
            job.abandoned("why")
    return plans


def test_without_evaluation_the_last_version_ends_it() -> None:
    job = Job(rounds=3, evaluate_every=0, max_abandoned=10)
    plans = run(job, "ccc")
    assert [(p.number, p.base_version, p.evaluate) for p in plans] == [
        (1, 0, False),
        (2, 1, False),
        (3, 2, False),
    ]
    assert job.state == JobState.JOB_STATE_SUCCEEDED
    assert job.version == 3


def test_every_kth_version_and_the_last_are_evaluated() -> None:
    job = Job(rounds=5, evaluate_every=2, max_abandoned=10)
    plans = run(job, "cccccc")
    assert [p.base_version for p in plans if p.evaluate] == [0, 2, 4, 5]
    assert [p.evaluation_only for p in plans] == [False] * 5 + [True]
    assert job.state == JobState.JOB_STATE_SUCCEEDED


def test_abandoned_rounds_have_numbers_and_are_repeated() -> None:
    job = Job(rounds=2, evaluate_every=0, max_abandoned=2)
    plans = run(job, "acac")
    assert [(p.number, p.base_version) for p in plans] == [(1, 0), (2, 0), (3, 1), (4, 1)]
    assert job.state == JobState.JOB_STATE_SUCCEEDED


def test_too_many_abandoned_in_a_row_fail_it() -> None:
    job = Job(rounds=2, evaluate_every=0, max_abandoned=2)
    run(job, "caa")
    assert job.state == JobState.JOB_STATE_FAILED
    assert job.reason == "2 rounds in a row were abandoned; last: why"


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_an_ended_job_takes_nothing(end: str) -> None:
    job = Job(rounds=2, evaluate_every=0, max_abandoned=2)
    getattr(job, end)("enough")
    before = copy.copy(vars(job))
    for event in (job.plan, lambda: job.cancel("x"), lambda: job.fail("x")):
        with pytest.raises(IllegalTransition):
            event()
    assert vars(job) == before


def test_it_goes_on_from_a_record() -> None:
    job = Job(rounds=5, evaluate_every=2, max_abandoned=3)
    job.restore(version=4, last_round=9, abandoned_in_a_row=2)
    assert job.plan() == Plan(number=10, base_version=4, evaluate=True, evaluation_only=False)
    run(job, "a")
    assert job.state == JobState.JOB_STATE_FAILED
