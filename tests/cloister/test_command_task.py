from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cloister.commands.app import app
from cloister.commands.exit_code import ExitCode
from cloister.companion import write_companion
from cloister.vouching import read_signature
from cloister_protos import Blob
from cloister_tasks import Module, build, builtin


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def cloister(*arguments: str | Path, code: ExitCode = ExitCode.OK) -> Result:
    result = CliRunner().invoke(app, ["task", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def documents(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """300 rows of 64 features whose label is the position of the largest of the first ten."""
    random = np.random.default_rng(0)
    features = random.normal(size=(300, 64)).astype(np.float32)
    path = tmp_path / "rows.npz"
    np.savez(path, features=features, label=features[:, :10].argmax(1).astype(np.int32))
    return path


def test_build_writes_what_the_library_builds(tmp_path: Path) -> None:
    (report,) = documents(
        cloister("build", "softmax-regression", "--features", "4", "--classes", "3", "--json")
    )
    data = (tmp_path / "softmax-regression.wasm").read_bytes()
    assert data == build("softmax-regression", features=4, classes=3)
    assert report["digest"] == Module.parse(data).digest.hex()
    assert report["parameters"] == 15


def test_build_takes_several_hidden_layers_and_a_variant(tmp_path: Path) -> None:
    cloister(
        *("build", "perceptron", "--features", "4", "--hidden", "5", "--hidden", "6"),
        *("--classes", "3", "--variant", "scalar", "-o", "p.wasm"),
    )
    manifest = Module.parse((tmp_path / "p.wasm").read_bytes()).manifest
    assert manifest.variant == "scalar"
    assert manifest.parameter_count == 4 * 5 + 5 + 5 * 6 + 6 + 6 * 3 + 3


def test_build_takes_the_examples_sources() -> None:
    examples = Path(__file__).parents[2] / "examples"
    cloister("build", examples / "task_in_c" / "huber.c")
    cloister(
        *("build", examples / "task_in_wat" / "mean.wat"),
        *("--manifest", examples / "task_in_wat" / "mean.json"),
    )
    for name in ("huber.wasm", "mean.wasm"):
        assert "imports" in cloister("inspect", name).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "neither a template"),
        (["perceptron", "--features", "4", "--classes", "2"], "needs --hidden"),
        (["noop", "--parameters", "1", "--bins", "3"], "takes no --bins"),
        (["no.c"], "no C file"),
        (["no.c", "--features", "3"], "is for templates"),
        (["noop", "--parameters", "1", "--define", "A=1"], "are for files"),
        (["no.wat", "--define", "A=1"], "is for .c files"),
        (["noop", "--parameters", "0"], "parameters"),
    ],
)
def test_build_says_what_is_wrong(arguments: list[str], words: str) -> None:
    assert words in cloister("build", *arguments, code=ExitCode.USAGE).stderr


def test_build_shows_the_compilers_words(tmp_path: Path) -> None:
    (tmp_path / "bad.c").write_text('#include "cloister.h"\nint f( {\n')
    assert "bad.c:2" in cloister("build", "bad.c", code=ExitCode.USAGE).stderr


def test_inspect_shows_everything(task: bytes, task_file: Path) -> None:
    (shown,) = documents(cloister("inspect", task_file, "--json"))
    module = Module.parse(task)
    assert shown["digest"] == module.digest.hex()
    assert shown["memory_bytes"] == module.manifest.memory_bytes
    assert shown["imports"] == []
    assert shown["exports"]["train"] == "(i32) -> i32"
    weight = next(buffer for buffer in shown["buffers"] if buffer["name"] == "weight")
    assert (weight["role"], weight["shape"], weight["bytes"]) == ("parameter", [10, 64], 2560)
    table = cloister("inspect", task_file).stdout
    for words in (module.digest.hex(), "none", "10 x 64", f"{module.manifest.memory_bytes:,}"):
        assert words in table


@pytest.mark.parametrize(
    ("name", "words", "linear", "unweighted", "masked"),
    [
        ("fedavg", ["only their sum: fit for secure aggregation", "by each"], True, False, False),
        ("sum", ["only their sum", "left aside"], True, True, False),
        ("median", ["single ones", "left aside"], False, True, False),
        ("ring_sum.wasm", ["masked: it adds them"], False, False, True),
    ],
)
def test_inspect_says_what_an_aggregation_needs(
    name: str, words: list[str], linear: bool, unweighted: bool, masked: bool, tmp_path: Path
) -> None:
    (tmp_path / "ring_sum.wasm").write_bytes(builtin.ring_sum())
    (document,) = documents(cloister("inspect", name, "--json"))
    assert document["linear"] == linear
    assert document["unweighted"] == unweighted
    assert document["masked"] == masked
    table = cloister("inspect", name).stdout
    assert all(word in table for word in words)


def test_inspect_says_nothing_of_updates_about_a_task(task_file: Path) -> None:
    assert "updates" not in cloister("inspect", task_file).stdout


@pytest.mark.parametrize("content", [b"", b"\0asm\1\0\0\0", b"no module"])
def test_inspect_refuses_what_is_no_task(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "no.wasm").write_bytes(content)
    assert "error: " in cloister("inspect", "no.wasm", code=ExitCode.TASK).stderr
    cloister("inspect", "missing.wasm", code=ExitCode.USAGE)


def test_keygen_and_sign_vouch_for_a_task(tmp_path: Path, task_file: Path) -> None:
    public = cloister("keygen", "key.pem").stdout.strip()
    assert (tmp_path / "key.pem").stat().st_mode & 0o077 == 0
    cloister("sign", task_file, "--key", "key.pem")
    data = task_file.read_bytes()
    blob = Blob(digest=Module.parse(data).digest, size=len(data))
    signed = read_signature(task_file.with_name("digits.wasm.sig"), blob)
    assert signed.publisher.hex() == public
    assert public in cloister("inspect", task_file).stdout


