from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cloister import safetensors
from cloister.commands.app import app
from cloister.commands.exit_code import ExitCode
from cloister_protos import Role
from cloister_tasks import Module
from cloister_tasks.contract import NOISE_KEYS

from . import without_torch
from .factories import SOURCE

MODULE = "factories_of_a_user"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    yield
    for name in [name for name in sys.modules if name.startswith(MODULE)]:
        del sys.modules[name]


def compile_(*arguments: str, code: ExitCode = ExitCode.OK) -> Result:
    result = CliRunner().invoke(app, ["task", "compile", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_module_and_initial_values_are_written(tmp_path: Path) -> None:
    result = compile_(f"{MODULE}:small")
    assert "wrote small.wasm and small.safetensors" in result.stderr
    for word in ("15", "lower bound", "features float32[", "learning_rate", "correct", "masked"):
        assert word in result.stdout
    module = Module.parse((tmp_path / "small.wasm").read_bytes())
    assert module.manifest.name == "small"
    values = safetensors.read(tmp_path / "small.safetensors")
    import torch

    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 3)
    np.testing.assert_array_equal(values["0.weight"], layer.weight.detach().numpy())
    np.testing.assert_array_equal(values["0.bias"], layer.bias.detach().numpy())


def test_options_win_over_the_factory(tmp_path: Path) -> None:
    result = compile_(
        *(f"{MODULE}:coupled", "-o", "net.wasm", "--name", "mine", "--capacity", "16"),
        *("--variant", "scalar", "--json"),
    )
    report = json.loads(result.stdout)
    module = Module.parse((tmp_path / "net.wasm").read_bytes())
    manifest = module.manifest
    assert (manifest.name, manifest.variant) == ("mine", "scalar")
    assert manifest.buffers["features"].shape == (16, 4)
    assert report["inputs"]["features"] == {"dtype": "float32", "shape": [16, 4]}
    assert report["digest"] == module.digest.hex()
    assert report["bytes"] == len(module.data)
    assert report["partial_batches"] == "dropped"
    assert (report["frozen"], report["local"]) == (12, 8)
    assert report["parameters"] == manifest.parameter_count
    assert report["arena_bytes"] >= report["arena_lower_bound_bytes"] > 0
    assert set(report["seconds"]) >= {"capture", "lower", "passes", "zig"}
    assert {"learning_rate", "batch_size", "seed"} <= set(report["hyperparameters"])
    values = safetensors.read(tmp_path / "net.safetensors")
    assert set(values) == {
        b.name for role in (Role.ROLE_PARAMETER, Role.ROLE_FROZEN) for b in manifest.of(role)
    }


def test_example_privacy_is_compiled_in_and_said(tmp_path: Path) -> None:
    options = ("--example-clip-norm", "0.5", "--example-noise", "1.25")
    shown = compile_(f"{MODULE}:small", *options).stdout
    assert "rows clipped to 0.5, noise multiplier 1.25" in " ".join(shown.split())
    report = json.loads(compile_(f"{MODULE}:small", *options, "--json").stdout)
    assert report["example_privacy"] == {"clip_norm": 0.5, "noise_multiplier": 1.25}
    assert set(NOISE_KEYS) <= set(report["hyperparameters"])
    manifest = Module.parse((tmp_path / "small.wasm").read_bytes()).manifest
    assert "rows clipped to 0.5, noise multiplier 1.25" in manifest.description
    assert json.loads(compile_(f"{MODULE}:small", "--json").stdout)["example_privacy"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--example-noise", "1"), "go together"),
        (("--example-clip-norm", "1"), "go together"),
        (("--example-clip-norm", "0", "--example-noise", "1"), "clip_norm=0.0"),
        (("--example-clip-norm", "1", "--example-noise", "nan"), "noise_multiplier=nan"),
    ],
)
def test_example_privacy_that_makes_no_sense_is_refused(
    options: tuple[str, ...], message: str
) -> None:
    refused = compile_(f"{MODULE}:small", *options, code=ExitCode.USAGE)
    assert message in " ".join(refused.stderr.split())


