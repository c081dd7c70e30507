"""Gradients clipped row by row and noise on their sum, against ``torch.func`` row by row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional

from cloister_protos import Role
from cloister_tasks import VARIANTS, Status
from cloister_tasks.compiler import ExamplePrivacy
from cloister_tasks.compiler import compile as compile_model
from cloister_tasks.compiler.zoo import ZOO
from cloister_tasks.contract import NOISE_KEYS
from cloister_tasks.errors import BuildError

from .machine import Machine, Twin, distance, inputs_of
from .test_training import with_optimizer

ROWS, BATCH = 10, 4
"""The last batch is partial."""


def private(guest: Any, example: dict[str, Any], clip: float, noise: float = 0.0, **options: Any):
    """An instance that trains with example-level privacy."""
    options.setdefault("capacity", 3 * BATCH)
    privacy = ExamplePrivacy(clip_norm=clip, noise_multiplier=noise)
    return Machine(guest, compile_model(**example, example_privacy=privacy, **options))


def clipped(twin: Twin, arrays: list[Tensor], clip: float) -> tuple[dict[str, Tensor], Tensor]:
    """The sum of the rows' clipped gradients by parameter, and the norms before."""
    fixed = {k: v for k, v in twin.model.named_parameters() if not v.requires_grad}
    fixed |= dict(twin.model.named_buffers())

    def loss(trained: dict[str, Tensor], *row: Tensor) -> Tensor:
        *inputs, target = (t[None] for t in row)
        found: Tensor = twin.loss(
            functional_call(twin.model, {**fixed, **trained}, tuple(inputs)), target
        )
        return found

    trained = {k: v.detach() for k, v in twin.model.named_parameters() if v.requires_grad}
    twin.model.train()
    # One call for each row: recurrent layers and attention have no rules for vmap.
    alone = [grad(loss)(trained, *row) for row in zip(*arrays, strict=True)]
    rows = {k: torch.stack([gradients[k] for gradients in alone]) for k in trained}
    norms = torch.sqrt(sum((g.reshape(len(g), -1) ** 2).sum(1) for g in rows.values()))
    factor = (clip / norms).clamp(max=1)
    return {k: torch.tensordot(factor, g, 1) for k, g in rows.items()}, norms


def train(twin: Twin, example: dict[str, Any], batch: int, clip: float) -> list[float]:
    """Algorithm 1 without noise; returns the norms it met."""
    arrays = [twin.cast(a) for a in (*inputs_of(example), example["example"][1])]
    norms: list[float] = []
    for parts in zip(*(a.split(batch) for a in arrays), strict=True):
        sums, found = clipped(twin, list(parts), clip)
        norms += found.tolist()
        for name, parameter in twin.model.named_parameters():
            if name in sums:
                parameter.grad = sums[name] / batch
        twin.optimizer.step()
    return norms


@pytest.mark.parametrize(
    ("name", "optimizer", "clip"),
    [
        ("logistic_regression", "sgd", 0.5),
        *(("mlp", optimizer, 0.3) for optimizer in ("sgd", "momentum", "adam", "adamw")),
        ("mlp", "sgd", 1e6),
        ("lenet5_tanh", "nesterov", 1.0),
        ("gn_cnn", "sgd", 2.0),
        ("gru", "sgd", 0.5),
        ("transformer", "adamw", 1.0),
        ("lora", "sgd", 0.5),
        ("matrix_factorisation", "sgd", 0.2),
    ],
)
def test_without_noise_steps_are_those_of_rows_clipped_by_torch(guest, name, optimizer, clip):
    options = {"smooth": True} if name in ("mlp", "lenet5_tanh") else {}
    example = with_optimizer(ZOO[name](batch=BATCH, **options), optimizer)
    rows = with_optimizer(ZOO[name](batch=ROWS, **options), optimizer)
    machine = private(guest, example, clip)
    exact, usual = Twin(rows), Twin(rows, torch.float32)
    start = machine.state()
    machine.run("train", rows)
    norms = train(exact, rows, BATCH, clip)
    train(usual, rows, BATCH, clip)
    if clip < 1e3:
        assert max(norms) > clip, "nothing is clipped"
    found, wanted, rough = machine.state(), exact.state(), usual.state()
    for parameter, value in found.items():
        first = start[parameter].astype("f8")
        change = wanted[parameter] - first
        error = distance(value - first, change)
        allowed = 4 * distance(rough[parameter] - first, change) + 2e-5
        assert error <= allowed, f"{parameter}: {error:.2g}, allowed {allowed:.2g}"


