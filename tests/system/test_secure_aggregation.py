"""Secure aggregation by real processes: members are killed, and all that is sent is searched."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from cloister import AdaptiveClipping, DifferentialPrivacy, SecureAggregation
from cloister.deployment import Deployment
from cloister.job import Job
from cloister.simulation import Client, simulate
from cloister_client.dataset import Dataset
from cloister_client.training import train
from cloister_coordinator.cohort import client_seed
from cloister_protos import Role, RoundRecord, RoundState, Training
from cloister_sandbox import SandboxPool
from cloister_tasks import Module, template

from .wiretap import Wiretap

WAIT = 100.0  # seconds until a job that does not end fails the test
FEATURES, CLASSES = 64, 10
DATA = {"label": "digit", "scale": 0.0625, "features": ["pixel_*"]}
SETTINGS = {"batch_size": 10.0, "learning_rate": 0.1}
CLIP, DELTA, VALUE_BITS = 2.0, 1e-5, 16

COMMITTED = RoundState.ROUND_STATE_COMMITTED


@pytest.fixture(scope="session")
def task() -> bytes:
    return template.build("softmax-regression", features=FEATURES, classes=CLASSES, capacity=64)


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with Deployment(tmp_path) as deployment:
        yield deployment


Rows = tuple[NDArray[np.float64], NDArray[np.int64]]


def digits(clients: int) -> tuple[list[Rows], Rows]:
    """A part of the digits for each client, and those kept to test on."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    held, rest = order[:360], order[360:]
    return [(x[rows], y[rows]) for rows in np.array_split(rest, clients)], (x[held], y[held])


def write(folder: Path, parts: Sequence[Rows]) -> list[Path]:
    header = ",".join([*(f"pixel_{i}" for i in range(FEATURES)), "digit"])
    paths = []
    for place, (x, y) in enumerate(parts):
        paths.append(folder / f"part-{place}.csv")
        table = np.column_stack([x, y])
        np.savetxt(paths[-1], table, fmt="%g", delimiter=",", header=header, comments="")
    return paths


def start(deployment: Deployment, parts: Sequence[Rows], *, required: bool = True) -> list[str]:
    """Names of the clients."""
    names = []
    for place, path in enumerate(write(deployment.directory, parts)):
        names.append(f"client-{place}")
        config = deployment.write_client(
            names[-1], path, settings=DATA, secure={"required": required}
        )
        deployment.start_client(config)
    return names


def inputs(rows: Rows) -> dict[str, NDArray[Any]]:
    """The task's, as a client makes them."""
    x, y = rows
    return {"features": (x / 16).astype(np.float32), "label": y.astype(np.int32)}


def accuracy(model: dict[str, NDArray[np.float32]], test: Rows) -> float:
    """Of softmax regression, in float64."""
    x, y = test
    logits = x / 16 @ model["weight"].astype(np.float64).T + model["bias"].astype(np.float64)
    return float((logits.argmax(axis=1) == y).mean())


def epsilon(rounds: int, multiplier: float, parameters: int, count_noise: float) -> float:
    """The ledger once more, by the formulas of Agarwal, Kairouz, Liu 2021 (Skellam), of Kairouz,
    Liu, Steinke 2021 (rounding) and of Canonne, Kamath, Steinke 2020 (from Renyi to epsilon)."""
    alpha = np.array([*range(2, 2000)], np.float64)

    def skellam(l1: float, l2: float, variance: float) -> NDArray[np.float64]:
        more = ((2 * alpha - 1) * l2**2 + 6 * l1) / (4 * variance**2)
        return alpha * l2**2 / (2 * variance) + np.minimum(more, 3 * l1 / (2 * variance))

    c, d = 2.0 ** (VALUE_BITS - 1), parameters
    l2 = min(c + math.sqrt(d), math.sqrt(c**2 + d / 4 + c + math.sqrt(d) / 2))
    rdp = skellam(min(math.sqrt(d) * l2, l2**2), l2, (multiplier * c) ** 2)
    if count_noise:
        rdp += skellam(1024, 1024, (count_noise * 1024) ** 2)
    bounds = rounds * rdp + np.log1p(-1 / alpha) - (math.log(DELTA) + np.log(alpha)) / (alpha - 1)
    return float(bounds.min())


def kill_along(
    deployment: Deployment, job: Job, victims: Sequence[str], rng: random.Random
) -> list[RoundRecord]:
    """Watch a job; after some of its rounds, kill a client at any moment of the next one."""
    left, records, never = list(victims), [], threading.Event()
    for event in job.watch(timeout=WAIT * 3):
        if not event.HasField("round"):
            continue
        records.append(event.round)
        if left:
            took = (event.round.ended_at_ms - event.round.started_at_ms) / 1000
            never.wait(rng.uniform(0, took))
            deployment.processes[left.pop()].kill()
    return records


