"""Optimizers, dropout, batch normalisation and local parameters against PyTorch."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cloister_protos import Role
from cloister_tasks import Status
from cloister_tasks.compiler import compile as compile_model
from cloister_tasks.compiler.zoo import ZOO

from .machine import Machine, Twin, distance

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any], dict[str, Any]]] = {
    # name: class, its arguments, arguments of compile
    "sgd": (torch.optim.SGD, {"lr": 0.1}, {}),
    "decay": (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.05}, {}),
    "momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}, {}),
    "dampening": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.3}, {}),
    "nesterov": (
        torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        {},
    ),
    "adam": (torch.optim.Adam, {"lr": 0.01}, {}),
    "adam_decay": (
        torch.optim.Adam,
        {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.99), "eps": 1e-4},
        {},
    ),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.95)}, {}),
    "clipped": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.5}, {"clip_norm": 0.3}),
    "not_clipped": (torch.optim.SGD, {"lr": 0.1}, {"clip_norm": 1e3}),
    "proximal": (torch.optim.SGD, {"lr": 0.1}, {"proximal": 0.5}),
    "proximal_clipped_adamw": (
        torch.optim.AdamW,
        {"lr": 0.01, "eps": 1e-4},
        {"proximal": 0.5, "clip_norm": 0.3},
    ),
}


def with_optimizer(example: dict[str, Any], optimizer: str) -> dict[str, Any]:
    """An example under another optimizer."""
    kind, arguments, _ = OPTIMIZERS[optimizer]
    trained = [p for p in example["model"].parameters() if p.requires_grad]
    return {**example, "optimizer": kind(trained, **arguments)}


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        *(("mlp", optimizer) for optimizer in OPTIMIZERS),
        *(("lenet5_tanh", optimizer) for optimizer in ("sgd", "nesterov", "adamw")),
    ],
)
def test_five_steps(guest, name, optimizer):
    options = OPTIMIZERS[optimizer][2]
    example = with_optimizer(ZOO[name](batch=4, smooth=True), optimizer)
    machine = Machine(guest, compile_model(**example, capacity=20, **options))
    rows = with_optimizer(ZOO[name](batch=20, smooth=True), optimizer)
    exact, usual = Twin(rows), Twin(rows, torch.float32)
    start = machine.state()
    machine.run("train", rows)
    for twin in (exact, usual):
        twin.train(rows, 4, **options)
    found, wanted, rough = machine.state(), exact.state(), usual.state()
    for parameter, value in found.items():
        first = start[parameter].astype("f8")
        change = wanted[parameter] - first
        error = distance(value - first, change)
        allowed = 4 * distance(rough[parameter] - first, change) + 1e-5
        assert error <= allowed, f"{parameter}: {error:.2g}, allowed {allowed:.2g}"
    assert machine.guest["loss"] == pytest.approx(exact.total, rel=1e-5)


def test_hyperparameters_of_a_job_replace_those_of_the_optimizer(guest):
    example = with_optimizer(ZOO["mlp"](batch=4, smooth=True), "adamw")
    machine = Machine(guest, compile_model(**example, capacity=20))
    given = {"learning_rate": 0.02, "weight_decay": 0.3, "beta1": 0.7, "beta2": 0.9}
    for name, value in given.items():
        machine.guest[name] = value
    rows = ZOO["mlp"](batch=20, smooth=True) | {"optimizer": example["optimizer"]}
    twin = Twin(rows, lr=0.02, weight_decay=0.3, betas=(0.7, 0.9))
    start = machine.state()
    machine.run("train", rows)
    twin.train(rows, 4)
    for parameter, wanted in twin.state().items():
        first = start[parameter].astype("f8")
        assert distance(machine.state()[parameter] - first, wanted - first) < 1e-3


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", np.nan), ("learning_rate", -1), ("batch_size", 0), ("momentum", np.inf)],
)
def test_hyperparameters_out_of_range_are_refused(guest, name, value):
    machine = Machine(guest, compile_model(**with_optimizer(ZOO["mlp"](batch=4), "momentum")))
    machine.guest[name] = value
    before = machine.guest.parameters.copy()
    assert machine.guest("train", 4) == Status.VALUE
    np.testing.assert_array_equal(machine.guest.parameters, before)


# -- dropout --

WIDTH, RATE = 4096, 0.3


class Scaled(nn.Module):
    """Features times a parameter, then dropout: the gradient shows the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.dropout = nn.Dropout(RATE)

    def forward(self, x: Tensor) -> Tensor:
        """f32[rows, WIDTH] to the same."""
        y: Tensor = self.dropout(x * self.weight)
        return y


@functools.cache
def scaled() -> Any:
    """The task of :class:`Scaled`: rows of ones, the mean of the absolute outputs as loss."""
    model = Scaled()
    return compile_model(
        model,
        functional.l1_loss,
        torch.optim.SGD(model.parameters(), lr=1.0),
        (torch.ones(2, WIDTH), torch.zeros(2, WIDTH)),
        capacity=4,
    )


