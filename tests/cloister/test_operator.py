from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from cloister.errors import (
    CoordinatorFault,
    InvalidJob,
    InvalidRequest,
    JobFailed,
    NotFound,
    NotPermitted,
    Unreachable,
)
from cloister.operator import Coordinator, submit
from cloister.protection import DifferentialPrivacy, SecureAggregation
from cloister.vouching import create_key, load_key, write_signature
from cloister_client.errors import ConfigError, UnfitAssignment
from cloister_protos import (
    MAX_CHUNK_BYTES,
    Blob,
    JobEvent,
    JobState,
    JobStatus,
    Noise,
    RoundRecord,
    Weighting,
)
from cloister_tasks import InvalidModule, InvalidSignature, Module, aggregation
from cloister_tasks.signature import verify


def test_put_sends_chunks_in_order_and_only_once(coordinator: Coordinator, peer: Any) -> None:
    data = np.random.default_rng(0).bytes(MAX_CHUNK_BYTES * 2 + 5)
    blob = coordinator.put(data)
    assert bytes(peer.blobs[blob.digest]) == data
    assert peer.put_sizes == [0, MAX_CHUNK_BYTES, MAX_CHUNK_BYTES, 5]
    peer.put_sizes.clear()
    coordinator.put(data)
    assert peer.put_sizes == [0]  # it only asked


def test_put_goes_on_where_a_broken_upload_stopped(coordinator: Coordinator, peer: Any) -> None:
    data = np.random.default_rng(0).bytes(MAX_CHUNK_BYTES + 5)
    peer.blobs[hashlib.sha256(data).digest()] = bytearray(data[:1000])
    coordinator.put(data)
    assert peer.put_sizes == [0, len(data) - 1000]


def test_an_empty_blob_is_put_and_got(coordinator: Coordinator) -> None:
    assert coordinator.get(coordinator.put(b"")) == b""


def test_put_retries_a_call_that_the_network_lost(coordinator: Coordinator, peer: Any) -> None:
    peer.breaks = ["PutBlob", "PutBlob"]
    blob = coordinator.put(b"abc")
    assert coordinator.get(blob) == b"abc"


def test_get_resumes_a_broken_stream(coordinator: Coordinator, peer: Any) -> None:
    blob = coordinator.put(bytes(range(256)) * 10)
    peer.breaks = ["GetBlob.rest"]
    assert coordinator.get(blob) == bytes(range(256)) * 10
    assert not peer.breaks


@pytest.mark.parametrize(
    "stored", [b"abd", b"ab", b"abcd"], ids=["other bytes", "too few", "too many"]
)
def test_get_takes_no_other_bytes(coordinator: Coordinator, peer: Any, stored: bytes) -> None:
    blob = coordinator.put(b"abc")
    peer.blobs[blob.digest] = bytearray(stored)
    with pytest.raises(CoordinatorFault):
        coordinator.get(blob)


def test_get_names_a_missing_blob(coordinator: Coordinator) -> None:
    with pytest.raises(NotFound):
        coordinator.get(Blob(digest=b"x" * 32, size=1))


def test_submit_asks_for_protection(coordinator: Coordinator, peer: Any, task: bytes) -> None:
    job = coordinator.submit(
        task,
        rounds=3,
        cohort=20,
        clip_norm=0.5,
        secure_aggregation=SecureAggregation(value_bits=17),
        differential_privacy=DifferentialPrivacy(noise_multiplier=1, delta=1e-6),
    )
    spec = peer.jobs[job.id].spec
    assert (spec.clip_norm, spec.secure_aggregation.value_bits) == (0.5, 17)
    assert spec.differential_privacy.noise == Noise.NOISE_DISTRIBUTED
    assert spec.weighting == Weighting.WEIGHTING_UNIFORM
    assert spec.cohort.minimum == 11


def test_submit_refuses_protection_that_cannot_be(
    coordinator: Coordinator, peer: Any, task: bytes
) -> None:
    with pytest.raises(InvalidJob, match="clip_norm is absent"):
        coordinator.submit(task, rounds=1, cohort=4, secure_aggregation=SecureAggregation())
    privacy = DifferentialPrivacy(noise_multiplier=1, delta=1e-6)
    with pytest.raises(InvalidJob, match="lower value_bits"):
        coordinator.submit(
            task,
            rounds=1,
            cohort=4,
            clip_norm=1.0,
            secure_aggregation=SecureAggregation(value_bits=20),
            differential_privacy=privacy,
        )
    assert not peer.blobs


