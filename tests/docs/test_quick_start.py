from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

from .pages import ROOT, blocks

PAGE = ROOT / "docs" / "start" / "ml-engineer.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the page takes for granted."""
    for name, (rows, label), column in (
        ("digits.csv", load_digits(return_X_y=True), "label"),
        ("mine.csv", load_breast_cancer(return_X_y=True), "outcome"),
    ):
        heading = ",".join([*(f"x{i}" for i in range(rows.shape[1])), column])
        table = np.column_stack([rows / np.abs(rows).max(axis=0).clip(1e-9), label])
        np.savetxt(tmp_path / name, table, "%.5g", ",", header=heading, comments="")
    for example in ("task_in_c/huber.c", "task_in_wat/mean.wat", "task_in_wat/mean.json"):
        shutil.copy(ROOT / "examples" / example, tmp_path)
    return tmp_path


@pytest.mark.timeout(300)
def test_the_commands_for_ml_engineers_run_from_top_to_bottom(folder: Path) -> None:
    environment = os.environ | {"CLOISTER_CACHE": str(folder / "cache")}
    lines = [
        line.removeprefix("$ ")
        for block in blocks("console")
        if block.page == PAGE
        for line in block.text.splitlines()
    ]
    assert lines
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "cloister"
        done = subprocess.run(
            [sys.executable, "-m", "cloister", *words[1:]],
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    made = {path.name for path in folder.iterdir()}
    assert {"run.html", "digits.wasm", "digits.wasm.sig", "huber.wasm", "mean.wasm"} <= made
