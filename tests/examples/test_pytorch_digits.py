"""The example of a PyTorch model: short, and as good as the same training in PyTorch."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "examples" / "pytorch_digits"
POINT = 1.0
"""Percentage points that sandboxes and PyTorch may differ by."""


def test_it_is_under_40_lines() -> None:
    assert len((FOLDER / "digits.py").read_text().splitlines()) < 40


@pytest.mark.timeout(300)
def test_sandboxes_train_as_well_as_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FOLDER)
    for program in ("digits.py", "in_torch.py"):
        runpy.run_path(str(FOLDER / program), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    sandboxes, in_torch, central = (
        float(match[1]) for line in lines if (match := re.search(r"([\d.]+)%", line))
    )
    assert sandboxes > 95
    assert abs(sandboxes - in_torch) <= POINT
    assert central >= sandboxes - POINT
    state = torch.load(tmp_path / "digits.pt", weights_only=True)
    assert [tuple(tensor.shape) for tensor in state.values()][:2] == [(16, 1, 3, 3), (16,)]
