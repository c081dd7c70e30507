"""Whole rounds over real gRPC."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest

from cloister_protos import (
    Assignment,
    CancelJobRequest,
    Cohort,
    DeclineRequest,
    Eligibility,
    Failure,
    JobState,
    MemberState,
    ReportRequest,
    RoundState,
    Schedule,
    Training,
    Weighting,
)
from cloister_tasks import aggregation, build

from .conftest import Site, Start, refused
from .loopback import F32, Client, blob_of, module_of, noop_spec

SUCCEEDED = JobState.JOB_STATE_SUCCEEDED
COMMITTED, ABANDONED = RoundState.ROUND_STATE_COMMITTED, RoundState.ROUND_STATE_ABANDONED
REPORTED, DECLINED = MemberState.MEMBER_STATE_REPORTED, MemberState.MEMBER_STATE_DECLINED
FAILED, LOST = MemberState.MEMBER_STATE_FAILED, MemberState.MEMBER_STATE_LOST


def seeded(assignment: Assignment, model: F32) -> F32:
    """An update that depends on the assignment's seed and on the model."""
    noise = np.random.default_rng(assignment.seed).normal(size=len(model))
    return (noise - 0.5 * model).astype(np.float32)


@pytest.mark.parametrize("parameters", [5, 100_000], ids=["inline", "uploaded"])
async def test_the_model_is_the_mean_of_the_updates(site: Site, parameters: int) -> None:
    status = await site.operator.submit_noop(parameters, 3, rounds=4, seed=9)
    clients = [await site.client(i) for i in range(3)]
    expected = np.zeros(parameters, np.float32)
    assignments: list[list[Assignment]] = []

    def train(assignment: Assignment, model: F32) -> F32:
        assert model.tobytes() == expected.tobytes()
        return seeded(assignment, model)

    for number in range(1, 5):
        work = [await client.assignment() for client in clients]
        assert {a.round for a in work} == {number}
        assignments.append(work)
        updates = [train(a, await c.model(a)) for a, c in zip(work, clients, strict=True)]
        rows = [1, 2, 5]
        order = np.argsort([client.id for client in clients])
        total = np.zeros(parameters)
        for i in order:
            total += rows[i] * updates[i].astype(np.float64)
        for i in (number % 3, (number + 1) % 3, (number + 2) % 3):  # arrival does not matter
            result = await clients[i].result(work[i], updates[i], examples=rows[i])
            if i == (number + 2) % 3:
                expected = (expected + total / 8).astype(np.float32)
            await clients[i].report(work[i], result)
    assert (await site.operator.end(status.job_id)).version == 4
    assert (await site.operator.model(status.job_id)).tobytes() == expected.tobytes()
    assert len({a.seed for work in assignments for a in work}) == 12


async def test_what_is_recorded(site: Site) -> None:
    task = build("softmax-regression", features=2, classes=2)
    spec = noop_spec(6, 2, rounds=2, evaluate_every=2, weighting=Weighting.WEIGHTING_UNIFORM)
    spec.task.CopyFrom(module_of(task))
    spec.ClearField("initial_model")
    spec.training.CopyFrom(Training(epochs=2, hyperparameters={"learning_rate": 0.5}))
    status = await site.operator.submit(spec, task, aggregation("fedavg"))
    clients = [await site.client(i) for i in range(2)]

    async def work(client: Client, rows: int) -> list[Assignment]:
        seen = []
        for _ in range(3):
            a = await client.assignment()
            seen.append(a)
            sums = {"evaluation_sums": {"loss": 3.0 * rows}, "evaluated_rows": rows}
            training = {"training_sums": {"loss": 8.0, "accuracy": 2.0}, "examples": rows}
            fields = (sums if a.evaluate else {}) | (training if a.HasField("training") else {})
            update = np.ones(6, np.float32) if a.HasField("training") else None
            await client.report(a, await client.result(a, update, **fields))
        return seen

    seen, _ = await asyncio.gather(work(clients[0], 4), work(clients[1], 12))
    assert [(a.evaluate, a.HasField("training")) for a in seen] == [
        (True, True),
        (False, True),
        (True, False),
    ]
    assert dict(seen[0].training.hyperparameters) == {"learning_rate": 0.5}
    rounds = await site.operator.rounds(status.job_id)
    assert [(r.number, r.base_version, r.evaluation_only) for r in rounds] == [
        (1, 0, False),
        (2, 1, False),
        (3, 2, True),
    ]
    first = rounds[0]
    assert [m.client_id for m in first.members] == sorted(c.id for c in clients)
    assert {m.state for m in first.members} == {REPORTED}
    # Two epochs over 16 rows: 32 seen, sums of 16 and 4.
    assert first.training.examples == 32
    assert dict(first.training.means) == {"loss": 0.5, "accuracy": 0.125}
    assert (first.evaluation.examples, dict(first.evaluation.means)) == (16, {"loss": 3.0})
    assert rounds[1].evaluation.examples == 0
    assert rounds[2].training.examples == 0
    assert first.started_at_ms <= first.ended_at_ms <= rounds[1].ended_at_ms
    # The task's init makes zeros, and two rounds added one.
    assert (await site.operator.model(status.job_id)).tolist() == [2] * 6


