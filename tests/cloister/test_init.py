from __future__ import annotations

import subprocess
import sys

import pytest

import cloister

from . import without_torch


def test_all_is_true() -> None:
    assert cloister.__all__ == sorted(cloister.__all__)
    for name in cloister.__all__:
        assert getattr(cloister, name) is not None
    assert set(cloister.__all__) <= set(dir(cloister))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nope"):
        cloister.nope  # noqa: B018


def test_importing_it_loads_nothing_heavy() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import cloister, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"numpy", "grpc", "typer", "wasmtime", "google.protobuf"} & set(loaded)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["task", "compile", "--help"],
        ["op", "run", "--help"],
        ["task", "inspect", "fedavg"],
        ["simulate", "iris", "--clients", "2", "--rounds", "1"],
    ],
    ids=" ".join,
)
def test_nothing_but_the_compiler_needs_torch(words: list[str]) -> None:
    done = without_torch.cloister(*words)
    assert done.returncode == 0, done.stderr


def test_compiling_without_torch_names_the_extra() -> None:
    done = without_torch.run("import cloister\ncloister.compile")
    assert "ModuleNotFoundError" in done.stderr
    assert "pip install 'cloister[compile]'" in done.stderr
