from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister_client import (
    Agent,
    ConfigError,
    DataError,
    check,
    forget,
    kept,
    parse_config,
)
from cloister_protos import Assignment, DeclineRequest, Module, Training
from cloister_tasks import build, compile_c
from cloister_tasks.signature import sign

from .running import (
    CLASSES,
    FEATURES,
    PARAMETERS,
    ROWS,
    TASK,
    TOML,
    Running,
    write_data,
)

Start = Callable[..., Running]


@pytest.fixture
def start(coordinator: Any, tmp_path: Path) -> Iterator[Start]:
    running: list[Running] = []
    write_data(tmp_path)

    def start(policy: str = "any_task = true") -> Running:
        text = TOML.format(port=coordinator.port, policy=policy)
        running.append(Running(coordinator, parse_config(text, tmp_path)))
        return running[-1]

    yield start
    for one in running:
        one.join()


def test_rounds_are_trained_reported_logged_and_audited(
    start: Start, coordinator: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cloister_client")
    agent = start()
    check_in = coordinator.checked_in()
    assert list(check_in.capabilities.datasets) == ["d"]
    assert list(check_in.capabilities.tags) == ["t"]
    for _ in range(2):
        result = agent.answer_to(agent.assignment(evaluate=True)).result
        update = np.frombuffer(result.inline_update, dtype="<f4")
        assert update.shape == (PARAMETERS,)
        assert np.abs(update).max() > 0
        assert result.examples == result.trained_rows == ROWS - result.evaluated_rows
        assert set(result.training_sums) == {"loss", "accuracy"}
    agent.join()
    lines = [r.getMessage() for r in caplog.records if "trained" in r.getMessage()]
    assert len(lines) == 2
    assert lines[1].startswith("'job' round 2: trained ")
    events = [line["event"] for line in agent.audit()]
    assert events == [
        "started",
        "enrolled",
        "connected",
        *["assignment", "reported"] * 2,
        "stopped",
    ]
    assert agent.audit()[3]["decision"] == "allowed"
    # The second round found the task in memory: it was downloaded once.
    assert coordinator.downloads == [0]


def test_what_the_policy_does_not_allow_is_declined(start: Start) -> None:
    agent = start(f'digests = ["{hashlib.sha256(TASK).hexdigest()}"]')
    other = build("noop", parameters=4)
    declined = agent.answer_to(agent.assignment(task=other))
    assert isinstance(declined, DeclineRequest)
    assert "digest is not on" in declined.reason
    assert "no dataset 'x'" in agent.answer_to(agent.assignment(dataset="x")).reason
    assert agent.answer_to(agent.assignment()).result.examples


def test_a_publishers_signature_opens_the_door(start: Start) -> None:
    key = Ed25519PrivateKey.generate()
    agent = start(f'publishers = ["{key.public_key().public_bytes_raw().hex()}"]')
    signed, unsigned, forged = (agent.assignment() for _ in range(3))
    for assignment, digest in ((signed, signed.task.blob.digest), (forged, bytes(32))):
        assignment.task.MergeFrom(Module(**sign(digest, key)))
    assert agent.answer_to(signed).result.examples
    assert "unsigned" in agent.answer_to(unsigned).reason
    assert "not valid" in agent.answer_to(forged).reason


def test_after_each_failure_the_client_is_back_at_work(start: Start, coordinator: Any) -> None:
    agent = start("any_task = true\nmemory_mb = 4")
    large = build("softmax-regression", features=FEATURES, classes=CLASSES, capacity=2**18)
    altered = agent.assignment(task=TASK + b"altered")
    coordinator.blobs[altered.task.blob.digest] = TASK + b"ALTERED"
    speed = Training(epochs=1, hyperparameters={"speed": 1})
    for assignment, kind, message in (
        (agent.assignment(task=TASK[:100]), "refused", ""),
        (agent.assignment(task=b"junk"), "refused", ""),
        (agent.assignment(task=large), "refused", "bytes of memory"),
        (altered, "digest_mismatch", "task"),
        (agent.assignment(inline_model=b"x" * 4 * PARAMETERS), "digest_mismatch", "model"),
        (agent.assignment(model=bytes(8)), "refused", "model has 8 bytes"),
        (agent.assignment(training=speed), "refused", "no hyperparameter 'speed'"),
        (agent.assignment(task=build("noop", parameters=4), model=bytes(16)), "data", "1 numbers"),
    ):
        failure = agent.answer_to(assignment).failure
        assert (failure.kind, message in failure.message) == (kind, True), failure
        assert agent.answer_to(agent.assignment()).result.examples


def test_large_blobs_go_in_chunks_over_a_breaking_line(
    start: Start, coordinator: Any, tmp_path: Path
) -> None:
    features = 40_000
    task = build("softmax-regression", features=features, classes=CLASSES, capacity=4)
    model = bytes(4 * (features * CLASSES + CLASSES))
    x = np.random.default_rng(1).standard_normal((6, features), dtype=np.float32)
    np.savez(tmp_path / "wide.npz", x=x, y=np.arange(6) % 2)
    with (tmp_path / "d.csv").open():
        toml = TOML.replace('"d.csv"', '"wide.npz"')
    config = parse_config(toml.format(port=coordinator.port, policy="any_task = true"), tmp_path)
    agent = Running(coordinator, config)
    try:
        coordinator.break_downloads_after = [10_000, 200_000, 0]
        hyperparameters = {"batch_size": 4.0}
        training = Training(epochs=1, hyperparameters=hyperparameters)
        assignment = agent.assignment(task, model, inline_model=b"", training=training)
        result = agent.answer_to(assignment).result
    finally:
        agent.join()
    assert not result.inline_update
    uploaded = bytes(coordinator.uploads[assignment.assignment_id])
    assert result.update.size == len(uploaded) == len(model)
    assert result.update.digest == hashlib.sha256(uploaded).digest()
    assert np.abs(np.frombuffer(uploaded, "<f4")).max() > 0


def test_a_finished_result_waits_out_a_coordinator_that_forgot_the_session(
    start: Start, coordinator: Any
) -> None:
    agent = start()
    coordinator.checked_in()
    assert agent.answer_to(agent.assignment()).result.examples
    # The next report finds no session; the client enrols again and then delivers it.
    assignment = agent.assignment()
    coordinator.assign(assignment)
    coordinator.sessions.clear()
    answer = coordinator.answer()
    assert answer.assignment_id == assignment.assignment_id
    assert answer.result.examples
    assert coordinator.enrolments >= 2


def test_a_coordinator_restart_is_survived(start: Start, coordinator: Any) -> None:
    agent = start()
    coordinator.checked_in()
    coordinator.faults = [grpc.StatusCode.UNAVAILABLE] * 2
    assert agent.answer_to(agent.assignment()).result.examples
    agent.wait_for("reported")  # else it would repeat the report, and rightly so
    coordinator.stop()
    coordinator.sessions.clear()
    coordinator.start()
    coordinator.checked_in()
    assert agent.answer_to(agent.assignment()).result.examples


PERSONAL = Path(__file__).parents[1] / "personal_task.c"


@pytest.fixture(scope="module")
def personal() -> bytes:
    return compile_c(PERSONAL)


def test_local_state_stays_on_the_device_between_rounds(
    coordinator: Any, personal: bytes, tmp_path: Path
) -> None:
    """visits counts rows, so what is left of it tells which rounds counted."""
    rng = np.random.default_rng(2)
    np.savez(
        tmp_path / "d.npz",
        patch=rng.standard_normal((5, 2, 3)),
        times=rng.integers(0, 3, 5),
        code=rng.integers(0, 256, 5),
        target=rng.standard_normal(5),
    )
    text = TOML.replace('"d.csv"\nlabel = "y"\nevaluation_fraction = 0.2', '"d.npz"')
    config = parse_config(text.format(port=coordinator.port, policy="any_task = true"), tmp_path)
    frozen = coordinator.put(bytes(24))

    def work(agent: Running, version: int) -> Assignment:
        return agent.assignment(personal, bytes(24), frozen=frozen, base_version=version)

    def barrier(agent: Running) -> None:
        """An answer, if only that this dataset does not fit: what came before it is done."""
        assert agent.answer_to(agent.assignment()).failure.kind == "data"

    def visits() -> int:
        (path,) = (config.state_dir / "local").iterdir()
        return int(np.frombuffer(path.read_bytes()[-36:-32], "<i4")[0])

    agent = Running(config=config, coordinator=coordinator)
    try:
        coordinator.checked_in()
        first = agent.answer_to(work(agent, 0)).result
        agent.wait_for("local_written")
        assert visits() == 5
        # the same again: the round came to nothing, so it begins from the same state
        repeated = agent.answer_to(work(agent, 0)).result
        assert repeated.inline_update == first.inline_update
        assert agent.answer_to(work(agent, 1)).result.inline_update != first.inline_update
        barrier(agent)
    finally:
        agent.join()
    assert visits() == 10
    agent = Running(config=config, coordinator=coordinator)  # after a restart it goes on
    try:
        assert list(coordinator.checked_in().kept_jobs) == ["j"]
        coordinator.faults = [grpc.StatusCode.NOT_FOUND]  # the download passes; the report not
        coordinator.assign(work(agent, 2))
        barrier(agent)
        assert visits() == 10  # nobody wanted that result
        agent.answer_to(work(agent, 2))
        barrier(agent)
        assert visits() == 15
        with pytest.raises(ConfigError, match="another client runs"):
            forget(config, "job")
        assert [one.job for one in kept(config)] == ["j"]
        coordinator.ended_jobs = ["j"]
        coordinator.end_check_in()
        agent.wait_for("local_deleted")
        assert kept(config) == []
    finally:
        agent.join()
    assert forget(config, "job") == 0


def test_results_nobody_wants_are_dropped(start: Start, coordinator: Any) -> None:
    agent = start()
    coordinator.checked_in()
    assert agent.answer_to(agent.assignment()).result.examples
    coordinator.faults = [grpc.StatusCode.NOT_FOUND]
    coordinator.assign(agent.assignment())
    assert agent.answer_to(agent.assignment()).result.examples
    agent.join()
    assert [line for line in agent.audit() if line["event"] == "dropped"]


ENDLESS = """
#include <cloister.h>
CLOISTER_TASK("endless", "Never done");
CLOISTER_PARAMETER(weight, "One", 1);
CLOISTER_INPUT(float, features, "Not looked at", 64, 4);
CLOISTER_METRIC(loss, "Nothing");
CLOISTER_FAULT;
CLOISTER_EXPORT(init) int32_t init(int64_t seed) { return seed != seed; }
CLOISTER_EXPORT(reset) int32_t reset(void) { return 0; }
CLOISTER_EXPORT(train) int32_t train(int32_t rows) {
    for (volatile int32_t i = 0; i < rows; i = 0) {}
    return 0;
}
CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t rows) { return rows < 0; }
CLOISTER_EXPORT(predict) int32_t predict(int32_t rows) { return rows < 0; }
"""


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    source = tmp_path_factory.mktemp("endless") / "endless.c"
    source.write_text(ENDLESS)
    return compile_c(source)


def test_a_cancellation_ends_a_call_into_the_task(
    start: Start, coordinator: Any, endless: bytes
) -> None:
    agent = start()
    coordinator.checked_in()
    running, waiting = agent.assignment(endless, bytes(4)), agent.assignment(endless, bytes(4))
    coordinator.assign(running)
    coordinator.assign(waiting)
    coordinator.cancel(waiting.assignment_id)
    coordinator.cancel(running.assignment_id)
    assert agent.answer_to(agent.assignment()).result.examples
    agent.join()
    dropped = [line for line in agent.audit() if line["event"] == "dropped"]
    assert [line["reason"] for line in dropped] == ["cancelled: 'enough'"] * 2


def test_the_rounds_deadline_ends_a_call_into_the_task(
    start: Start, coordinator: Any, endless: bytes
) -> None:
    agent = start()
    coordinator.checked_in()
    coordinator.assign(agent.assignment(endless, bytes(4), deadline_seconds=0.5))
    assert agent.answer_to(agent.assignment()).result.examples
    assert "deadline passed" in agent.wait_for("dropped")["reason"]


def test_stopping_ends_a_call_into_the_task(start: Start, coordinator: Any, endless: bytes) -> None:
    agent = start()
    coordinator.checked_in()
    coordinator.assign(agent.assignment(endless, bytes(4)))
    agent.wait_for("assignment")
    agent.join()
    assert agent.audit()[-1]["event"] == "stopped"


def test_an_endless_task_runs_out_of_time(start: Start, endless: bytes) -> None:
    agent = start("any_task = true\nseconds_per_round = 2")
    failure = agent.answer_to(agent.assignment(endless, bytes(4))).failure
    assert failure.kind == "out_of_time"
    assert agent.answer_to(agent.assignment()).result.examples


def test_the_day_budget_declines_the_rest_of_the_day(start: Start) -> None:
    agent = start("any_task = true\nseconds_per_day = 0.0001")
    assert agent.answer_to(agent.assignment()).result.examples
    assert "used up" in agent.answer_to(agent.assignment()).reason


def test_a_wrong_join_token_is_tried_again(start: Start, coordinator: Any) -> None:
    coordinator.join_token = "sesame"
    agent = start()
    coordinator.join_token = ""
    coordinator.checked_in()
    assert agent.answer_to(agent.assignment()).result.examples


def test_two_clients_cannot_share_a_state_dir(start: Start, coordinator: Any) -> None:
    agent = start()
    coordinator.checked_in()
    with pytest.raises(ConfigError, match="another client runs"):
        Agent(agent.config).run(threading.Event())


def test_check_tells_what_would_fail_without_writing(tmp_path: Path) -> None:
    write_data(tmp_path)
    config = parse_config(TOML.format(port=1, policy="any_task = true"), tmp_path)
    summary = check(config)
    assert (summary.client_id, summary.encrypted) == (None, False)
    assert summary.datasets["d"].train_rows + summary.datasets["d"].evaluation_rows == ROWS
    assert not (tmp_path / "state").exists()
    (tmp_path / "d.csv").unlink()
    with pytest.raises(DataError, match="cannot read"):
        check(config)
