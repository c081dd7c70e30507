"""A compiled model through the simulator, and back into PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import cloister
from cloister.errors import InvalidJob


class Net(nn.Module):
    """Running statistics, an integer buffer, a frozen layer and a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.one = nn.Linear(4, 4, bias=False)
        self.two = nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.fixed = nn.Linear(4, 3).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """f32[rows, 4] to f32[rows, 3]."""
        return self.fixed(torch.tanh(self.two(self.one(self.norm(x)))))


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture(scope="module")
def task(net: Net) -> Any:
    example = torch.randn(8, 4), torch.randint(3, (8,))
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    return cloister.compile(net, nn.functional.cross_entropy, optimizer, example, capacity=16)


def clients() -> list[cloister.Client]:
    random = np.random.default_rng(0)
    rows = [
        {"features": random.normal(size=(16, 4)), "label": random.integers(0, 3, 16)}
        for _ in range(3)
    ]
    return [cloister.Client(f"{n}", cloister.Dataset(r, {})) for n, r in enumerate(rows)]


def test_as_compiled_the_state_is_the_models(net: Net, task: Any) -> None:
    state = task.state_dict()
    assert list(state) == list(net.state_dict())
    for name, tensor in net.state_dict().items():
        assert state[name].dtype == tensor.dtype
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


def test_a_simulation_begins_with_the_models_values_and_its_outcome_loads(task: Any) -> None:
    history = cloister.simulate(task, clients(), rounds=3)
    twin = Net()
    twin.load_state_dict(task.state_dict(history.block), strict=True)
    again = Net()
    again.load_state_dict(task.state_dict(history.model), strict=True)
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)
    assert twin.norm.num_batches_tracked.dtype == torch.int64
    assert twin.norm.num_batches_tracked == 6  # two batches in each of three rounds
    torch.testing.assert_close(twin.two.weight, twin.one.weight, rtol=0, atol=0)
    torch.testing.assert_close(twin.fixed.weight, task.state["fixed.weight"], rtol=0, atol=0)
    assert not torch.equal(twin.one.weight, task.state["one.weight"])
    parsed = cloister.Module.parse(task.wasm)
    same = cloister.simulate(
        parsed, clients(), rounds=3, initial_model=task.parameters, frozen=task.frozen
    )
    np.testing.assert_array_equal(same.block, history.block)


def test_a_task_with_frozen_parameters_needs_them(task: Any) -> None:
    with pytest.raises(InvalidJob, match="no values are given"):
        cloister.simulate(task.wasm, clients(), rounds=1)


def test_values_given_replace_those_of_the_task(task: Any) -> None:
    history = cloister.simulate(
        task,
        clients(),
        rounds=1,
        initial_model=np.zeros_like(task.parameters),
        hyperparameters={"learning_rate": 0.0},
    )
    names = ("one.weight", "two.bias")
    assert all(not history.model[name].any() for name in names)


def test_another_models_values_are_refused(task: Any) -> None:
    with pytest.raises(ValueError, match="parameters, not 3"):
        task.state_dict(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="no tensor 'three'"):
        task.state_dict({"three": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match=r"no tensor 'two.bias' of 3 elements"):
        task.state_dict({"two.bias": np.zeros(3, np.float32)})
