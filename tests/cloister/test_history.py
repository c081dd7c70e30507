from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from cloister.history import History, RoundResult, Score, shown
from cloister_tasks import Module, template


@pytest.fixture(scope="module")
def task() -> Module:
    return Module.parse(template.build("softmax-regression", features=3, classes=2))


def result(number: int, *, committed: bool = True, test: Score | None = None) -> RoundResult:
    return RoundResult(
        number=number,
        version=number,
        committed=committed,
        cohort=5,
        survivors=4,
        diverged=1,
        training=Score(10, {"loss": 0.5, "accuracy": 0.25}) if committed else Score(0, {}),
        test=test,
        seconds=0.25,
    )


@pytest.fixture
def history(task: Module) -> History:
    score = Score(20, {"loss": 1.25, "accuracy": 0.875})
    rounds = [result(1), result(2, committed=False), result(3, test=score)]
    return History(task.manifest, np.arange(8, dtype=np.float32), rounds, version=2)


def printed(history: History, rows: int = 20) -> list[str]:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(history.table(rows))
    return capture.get().splitlines()


def test_means_from_sums(task: Module) -> None:
    score = Score.of(task.manifest, np.array([6.0, 3.0]), 4)
    assert score == Score(4, {"loss": 1.5, "accuracy": 0.75})


def test_the_model_by_name_lies_in_its_block(history: History) -> None:
    model = history.model
    assert {name: tensor.size for name, tensor in model.items()} == {"weight": 6, "bias": 2}
    assert all(np.shares_memory(tensor, history.block) for tensor in model.values())
    assert np.array_equal(np.concatenate([t.ravel() for t in model.values()]), np.arange(8))


def test_a_committed_round_advances(history: History) -> None:
    block = np.ones(8, np.float32)
    history.advance(block)
    assert history.version == 3
    assert history.block is block


def test_the_final_metrics_are_the_last_scored(history: History) -> None:
    assert history.final == {"loss": 1.25, "accuracy": 0.875}
    history.rounds.append(result(4))
    assert history.final == {"loss": 1.25, "accuracy": 0.875}
    history.rounds[:] = [result(1)]
    assert history.final == {}


def test_the_table(history: History) -> None:
    lines = printed(history)
    assert "softmax-regression, by round" in lines[0]
    header = [cell.strip() for cell in lines[2].strip("┃").split("┃")]
    assert header[:4] == ["round", "version", "clients", "training loss"]
    assert header[5:] == ["test loss", "test accuracy", "seconds"]
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines[4:7]]
    assert rows == [
        ["1", "1", "4/5", "0.5000", "25.00 %", "-", "-", "0.250"],
        ["2", "abandoned", "4/5", "-", "-", "-", "-", "0.250"],
        ["3", "3", "4/5", "0.5000", "25.00 %", "1.2500", "87.50 %", "0.250"],
    ]


def test_the_table_leaves_out_what_was_not_measured(history: History) -> None:
    history.rounds[:] = [result(1)]
    assert "test" not in printed(history)[2]


def test_a_long_table_shows_some_rounds_and_the_last(history: History) -> None:
    history.rounds[:] = [result(number) for number in range(1, 102)]
    numbers = [line.strip("│").split("│")[0].strip() for line in printed(history, 10)[4:-1]]
    assert numbers == ["11", "22", "33", "44", "55", "66", "77", "88", "99", "101"]


def test_json_holds_everything_but_the_model(history: History) -> None:
    document = json.loads(json.dumps(history.to_json(), allow_nan=False))
    assert document["task"] == "softmax-regression"
    assert document["parameters"] == 8
    assert document["version"] == 2
    assert document["final"] == {"loss": 1.25, "accuracy": 0.875}
    assert document["rounds"][1] == {
        "number": 2,
        "version": 2,
        "committed": False,
        "cohort": 5,
        "survivors": 4,
        "diverged": 1,
        "training": {},
        "test": None,
        "seconds": 0.25,
        "clip_norm": 0.0,
        "clipped": 0,
        "epsilon": None,
    }
    assert (document["secure_aggregation"], document["privacy_spent"]) == (False, None)


def test_saved_tensors_come_back(history: History, tmp_path: Path) -> None:
    history.save(tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as saved:
        assert set(saved) == {"weight", "bias"}
        for name, tensor in history.model.items():
            np.testing.assert_array_equal(saved[name], tensor)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("loss", 0.12345, "0.1235"),
        ("loss", 5.5e29, "5.500e+29"),
        ("accuracy", 0.9, "90.00 %"),
        ("accuracy", None, "-"),
    ],
)
def test_a_mean_for_people(name: str, value: float | None, text: str) -> None:
    assert shown(name, value) == text