def test_an_operator_need_not_be_able_to_count_epsilon(
    coordinator: Coordinator, task: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting.rdp", None)
    privacy = DifferentialPrivacy(noise_multiplier=0.1, delta=1e-6, epsilon=0.1)
    arguments: dict[str, Any] = {
        "rounds": 1,
        "cohort": 20,
        "clip_norm": 1.0,
        "secure_aggregation": SecureAggregation(),
        "differential_privacy": privacy,
    }
    assert coordinator.submit(task, **arguments).id  # this peer refuses nothing


def test_submit_builds_the_spec_its_arguments_say(
    coordinator: Coordinator, peer: Any, task: bytes
) -> None:
    first = np.arange(650, dtype=np.float32)
    job = coordinator.submit(
        task,
        rounds=3,
        cohort=4,
        minimum=2,
        over_selection=1.5,
        round_deadline_seconds=7,
        epochs=2,
        hyperparameters={"learning_rate": 0.5},
        uniform_weights=True,
        tags=["a"],
        seed=(1 << 64) - 1,
        initial_model=first,
    )
    spec = peer.jobs[job.id].spec
    assert spec.name == "softmax-regression"
    assert spec.task.blob.digest == Module.parse(task).digest
    assert spec.aggregation.blob.digest == Module.parse(aggregation("fedavg")).digest
    assert (spec.rounds, spec.cohort.target, spec.cohort.minimum) == (3, 4, 2)
    assert spec.cohort.over_selection == 1.5
    assert spec.round_deadline_seconds == 7
    assert (spec.training.epochs, dict(spec.training.hyperparameters)) == (
        2,
        {"learning_rate": 0.5},
    )
    assert spec.weighting == Weighting.WEIGHTING_UNIFORM
    assert list(spec.eligibility.tags) == ["a"]
    assert spec.seed == (1 << 64) - 1
    assert bytes(peer.blobs[spec.initial_model.digest]) == first.tobytes()
    assert not spec.HasField("frozen")


def test_a_lost_answer_does_not_start_the_job_twice(
    coordinator: Coordinator, peer: Any, task: bytes
) -> None:
    peer.breaks = ["SubmitJob"]
    job = coordinator.submit(task, rounds=1, cohort=1)
    assert list(peer.jobs) == [job.id]


def test_the_signature_beside_a_task_goes_along(
    coordinator: Coordinator, peer: Any, task_file: Path, tmp_path: Path
) -> None:
    publisher = create_key(tmp_path / "key.pem")
    digest = Module.parse(task_file.read_bytes()).digest
    write_signature(task_file, digest, load_key(tmp_path / "key.pem"))
    job = coordinator.submit(task_file, rounds=1, cohort=1)
    assert verify(peer.jobs[job.id].spec.task).hex() == publisher
    (tmp_path / "digits.wasm.sig").write_text('{"digest": "00"}')
    with pytest.raises(InvalidSignature):
        coordinator.submit(task_file, rounds=1, cohort=1)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": "no spaces please"}, InvalidJob),
        ({"rounds": 0}, InvalidJob),
        ({"cohort": 2, "minimum": 3}, InvalidJob),
        ({"over_selection": 11.0}, InvalidJob),
        ({"hyperparameters": {"nope": 1.0}}, UnfitAssignment),
        ({"hyperparameters": {"batch_size": 1.5}}, UnfitAssignment),
        ({"initial_model": np.zeros(3, np.float32)}, InvalidJob),
        ({"initial_model": np.full(650, np.nan, np.float32)}, InvalidJob),
        ({"initial_model": Path("there is no such file")}, InvalidJob),
        ({"frozen": np.zeros(3, np.float32)}, InvalidJob),
        ({"aggregation": b"no module"}, InvalidModule),
        ({"aggregation": Path("no such.wasm")}, InvalidJob),
    ],
)
def test_what_makes_no_sense_is_not_sent(
    coordinator: Coordinator, peer: Any, task: bytes, arguments: dict[str, Any], error: type
) -> None:
    with pytest.raises(error):
        coordinator.submit(task, **{"rounds": 1, "cohort": 1} | arguments)
    assert not peer.put_sizes


def test_tasks_and_aggregations_are_not_mixed_up(coordinator: Coordinator, task: bytes) -> None:
    with pytest.raises(InvalidJob, match="not a task"):
        coordinator.submit(aggregation("sum"), rounds=1, cohort=1)
    with pytest.raises(InvalidJob, match="not an aggregation"):
        coordinator.submit(task, rounds=1, cohort=1, aggregation=task)


def test_a_refusal_names_the_fields(coordinator: Coordinator, task: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"refused; spec\.rounds: thirteen is unlucky"):
        coordinator.submit(task, rounds=13, cohort=1)