def test_a_key_is_never_overwritten(tmp_path: Path, task_file: Path) -> None:
    (tmp_path / "key.pem").write_text("precious")
    cloister("keygen", "key.pem", code=ExitCode.USAGE)
    assert (tmp_path / "key.pem").read_text() == "precious"
    assert (
        "no Ed25519" in cloister("sign", task_file, "--key", "key.pem", code=ExitCode.USAGE).stderr
    )


def test_run_learns_and_saves_the_model(rows: Path, task_file: Path) -> None:
    arguments = ("run", task_file, rows, "--label", "label", "--batch-size", "10", "--json")
    held_out = ("--evaluation-fraction", "0.2", "--epochs", "8")
    epochs = documents(cloister(*arguments, *held_out, "-o", "model.npz"))
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, 9))
    assert epochs[-1]["training"]["loss"] < epochs[0]["training"]["loss"]
    assert epochs[-1]["evaluation"]["accuracy"] > 0.4
    with np.load("model.npz") as model:
        assert {name: model[name].shape for name in model} == {"weight": (10, 64), "bias": (10,)}
    (again,) = documents(cloister(*arguments, *held_out[:2], "--epochs", "1"))
    assert again["training"] == epochs[0]["training"]


def test_run_finds_an_npzs_arrays_by_name(rows: Path, task_file: Path) -> None:
    by_name = cloister("run", task_file, rows, "--epochs", "2", "--json")
    named = cloister("run", task_file, rows, "--label", "label", "--epochs", "2", "--json")
    losses = [[d["training"]["loss"] for d in documents(result)] for result in (by_name, named)]
    assert losses[0] == losses[1]


@pytest.fixture
def personal_rows(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    names = ["when", "byte", "y", *(f"p{i}" for i in range(6))]
    columns = [random.integers(0, 3, 40), random.integers(0, 256, 40), random.normal(size=40)]
    columns += [random.normal(size=40) for _ in range(6)]
    path = tmp_path / "rows.csv"
    np.savetxt(
        path, np.array(columns).T, fmt="%g", delimiter=",", header=",".join(names), comments=""
    )
    return path


def test_run_names_inputs_and_begins_with_the_values_beside_the_task(
    personal_rows: Path, personal_file: Path, personal: Module
) -> None:
    inputs = ("--input", "patch=p*", "--input", "times=when", "--input", "code=byte")
    arguments = ("run", personal_file, personal_rows, *inputs, "--target", "y")
    assert "--frozen FILE" in cloister(*arguments, code=ExitCode.USAGE).stderr
    frozen = np.full(6, 0.25, np.float32)
    write_companion(personal_file, personal.manifest, np.zeros(6, np.float32), frozen)
    result = cloister(*arguments, "--epochs", "5", "--json", "-o", "model.npz")
    assert "begins with the values in" in result.stderr
    losses = [epoch["training"]["loss"] for epoch in documents(result)]
    assert losses[-1] < losses[0]
    with np.load("model.npz") as model:
        assert set(model) == {"0.weight", "base"}
        np.testing.assert_array_equal(model["base"].reshape(-1), frozen)


def test_run_goes_on_from_a_model(rows: Path, task_file: Path) -> None:
    arguments = ("run", task_file, rows, "--label", "label", "--json", "-o", "model.npz")
    first = documents(cloister(*arguments, "--epochs", "3"))
    (more,) = documents(cloister(*arguments, "--epochs", "1", "--initial-model", "model.npz"))
    assert more["training"]["loss"] < first[-1]["training"]["loss"]


def test_run_prints_a_line_for_each_epoch(rows: Path, task_file: Path) -> None:
    lines = cloister(
        "run", task_file, rows, "--label", "label", "--epochs", "2"
    ).stdout.splitlines()
    assert lines[0].split()[:3] == ["epoch", "train", "loss"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2"]


def test_run_counts_with_a_summary_task(rows: Path, tmp_path: Path) -> None:
    cloister("build", "summarize", "--features", "64", "--low", "-4", "--high", "4")
    with np.load(rows) as file:
        np.savez("features.npz", features=file["features"])
        total = file["features"].sum(0, dtype=np.float64)
    cloister("run", "summarize.wasm", "features.npz", "-o", "statistics.npz")
    with np.load("statistics.npz") as statistics:
        np.testing.assert_allclose(statistics["sum"], total, rtol=1e-5)
        assert (statistics["count"] == 300).all()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--features", "features"], ExitCode.USAGE, "--label NAME"),
        (["--input", "x"], ExitCode.USAGE, "NAME=COLUMN"),
        (["--label", "nope"], ExitCode.USAGE, "no column 'nope'"),
        (["--label", "label", "--set", "nope=1"], ExitCode.USAGE, "no hyperparameter 'nope'"),
        (["--label", "label", "--set", "nope"], ExitCode.USAGE, "NAME=NUMBER"),
        (["--label", "label", "--memory", "0.1"], ExitCode.TASK, "memory"),
        (["--label", "label", "--initial-model", "rows.npz"], ExitCode.USAGE, "the tensors"),
    ],
)
def test_run_says_what_is_wrong(
    rows: Path, task_file: Path, options: list[str], code: ExitCode, words: str
) -> None:
    assert words in cloister("run", task_file, rows, *options, code=code).stderr


def test_run_reports_a_label_out_of_range(tmp_path: Path, task_file: Path) -> None:
    np.savez("bad.npz", features=np.zeros((3, 64), np.float32), label=np.array([0, 1, 10]))
    result = cloister("run", task_file, "bad.npz", "--label", "label", code=ExitCode.TASK)
    assert "row" in result.stderr
