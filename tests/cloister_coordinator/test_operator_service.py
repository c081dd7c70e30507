"""What operators may and may not do, over real gRPC."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister_protos import (
    Blob,
    Cohort,
    Eligibility,
    GetBlobRequest,
    GetJobRequest,
    JobSpec,
    JobState,
    ListClientsRequest,
    ListJobsRequest,
    ListModelVersionsRequest,
    Module,
    PutBlobRequest,
    Schedule,
    SubmitJobRequest,
    Training,
)
from cloister_tasks import aggregation, build, compile_c
from cloister_tasks.signature import sign

from .conftest import Site, refused
from .loopback import blob_of, module_of, noop_spec

SOFTMAX = build("softmax-regression", features=2, classes=2)
NOT_FINITE = np.full(4, np.nan, "<f4").tobytes()


async def test_every_call_takes_the_operator_token(site: Site) -> None:
    site.operator.metadata = (("authorization", "Bearer wrong"),)
    for name, request in (
        ("PutBlob", PutBlobRequest()),
        ("SubmitJob", SubmitJobRequest()),
        ("ListJobs", ListJobsRequest()),
        ("ListClients", ListClientsRequest()),
        ("GetJob", GetJobRequest()),
        ("ListModelVersions", ListModelVersionsRequest()),
    ):
        error = await refused(site.operator.call(name, request))
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED, name
    stream = site.operator.stub.GetBlob(GetBlobRequest())
    assert (await refused(stream.read())).code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_blob_is_put_once_and_read_from_anywhere(site: Site) -> None:
    content = np.random.default_rng(1).bytes(3_000_001)
    blob = await site.operator.put(content)
    again = PutBlobRequest(blob=blob, data=b"ignored")
    assert (await site.operator.call("PutBlob", again)).received == len(content)
    chunks = [
        chunk.data
        async for chunk in site.operator.stub.GetBlob(
            GetBlobRequest(digest=blob.digest, offset=1_000_003), metadata=site.operator.metadata
        )
    ]
    assert b"".join(chunks) == content[1_000_003:]
    for bad, code in (
        (GetBlobRequest(digest=b"short"), grpc.StatusCode.INVALID_ARGUMENT),
        (GetBlobRequest(digest=bytes(32)), grpc.StatusCode.NOT_FOUND),
    ):
        stream = site.operator.stub.GetBlob(bad, metadata=site.operator.metadata)
        assert (await refused(stream.read())).code() == code
    lie = PutBlobRequest(blob=Blob(digest=bytes(32), size=4), data=b"four")
    error = await refused(site.operator.call("PutBlob", lie))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    huge = PutBlobRequest(blob=Blob(digest=bytes(32), size=1 << 40))
    error = await refused(site.operator.call("PutBlob", huge))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


def changed(**fields: Any) -> JobSpec:
    return noop_spec(4, 2, **fields)


BAD: list[tuple[str, JobSpec]] = [
    ("name is", changed(name="../etc")),
    ("name is", changed(name="")),
    ("rounds is 0", changed(rounds=0)),
    ("rounds is 2e", changed(rounds=2_000_000)),
    ("cohort.target is 0", changed(cohort=Cohort(target=0, minimum=0))),
    ("cohort.minimum is 3", changed(cohort=Cohort(target=2, minimum=3))),
    ("cohort.minimum is 0", changed(cohort=Cohort(target=2))),
    ("over_selection is 0.5", changed(cohort=Cohort(target=2, minimum=1, over_selection=0.5))),
    ("over_selection is nan", changed(cohort=Cohort(target=2, minimum=1, over_selection=math.nan))),
    ("selects 200000", changed(cohort=Cohort(target=100_000, minimum=1, over_selection=2))),
    ("round_deadline_seconds is 0", changed(round_deadline_seconds=0)),
    ("round_deadline_seconds is inf", changed(round_deadline_seconds=math.inf)),
    ("training.epochs is 0", changed(training=Training())),
    ("training.epochs is 1001", changed(training=Training(epochs=1001))),
    ("names 'momentum'", changed(training=Training(epochs=1, hyperparameters={"momentum": 1}))),
    ("eligibility.tags are 65", changed(eligibility=Eligibility(tags=["x"] * 65))),
    ("eligibility has a name", changed(eligibility=Eligibility(dataset="x" * 65))),
    ("weighting is 7", changed(weighting=7)),
    ("task names a blob", changed(task=Module())),
    ("task: there is no blob", changed(task=Module(blob=Blob(digest=bytes(32), size=9)))),
    ("task is of KIND_AGGREGATION", changed(task=module_of(aggregation("fedavg")))),
    ("aggregation is of KIND_TRAINING", changed(aggregation=module_of(SOFTMAX))),
    ("task is no valid module", changed(task=module_of(b"not wasm"))),
    ("task names a size", changed(task=Module(blob=Blob(digest=blob_of(SOFTMAX).digest, size=9)))),
    ("initial_model has 20 bytes", changed(initial_model=blob_of(bytes(20)))),
    ("initial_model has values", changed(initial_model=blob_of(NOT_FINITE))),
    ("frozen has 16 bytes", changed(frozen=blob_of(bytes(16)))),
    (
        "batch_size] is 0.5",
        changed(
            task=module_of(SOFTMAX),
            training=Training(epochs=1, hyperparameters={"batch_size": 0.5}),
        ),
    ),
    (
        "batch_size] is 0; it must be from 1",
        changed(
            task=module_of(SOFTMAX), training=Training(epochs=1, hyperparameters={"batch_size": 0})
        ),
    ),
    (
        "schedules cannot be followed: the task has no hyperparameter 'learning_rate'",
        changed(schedules={"learning_rate": Schedule(values=Schedule.Values(values=[1]))}),
    ),
    (
        "learning_rate] is 1e",
        changed(
            task=module_of(SOFTMAX),
            training=Training(epochs=1, hyperparameters={"learning_rate": 1e300}),
        ),
    ),
]


async def test_bad_jobs_are_refused_with_the_field(site: Site) -> None:
    for content in (
        build("noop", parameters=4),
        SOFTMAX,
        aggregation("fedavg"),
        b"not wasm",
        bytes(20),
        bytes(16),
        NOT_FINITE,
    ):
        await site.operator.put(content)
    for fault, spec in BAD:
        error = await refused(site.operator.submit(spec))
        assert error.code() in (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
        ), error
        assert fault in (error.details() or ""), fault
    assert not (await site.operator.call("ListJobs", ListJobsRequest())).jobs


NOISY = """
#include <cloister.h>
CLOISTER_TASK("noisy", "Has the key of a device's noise");
CLOISTER_PARAMETER(sum, "Of nothing", 4);
CLOISTER_INPUT(float, features, "Rows", 4, 1);
CLOISTER_HYPERPARAMETER(double, learning_rate, 0.1, "No secret");
CLOISTER_HYPERPARAMETER(int64_t, noise_key0, 0, "Secret");
CLOISTER_HYPERPARAMETER(int64_t, noise_key1, 0, "Secret");
CLOISTER_HYPERPARAMETER(int64_t, noise_key2, 0, "Secret");
CLOISTER_HYPERPARAMETER(int64_t, noise_key3, 0, "Secret");
CLOISTER_EXPORT(reset) int32_t reset(void) { return CLOISTER_OK; }
CLOISTER_EXPORT(init) int32_t init(int64_t from) { return (int32_t)(from * 0); }
CLOISTER_EXPORT(train) int32_t train(int32_t rows) { return rows * 0; }
CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t rows) { return rows * 0; }
CLOISTER_EXPORT(predict) int32_t predict(int32_t rows) { return rows * 0; }
"""


async def test_no_job_sets_the_key_of_a_devices_noise(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "noisy.c"
    path.write_text(NOISY)
    task = compile_c(path)
    fields: dict[str, Any] = {"task": module_of(task)}
    constant = Schedule(values=Schedule.Values(values=[1]))
    for blob in (task, aggregation("fedavg"), bytes(16)):
        await site.operator.put(blob)
    for key in ("noise_key0", "noise_key1", "noise_key2", "noise_key3"):
        for field, spec in (
            (
                "training.hyperparameters",
                changed(training=Training(epochs=1, hyperparameters={key: 7}), **fields),
            ),
            ("schedules", changed(schedules={key: constant}, **fields)),
        ):
            error = await refused(site.operator.submit(spec))
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert f"{field} sets {key}, a secret that each client draws itself" in (
                error.details() or ""
            )
    training = Training(epochs=1, hyperparameters={"learning_rate": 0.5})
    fields["schedules"] = {"learning_rate": constant}
    assert (await site.operator.submit(changed(training=training, **fields))).job_id


async def test_a_signature_is_checked_when_there_is_one(site: Site) -> None:
    task, key = build("noop", parameters=4), Ed25519PrivateKey.generate()
    digest = blob_of(task).digest
    spec = noop_spec(4, 1)
    spec.task.MergeFrom(Module(**sign(digest, key)))
    assert (await site.operator.submit(spec, task, aggregation("fedavg"), bytes(16))).job_id
    spec.task.signature = bytes(64)
    error = await refused(site.operator.submit(spec))
    assert "signature" in (error.details() or "")


async def test_a_submission_can_be_repeated(site: Site) -> None:
    first = await site.operator.submit_noop(4, 1)
    other = await site.operator.submit_noop(4, 1)
    assert first.job_id != other.job_id
    keyed = await site.operator.submit(noop_spec(4, 1), key="k")
    assert (await site.operator.submit(noop_spec(4, 1), key="k")).job_id == keyed.job_id
    error = await refused(site.operator.submit(noop_spec(4, 1, rounds=9), key="k"))
    assert error.code() == grpc.StatusCode.ALREADY_EXISTS
    listed = (await site.operator.call("ListJobs", ListJobsRequest())).jobs
    assert [job.job_id for job in listed] == [keyed.job_id, other.job_id, first.job_id]
    page = ListJobsRequest(limit=1, after=keyed.job_id)
    assert [j.job_id for j in (await site.operator.call("ListJobs", page)).jobs] == [other.job_id]
    error = await refused(site.operator.call("ListJobs", ListJobsRequest(limit=1001)))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_defaults_are_filled_in(site: Site) -> None:
    spec = (await site.operator.submit_noop(4, 2)).spec
    assert spec.cohort.over_selection == 1.0
    assert spec.max_abandoned_rounds == 10
    assert spec.training.epochs == 1
    assert spec.weighting == 1


async def test_versions_are_listed_from_any_on(site: Site) -> None:
    status = await site.operator.submit_noop(4, 1, rounds=3)
    client = await site.client(0)
    await client.work(lambda _, model: np.ones(4, np.float32), 3)
    await site.operator.end(status.job_id)
    for after, expected in ((None, [0, 1, 2, 3]), (0, [1, 2, 3]), (2, [3])):
        request = ListModelVersionsRequest(job_id=status.job_id, after=after)
        versions = (await site.operator.call("ListModelVersions", request)).versions
        assert [v.version for v in versions] == expected
        assert [v.round for v in versions] == expected
    unknown = ListModelVersionsRequest(job_id="nothing")
    error = await refused(site.operator.call("ListModelVersions", unknown))
    assert error.code() == grpc.StatusCode.NOT_FOUND


async def test_watching_from_any_round_until_the_end(site: Site) -> None:
    status = await site.operator.submit_noop(4, 1, rounds=3)
    watch = site.operator.watch(status.job_id)
    first = await anext(watch)
    assert not first.HasField("round")
    client = await site.client(0)
    await client.work(lambda _, model: np.ones(4, np.float32), 3)
    events = [event async for event in watch]
    assert [e.round.number for e in events if e.HasField("round")] == [1, 2, 3]
    assert events[-1].job.state == JobState.JOB_STATE_SUCCEEDED
    later = [e async for e in site.operator.watch(status.job_id, 3)]
    assert [e.round.number for e in later] == [3]
    error = await refused(site.operator.rounds("nothing"))
    assert error.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("tags", [[], ["a", "b"]])
async def test_clients_are_listed_with_what_they_offer(site: Site, tags: list[str]) -> None:
    clients = [await site.client(i, tags=tags) for i in range(3)]
    listed = (await site.operator.call("ListClients", ListClientsRequest())).clients
    assert [c.client_id for c in listed] == sorted(c.id for c in clients)
    assert all(c.connected and c.name == "test" and c.last_seen_at_ms for c in listed)
    assert list(listed[0].capabilities.tags) == tags
    page = ListClientsRequest(limit=1, after=listed[0].client_id)
    (second,) = (await site.operator.call("ListClients", page)).clients
    assert second.client_id == listed[1].client_id
