"""Coordinator and clients as real processes on loopback, each client with its own CSV."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from cloister.companion import write_companion
from cloister.deployment import Deployment
from cloister.operator import Coordinator
from cloister.simulation import Client, simulate
from cloister_client.config import DataConfig
from cloister_client.dataset import load_dataset
from cloister_protos import JobEvent, JobState, MemberState, RoundState
from cloister_tasks import Module, compile_c, template

ROUNDS, CLIENTS = 10, 8
SETTINGS = {"batch_size": 10.0, "learning_rate": 0.1, "momentum": 0.5}
WAIT = 90.0  # seconds until a job that does not end fails the test

COMMITTED = RoundState.ROUND_STATE_COMMITTED


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path) as deployment:
        yield deployment


@pytest.fixture(scope="session")
def task() -> bytes:
    return template.build("perceptron", features=64, hidden=(16,), classes=10, capacity=64)


def write_parts(folder: Path, clients: int) -> list[Path]:
    """Digits in files of unlike size, one per client."""
    x, y = load_digits(return_X_y=True)
    cuts = np.cumsum(np.arange(1, clients) * len(y) // (clients * (clients + 1) // 2))
    paths = []
    for place, rows in enumerate(np.split(np.random.default_rng(0).permutation(len(y)), cuts)):
        path = folder / f"part-{place}.csv"
        header = ",".join([*(f"pixel_{i}" for i in range(64)), "digit"])
        table = np.column_stack([x[rows], y[rows]])
        np.savetxt(path, table, fmt="%g", delimiter=",", header=header, comments="")
        paths.append(path)
    return paths


DATA = {"label": "digit", "scale": 0.0625, "features": ["pixel_*"]}


def start_clients(deployment: Deployment, parts: list[Path]) -> None:
    for place, part in enumerate(parts):
        deployment.start_client(deployment.write_client(f"client-{place}", part, settings=DATA))


def virtual_clients(coordinator: Coordinator, parts: list[Path]) -> list[Client]:
    """The same clients for the simulator: the ids they enrolled with, the rows they read."""
    ids = ids_by_name(coordinator)
    config = {"label": "digit", "scale": (0.0625,), "features": ("pixel_*",)}
    return [
        Client(ids[f"client-{place}"], load_dataset(DataConfig(part, **config)))
        for place, part in enumerate(parts)
    ]


def ids_by_name(coordinator: Coordinator) -> dict[str, str]:
    return {client.name: client.client_id for client in coordinator.clients()}


def test_ten_rounds_give_the_bytes_of_the_simulator(
    deployment: Deployment, task: bytes, tmp_path: Path
) -> None:
    parts = write_parts(tmp_path, CLIENTS)
    coordinator = deployment.start_coordinator()
    start_clients(deployment, parts)
    job = coordinator.submit(
        task,
        rounds=ROUNDS,
        cohort=CLIENTS,
        minimum=CLIENTS,
        epochs=2,
        hyperparameters=SETTINGS,
        seed=2**63 + 5,
    )
    job.wait(timeout=WAIT)
    clients = virtual_clients(coordinator, parts)
    history = simulate(
        task, clients, rounds=ROUNDS, epochs=2, hyperparameters=SETTINGS, seed=2**63 + 5
    )
    assert job.block().tobytes() == history.block.tobytes()
    assert not np.array_equal(job.block(), job.block(0))
    losses = [r.training.means["loss"] for r in history.rounds]
    assert losses[-1] < losses[0] / 2


def test_a_smaller_cohort_is_the_simulators_too(
    deployment: Deployment, task: bytes, tmp_path: Path
) -> None:
    parts = write_parts(tmp_path, 4)
    coordinator = deployment.start_coordinator()
    start_clients(deployment, parts)
    # a first job that needs all four: afterwards all of them are there to choose from
    coordinator.submit(task, rounds=1, cohort=4, minimum=4).wait(timeout=WAIT)
    job = coordinator.submit(task, rounds=5, cohort=2, minimum=2, hyperparameters=SETTINGS, seed=11)
    job.wait(timeout=WAIT)
    clients = virtual_clients(coordinator, parts)
    history = simulate(task, clients, rounds=5, cohort=2, hyperparameters=SETTINGS, seed=11)
    assert job.block().tobytes() == history.block.tobytes()


def test_local_state_and_seeds_are_the_simulators_too(
    deployment: Deployment, tmp_path: Path
) -> None:
    """Each device keeps an offset of its own, and its noise comes from its own seed."""
    module = Module.parse(compile_c(Path(__file__).parents[1] / "personal_task.c"))
    (tmp_path / "net.wasm").write_bytes(module.data)
    frozen = np.linspace(-0.5, 0.5, 6, dtype=np.float32)
    write_companion(tmp_path / "net.wasm", module.manifest, np.ones(6, np.float32), frozen)
    random = np.random.default_rng(4)
    paths = []
    for place, size in enumerate([5, 40, 17, 9]):
        paths.append(tmp_path / f"part-{place}.npz")
        np.savez(
            paths[-1],
            patch=random.normal(size=(size, 2, 3)),
            times=random.integers(-3, 4, size),
            code=random.integers(0, 256, size),
            target=random.normal(size=size),
        )
    coordinator = deployment.start_coordinator()
    for place, path in enumerate(paths):
        deployment.start_client(deployment.write_client(f"client-{place}", path))
    arguments = {"epochs": 2, "hyperparameters": {"learning_rate": 0.02}, "seed": 3}
    coordinator.submit(tmp_path / "net.wasm", rounds=1, cohort=4, minimum=4).wait(timeout=WAIT)
    job = coordinator.submit(tmp_path / "net.wasm", rounds=8, cohort=2, minimum=2, **arguments)
    job.wait(timeout=WAIT)
    ids = ids_by_name(coordinator)
    clients = [
        Client(ids[f"client-{place}"], load_dataset(DataConfig(path)))
        for place, path in enumerate(paths)
    ]
    history = simulate(tmp_path / "net.wasm", clients, rounds=8, cohort=2, **arguments)
    assert job.block().tobytes() == history.block.tobytes()
    assert job.block(0).tolist() == [1.0] * 6
    kept = [list((tmp_path / f"client-{place}" / "local").iterdir()) for place in range(4)]
    assert all(1 <= len(files) <= 2 for files in kept)  # of the first job, and of the second


def test_federated_evaluation_scores_first_and_last_version(
    deployment: Deployment, task: bytes, tmp_path: Path
) -> None:
    parts = write_parts(tmp_path, 2)
    coordinator = deployment.start_coordinator()
    for place, part in enumerate(parts):
        settings = {**DATA, "evaluation_fraction": 0.25}
        deployment.start_client(deployment.write_client(f"client-{place}", part, settings=settings))
    job = coordinator.submit(
        task, rounds=8, cohort=2, minimum=2, epochs=3, hyperparameters=SETTINGS, evaluate_every=8
    )
    rounds = {e.round.number: e.round for e in job.watch(timeout=WAIT) if e.HasField("round")}
    scores = {r.base_version: r.evaluation for r in rounds.values() if r.evaluation.examples}
    assert sorted(scores) == [0, 8]
    assert rounds[9].evaluation_only
    assert scores[8].means["accuracy"] > 0.7 > 0.3 > scores[0].means["accuracy"]
    held = sum(
        load_dataset(DataConfig(p, label="digit", evaluation_fraction=0.25)).evaluation_rows
        for p in parts
    )
    assert scores[0].examples == scores[8].examples == held


def members(event: JobEvent) -> dict[str, MemberState]:
    return {member.client_id: member.state for member in event.round.members}


def test_a_killed_client_does_not_stop_the_others_and_is_used_again(
    deployment: Deployment, task: bytes, tmp_path: Path
) -> None:
    parts = write_parts(tmp_path, 3)
    coordinator = deployment.start_coordinator("--reconnect-grace", "0.5")
    start_clients(deployment, parts)
    coordinator.submit(task, rounds=1, cohort=3, minimum=3).wait(timeout=WAIT)
    victim_id = ids_by_name(coordinator)["client-0"]
    victim = deployment.processes["client-0"]
    job = coordinator.submit(
        task,
        rounds=400,
        cohort=3,
        minimum=2,
        epochs=20,
        hyperparameters=SETTINGS,
        round_deadline_seconds=20,
    )
    without = back = 0
    for event in job.watch(timeout=WAIT):
        record = event.round
        if record.state != COMMITTED:
            continue
        took_part = members(event).get(victim_id) == MemberState.MEMBER_STATE_REPORTED
        if record.number == 2:
            victim.send_signal(signal.SIGKILL)
            victim.wait()
        if victim.returncode is not None and not took_part:
            without += 1
            if without == 2:
                deployment.start_client(deployment.directory / "client-0.toml")
        if without >= 2 and took_part:
            back += 1
            if back == 2:
                break
    assert without >= 2
    assert back == 2
    job.cancel("seen enough")
    assert job.refresh().state == JobState.JOB_STATE_CANCELLED


def test_too_few_clients_left_is_an_abandoned_round_with_a_reason(
    deployment: Deployment, task: bytes, tmp_path: Path
) -> None:
    parts = write_parts(tmp_path, 2)
    coordinator = deployment.start_coordinator("--reconnect-grace", "0.2")
    start_clients(deployment, parts)
    job = coordinator.submit(
        task, rounds=1000, cohort=2, minimum=2, epochs=500, hyperparameters=SETTINGS
    )
    killed = False
    for event in job.watch(timeout=WAIT):
        if event.round.number >= 2 and not killed:
            deployment.processes["client-1"].kill()  # at work in the round after this one
            killed = True
        if event.round.state == RoundState.ROUND_STATE_ABANDONED:
            assert "1 of at least 2" in event.round.reason
            states = sorted(members(event).values())
            assert states == [
                MemberState.MEMBER_STATE_REPORTED,
                MemberState.MEMBER_STATE_LOST,
            ]
            break
    before = job.refresh().version
    deployment.start_client(deployment.directory / "client-1.toml")
    assert any(later.job.version > before for later in job.watch(timeout=WAIT))
    assert job.refresh().version > before
    job.cancel()


@pytest.mark.parametrize("rounds_before", [1, 3])
def test_a_killed_coordinator_takes_its_job_up_again(
    deployment: Deployment, task: bytes, tmp_path: Path, rounds_before: int
) -> None:
    parts = write_parts(tmp_path, 2)
    coordinator = deployment.start_coordinator()
    start_clients(deployment, parts)
    job = coordinator.submit(
        task, rounds=8, cohort=2, minimum=2, epochs=40, hyperparameters=SETTINGS, seed=5
    )
    killed = False
    for event in job.watch(timeout=WAIT):
        if not killed and event.round.number >= rounds_before:
            process = deployment.processes["coordinator"]
            process.kill()
            process.wait()
            coordinator = deployment.start_coordinator()
            killed = True
    assert killed
    job = coordinator.job(job.id)
    assert job.status.state == JobState.JOB_STATE_SUCCEEDED
    clients = virtual_clients(coordinator, parts)
    history = simulate(task, clients, rounds=8, epochs=40, hyperparameters=SETTINGS, seed=5)
    assert job.block().tobytes() == history.block.tobytes()