def net() -> dict[str, Any]:
    """Rows of unlike size: some are clipped at 1, some are not."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    return {
        "model": model,
        "loss": functional.cross_entropy,
        "optimizer": torch.optim.SGD(model.parameters(), lr=1.0),
        "example": (torch.randn(BATCH, 6), torch.randint(3, (BATCH,))),
    }


def step(machine: Machine, example: dict[str, Any]) -> np.ndarray:
    """What one call of ``train`` changes, from the initial parameters: f64[P]."""
    machine.start()
    before = machine.guest.parameters.astype("f8")
    machine.run("train", example)
    return machine.guest.parameters - before


def test_a_row_changes_a_step_by_no_more_than_the_norm(guest):
    example, clip = net(), 0.25
    machine = private(guest, example, clip)
    (features, label) = example["example"]
    changes = []
    for size in (0.0, 1e-3, 1.0, 1e3, 1e12, 1e30):
        other = features.clone()
        other[1] *= size
        changes.append(step(machine, {**example, "example": (other, label)}))
    for a in changes:
        for b in changes:  # learning rate 1: a step is the mean gradient
            assert np.linalg.norm(a - b) <= 2 * clip / BATCH * (1 + 1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
def test_a_row_without_a_finite_gradient_is_left_out(guest, value):
    example = net()
    example["model"] = nn.Linear(6, 3)
    example["optimizer"] = torch.optim.SGD(example["model"].parameters(), lr=1.0)
    machine = private(guest, example, 0.25)
    features, label = example["example"]
    bad = features.clone()
    bad[2] = value
    found = step(machine, {**example, "example": (bad, label)})
    kept = [0, 1, 3]
    without = step(machine, {**example, "example": (features[kept], label[kept])})
    np.testing.assert_array_equal(found, without)  # both are divided by the nominal batch


def test_metrics_are_of_rows_as_they_are(guest):
    example = net()
    machine, plain = private(guest, example, 0.01, 2.0), Machine(guest, compile_model(**example))
    for each in (machine, plain):
        each.start()
        each.run("train", example)
    for metric in ("loss", "correct"):
        assert machine.guest[metric] == pytest.approx(float(plain.guest[metric]), rel=1e-5)


def test_clipping_of_the_batch_and_the_pull_come_after_the_noise(guest):
    example = net()
    machine = private(guest, example, 1.0, 50.0, clip_norm=0.3, proximal=0.5)
    assert np.linalg.norm(step(machine, example)) == pytest.approx(0.3, rel=1e-4)
    machine.guest["clip_norm"] = 0.0  # the noise is clipped away, and so is the pull
    assert not step(machine, example).any()


# -- noise --


class Wide(nn.Module):
    """Its gradient is zero, so that a step is noise alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1 << 16))
        self.bias = nn.Parameter(torch.zeros(7))

    def forward(self, x: Tensor) -> Tensor:
        """f32[rows, 1] to f32[rows]."""
        return x[:, 0] * (self.weight.sum() + self.bias.sum())


def wide() -> dict[str, Any]:
    """Its example, with features of zero."""
    model = Wide()
    return {
        "model": model,
        "loss": functional.mse_loss,
        "optimizer": torch.optim.SGD(model.parameters(), lr=1.0),
        "example": (torch.zeros(BATCH, 1), torch.zeros(BATCH)),
    }


@pytest.fixture(scope="module")
def noisy(guest):
    """Noise of deviation 0.5 * 3 on a sum."""
    return private(guest, wide(), 3.0, 0.5)


def drawn(machine: Machine, seed: int = 1, key: tuple[int, ...] = (1, 2, 3, 4)) -> np.ndarray:
    """Noise in one step's sum of gradients: f64[P]."""
    machine.guest["seed"] = seed
    for name, value in zip(NOISE_KEYS, key, strict=True):
        machine.guest[name] = value
    return -BATCH * step(machine, wide())


def test_noise_has_the_deviation_promised(noisy):
    x = np.concatenate([drawn(noisy, seed) for seed in range(4)]) / 1.5
    off = 1 / math.sqrt(x.size)
    assert abs(x.mean()) < 4.5 * off
    assert abs((x**2).mean() - 1) < 4.5 * math.sqrt(2) * off
    assert abs((x**4).mean() - 3) < 4.5 * math.sqrt(96) * off
    assert np.unique(x).size > 0.99 * x.size


def test_noise_is_added_to_the_clipped_sum(guest):
    example = net()
    quiet, loud = private(guest, example, 0.25), private(guest, example, 0.25, 2.0)
    wanted = step(quiet, example)
    size = len(wanted)
    found = []
    for seed in range(200):
        loud.guest["seed"] = seed
        found.append(step(loud, example))
    each = 0.5 / BATCH  # deviation of a coordinate: 2.0 * 0.25 on the sum, then the mean
    error = (np.mean(found, 0) - wanted) / (each / math.sqrt(len(found)))
    assert np.abs(error).max() < 5
    spread = np.var(found, 0).mean() / each**2
    assert abs(spread - 1) < 5 * math.sqrt(2 / (len(found) * size))


def test_noise_is_of_seed_and_key(noisy):
    first, again = drawn(noisy), drawn(noisy)
    np.testing.assert_array_equal(first, again)
    others = [drawn(noisy, seed) for seed in (2, -1, 1 << 32, 1 + (1 << 40))]
    for n in range(4):
        for bit in (0, 63):
            key = [1, 2, 3, 4]
            key[n] ^= (1 << bit) - ((1 << 64) if bit == 63 else 0)
            others.append(drawn(noisy, key=tuple(key)))
    related = np.corrcoef([first, *others]) - np.eye(len(others) + 1)
    assert np.abs(related).max() < 5 / math.sqrt(first.size)