def test_a_wrong_token_is_not_permitted(address: str) -> None:
    with (
        Coordinator(address, token="wrong") as coordinator,
        pytest.raises(NotPermitted, match="not the operator token"),
    ):
        list(coordinator.jobs())


def test_nobody_there_is_unreachable() -> None:
    with (
        Coordinator("127.0.0.1:1", token="t") as coordinator,
        pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"),
    ):
        list(coordinator.jobs())


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Coordinator("no port")
    with pytest.raises(ConfigError):
        Coordinator("host:1", certificate=tmp_path / "a.pem")


def test_clients_and_jobs_come_page_by_page(
    coordinator: Coordinator, peer: Any, task: bytes
) -> None:
    assert [c.client_id for c in coordinator.clients()] == [c.client_id for c in peer.clients]
    for number in range(101):
        job_id = f"{number:08x}"
        peer.jobs[job_id] = JobStatus(job_id=job_id)
    assert [job.id for job in coordinator.jobs()] == sorted(peer.jobs, reverse=True)
    assert len(list(coordinator.jobs(limit=3))) == 3


def test_jobs_are_found_by_id_name_and_beginning(coordinator: Coordinator, peer: Any) -> None:
    for job_id, name in (("aa01", "x"), ("aa02", "x"), ("bb01", "y")):
        peer.jobs[job_id] = JobStatus(job_id=job_id)
        peer.jobs[job_id].spec.name = name
    assert coordinator.find_job("aa01").id == "aa01"
    assert coordinator.find_job("x").id == "aa02"  # the newest
    assert coordinator.find_job("b").id == "bb01"
    with pytest.raises(NotFound, match="2 jobs begin"):
        coordinator.find_job("aa")
    with pytest.raises(NotFound, match="no job"):
        coordinator.find_job("z")


def test_models_come_as_named_tensors(coordinator: Coordinator, task: bytes) -> None:
    job = coordinator.submit(task, rounds=2, cohort=1)
    assert [v.version for v in job.versions()] == [0, 1, 2]
    model = job.model()
    assert {name: t.shape for name, t in model.items()} == {"weight": (10, 64), "bias": (10,)}
    assert job.block(0).dtype == np.float32
    with pytest.raises(NotFound, match="no model version 3; its newest is 2"):
        job.model(3)


def test_wait_returns_on_success(coordinator: Coordinator, task: bytes) -> None:
    job = coordinator.submit(task, rounds=2, cohort=1)
    assert [e.round.number for e in job.watch() if e.HasField("round")] == [1, 2]
    assert job.wait(timeout=30).version == 2


def test_wait_raises_for_a_cancelled_job(coordinator: Coordinator, task: bytes) -> None:
    job = coordinator.submit(task, rounds=1, cohort=1)
    job.cancel("wrong task")
    with pytest.raises(JobFailed, match="was cancelled: wrong task") as caught:
        job.wait(timeout=30)
    assert caught.value.status.job_id == job.id


def test_watch_goes_on_after_the_coordinator_was_away(
    coordinator: Coordinator, peer: Any, task: bytes
) -> None:
    job = coordinator.submit(task, rounds=3, cohort=1)
    running = JobStatus(job_id=job.id, state=JobState.JOB_STATE_RUNNING)
    over = JobStatus(job_id=job.id, state=JobState.JOB_STATE_SUCCEEDED)
    peer.events = [
        [
            JobEvent(job=running, round=RoundRecord(number=1)),
            JobEvent(job=running, round=RoundRecord(number=2)),
            grpc.StatusCode.UNAVAILABLE,
        ],
        [JobEvent(job=running, round=RoundRecord(number=2)), JobEvent(job=over)],
    ]
    assert [e.round.number for e in job.watch(timeout=60)] == [1, 2, 2, 0]


def test_watch_loses_patience(coordinator: Coordinator, peer: Any, task: bytes) -> None:
    job = coordinator.submit(task, rounds=3, cohort=1)
    running = JobStatus(job_id=job.id, state=JobState.JOB_STATE_RUNNING)
    peer.events = [[JobEvent(job=running), grpc.StatusCode.UNAVAILABLE]]
    with pytest.raises(Unreachable):
        list(job.watch(patience=0))


def test_submit_finds_the_coordinator_in_the_environment(
    address: str, token_file: Path, task: bytes, peer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOISTER_COORDINATOR", address)
    monkeypatch.setenv("CLOISTER_TOKEN_FILE", str(token_file))
    job = submit(task, rounds=1, cohort=1)
    assert job.wait(timeout=30).version == 1
    token_file.write_text("")
    with pytest.raises(InvalidJob, match="no operator token"):
        submit(task, rounds=1, cohort=1)
