"""The simulator against a float64 numpy loop, and against itself in every other arrangement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cloister import simulated_rounds
from cloister.errors import InvalidJob
from cloister.history import History, RoundResult
from cloister.simulation import Client, simulate
from cloister_client.dataset import Dataset
from cloister_client.errors import DataError, UnfitAssignment
from cloister_client.training import train
from cloister_coordinator.cohort import client_seed
from cloister_protos import Role, Training
from cloister_sandbox import Faulted, Limits, SandboxPool
from cloister_tasks import BuildError, InvalidModule, Module, builtin, template

FEATURES, CLASSES = 6, 3
SIZES = [5, 17, 1, 40, 23]


@pytest.fixture(scope="session")
def task() -> Module:
    """Softmax regression that takes 16 rows a call, so that larger clients need several."""
    return Module.parse(
        template.build("softmax-regression", features=FEATURES, classes=CLASSES, capacity=16)
    )


@pytest.fixture(scope="session")
def clients() -> list[Client]:
    random = np.random.default_rng(7)
    made = []
    for place, size in enumerate(SIZES):
        x = random.normal(size=(size, FEATURES)).astype(np.float32)
        y = (x[:, :CLASSES].argmax(axis=1)).astype(np.int32)
        made.append(Client(f"c{place}", Dataset({"features": x, "label": y}, {})))
    return made


def run(task: Module, clients: list[Client], **changed: object) -> History:
    settings: dict[str, object] = {
        "rounds": 3,
        "epochs": 2,
        "hyperparameters": {"batch_size": 4, "learning_rate": 0.2},
        "seed": 3,
    }
    return simulate(task, clients, **{**settings, **changed})  # type: ignore[arg-type]


def oracle(
    history: History, clients: list[Client], rounds: int, epochs: int
) -> NDArray[np.float64]:
    """Federated averaging of softmax regression in float64, rows in stored order, from zero."""
    shapes = {b.name: b.shape for b in history.manifest.of(Role.ROLE_PARAMETER)}
    assert shapes == {"weight": shapes["weight"], "bias": (CLASSES,)}
    transposed = shapes["weight"] == (CLASSES, FEATURES)
    weight, bias = np.zeros((FEATURES, CLASSES)), np.zeros(CLASSES)
    for _ in range(rounds):
        total, updates = 0, []
        for client in clients:
            w, b = weight.copy(), bias.copy()
            x, y = (client.dataset.train[name] for name in ("features", "label"))
            for _ in range(epochs):
                for start in range(0, len(y), 4):
                    rows, labels = x[start : start + 4].astype(float), y[start : start + 4]
                    exponent = np.exp(rows @ w + b)
                    error = exponent / exponent.sum(axis=1, keepdims=True) - np.eye(CLASSES)[labels]
                    w -= 0.2 * rows.T @ error / len(labels)
                    b -= 0.2 * error.mean(axis=0)
            total += len(y)
            updates.append((len(y), w - weight, b - bias))
        weight = weight + sum(n * w for n, w, _ in updates) / total
        bias = bias + sum(n * b for n, _, b in updates) / total
    return np.concatenate([(weight.T if transposed else weight).ravel(), bias])


def test_it_agrees_with_federated_averaging_in_float64(task: Module, clients: list[Client]) -> None:
    start = np.zeros(task.manifest.parameter_count, np.float32)
    history = run(task, clients, keep_order=True, initial_model=start)
    expected = oracle(history, clients, rounds=3, epochs=2)
    error = np.abs(history.block - expected).max() / np.abs(expected).max()
    assert error < 1e-5


def test_virtual_clients_train_as_single_clients_do(task: Module, clients: list[Client]) -> None:
    """One round with one client at a time is exactly what that client's own sandbox gives."""
    training = Training(epochs=2, hyperparameters={"batch_size": 4, "learning_rate": 0.2})
    start = np.linspace(-1, 1, task.manifest.parameter_count, dtype=np.float32)
    with SandboxPool(Limits(), isolated=False) as pool:
        for client in clients:
            history = run(task, [client], rounds=1, aggregation="sum", initial_model=start)
            with pool.lease(task) as sandbox:
                outcome = train(
                    sandbox,
                    model=start,
                    frozen=None,
                    dataset=client.dataset,
                    training=training,
                    evaluate=False,
                    seed=client_seed(3, 1, client.id),
                )
            assert outcome.update is not None
            expected = (start.astype(np.float64) + outcome.update).astype(np.float32)
            assert history.block.tobytes() == expected.tobytes()
            sums = history.rounds[0].training.means
            rows = outcome.trained_rows
            assert sums == {name: total / rows for name, total in outcome.training_sums.items()}


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("aggregation", ["fedavg", "median", "sum"])
def test_threads_and_the_order_of_clients_change_no_bit(
    task: Module, clients: list[Client], threads: int, aggregation: str
) -> None:
    expected = run(task, clients, threads=1, aggregation=aggregation)
    shuffled = [clients[i] for i in (3, 0, 4, 1, 2)]
    found = run(task, shuffled, threads=threads, aggregation=aggregation)
    assert found.block.tobytes() == expected.block.tobytes()
    assert [r.training for r in found.rounds] == [r.training for r in expected.rounds]


