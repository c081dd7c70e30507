from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cloister import tensors
from cloister.errors import InvalidJob
from cloister.tensors import FORMATS, Format
from cloister_tasks import Manifest, Module


@pytest.fixture
def manifest(task: bytes) -> Manifest:
    return Module.parse(task).manifest


def test_split_and_join_are_inverse(manifest: Manifest) -> None:
    block = np.arange(650, dtype=np.float32)
    named = tensors.split(manifest, block)
    assert named["weight"][1, 0] == 64
    assert named["bias"][0] == 640
    np.testing.assert_array_equal(tensors.join(manifest, named), block)


@pytest.mark.parametrize("form", FORMATS)
def test_saved_models_load_again(manifest: Manifest, tmp_path: Path, form: Format) -> None:
    block = np.random.default_rng(0).normal(size=650).astype(np.float32)
    path = tmp_path / "model"
    tensors.save(manifest, block, path, form)
    if form == "safetensors":
        np.testing.assert_array_equal(tensors.join(manifest, load_file(path)), block)
    else:
        np.testing.assert_array_equal(tensors.load(manifest, path), block)


def test_what_does_not_fit_is_named(manifest: Manifest, tmp_path: Path) -> None:
    good = tensors.split(manifest, np.zeros(650, np.float32))
    with pytest.raises(InvalidJob, match="has the tensors weight, bias"):
        tensors.join(manifest, {"weight": good["weight"]})
    with pytest.raises(InvalidJob, match="weight has the shape"):
        tensors.join(manifest, good | {"weight": good["weight"].T})
    with pytest.raises(InvalidJob, match="650 parameters, not 3"):
        tensors.join(manifest, np.zeros(3))
    (tmp_path / "odd").write_bytes(bytes(2601))
    with pytest.raises(InvalidJob, match="cannot read a model"):
        tensors.load(manifest, tmp_path / "odd")
    np.savez(tmp_path / "objects.npz", weight=np.array([None]), bias=np.zeros(10))
    with pytest.raises(InvalidJob, match="cannot read a model"):
        tensors.load(manifest, tmp_path / "objects.npz")