def test_the_programs_are_explained() -> None:
    every = compile_("--explain", f"{MODULE}:small", "--json")
    stages = json.loads(every.stdout)["stages"]
    passes = {title.split(": ")[1] for title in stages}
    assert {"graph", "lowered", "folded", "fused"} <= passes
    one = json.loads(compile_(f"{MODULE}:small", "--explain", "fused", "--json").stdout)["stages"]
    assert set(one) == {"train: fused", "evaluate: fused", "predict: fused"}
    shown = compile_(f"{MODULE}:small", "--explain", "train", "-o", "a.wasm").stdout
    assert "train: lowered" in shown
    assert "evaluate: lowered" not in shown
    assert stages["train: lowered"].splitlines()[0] in shown
    refused = compile_(f"{MODULE}:small", "--explain=nosuch", code=ExitCode.USAGE)
    assert "no pass 'nosuch'; there are graph, lowered" in refused.stderr


@pytest.mark.parametrize(
    ("factory", "messages"),
    [
        ("small", ["package.module:factory"]),
        ("no_such_module_here:small", ["there is no module 'no_such_module_here'"]),
        (f"{MODULE}:nosuch", ["has no 'nosuch'"]),
        (f"{MODULE}:RATE", ["has no 'RATE' to call"]),
        (f"{MODULE}:incomplete", ["lacks loss, optimizer"]),
        (f"{MODULE}:foreign", ["returns colour; known are model, loss"]),
        (f"{MODULE}:nothing", ["must return a mapping"]),
        (f"{MODULE}:raises", ["raises fails: KeyError: 'nothing'", f"{MODULE}.py", "line"]),
        (f"{MODULE}:misfit", ["the model or its loss fails on the example", "8x4 and 5x3"]),
        (f"{MODULE}:lossy", ["fails on the example", "nonsense", f"{MODULE}.py"]),
        (f"{MODULE}:unsupported", ["i0", f"{MODULE}.py", "# the line at fault"]),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, factory: str, messages: list[str]) -> None:
    result = compile_(factory, code=ExitCode.USAGE)
    for message in messages:
        assert message in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.glob("*.wasm"))


def test_a_module_that_cannot_be_imported_says_where(tmp_path: Path) -> None:
    (tmp_path / f"{MODULE}_broken.py").write_text("import no_such_package_anywhere\n")
    result = compile_(f"{MODULE}_broken:small", code=ExitCode.USAGE)
    assert "No module named 'no_such_package_anywhere'" in result.stderr
    assert f"{MODULE}_broken.py" in result.stderr
    (tmp_path / f"{MODULE}_wrong.py").write_text("1 / 0\n")
    result = compile_(f"{MODULE}_wrong:small", code=ExitCode.USAGE)
    assert "ZeroDivisionError" in result.stderr


def test_where_nothing_can_be_written_nothing_is_compiled() -> None:
    assert "no folder" in compile_("none:none", "-o", "x/y.wasm", code=ExitCode.USAGE).stderr
    refused = compile_("none:none", "-o", "y.safetensors", code=ExitCode.USAGE)
    assert "say NAME.wasm" in refused.stderr


def test_a_compiled_file_trains_in_the_simulator_from_its_own_values(tmp_path: Path) -> None:
    compile_(f"{MODULE}:coupled", "-o", "net.wasm")
    random = np.random.default_rng(0)
    np.savez("rows.npz", features=random.normal(size=(64, 4)), label=random.integers(0, 3, 64))
    result = CliRunner().invoke(
        app,
        [
            *("simulate", "rows.npz", "--task", "net.wasm", "--label", "label"),
            *("--clients", "2", "--rounds", "2", "--json"),
        ],
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["version"] == 2


@pytest.mark.parametrize(
    "words",
    [
        ["task", "compile", "cloister_tasks.compiler.zoo:mlp"],
        ["task", "compile", f"{MODULE}:small"],
        ["op", "list"],
        ["op", "run", "Add"],
    ],
    ids=" ".join,
)
def test_without_torch_the_extra_is_named(words: list[str]) -> None:
    done = without_torch.cloister(*words)
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.strip() == "error: this needs an extra: pip install 'cloister[compile]'"
