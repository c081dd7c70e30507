"""What init(seed) draws: the distributions of torch's layers, decided by the seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from cloister_tasks.compiler import compile as compile_model
from cloister_tasks.compiler.initial import initial_values


def rules_of(model):
    names = {name: f"p{n}" for n, name in enumerate(model.state_dict())}
    return dict(zip(names, initial_values(model, names), strict=True))


def uniform(bound):
    return ("uniform", 0.0, pytest.approx(bound))


@pytest.mark.parametrize(
    ("layer", "bound"),
    [
        (nn.Linear(16, 5), 1 / 4),
        (nn.Conv1d(3, 4, 5), 1 / math.sqrt(15)),
        (nn.Conv2d(3, 4, (2, 5)), 1 / math.sqrt(30)),
        (nn.Conv2d(8, 8, 3, groups=8), 1 / 3),
        (nn.ConvTranspose2d(4, 6, 3), 1 / math.sqrt(54)),
        (nn.LSTM(3, 9), 1 / 3),
        (nn.GRU(3, 9, num_layers=2), 1 / 3),
        (nn.RNN(3, 9), 1 / 3),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else None,
)
def test_layers_start_as_torch_starts_them(layer, bound):
    """The bound is the paper's, and what torch drew lies within it and reaches for it."""
    for name, rule in rules_of(nn.ModuleDict({"it": layer})).items():
        assert (rule.kind, rule.value, rule.spread) == uniform(bound), name
    drawn = torch.cat([p.detach().flatten() for p in layer.parameters()])
    assert drawn.abs().max() <= bound
    assert drawn.abs().max() > 0.8 * bound


def test_embeddings_attention_and_constants():
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {
            "table": nn.Embedding(100, 8),
            "norm": nn.LayerNorm(4),
            "batch": nn.BatchNorm1d(4),
            "attention": nn.MultiheadAttention(6, 2),
        }
    )
    rules = {n: (r.kind, r.value, r.spread) for n, r in rules_of(model).items()}
    assert rules["table.weight"] == ("normal", 0.0, 1.0)
    assert rules["norm.weight"] == rules["batch.running_var"] == ("constant", 1.0, 0.0)
    assert rules["norm.bias"] == rules["batch.running_mean"] == ("constant", 0.0, 0.0)
    assert rules["attention.in_proj_weight"] == uniform(math.sqrt(6 / 24))
    assert rules["attention.in_proj_bias"] == ("constant", 0.0, 0.0)


def test_other_tensors_keep_their_moments():
    class Free(nn.Module):
        def __init__(self):
            super().__init__()
            values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
            self.free = nn.Parameter(values * 3 + 7)
            self.same = nn.Parameter(torch.full((5,), 0.1))
            self.one = nn.Parameter(torch.tensor([1e-45]))

    rules = rules_of(Free())
    assert rules["free"].kind == "normal"
    assert rules["free"].value == pytest.approx(7, abs=0.3)
    assert rules["free"].spread == pytest.approx(3, abs=0.3)
    assert rules["same"].kind == rules["one"].kind == "constant"
    assert np.float32(rules["same"].value) == np.float32(0.1)
    assert np.float32(rules["one"].value) == np.float32(1e-45)
    assert [r.size for r in rules.values()] == [1000, 5, 1]


class Model(nn.Module):
    """A layer of each kind of rule."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(200, 16)
        self.norm = nn.LayerNorm(16)
        self.dense = nn.Linear(16, 100)
        self.scale = nn.Parameter(torch.full((100,), 0.1))

    def forward(self, x):
        return self.dense(self.norm(self.table(x))) * self.scale


@pytest.fixture(scope="module")
def draw(guest):
    """A function from seeds to tensors by name."""
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.tensor([1, 2])
    task = compile_model(model, nn.functional.cross_entropy, optimizer, (x, x))
    machine = guest(task.wasm)

    def tensors(seed):
        assert machine("init", seed) == 0
        return {name: machine[name].copy() for name in model.state_dict()}

    return tensors


def test_drawn_values_have_bounds_and_moments(draw):
    drawn = draw(7)
    dense, table = drawn["dense.weight"], drawn["table.weight"]
    assert np.abs(dense).max() <= 1 / 4
    for values, deviation in ((dense, 1 / 4 / math.sqrt(3)), (table, 1.0)):
        expected = deviation / math.sqrt(values.size)
        assert abs(values.mean()) < 5 * expected
        assert values.std() == pytest.approx(deviation, rel=0.1)
    assert 3 < np.abs(table).max() < 6
    assert np.array_equal(drawn["norm.weight"], np.ones(16, "f4"))
    assert np.array_equal(drawn["scale"], np.full(100, 0.1, "f4"))


def test_a_seed_is_all_that_decides(draw):
    first, other, again = draw(1), draw(2), draw(1)
    large = draw(1 + 2**40)
    for name in ("dense.weight", "dense.bias", "table.weight"):
        assert np.array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])
        assert not np.array_equal(first[name], large[name])
    assert np.unique(first["table.weight"]).size > 3000
    correlation = np.corrcoef(first["dense.weight"].ravel(), first["table.weight"].ravel()[:1600])
    assert abs(correlation[0, 1]) < 0.15
