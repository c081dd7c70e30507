from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloister.commands.app import app
from cloister_tasks.compiler.zoo import ZOO

from .pages import ROOT, blocks

PAGE = ROOT / "docs" / "compiler.md"


@pytest.mark.timeout(300)
def test_the_commands_run_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    python = [block.text for block in blocks("python") if block.page == PAGE]
    (factory,) = (text for text in python if "def federated" in text)
    (tmp_path / "mymodel.py").write_text(f"{python[0]}\n{factory}")
    lines = [
        line.removeprefix("$ ")
        for block in blocks("console")
        if block.page == PAGE
        for line in block.text.splitlines()
    ]
    assert lines
    for line in lines:
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
    made = {path.name for path in tmp_path.iterdir()}
    assert {"net.wasm", "net.safetensors", "lenet5.wasm", "lenet5.safetensors"} <= made
    (sum_,) = (line for line in lines if " Add " in line)
    assert CliRunner().invoke(app, shlex.split(sum_)[1:]).stdout == "[4, 6]\n"


def test_the_page_names_every_model_of_the_zoo() -> None:
    text = PAGE.read_text()
    assert [name for name in ZOO if f"`{name}`" not in text] == []
    assert f"{len(ZOO)} models to try" in text
