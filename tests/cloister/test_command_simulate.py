"""`cloister simulate` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cloister.commands.app import app
from cloister.companion import write_companion
from cloister_tasks import Module, builtin, template


def cloister(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)])


def document(*arguments: str | Path) -> dict[str, Any]:
    done = cloister(*arguments, "--json")
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """60 rows whose label is the sign of their first feature."""
    random = np.random.default_rng(0)
    features = random.normal(size=(60, 2))
    lines = [f"{a:.6f},{b:.6f},{int(a > 0)},{a - b:.6f}" for a, b in features]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(["a,b,outcome,difference", *lines]) + "\n")
    return path


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """Softmax regression of 3 features and 2 classes."""
    path = tmp_path / "task.wasm"
    path.write_bytes(template.build("softmax-regression", features=3, classes=2))
    return path


DEMO = (
    *("digits", "--clients", "20", "--partition", "dirichlet", "--alpha", "0.5", "--central"),
    *("--rounds", "40", "--epochs", "10", "--batch-size", "10", "--learning-rate", "0.3"),
)


@pytest.mark.parametrize("seed", range(3))
def test_the_demo_comes_close_to_central_training(seed: int) -> None:
    found = document(*DEMO, "--seed", str(seed))
    federated, central = found["final"]["accuracy"], found["central"]["accuracy"]
    assert federated > central - 0.015
    assert federated > 0.94
    assert found["secure_aggregation"]
    assert all(result["clipped"] == 0 for result in found["rounds"])


def test_secure_aggregation_changes_nothing_but_rounding() -> None:
    common = ("digits", "--rounds", "3", "--clients", "5", "--epochs", "2")
    masked, clear = document(*common), document(*common, "--no-secure", "--clip-norm", "10")
    assert (masked["secure_aggregation"], clear["secure_aggregation"]) == (True, False)
    assert (masked["why_clear"], clear["why_clear"]) == ("", "--no-secure")
    assert {result["clip_norm"] for run in (masked, clear) for result in run["rounds"]} == {10}
    assert masked["final"]["loss"] == pytest.approx(clear["final"]["loss"], abs=1e-4)
    assert masked["final"] != clear["final"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["iris", "--no-secure"], "--no-secure"),
        (["iris", "--aggregation", "median"], "median needs single updates"),
        (["iris", "--cohort", "1"], "a sum of one update is that update"),
        (["iris", "--cohort", "4", "--over-selection", "2"], "it needs over half of those"),
        (["iris", "--minimum", "1"], "a sum of one update is that update"),
        (["digits", "--clients", "101"], "it takes long with 101 members of a round"),
        (["ROWS", "--label", "outcome"], "--secure turns it on for data of one's own"),
    ],
)
def test_it_says_why_secure_aggregation_is_off(arguments: list[str], why: str, rows: Path) -> None:
    named = [rows if argument == "ROWS" else argument for argument in arguments]
    done = cloister(*named, "--rounds", "1")
    assert done.exit_code == 0, done.output
    assert f"secure aggregation was off: {why}" in done.stdout


def test_what_secure_aggregation_is_on_with() -> None:
    common = ("iris", "--rounds", "2", "--clients", "4", "--learning-rate", "0.5")
    done = cloister(*common)
    assert "softmax-regression, by round, under secure aggregation" in done.stdout
    assert "by secure aggregation, with a clipping norm of 10" in done.stdout
    assert "scaled down" not in done.stdout
    done = cloister(*common, "--clip-norm", "0.1", "--corrupt", "0.25", "--value-bits", "20")
    assert "with a clipping norm of 0.1" in done.stdout
    assert "8 updates were longer than the clipping norm" in done.stdout


def test_masks_for_data_of_ones_own(rows: Path) -> None:
    arguments = (rows, "--label", "outcome", "--rounds", "2", "--secure", "--max-weight", "100")
    assert document(*arguments)["secure_aggregation"]


def test_noise_until_the_budget_is_spent() -> None:
    common = ("digits", "--clients", "10", "--rounds", "30", "--clip-norm", "1")
    noise = ("--noise-multiplier", "2", "--delta", "1e-5", "--adaptive-clipping")
    spent = document(*common, *noise, "--rounds", "2")["privacy_spent"]
    assert spent["delta"] == 1e-5
    done = cloister(*common, *noise, "--epsilon", spent["epsilon"] * 1.01)
    assert done.exit_code == 6
    assert "ended early: the privacy budget is spent: after 2 rounds" in done.stdout
    assert f"privacy spent: epsilon {spent['epsilon']:.4g} at delta 1e-05" in done.stdout
    assert "clip norm" in done.stdout
    assert "training loss" not in done.stdout
    central = document(*common, *noise, "--rounds", "1", "--noise", "central")
    norms = [result["clip_norm"] for result in central["rounds"]]
    assert norms == [1]


def test_statistics_need_a_norm_of_their_own(rows: Path, tmp_path: Path) -> None:
    path = tmp_path / "summary.wasm"
    path.write_bytes(template.build("summarize", features=3))
    arguments = (rows, "--target", "difference", "--task", path, "--aggregation", "sum")
    options = ("--rounds", "1", "--clients", "3")
    assert "give a --clip-norm" in cloister(*arguments, *options, "--secure").stderr
    masked = (*arguments, *options, "--secure", "--clip-norm", "4096", "--value-bits", "24")
    assert document(*masked)["secure_aggregation"]


def test_the_table_and_both_accuracies() -> None:
    done = cloister("digits", "--rounds", "3", "--clients", "4", "--central")
    assert done.exit_code == 0
    assert "softmax-regression, by round" in done.stdout
    assert "4/4" in done.stdout
    assert "federated" in done.stdout.splitlines()[-2]
    assert "trained centrally" in done.stdout.splitlines()[-2]
    assert done.stdout.splitlines()[-1].startswith("3 rounds in ")


def test_one_json_object_as_a_process() -> None:
    command = [sys.executable, "-m", "cloister", "simulate", "iris", "--rounds", "2", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert [result["number"] for result in found["rounds"]] == [1, 2]
    assert set(found["final"]) == {"loss", "accuracy"}
    assert "central" not in found


def test_an_error_as_a_process() -> None:
    command = [sys.executable, "-m", "cloister", "simulate", "iris", "--clients", "500"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: 120 rows cannot be spread over 500 shares: ask for fewer\n"


def test_the_seed_decides() -> None:
    def final(seed: int) -> object:
        return document("iris", "--rounds", "2", "--clients", "3", "--seed", seed)["final"]

    assert final(1) == final(1) != final(2)


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "by-label"])
def test_partitions(partition: str) -> None:
    found = document("digits", "--rounds", "1", "--clients", "10", "--partition", partition)
    assert found["rounds"][0]["survivors"] == 10


def test_a_perceptron_with_drop_outs() -> None:
    found = document(
        *("digits", "--hidden", "16", "--hidden", "8", "--clients", "10", "--cohort", "4"),
        *("--over-selection", "2", "--drop-out", "0.3", "--minimum", "2", "--rounds", "4"),
    )
    assert found["task"] == "perceptron"
    assert found["parameters"] == 64 * 16 + 16 + 16 * 8 + 8 + 8 * 10 + 10
    assert all(result["cohort"] == 8 for result in found["rounds"])
    assert all(result["survivors"] <= 4 for result in found["rounds"])


def test_a_regression_has_no_accuracy() -> None:
    done = cloister("diabetes", "--rounds", "2", "--clients", "3", "--central")
    assert done.exit_code == 0
    assert "test loss of linear-regression on diabetes" in done.stdout
    assert "accuracy" not in done.stdout


def test_a_file_a_task_a_picture_and_a_model(rows: Path, task: Path, tmp_path: Path) -> None:
    picture, model = tmp_path / "run.png", tmp_path / "model.npz"
    found = document(
        *(rows, "--label", "outcome", "--task", task, "--clients", "3", "--rounds", "30"),
        *("--set", "learning_rate=0.5", "--plot", picture, "--output", model),
    )
    assert found["final"]["accuracy"] >= 0.9
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with np.load(model) as tensors:
        assert {name: tensors[name].size for name in tensors} == {"weight": 6, "bias": 2}


def test_a_target_column(rows: Path) -> None:
    found = document(rows, "--target", "difference", "--clients", "3", "--rounds", "20")
    assert found["task"] == "linear-regression"
    assert found["final"]["loss"] < 0.05


def test_statistics_have_no_test(rows: Path, tmp_path: Path) -> None:
    path = tmp_path / "summary.wasm"
    path.write_bytes(template.build("summarize", features=3))
    options = ("--target", "difference", "--task", path, "--aggregation", "sum", "--rounds", "1")
    done = cloister(rows, *options, "--clients", "3")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1].startswith("1 round in")


def test_an_aggregation_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.wasm"
    path.write_bytes(builtin.aggregation("median"))
    options = ("iris", "--rounds", "2", "--clients", "5", "--aggregation")
    assert document(*options, path)["final"] == document(*options, "median")["final"]


def test_rounds_that_came_to_nothing_are_told() -> None:
    done = cloister("iris", "--clients", "3", "--minimum", "3", "--drop-out", "0.9")
    assert done.exit_code == 6
    assert "ended early: 10 rounds in a row were abandoned" in done.stdout
    assert "of them abandoned with too few clients left" in done.stdout


def test_updates_that_diverged_are_told() -> None:
    done = cloister("iris", "--clients", "3", "--rounds", "2", "--learning-rate", "3e38")
    assert done.exit_code == 6, done.output
    assert "updates were not finite and left out: try a smaller --learning-rate" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["mnist"], 2, "no data set 'mnist'"),
        (["gone.csv", "--label", "a"], 2, "gone.csv: No such file"),
        (["ROWS"], 2, "which column of rows.csv to predict"),
        (["ROWS", "--label", "result"], 2, "no column 'result'; it has: a, b, outcome"),
        (["ROWS", "--label", "a"], 2, "a label is a whole number from 0"),
        (["ROWS", "--label", "outcome", "--hidden", "0"], 2, "--hidden"),
        (["ROWS", "--target", "a", "--hidden", "4"], 2, "this data has no classes"),
        (["iris", "--clients", "121"], 2, "120 rows cannot be spread over 121 shares"),
        (["iris", "--partition", "by-label", "--clients", "100"], 2, "over 200 shares"),
        (["iris", "--partition", "dirichlet", "--alpha", "-1"], 2, "alpha must be positive"),
        (["iris", "--partition", "random"], 2, "--partition"),
        (["iris", "--rounds", "0"], 2, "--rounds"),
        (["iris", "--cohort", "30"], 2, "cohort must be 1 to 20, not 30"),
        (["iris", "--cohort", "5", "--minimum", "6"], 2, "minimum must be 1 to 5, not 6"),
        (["iris", "--drop-out", "1"], 2, "--drop-out"),
        (["iris", "--value-bits", "25"], 2, "--value-bits"),
        (["iris", "--clip-norm", "0"], 2, "clip_norm must be above 0, not 0"),
        (["iris", "--secure", "--aggregation", "median"], 2, "median needs single updates"),
        (["iris", "--noise-multiplier", "1"], 2, "give --clip-norm"),
        (["iris", "--clip-norm", "1", "--epsilon", "1"], 2, "needs --noise-multiplier"),
        (["iris", "--no-secure", "--noise-multiplier", "1"], 2, "nothing to mask or to put noise"),
        (["iris", "--test-fraction", "1"], 2, "leaves a part of 150 rows empty"),
        (["iris", "--set", "rate=1"], 2, "no hyperparameter 'rate'; there are: learning_rate"),
        (["iris", "--set", "rate"], 2, "NAME=NUMBER"),
        (["iris", "--aggregation", "mean"], 2, "no aggregation 'mean'"),
        (["iris", "--aggregation", "gone.wasm"], 2, "gone.wasm: No such file"),
        (["iris", "--aggregation", "TASK"], 3, "is a task, not an aggregation"),
        (["iris", "--task", "gone.wasm"], 2, "'gone.wasm' does not exist"),
        (["iris", "--task", "ROWS"], 3, "not a WASM module"),
        (["iris", "--task", "TASK"], 2, "takes 3 numbers per row of 'features'"),
        (["ROWS", "--target", "a", "--task", "TASK"], 2, "asks for the input 'label'"),
        (["THREE", "--label", "label", "--task", "TASK"], 3, "training client-"),
        (["iris", "--plot", "run.pdf"], 2, "cannot draw run.pdf"),
        (["iris", "--plot", "gone/run.png"], 2, "there is no folder gone"),
        (["iris", "--output", "gone/model.npz"], 2, "there is no folder gone"),
    ],
)
def test_a_mistake_is_one_clear_message(
    arguments: list[str], code: int, says: str, rows: Path, task: Path, tmp_path: Path
) -> None:
    three = tmp_path / "three.csv"  # classes 0 to 2, but the task has two
    three.write_text("a,b,c,label\n" + "".join(f"0,0,0,{i % 3}\n" for i in range(60)))
    places = {"ROWS": rows, "TASK": task, "THREE": three}
    done = cloister(*(places.get(argument, argument) for argument in arguments))
    assert done.exit_code == code, done.output
    assert done.stdout == ""
    assert says in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.output


def test_an_npzs_arrays_are_the_tasks_inputs(
    personal_file: Path, personal: Module, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "rows.npz",
        patch=random.normal(size=(80, 2, 3)),
        times=random.integers(0, 3, 80),
        code=random.integers(0, 256, 80),
        target=random.normal(size=80),
    )
    arguments = (tmp_path / "rows.npz", "--task", personal_file, "--clients", "5", "--rounds", "3")
    refused = cloister(*arguments)
    assert (refused.exit_code, "--frozen FILE" in refused.stderr) == (2, True)
    write_companion(personal_file, personal.manifest, np.ones(6, np.float32), np.ones(6, "<f4"))
    done = cloister(*arguments, "--json", "--output", tmp_path / "model.npz")
    assert done.exit_code == 0, done.output
    assert "begins with the values in" in done.stderr
    assert json.loads(done.stdout)["final"]["loss"] > 0
    with np.load(tmp_path / "model.npz") as model:
        assert set(model) == {"0.weight", "base"}
    built = cloister(tmp_path / "rows.npz", "--clients", "5")
    assert "give a task" in built.stderr