def test_noise_is_new_in_every_step(guest, noisy):
    noisy.start()
    noisy.guest["seed"] = 1
    before, steps = noisy.guest.parameters.astype("f8"), []
    example = wide()
    for _ in range(3):  # calls go on where the last one ended
        noisy.run("train", example)
        after = noisy.guest.parameters.astype("f8")
        steps.append(after - before)
        before = after
    related = np.corrcoef(steps) - np.eye(3)
    assert np.abs(related).max() < 5 / math.sqrt(before.size)


def test_variants_draw_the_same(guest):
    example, found = net(), []
    for variant in VARIANTS[:2]:
        machine = private(guest, example, 0.25, 1.0, variant=variant)
        machine.guest["seed"] = 5
        found.append(step(machine, example))
    np.testing.assert_array_equal(*found)


def test_dropout_differs_between_the_rows_of_a_batch(guest):
    width = 512

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(width))

        def forward(self, x: Tensor) -> Tensor:
            return functional.dropout(x * self.weight, 0.5, self.training).sum(1)

    model = Scaled()
    example = {
        "model": model,
        "loss": lambda output, target: (output * target).mean(),
        "optimizer": torch.optim.SGD(model.parameters(), lr=1.0),
        "example": (torch.ones(BATCH, width), torch.ones(BATCH)),
    }
    machine = private(guest, example, 1e6)
    kept = -step(machine, example) * BATCH / 2  # in how many rows a feature was kept
    assert set(np.round(kept)) == {0, 1, 2, 3, 4}


# -- what a module says, and what is refused --


def test_the_manifest_says_so(guest):
    example = net()
    manifest = private(guest, example, 0.25, 1.5).manifest
    assert "rows clipped to 0.25, noise multiplier 1.5" in manifest.description
    names = {b.name for b in manifest.of(Role.ROLE_HYPERPARAMETER)}
    assert set(NOISE_KEYS) <= names
    assert not {"clip_norm", "noise_multiplier"} & names  # a job cannot change them
    quiet = private(guest, example, 0.25).manifest
    assert not {b.name for b in quiet.of(Role.ROLE_HYPERPARAMETER)} & set(NOISE_KEYS)


def test_a_label_out_of_range_names_its_row_and_changes_nothing(guest):
    example = net()
    machine = private(guest, example, 0.25, 1.0)
    machine.give(example)
    machine.guest["label"][2] = 3
    before = machine.guest.parameters.copy()
    assert machine.guest("train", BATCH) == Status.INDEX
    assert machine.guest["fault"] == 2
    np.testing.assert_array_equal(machine.guest.parameters, before)


@pytest.mark.parametrize(
    ("clip", "noise", "word"),
    [
        (0.0, 1.0, "clip_norm"),
        (-1.0, 1.0, "clip_norm"),
        (math.inf, 1.0, "clip_norm"),
        (math.nan, 1.0, "clip_norm"),
        (1.0, -1.0, "noise_multiplier"),
        (1.0, math.nan, "noise_multiplier"),
        (1e30, 1e30, "float32"),
    ],
)
def test_numbers_out_of_range_are_refused(clip, noise, word):
    with pytest.raises(BuildError, match=word):
        ExamplePrivacy(clip_norm=clip, noise_multiplier=noise)


def changed(model: nn.Module, loss: Any = functional.cross_entropy) -> dict[str, Any]:
    """The example with another model or loss."""
    return {
        **net(),
        "model": model,
        "loss": loss,
        "optimizer": torch.optim.SGD(model.parameters(), lr=1.0),
    }


class Centred(nn.Module):
    """Subtracts the mean of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """f32[rows, 6] to f32[rows, 3]."""
        y: Tensor = self.linear(x)
        return y - y.mean(0) if self.training else y


class Squeezed(nn.Module):
    """Loses the dimension of rows where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """f32[rows, 6] to f32[rows, 3], or f32[3]."""
        y: Tensor = self.linear(x).squeeze(0)
        return y


@pytest.mark.parametrize(
    ("example", "word"),
    [
        (changed(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))), "running_mean"),
        (
            changed(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3, track_running_stats=False))),
            "influence each other",
        ),
        (changed(Centred()), "influence each other"),
        (changed(nn.Linear(6, 3), nn.CrossEntropyLoss(reduction="sum")), "the sum over rows"),
        (
            changed(nn.Linear(6, 3), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 9.0]))),
            "neither mean nor sum",
        ),
        (changed(Squeezed()), "one row at a time"),
    ],
)
def test_what_mixes_rows_is_refused(example, word):
    with pytest.raises(BuildError, match=word):
        compile_model(
            **example, example_privacy=ExamplePrivacy(clip_norm=1.0, noise_multiplier=1.0)
        )
