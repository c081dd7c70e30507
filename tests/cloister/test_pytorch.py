from __future__ import annotations

import sys
from collections import OrderedDict
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cloister.errors import InvalidJob
from cloister.pytorch import load_factory, restore, save_onnx, save_state_dict


class Tied(nn.Module):
    """Two names for one tensor, an integer buffer, and statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, token: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out(self.norm(self.embedding(token)))
        return result


def tied() -> dict[str, Any]:
    inputs = {"token": torch.arange(4) % 5}
    return {"model": Tied(), "example": (inputs, torch.zeros(4, dtype=torch.int64))}


def two_inputs() -> dict[str, Any]:
    model = nn.Bilinear(2, 3, 1)
    return {"model": model, "example": ((torch.ones(4, 2), torch.ones(4, 3)), torch.ones(4, 1))}


def nothing() -> None:
    return None


def values(model: nn.Module, *without: str) -> dict[str, np.ndarray]:
    """Other values for a model's tensors, all f32, as a job has them."""
    random = np.random.default_rng(0)
    return {
        name: random.integers(1, 9, tuple(tensor.shape)).astype(np.float32)
        for name, tensor in model.state_dict().items()
        if name not in without
    }


def test_a_state_dict_loads_with_weights_only_in_manifest_order(tmp_path: Path) -> None:
    model = Tied()
    tensors = values(model)
    save_state_dict(tmp_path / "m.pt", tensors)
    state = torch.load(tmp_path / "m.pt", weights_only=True)
    assert isinstance(state, OrderedDict)
    assert list(state) == list(tensors)
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    model.load_state_dict(state)
    assert model.norm.num_batches_tracked.dtype == torch.int64
    assert model.norm.num_batches_tracked.item() == tensors["norm.num_batches_tracked"]
    np.testing.assert_array_equal(model.out.weight.detach().numpy(), tensors["out.weight"])


def test_a_tied_tensor_is_needed_once_and_integers_not_at_all() -> None:
    model = Tied()
    tensors = values(model, "out.weight", "norm.num_batches_tracked")
    assert restore(model, tensors) == ["norm.num_batches_tracked"]
    np.testing.assert_array_equal(model.out.weight.detach().numpy(), tensors["embedding.weight"])


def test_local_tensors_keep_the_factorys_values() -> None:
    model = Tied()
    tensors = values(model, "norm.running_mean", "out.weight")
    assert restore(model, tensors, ["norm.running_mean"]) == ["norm.running_mean"]
    assert model.norm.running_mean is not None
    assert model.norm.running_mean.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"other": np.zeros(3, np.float32)}, "has no tensors other"),
        ({"norm.weight": np.zeros(4, np.float32)}, r"norm.weight has the shape \(4,\)"),
        ({"norm.weight": None}, "that the job has not: norm.weight"),
    ],
)
def test_another_models_tensors_are_refused(change: dict[str, Any], says: str) -> None:
    model = Tied()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {n: t for n, t in (values(model) | change).items() if t is not None}
    with pytest.raises(InvalidJob, match=says):
        restore(model, tensors)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("zoo", "package.module:factory"),
        ("no.such:model", "no module 'no'"),
        ("zoo_of_a_test:nope", "has no 'nope'"),
        ("zoo_of_a_test:nothing", "must return a mapping"),
    ],
)
def test_a_factory_that_is_none(zoo: None, text: str, says: str) -> None:
    with pytest.raises(InvalidJob, match=says):
        load_factory(text)


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("zoo_of_a_test")
    module.__dict__.update(tied=tied, two_inputs=two_inputs, nothing=nothing)
    monkeypatch.setitem(sys.modules, "zoo_of_a_test", module)


def test_a_factory_in_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_own_zoo.py").write_text("def it(): return {'model': 1, 'example': 2}\n")
    assert load_factory("my_own_zoo:it") == {"model": 1, "example": 2}
    (tmp_path / "my_broken_zoo.py").write_text("import not_there_at_all\n")
    with pytest.raises(InvalidJob, match="not_there_at_all"):
        load_factory("my_broken_zoo:it")


@pytest.mark.parametrize("factory", ["tied", "two_inputs"])
def test_what_goes_to_the_onnx_exporter(
    zoo: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str
) -> None:
    """The model carries the job's values, and its batch is open: shown by torch.export itself."""
    for package in ("onnx", "onnxscript"):
        stub = ModuleType(package)
        stub.__spec__ = ModuleSpec(package, None)
        monkeypatch.setitem(sys.modules, package, stub)
    exported = []

    def export(model: nn.Module, args: Any, path: Path, **options: Any) -> None:
        assert options["dynamo"]
        assert not model.training
        kwargs, shapes = options["kwargs"], options["dynamic_shapes"]
        exported.append(torch.export.export(model, args, kwargs, dynamic_shapes=shapes).module())

    monkeypatch.setattr(torch.onnx, "export", export)
    tensors = values(load_factory(f"zoo_of_a_test:{factory}")["model"])
    save_onnx(tmp_path / "m.onnx", f"zoo_of_a_test:{factory}", tensors)
    model = load_factory(f"zoo_of_a_test:{factory}")["model"].eval()
    restore(model, tensors)
    inputs = {
        "tied": {"args": (), "kwargs": {"token": torch.tensor([1, 0, 3, 3, 2, 4, 4])}},
        "two_inputs": {"args": (torch.randn(7, 2), torch.randn(7, 3)), "kwargs": {}},
    }[factory]
    expected = model(*inputs["args"], **inputs["kwargs"])
    found = exported[0](*inputs["args"], **inputs["kwargs"])
    assert found.shape[0] == 7
    torch.testing.assert_close(found, expected)


def test_missing_packages_are_named(
    zoo: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InvalidJob, match="pip install onnx onnxscript"):
        save_onnx(tmp_path / "m.onnx", "zoo_of_a_test:tied", {})
