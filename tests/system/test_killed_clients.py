"""A client killed in each phase of a round: the others finish it, and the client is used again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cloister.deployment import Deployment
from cloister_protos import MemberState
from cloister_tasks import template

WAIT = 60.0  # seconds until something that does not happen fails the test
LARGE = 2_000_000  # parameters; 8 MB, so that models and updates travel in several chunks
FEATURES = "a,b,c,d,label\n" + "".join(f"{i % 7},{i % 5},{i % 3},1,{i % 2}\n" for i in range(300))

Happened = Callable[[Deployment, str], bool]


def audit(deployment: Deployment) -> list[dict[str, str]]:
    """What the victim has recorded; the line being written is left out."""
    path = deployment.directory / "victim" / "audit.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def connected(deployment: Deployment, job_id: str) -> bool:
    return any(record["event"] == "connected" for record in audit(deployment))


def assigned(deployment: Deployment, job_id: str) -> bool:
    return any(
        record["event"] == "assignment" and record["assignment"].startswith(f"{job_id}/3/")
        for record in audit(deployment)
    )


def uploading(deployment: Deployment, job_id: str) -> bool:
    started = (record for record in audit(deployment) if record["event"] == "started")
    client_id = next(started, {"client": "not yet"})["client"]
    spool = deployment.directory / "coordinator" / "spool"
    parts = spool.glob(f"{job_id}-3.{client_id}.*")
    return any(part.stat().st_size > 0 for part in parts)


def reported(deployment: Deployment, job_id: str) -> bool:
    return any(
        record["event"] == "reported" and record["assignment"].startswith(f"{job_id}/3/")
        for record in audit(deployment)
    )


def wait_for(happened: Happened, deployment: Deployment, job_id: str) -> None:
    """Files have no events to wait on, so look often, and not for ever."""
    deadline = time.monotonic() + WAIT
    while not happened(deployment, job_id):
        assert time.monotonic() < deadline, f"{happened.__name__} did not happen"
        time.sleep(0.002)


def slow() -> tuple[bytes, dict[str, object]]:
    """Training that takes most of a second, for a small model."""
    task = template.build("perceptron", features=4, hidden=(64,), classes=2, capacity=512)
    return task, {"epochs": 400, "hyperparameters": {"batch_size": 4.0, "learning_rate": 0.01}}


def large() -> tuple[bytes, dict[str, object]]:
    """A model of several chunks that takes no training."""
    return template.build("noop", parameters=LARGE), {}


@pytest.mark.parametrize(
    ("make", "phase"),
    [
        (slow, connected),
        (large, assigned),  # while it downloads the model
        (slow, assigned),  # while it trains
        (large, uploading),
        (slow, reported),
    ],
    ids=["idle", "downloading", "training", "uploading", "reported"],
)
def test_a_client_killed_in_a_phase(
    tmp_path: Path, make: Callable[[], tuple[bytes, dict[str, object]]], phase: Happened
) -> None:
    task, settings = make()
    rows = tmp_path / "rows.csv"
    rows.write_text(FEATURES if make is slow else "x\n1\n2\n")
    data = {"label": "label"} if make is slow else {}
    with Deployment(tmp_path) as deployment:
        coordinator = deployment.start_coordinator("--reconnect-grace", "0.3")
        for name in ("one", "two", "victim"):
            deployment.start_client(deployment.write_client(name, rows, settings=data))
        job = coordinator.submit(
            task,
            rounds=5,
            cohort=3,
            minimum=2,
            round_deadline_seconds=30,
            seed=1,
            **settings,  # type: ignore[arg-type]
        )
        wait_for(phase, deployment, job.id)
        deployment.processes["victim"].kill()
        job.wait(timeout=WAIT)
        deployment.start_client(tmp_path / "victim.toml")
        again = coordinator.submit(
            task,
            rounds=2,
            cohort=3,
            minimum=3,
            **settings,  # type: ignore[arg-type]
        )
        rounds = [e.round for e in again.watch(timeout=WAIT) if e.HasField("round")]
        again.raise_if_failed()
        for record in rounds:
            states = {member.state for member in record.members}
            assert states == {MemberState.MEMBER_STATE_REPORTED}