def test_long_updates_are_scaled_down_to_the_clipping_norm(
    task: Module, clients: list[Client]
) -> None:
    start = np.zeros(task.manifest.parameter_count, np.float32)
    settings = {"rounds": 1, "aggregation": "sum", "initial_model": start}
    free = [run(task, [c], **settings).block.astype(np.float64) for c in clients]
    norms = [float(np.linalg.norm(update)) for update in free]
    limit = float(np.mean(sorted(norms)[2:4]))
    for client, update, norm in zip(clients, free, norms, strict=True):
        bounded = run(task, [client], clip_norm=limit, **settings)
        expected = update * min(1.0, limit / norm)
        np.testing.assert_allclose(bounded.block, expected, rtol=1e-6, atol=1e-8)
        (result,) = bounded.rounds
        assert (result.clip_norm, result.clipped) == (limit, norm > limit)
    (result,) = run(task, clients, clip_norm=limit, **settings).rounds
    assert result.clipped == 2


def test_the_seed_decides(task: Module, clients: list[Client]) -> None:
    assert not np.array_equal(run(task, clients).block, run(task, clients, seed=4).block)


def test_the_median_of_updates(task: Module, clients: list[Client]) -> None:
    start = np.zeros(task.manifest.parameter_count, np.float32)
    settings = {"rounds": 1, "initial_model": start}
    single = [run(task, [c], aggregation="sum", **settings).block for c in clients]
    history = run(task, clients, aggregation="median", **settings)
    np.testing.assert_allclose(history.block, np.median(single, axis=0), rtol=1e-6, atol=1e-7)


def test_a_cohort_and_drop_outs_leave_their_trace(task: Module, clients: list[Client]) -> None:
    history = run(task, clients, rounds=20, cohort=3, minimum=2, drop_out=0.4)
    assert {r.cohort for r in history.rounds} == {3}
    committed = [r for r in history.rounds if r.committed]
    assert all(r.survivors >= 2 for r in committed)
    assert history.version == len(committed) == 20 < len(history.rounds)
    assert [r.number for r in history.rounds] == list(range(1, len(history.rounds) + 1))
    assert all("at least 2" in r.reason for r in history.rounds if not r.committed)
    assert not history.failure


def test_over_selection_makes_up_for_drop_outs(task: Module, clients: list[Client]) -> None:
    settings = {"rounds": 30, "cohort": 2, "minimum": 2, "drop_out": 0.3}
    plain = run(task, clients, **settings)
    more = run(task, clients, over_selection=2.0, **settings)
    assert plain.version == more.version == 30
    assert len(more.rounds) < len(plain.rounds)


def test_too_many_abandoned_rounds_in_a_row_end_it(task: Module, clients: list[Client]) -> None:
    settings = {"rounds": 50, "minimum": 5, "drop_out": 0.9, "max_abandoned_rounds": 3}
    history = run(task, clients, **settings)
    assert history.failure.startswith("3 rounds in a row were abandoned")
    assert [r.committed for r in history.rounds[-3:]] == [False] * 3
    assert history.version < 50


