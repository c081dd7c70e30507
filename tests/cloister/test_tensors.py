from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cloister import tensors
from cloister.errors import InvalidJob
from cloister.tensors import FORMATS, Format
from cloister_protos import Kind, Role
from cloister_tasks import ENTRY_POINTS, Buffer, Manifest, Module


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
    path = tmp_path / f"model.{form}"
    tensors.save(manifest, block, path, form)
    np.testing.assert_array_equal(tensors.load(manifest, path), block)
    if form == "safetensors":
        np.testing.assert_array_equal(tensors.join(manifest, load_file(path)), block)


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_frozen_parameters_go_along_where_tensors_have_names(
    personal: Module, tmp_path: Path, form: Format
) -> None:
    block, frozen = np.arange(12, dtype=np.float32).reshape(2, 6)
    path = tmp_path / f"model.{form}"
    tensors.save(personal.manifest, block, path, form, frozen)
    for role, expected in ((Role.ROLE_PARAMETER, block), (Role.ROLE_FROZEN, frozen)):
        np.testing.assert_array_equal(tensors.load(personal.manifest, path, role), expected)
    tensors.save(personal.manifest, block, path, form)
    with pytest.raises(InvalidJob, match=f"{path.name}: .* lack base"):
        tensors.load(personal.manifest, path, Role.ROLE_FROZEN)


def test_a_tensor_can_have_any_name_of_a_buffer(tmp_path: Path) -> None:
    manifest = Manifest(
        name="t",
        kind=Kind.KIND_TRAINING,
        memory_bytes=65536,
        entry_points=tuple(ENTRY_POINTS[Kind.KIND_TRAINING]),
        buffers={
            "file": Buffer("file", Role.ROLE_PARAMETER, np.dtype("<f4"), (1,), 0),
            "0.weight": Buffer("0.weight", Role.ROLE_PARAMETER, np.dtype("<f4"), (1,), 4),
            "x": Buffer("x", Role.ROLE_INPUT, np.dtype("<f4"), (1,), 8),
        },
        variant="scalar",
    )
    block = np.array([1.0, 2.0], np.float32)
    tensors.save(manifest, block, tmp_path / "m.npz", "npz")
    with np.load(tmp_path / "m.npz") as archive:
        assert {name: archive[name].item() for name in archive} == {"file": 1.0, "0.weight": 2.0}


def test_what_does_not_fit_is_named(manifest: Manifest, tmp_path: Path) -> None:
    good = tensors.split(manifest, np.zeros(650, np.float32))
    with pytest.raises(InvalidJob, match="has the tensors weight, bias; those given lack bias"):
        tensors.join(manifest, {"weight": good["weight"]})
    with pytest.raises(InvalidJob, match="have the unknown other"):
        tensors.join(manifest, good | {"other": good["bias"]})
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