async def test_whoever_says_no_fails_or_leaves_does_not_hold_up_the_others(site: Site) -> None:
    clients = [await site.client(i) for i in range(4)]
    status = await site.operator.submit_noop(4, 4, rounds=1, cohort=Cohort(target=4, minimum=1))
    work = [await client.assignment() for client in clients]
    name = work[0].assignment_id
    for _ in range(2):  # repeating is harmless
        await clients[0].call("Decline", DeclineRequest(assignment_id=name, reason="battery\x07"))
    failure = ReportRequest(
        assignment_id=work[1].assignment_id,
        failure=Failure(kind="trapped", message="stack overflow"),
    )
    for _ in range(2):
        await clients[1].call("Report", failure)
    await clients[2].close()
    await clients[3].report(work[3], await clients[3].result(work[3], np.ones(4, np.float32)))
    (record,) = await site.operator.rounds(status.job_id)
    said = {m.client_id: (m.state, m.reason) for m in record.members}
    assert said[clients[0].id] == (DECLINED, "battery ")
    assert said[clients[1].id] == (FAILED, "trapped: stack overflow")
    assert said[clients[2].id] == (LOST, "its connection was lost")
    assert said[clients[3].id] == (REPORTED, "")
    assert (await site.operator.model(status.job_id)).tolist() == [1, 1, 1, 1]


async def test_the_deadline_abandons_and_the_next_round_succeeds(site: Site) -> None:
    status = await site.operator.submit_noop(4, 2, rounds=1, round_deadline_seconds=0.3)
    clients = [await site.client(i) for i in range(2)]
    first = [await client.assignment() for client in clients]
    second = [await client.assignment() for client in clients]
    assert {a.round for a in second} == {2}
    assert 0 < second[0].deadline_seconds <= 0.3
    late = clients[0].report(first[0], await clients[0].result(first[0], np.ones(4, np.float32)))
    error = await refused(late)
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    # However long that took: whatever round is open now is done.
    while True:
        try:
            for client, a in zip(clients, second, strict=True):
                await client.report(a, await client.result(a, np.ones(4, np.float32)))
            break
        except grpc.aio.AioRpcError:
            second = [await client.assignment() for client in clients]
    assert (await site.operator.end(status.job_id)).state == SUCCEEDED
    rounds = await site.operator.rounds(status.job_id)
    assert rounds[0].state == ABANDONED
    assert rounds[0].reason == "0 of at least 2 members reported by the deadline"
    assert rounds[-1].state == COMMITTED


async def test_a_job_nobody_can_do_fails(site: Site) -> None:
    status = await site.operator.submit_noop(4, 1, max_abandoned_rounds=2)
    client = await site.client(0)
    for _ in range(2):
        work = await client.assignment()
        await client.call("Decline", DeclineRequest(assignment_id=work.assignment_id, reason="no"))
    ended = await site.operator.end(status.job_id)
    assert ended.state == JobState.JOB_STATE_FAILED
    assert "2 rounds in a row were abandoned" in ended.reason


async def test_over_selection_completes_with_the_fastest(site: Site) -> None:
    clients = [await site.client(i) for i in range(3)]
    status = await site.operator.submit_noop(
        4, 2, rounds=1, cohort=Cohort(target=2, minimum=2, over_selection=1.5)
    )
    work = [await client.assignment() for client in clients]
    for client, a in zip(clients[:2], work, strict=False):
        await client.report(a, await client.result(a, np.ones(4, np.float32)))
    cancelled = await clients[2].next()
    assert cancelled.cancellation.assignment_id == work[2].assignment_id
    late = clients[2].report(work[2], await clients[2].result(work[2], np.ones(4, np.float32)))
    assert (await refused(late)).code() == grpc.StatusCode.FAILED_PRECONDITION
    assert (await site.operator.end(status.job_id)).version == 1


async def test_two_jobs_share_the_clients(site: Site) -> None:
    clients = [await site.client(i) for i in range(2)]
    jobs = [await site.operator.submit_noop(p, 2, rounds=5, name=f"job-{p}") for p in (3, 70_000)]

    def train(assignment: Assignment, model: F32) -> F32:
        return np.full(len(model), len(model) / 1000, np.float32)

    await asyncio.gather(*(client.work(train, 10) for client in clients))
    for job, parameters in zip(jobs, (3, 70_000), strict=True):
        ended = await site.operator.end(job.job_id)
        assert (ended.state, ended.version) == (SUCCEEDED, 5)
        model = await site.operator.model(job.job_id)
        np.testing.assert_allclose(model, 5 * parameters / 1000, rtol=1e-6)
        assert len(model) == parameters