@pytest.mark.parametrize("name", ["b9", "c22", "c9"])  # trained first, between the others, last
@pytest.mark.parametrize("threads", [1, 2])
def test_a_client_whose_training_diverges_is_left_out(
    task: Module, clients: list[Client], name: str, threads: int
) -> None:
    x = np.full((40, FEATURES), np.float32(3e38))
    label = (np.arange(40) % CLASSES).astype(np.int32)
    broken = Client(name, Dataset({"features": x, "label": label}, {}))
    with_broken = run(task, [*clients, broken], rounds=2, threads=threads)
    assert [(r.survivors, r.diverged, r.cohort) for r in with_broken.rounds] == [(5, 1, 6)] * 2
    assert with_broken.block.tobytes() == run(task, clients, rounds=2).block.tobytes()


def test_when_all_diverge_the_round_is_abandoned(task: Module, clients: list[Client]) -> None:
    start = np.zeros(task.manifest.parameter_count, np.float32)
    hyperparameters = {"batch_size": 4, "learning_rate": 3e38}
    history = run(task, clients, rounds=2, initial_model=start, hyperparameters=hyperparameters)
    assert [(r.committed, r.diverged, r.version) for r in history.rounds] == [(False, 5, 0)] * 10
    assert history.failure
    assert not history.block.any()


def test_a_label_out_of_range_names_client_and_row(task: Module, clients: list[Client]) -> None:
    size = 30  # of which the task takes 16 a call
    label = np.zeros(size, np.int32)
    label[21] = CLASSES
    x = np.zeros((size, FEATURES), np.float32)
    broken = Client("clinic", Dataset({"features": x, "label": label}, {}))
    with pytest.raises(Faulted, match=r"training clinic .*label.* at row 21"):
        run(task, [*clients, broken])


def test_updates_on_disk_change_no_bit(
    task: Module, clients: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(task, clients)
    monkeypatch.setattr(simulated_rounds, "UPDATES_IN_MEMORY_BYTES", 0)
    assert run(task, clients).block.tobytes() == expected.block.tobytes()


def test_every_round_is_told(task: Module, clients: list[Client]) -> None:
    told: list[RoundResult] = []
    history = run(task, clients, on_round=told.append)
    assert told == history.rounds
    assert [r.number for r in told] == [1, 2, 3]


def test_held_out_rows_are_scored(task: Module, clients: list[Client]) -> None:
    test = clients[3].dataset.train
    history = run(task, clients, rounds=5, test=test, evaluate_every=2)
    scored = [r.number for r in history.rounds if r.test is not None]
    assert scored == [2, 4, 5]
    weight, bias = history.model["weight"], history.model["bias"]
    if weight.shape == (CLASSES, FEATURES):
        weight = weight.T
    predicted = (test["features"] @ weight + bias).argmax(axis=1)
    assert history.final["accuracy"] == pytest.approx(np.mean(predicted == test["label"]))


def test_statistics_are_summed_exactly(clients: list[Client]) -> None:
    summary = Module.parse(template.build("summarize", features=FEATURES, bins=4, low=-2, high=2))
    history = simulate(summary, clients, rounds=1, aggregation="sum")
    rows = np.concatenate([c.dataset.train["features"] for c in clients]).astype(np.float64)
    np.testing.assert_array_equal(history.model["count"], np.full(FEATURES, sum(SIZES)))
    np.testing.assert_allclose(history.model["sum"], rows.sum(axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"cohort": 9}, "cohort must be 1 to 5, not 9"),
        ({"cohort": 0}, "cohort must be 1 to 5, not 0"),
        ({"minimum": 4, "cohort": 2}, "minimum must be 1 to 2, not 4"),
        ({"minimum": 6}, "minimum must be 1 to 5"),
        ({"drop_out": 1.0}, "drop_out"),
        ({"drop_out": -0.1}, "drop_out"),
        ({"over_selection": 0.5}, "over_selection"),
        ({"seed": -1}, "seed must be 0 to"),
        ({"seed": 1 << 64}, "seed must be 0 to"),
        ({"evaluate_every": -1}, "evaluate_every"),
        ({"test": {}}, "test has no rows"),
    ],
)
def test_arguments_that_make_no_sense(
    task: Module, clients: list[Client], changed: dict[str, object], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        run(task, clients, **changed)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"initial_model": np.zeros(3, np.float32)}, "21 parameters, not 3"),
        ({"initial_model": np.full(21, np.nan)}, "finite"),
        ({"frozen": np.zeros(3, np.float32)}, "0 frozen parameters, not 3"),
    ],
)
def test_a_beginning_that_does_not_fit(
    task: Module, clients: list[Client], changed: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidJob, match=says):
        run(task, clients, **changed)