@pytest.mark.parametrize(
    ("clients", "rounds", "multiplier"),
    [
        (9, 6, 0.02),
        pytest.param(30, 20, 0.05, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_a_third_of_the_members_is_killed(
    deployment: Deployment, task: bytes, clients: int, rounds: int, multiplier: float
) -> None:
    parts, test = digits(clients)
    coordinator = deployment.start_coordinator(
        "--identity-authority", str(deployment.authority), "--reconnect-grace", "0.2"
    )
    names = start(deployment, parts)
    private = DifferentialPrivacy(
        noise_multiplier=multiplier, delta=DELTA, adaptive=AdaptiveClipping(count_noise=4.0)
    )
    job = coordinator.submit(
        task,
        rounds=rounds,
        cohort=clients,
        epochs=3,
        hyperparameters=SETTINGS,
        clip_norm=CLIP,
        secure_aggregation=SecureAggregation(step_seconds=10),
        differential_privacy=private,
        round_deadline_seconds=30,
    )
    rng = random.Random(clients)
    records = kill_along(deployment, job, rng.sample(names, clients // 3), rng)
    job.raise_if_failed()
    assert sum(record.state == COMMITTED for record in records) == rounds

    # what was spent: every sum that was seen, and no other calculation comes to less
    spent = job.refresh().privacy_spent
    assert rounds <= spent.rounds <= len(records)
    assert spent.delta == DELTA
    parameters = FEATURES * CLASSES + CLASSES
    assert spent.epsilon == pytest.approx(
        epsilon(spent.rounds, multiplier, parameters, 4.0), rel=1e-3
    )
    assert not any(record.training.means for record in records)  # exact metrics are not private

    # the model is as good as that of plain averaging without noise, over everybody
    clear = [Client(f"{place}", Dataset(inputs(rows), {})) for place, rows in enumerate(parts)]
    plain = simulate(task, clear, rounds=rounds, epochs=3, hyperparameters=SETTINGS)
    assert accuracy(plain.model, test) > 0.85
    assert accuracy(job.model(), test) > accuracy(plain.model, test) - 0.015


def plain_update(
    task: bytes, rows: Rows, model: NDArray[np.float32], seed: int
) -> tuple[NDArray[np.float32], dict[str, float]]:
    """What a client computes before it is masked: its update, and sums of its metrics."""
    module = Module.parse(task)
    with SandboxPool(isolated=False) as pool, pool.lease(module) as sandbox:
        outcome = train(
            sandbox,
            model=model,
            frozen=None,
            dataset=Dataset(inputs(rows), {}).fit(module.manifest.of(Role.ROLE_INPUT)),
            training=Training(epochs=1, hyperparameters=SETTINGS),
            evaluate=False,
            seed=seed,
        )
    assert outcome.update is not None
    return outcome.update, outcome.training_sums


def found(needles: Sequence[bytes], *places: bytes) -> int:
    return sum(any(needle in place for place in places) for needle in needles)


def files(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("secure", [True, False], ids=["masked", "clear"])
def test_nothing_in_clear_is_sent_or_kept(
    deployment: Deployment, task: bytes, secure: bool
) -> None:
    """Without masks the same search finds all that it looks for: it is not blind."""
    parts, _ = digits(4)
    coordinator = deployment.start_coordinator("--identity-authority", str(deployment.authority))
    with Wiretap(deployment.address) as tap:
        deployment.address = tap.address
        names = start(deployment, parts, required=secure)
        job = coordinator.submit(
            task,
            rounds=2,
            cohort=4,
            minimum=4,
            hyperparameters=SETTINGS,
            clip_norm=1e6,
            secure_aggregation=SecureAggregation() if secure else None,
            seed=5,
        )
        job.wait(timeout=WAIT)
        sent = tap.stop()
    ids = {client.name: client.client_id for client in coordinator.clients()}
    updates, metrics, secrets = [], [], []
    for number in (1, 2):
        model = job.block(number - 1)
        for place, name in enumerate(names):
            seed = client_seed(5, number, ids[name])
            update, sums = plain_update(task, parts[place], model, seed)
            data = update.astype("<f4").tobytes()
            # pieces that are no zeros and lie in one frame of the connection for the most part
            pieces = [data[at : at + 12] for at in range(0, len(data), 12)]
            updates += [piece for piece in pieces if 0 not in np.frombuffer(piece, "<f4")]
            metrics += [np.float64(value).tobytes() for value in sums.values()]
    for name in names:
        key = (deployment.directory / name / "identity.pem").read_bytes()
        secrets.append(b"".join(key.splitlines()[1:-1]))
        assert len(secrets[-1]) > 40
    kept = [*files(deployment.directory / "coordinator"), deployment.log("coordinator").encode()]
    assert len(updates) > 100
    assert len(metrics) >= 8
    if secure:
        assert found(updates, sent, *kept) == 0
        assert found(metrics, sent, *kept) == 0
    else:
        assert found(updates, sent) > 0.9 * len(updates)
        assert found(metrics, sent) == len(metrics)
    assert found(secrets, sent, *kept) == 0
