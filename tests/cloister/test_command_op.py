from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cloister.commands.app import app
from cloister.commands.exit_code import ExitCode


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def op(*arguments: str, code: ExitCode = ExitCode.OK) -> Result:
    result = CliRunner().invoke(app, ["op", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_the_table_has_every_operator_in_its_types() -> None:
    table = op("list").stdout
    document = json.loads(op("list", "--json").stdout)
    assert document["dtypes"] == ["FP32", "INT32", "INT8"]
    operators = {o["name"]: o for o in document["operators"]}
    for name in ("Add", "Sub", "Mul", "Div", "Argmax", "EqualCount"):
        assert name in table
        assert set(operators[name]["results"]) == {"FP32", "INT32", "INT8"}
    assert operators["EqualCount"]["results"]["FP32"] == "INT32"
    assert operators["Softmax"] == {
        "name": "Softmax",
        "signature": "(x, axis=-1)",
        "description": operators["Softmax"]["description"],
        "results": {"FP32": "FP32"},
    }


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["Add", "--dtype", "int8", "--input", "[1,2]", "--input", "[3,4]"], "[4, 6]"),
        (["add", "--dtype", "INT8", "-i", "[100, -100]", "-i", "100"], "[-56, 0]"),
        (["Mul", "-i", "[0.1, 2]", "-i", "[1, 3]"], "[0.1, 6.0]"),
        (["Div", "--dtype", "int32", "-i", "[7, -7]", "-i", "2"], "[3, -3]"),
        (["Argmax", "-i", "[[1, 5], [6, 4]]", "-a", "axis=1"], "[1, 0]"),
        (["EqualCount", "--dtype", "int8", "-i", "[1, 2, 3]", "-i", "[1, 0, 3]"], "2"),
        (["Less", "-i", "[1, 2]", "-i", "[2, 1]"], "[true, false]"),
        (["Log", "-i", "[0, 1]"], "[null, 0.0]"),
        (["Gelu", "-i", "[0]", "-a", "approximate=tanh"], "[0.0]"),
    ],
)
def test_a_result_is_json(words: list[str], printed: str) -> None:
    assert op("run", *words).stdout == printed + "\n"


def test_files_go_in_and_come_out(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.int8).reshape(2, 3)
    np.save("x.npy", x)
    result = op("run", "Transpose", "--input-file", "x.npy", "-o", "y.npy", "--json")
    assert json.loads(result.stdout) == {
        "operator": "Transpose",
        "dtype": "int8",
        "shape": [3, 2],
        "path": "y.npy",
    }
    y = np.load("y.npy")
    assert y.dtype == np.int8
    np.testing.assert_array_equal(y, x.T)
    mixed = op("run", "Sub", "--input", "10", "--input-file", "x.npy", "--json")
    assert json.loads(mixed.stdout)["result"] == [[10, 9, 8], [7, 6, 5]]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["Addd", "-i", "1"], 2, "did you mean Add?"),
        (["Add", "-i", "1"], 2, "takes 2 inputs, not 1"),
        (["Add", "--dtype", "fp64", "-i", "1"], 2, "fp64"),
        (["Exp", "--dtype", "int8", "-i", "1"], 2, "no Exp in INT8"),
        (["Add", "-i", "[1, 2]", "-i", "[1, 2, 3]"], 2, "Add: "),
        (["Relu", "-i", "[1, 2"], 2, "input 1 is no JSON"),
        (["Relu", "-i", "[[1], [1, 2]]"], 2, "unlike lengths"),
        (["Relu", "-i", '["a"]'], 2, "input 1 must be numbers"),
        (["Relu", "-i", "[true]"], 2, "input 1 must be numbers"),
        (["Relu", "-i", "null"], 2, "input 1 must be numbers"),
        (["Relu", "-i", "[" * 5000 + "]" * 5000], 2, "input 1"),
        (["Relu", "--dtype", "int8", "-i", "[1, 128]"], 2, "128 is not representable in INT8"),
        (["Relu", "--dtype", "int32", "-i", "1.5"], 2, "1.5 is not representable in INT32"),
        (["Relu", "-i", "1e39"], 2, "not representable in FP32"),
        (["Relu", "--dtype", "int32", "-i", str(10**30)], 2, "input 1"),
        (["Softmax", "-i", "[1]", "-a", "axis"], 2, "NAME=VALUE"),
        (["Softmax", "-i", "[1]", "-a", "axes=1"], 2, "no attribute 'axes'"),
        (["Softmax", "-i", "[1]", "-a", "axis=3"], 2, "Softmax: "),
        (["Div", "--dtype", "int8", "-i", "1", "-i", "0"], 2, "a divisor is zero"),
        (["Gather", "-i", "[1, 2]", "-i", "[2]"], 3, "index is out of range"),
        (["Relu", "--input-file", "none.npy"], 2, "none.npy"),
        (["Relu", "--input-file", "text.npy"], 2, "no NPY file"),
        (["Relu", "--input-file", "objects.npy"], 2, "no NPY file of numbers"),
        (["Relu", "--input-file", "cut.npy"], 2, "no NPY file"),
        (["Relu", "--input-file", "several.npz"], 2, "an archive"),
        (["Relu", "-i", "1", "-o", "no/where.npy"], 2, "no folder"),
    ],
)
def test_mistakes_are_explained(words: list[str], code: int, message: str) -> None:
    Path("text.npy").write_text("1, 2, 3")
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    np.save("cut.npy", np.zeros(1000))
    Path("cut.npy").write_bytes(Path("cut.npy").read_bytes()[:200])
    np.savez("several.npz", a=np.zeros(1))
    result = op("run", *words, code=ExitCode(code))
    assert message in result.output
    assert "Traceback" not in result.output


def test_large_inputs_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.computation.MOST_BYTES", 100)
    np.save("x.npy", np.zeros(10))
    assert "larger than" in op("run", "Relu", "--input-file", "x.npy", code=ExitCode.USAGE).stderr
    assert "larger than" in op("run", "Relu", "-i", "1" * 101, code=ExitCode.USAGE).stderr
