"""The example tasks that a user would write, and the text format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloister_tasks import BuildError, Status, compile_c
from cloister_tasks.wat import compile_wat

EXAMPLES = Path(__file__).parents[2] / "examples"
WAT = EXAMPLES / "task_in_wat" / "mean.wat"


@pytest.mark.parametrize("folder", ["task_in_c", "task_in_wat"])
def test_each_is_under_100_lines(folder):
    assert sum(len(p.read_text().splitlines()) for p in (EXAMPLES / folder).iterdir()) < 100


def test_huber_regression_is_not_bent_by_outliers(guest):
    g = guest(compile_c(EXAMPLES / "task_in_c" / "huber.c"))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((256, 4), dtype=np.float32)
    truth = np.float32([1, -2, 3, 0.5])
    y = x @ truth + 4
    y[::16] += 1000
    g["features"], g["target"] = x, y[:, None]
    g["learning_rate"] = 0.02
    g("init", 0)
    for _ in range(60):
        g("reset")
        assert g("train", 256) == Status.OK
    np.testing.assert_allclose(g["weight"], truth, atol=0.1)
    assert abs(g["bias"][0] - 4) < 0.3
    assert g("predict", 256) == Status.OK
    np.testing.assert_allclose(g["prediction"][:, 0], x @ g["weight"] + g["bias"], rtol=1e-4)
    before = g.parameters.copy()
    g("reset")
    assert g("evaluate", 256) == Status.OK
    error = np.abs(g["prediction"][:, 0].astype("f8") - y)
    wanted = np.where(error <= 1, error**2 / 2, error - 0.5).sum()
    assert g["loss"] == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_array_equal(g.parameters, before)
    assert g("train", 257) == Status.TOO_MANY


def test_the_mean_in_wat(guest):
    g = guest(compile_wat(WAT, WAT.with_suffix(".json")))
    values = np.float32([3, 4, 5, 8])
    g["features"][:4, 0] = values
    g("init", 0)
    g["learning_rate"] = 0.01
    for _ in range(500):
        assert g("train", 4) == Status.OK
    assert g["mean"][0] == pytest.approx(5, abs=0.05)
    g["mean"] = 1.0
    assert g("reset") == 0
    assert g("evaluate", 4) == Status.OK
    assert g["loss"] == (4 + 9 + 16 + 49) / 2
    assert g["mean"] == 1
    g["learning_rate"] = 0.5
    assert g("train", 1) == Status.OK
    assert g["mean"] == 2
    assert g("train", 4097) == g("train", -1) == Status.TOO_MANY


def test_mistakes_in_wat_are_explained(tmp_path):
    broken = tmp_path / "broken.wat"
    broken.write_text("(module (func")
    with pytest.raises(BuildError, match="no valid WASM text"):
        compile_wat(broken)
    with pytest.raises(BuildError, match="cannot read"):
        compile_wat(tmp_path / "none.wat")
    with pytest.raises(BuildError, match=r"sections 'cloister.manifest'"):
        compile_wat(WAT)
    with pytest.raises(BuildError, match="breaks the task contract"):
        compile_wat(WAT, WAT)


def test_a_text_can_carry_its_manifest(tmp_path):
    manifest = WAT.with_suffix(".json").read_text()
    quoted = manifest.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    whole = tmp_path / "whole.wat"
    text = WAT.read_text().replace("(module", f'(module (@custom "cloister.manifest" "{quoted}")')
    whole.write_text(text)
    assert compile_wat(whole)