def masks(guest: Any, seed: int, rows: int = 2, calls: int = 1) -> tuple[np.ndarray, float]:
    """How often each feature was kept, summed over rows, and the summed loss."""
    machine = Machine(guest, scaled())
    machine.guest["features"] = 1
    machine.guest["target"] = 0
    machine.guest["learning_rate"] = 2.0**-10  # keeps weights close to one
    machine.guest["seed"] = seed
    kept = np.zeros(WIDTH)
    for _ in range(calls):
        before = machine.guest["weight"].astype("f8")
        assert machine.guest("train", rows) == Status.OK
        gradient = (before - machine.guest["weight"]) * 2**10
        kept += gradient * (rows * WIDTH * (1 - RATE))
    return kept, float(machine.guest["loss"])


def test_dropout_keeps_what_the_forward_pass_kept(guest):
    kept, loss = masks(guest, seed=1)
    whole = np.round(kept)
    np.testing.assert_allclose(kept, whole, atol=0.2)  # weights near one round coarsely
    assert set(whole) == {0, 1, 2}
    assert loss == pytest.approx(whole.sum() / (1 - RATE) / WIDTH, rel=1e-4)


def test_dropout_has_the_right_rate_and_independent_rows(guest):
    counts = np.concatenate([np.round(masks(guest, seed)[0]) for seed in range(8)])
    share = [np.mean(counts == n) for n in range(3)]
    wanted = [RATE**2, 2 * RATE * (1 - RATE), (1 - RATE) ** 2]
    # five standard deviations of a binomial share
    bound = 5 * np.sqrt(0.25 / counts.size)
    np.testing.assert_allclose(share, wanted, atol=bound)


def test_dropout_follows_the_seed(guest):
    first, again, other = (masks(guest, seed)[0] for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert np.mean(np.round(first) == np.round(other)) < 0.6


def test_dropout_differs_from_step_to_step(guest):
    once, twice = masks(guest, 3)[0], masks(guest, 3, calls=2)[0]
    assert np.mean(np.round(twice - once) == np.round(once)) < 0.6


def test_dropout_is_off_outside_training(guest):
    machine = Machine(guest, scaled())
    machine.guest["features"] = 2
    machine.guest["target"] = 0
    assert machine.guest("predict", 3) == Status.OK
    assert (machine.outputs(3) == 2).all()
    assert machine.guest("evaluate", 3) == Status.OK
    assert machine.guest["loss"] == 6


# -- batch normalisation and local parameters --


class Normalised(nn.Module):
    """A convolution with batch normalisation, whatever its momentum."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3, **options)
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        """f32[rows, 2, 7, 7] to f32[rows, 4]."""
        y: Tensor = self.head(torch.tanh(self.norm(self.convolution(x))).mean((2, 3)))
        return y


def normalised(**options: Any) -> dict[str, Any]:
    """Its example of 6 rows."""
    torch.manual_seed(0)
    model = Normalised(**options)
    return {
        "model": model,
        "loss": functional.cross_entropy,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "example": (torch.randn(6, 2, 7, 7) * 3 + 1, torch.randint(4, (6,))),
    }


@pytest.mark.parametrize("options", [{}, {"momentum": 0.3, "eps": 1e-2}, {"affine": False}])
def test_running_statistics(guest, options):
    example = normalised(**options)
    machine, exact = Machine(guest, compile_model(**example)), Twin(example)
    usual = Twin(example, torch.float32)
    for _ in range(3):
        machine.run("train", example)
        exact.train(example, 6)
        usual.train(example, 6)
    found, rough = machine.state(), usual.state()
    for name, wanted in exact.state().items():
        error = distance(found[name], wanted)
        assert error <= 4 * distance(rough[name], wanted) + 4e-7, name
    machine.run("predict", example)
    np.testing.assert_allclose(machine.outputs(6), exact.predict(example), rtol=1e-4, atol=1e-6)


def test_local_parameters_have_their_own_role_and_train(guest):
    example = normalised()
    usual = Machine(guest, compile_model(**example))
    machine = Machine(guest, compile_model(**example, local=("norm.*",)))
    local = {b.name for b in machine.manifest.of(Role.ROLE_LOCAL)}
    assert local == {name for name in example["model"].state_dict() if name.startswith("norm.")}
    np.testing.assert_array_equal(machine.guest["norm.weight"], 1)
    for each in (usual, machine):
        each.run("train", example)
    for name, value in usual.state().items():
        np.testing.assert_array_equal(machine.state()[name], value)


def test_a_loss_of_the_whole_batch_is_reported_as_such(guest):
    """With class weights, the loss of a batch is no mean over its rows."""
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 9.0]))
    torch.manual_seed(1)
    net, features, label = nn.Linear(6, 3), torch.randn(8, 6), torch.arange(8) % 3
    rate_zero = torch.optim.SGD(net.parameters(), lr=0.0)
    task = compile_model(net, weighted, rate_zero, (features, label))
    machine = Machine(guest, task)
    machine.run("train", {"model": net, "example": (features, label)})
    assert machine.guest["loss"] == pytest.approx(8 * weighted(net(features), label).item())