async def test_only_eligible_clients_are_selected(site: Site) -> None:
    wanted = Eligibility(dataset="digits", tags=["fast"])
    status = await site.operator.submit_noop(4, 1, rounds=1, eligibility=wanted)
    for number, offer in enumerate(
        (
            {"datasets": ["other"], "tags": ["fast"]},
            {"datasets": ["digits"], "tags": []},
            {"datasets": ["digits"], "tags": ["fast"], "memory_bytes": 65536},
        )
    ):
        await site.client(number, **offer)
    watch = site.operator.watch(status.job_id)
    assert "0 of at least 1 eligible" in (await anext(watch)).job.reason
    await watch.aclose()
    right = await site.client(9, datasets=["digits", "x"], tags=["fast", "y"])
    work = await right.assignment()
    assert work.dataset == "digits"
    await right.report(work, await right.result(work, np.ones(4, np.float32)))
    assert (await site.operator.end(status.job_id)).state == SUCCEEDED


async def test_a_smaller_fleet_starts_after_it_has_settled(start: Start) -> None:
    site = await start(settle_seconds=0.2)
    status = await site.operator.submit_noop(4, 3, rounds=1, cohort=Cohort(target=3, minimum=1))
    client = await site.client(0)
    work = await client.assignment()
    await client.report(work, await client.result(work, np.ones(4, np.float32)))
    assert (await site.operator.end(status.job_id)).version == 1


async def test_cancelling_ends_the_round_and_keeps_the_versions(site: Site) -> None:
    status = await site.operator.submit_noop(4, 1, rounds=100)
    client = await site.client(0)
    work = await client.assignment()
    await client.report(work, await client.result(work, np.ones(4, np.float32)))
    work = await client.assignment()
    request = CancelJobRequest(job_id=status.job_id, reason="enough")
    cancelled = await site.operator.call("CancelJob", request)
    assert (cancelled.state, cancelled.reason) == (JobState.JOB_STATE_CANCELLED, "enough")
    assert (await client.next()).cancellation.assignment_id == work.assignment_id
    rounds = await site.operator.rounds(status.job_id)
    assert [r.state for r in rounds] == [COMMITTED, ABANDONED]
    assert (await site.operator.model(status.job_id)).tolist() == [1, 1, 1, 1]
    again = await refused(site.operator.call("CancelJob", request))
    assert again.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_an_aggregation_that_fails_abandons_the_round(site: Site) -> None:
    status = await site.operator.submit_noop(4, 1, max_abandoned_rounds=1)
    client = await site.client(0)
    work = await client.assignment()
    # Weights of zero in sum: fedavg has nothing to divide by.
    await client.report(work, await client.result(work, np.ones(4, np.float32), examples=0))
    ended = await site.operator.end(status.job_id)
    assert ended.state == JobState.JOB_STATE_FAILED
    assert "the aggregation failed (faulted): finish returned status" in ended.reason


async def test_a_summary_is_a_job_like_others(site: Site) -> None:
    task = build("summarize", features=2, bins=4)
    spec = noop_spec(1, 1, rounds=1)
    spec.task.CopyFrom(module_of(task))
    spec.aggregation.CopyFrom(module_of(aggregation("sum")))
    spec.ClearField("initial_model")
    status = await site.operator.submit(spec, task, aggregation("sum"))
    client = await site.client(0)
    work = await client.assignment()
    zero = await client.model(work)
    assert blob_of(zero.tobytes()) == work.model
    assert not zero.any()
    await client.report(work, await client.result(work, zero + 7))
    await site.operator.end(status.job_id)
    assert set((await site.operator.model(status.job_id)).tolist()) == {7}


async def test_members_are_told_the_number_of_their_version(site: Site) -> None:
    task = build("softmax-regression", features=2, classes=2)
    schedule = Schedule(step=Schedule.Step(start=1.0, factor=0.5, every=1))
    await site.operator.submit(
        noop_spec(
            6,
            1,
            task=module_of(task),
            training=Training(epochs=1, hyperparameters={"learning_rate": 9.0, "momentum": 0.5}),
            schedules={"learning_rate": schedule},
        ),
        task,
        aggregation("fedavg"),
        bytes(24),
    )
    client = await site.client(0)
    for rate in (1.0, 0.5, 0.25):
        work = await client.assignment()
        told = {"learning_rate": rate, "momentum": 0.5}
        assert dict(work.training.hyperparameters) == told
        sums = {"loss": 1.0, "accuracy": 1.0}
        result = await client.result(work, np.ones(6, np.float32), training_sums=sums)
        await client.report(work, result)