def test_no_clients_and_double_clients(task: Module, clients: list[Client]) -> None:
    with pytest.raises(ValueError, match="at least one client"):
        run(task, [])
    with pytest.raises(ValueError, match="unique"):
        run(task, [clients[0], clients[0]])


def test_the_largest_seed_is_one(task: Module, clients: list[Client]) -> None:
    assert run(task, clients, seed=(1 << 64) - 1).version == 3


def test_a_client_without_rows(task: Module, clients: list[Client]) -> None:
    empty = Client("empty", Dataset({}, {}))
    with pytest.raises(ValueError, match="empty has no rows to train on"):
        run(task, [*clients, empty])


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ({"features": np.zeros((3, FEATURES), np.float32)}, "asks for the input 'label'"),
        (
            {"features": np.zeros((3, 2), np.float32), "label": np.zeros(3, np.int32)},
            f"takes {FEATURES} numbers per row",
        ),
    ],
)
def test_rows_that_do_not_fit_the_task(
    task: Module, clients: list[Client], rows: dict[str, NDArray[np.generic]], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        run(task, [Client("c", Dataset(rows, {}))])
    told: list[RoundResult] = []
    with pytest.raises(DataError, match=says):  # before any round
        run(task, clients, test=rows, on_round=told.append)
    assert told == []


@pytest.mark.parametrize(
    ("hyperparameters", "says"),
    [
        ({"rate": 0.1}, "no hyperparameter 'rate'"),
        ({"batch_size": 1.5}, "batch_size"),
        ({"batch_size": 17}, "at most 16 rows"),
    ],
)
def test_hyperparameters_that_do_not_fit_the_task(
    task: Module, clients: list[Client], hyperparameters: dict[str, float], says: str
) -> None:
    with pytest.raises(UnfitAssignment, match=says):
        run(task, clients, hyperparameters=hyperparameters)


def test_statistics_take_one_epoch_and_no_test(clients: list[Client]) -> None:
    summary = template.build("summarize", features=FEATURES)
    with pytest.raises(UnfitAssignment, match="1 epoch"):
        simulate(summary, clients, rounds=1, epochs=2, aggregation="sum")
    test = clients[0].dataset.train
    with pytest.raises(UnfitAssignment, match="evaluation"):
        simulate(summary, clients, rounds=1, aggregation="sum", test=test)


def test_modules_by_bytes_path_and_name(
    task: Module, clients: list[Client], tmp_path: Path
) -> None:
    path = tmp_path / "task.wasm"
    path.write_bytes(task.data)
    fedavg = Module.parse(builtin.aggregation("fedavg"))
    expected = run(task, clients, aggregation=fedavg).block.tobytes()
    assert simulate_bytes(path, clients, "fedavg") == expected
    assert simulate_bytes(task.data, clients, fedavg.data) == expected
    with pytest.raises(BuildError, match="no aggregation 'mean'"):
        run(task, clients, aggregation="mean")


def simulate_bytes(task: bytes | Path, clients: list[Client], aggregation: str | bytes) -> bytes:
    return run(task, clients, aggregation=aggregation).block.tobytes()  # type: ignore[arg-type]


def test_a_task_is_no_aggregation(task: Module, clients: list[Client]) -> None:
    with pytest.raises(InvalidModule, match="is a task, not an aggregation"):
        run(task, clients, aggregation=task)
    with pytest.raises(InvalidModule, match="is an aggregation, not a task"):
        run(Module.parse(builtin.aggregation("fedavg")), clients)
