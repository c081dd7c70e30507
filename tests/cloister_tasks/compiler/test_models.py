"""Every model of the zoo against PyTorch in float64."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest
import torch

from cloister_protos import Role
from cloister_tasks import Status
from cloister_tasks.compiler import compile as compile_model
from cloister_tasks.compiler.zoo import ZOO

from .machine import STEP, Machine, Twin, distance, inputs_of

FLOOR = 4e-7
"""Relative error that is forgiven where PyTorch's float32 happens to make less."""
SMALL: dict[str, dict[str, Any]] = {
    # fewer rows and steps of time than is customary, and no randomness
    "mlp": {"batch": 3},
    "lora": {"batch": 3},
    "lenet5_tanh": {"batch": 3},
    "cnn_dropout": {"batch": 2, "rates": (0.0, 0.0)},
    "mcmahan_cnn": {"batch": 2},
    "gru": {"batch": 3, "time": 5},
    "lstm": {"batch": 3, "time": 5},
    "transformer": {"batch": 3, "time": 7},
    "transformer_encoder_layer": {"batch": 3, "time": 7},
    "gpt": {"batch": 3, "time": 7},
    "unet": {"batch": 3, "size": 16},
    "dilated_cnn": {"batch": 3, "time": 21},
    "mobilenetv1_224": {"batch": 1},
}
LARGE = ("resnet18_gn", "resnet18_bn", "mobilenetv1_224")
MIXED = ("resnet18_bn", "mobilenetv2", "mobilenetv1_224")
"""Models whose rows influence each other in training."""
PREDICTION_ONLY = ("mobilenetv1_224",)


def models(*without: str, names: Any = tuple(ZOO)) -> list[Any]:
    """Names for `parametrize`, the long ones marked."""
    marks = {name: [pytest.mark.slow] for name in LARGE}
    return [pytest.param(n, marks=marks.get(n, ())) for n in names if n not in without]


def example_of(name: str, **options: Any) -> dict[str, Any]:
    """A small example; parameters that start at zero would hide mistakes, so they do not."""
    example = ZOO[name](**{"batch": 4, **SMALL.get(name, {}), **options})
    generator = torch.Generator().manual_seed(1)
    for parameter in example["model"].parameters():
        if parameter.requires_grad and not parameter.any():
            with torch.no_grad():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return example


@functools.cache
def build(name: str, variant: str = "simd128") -> Any:
    """The task of `plain(example_of(name, smooth=True))`."""
    return compiled(plain(example_of(name, smooth=True)), variant=variant)


def compiled(example: dict[str, Any], **options: Any) -> Any:
    """A task that takes the rows of four batches."""
    return compile_model(**example, capacity=4 * len(example["example"][1]), **options)


def gradients(machine: Machine, example: dict[str, Any]) -> dict[str, np.ndarray]:
    """Gradients of the mean loss as one step of plain gradient descent shows them, f64."""
    machine.guest["learning_rate"] = STEP
    for name in ("momentum", "weight_decay"):
        if name in machine.manifest.buffers:
            machine.guest[name] = 0
    before = machine.state()
    machine.run("train", example)
    after = machine.state()
    return {name: (before[name].astype("f8") - after[name]) / STEP for name in before}


def plain(example: dict[str, Any]) -> dict[str, Any]:
    """The same example under plain gradient descent."""
    trained = [p for p in example["model"].parameters() if p.requires_grad]
    return {**example, "optimizer": torch.optim.SGD(trained, lr=0.1)}


@pytest.mark.parametrize("name", models(*PREDICTION_ONLY))
def test_gradients(guest, name):
    example = plain(example_of(name, smooth=True))
    machine = Machine(guest, build(name))
    found = gradients(machine, example)
    exact = Twin(example)
    wanted = exact.gradients(example)
    usual = Twin(example, torch.float32).gradients(example)
    assert wanted
    for parameter, gradient in wanted.items():
        error = distance(found[parameter], gradient)
        allowed = 4 * distance(usual[parameter], gradient) + FLOOR
        assert error <= allowed, f"{parameter}: {error:.2g}, PyTorch in float32 {allowed / 4:.2g}"
    assert machine.guest["loss"] == pytest.approx(exact.total, rel=1e-5)


@pytest.mark.parametrize("name", models())
def test_predict_and_evaluate(guest, name):
    example = example_of(name, smooth=True)
    machine = Machine(guest, build(name))
    twin = Twin(example)
    before = machine.state()
    machine.run("predict", example)
    wanted = twin.predict(example)
    usual = Twin(example, torch.float32).predict(example)
    error = distance(machine.outputs(len(wanted)), wanted)
    assert error <= 4 * distance(usual, wanted) + FLOOR
    machine.run("evaluate", example)
    twin.measure(torch.from_numpy(wanted), twin.cast(example["example"][1]))
    assert machine.guest["loss"] == pytest.approx(twin.total, rel=1e-5)
    if "correct" in machine.manifest.buffers:
        assert machine.guest["correct"] == pytest.approx(twin.correct)
    for buffer, value in machine.state().items():
        np.testing.assert_array_equal(value, before[buffer])


def assert_follows(
    machine: Machine, exact: Twin, usual: Twin, start: dict[str, np.ndarray]
) -> None:
    """What training changed is what the twin changed, as far as PyTorch's float32 would agree."""
    found, wanted, rough = machine.state(), exact.state(), usual.state()
    assert found.keys() <= wanted.keys() | {n for n, _ in exact.model.named_parameters()}
    for name, value in found.items():
        change = wanted[name] - start[name].astype("f8")
        error = distance(value - start[name].astype("f8"), change)
        allowed = 4 * distance(rough[name] - start[name].astype("f8"), change) + 1e-5
        assert error <= allowed, f"{name}: {error:.2g}, allowed {allowed:.2g}"
    assert machine.guest["loss"] == pytest.approx(exact.total, rel=1e-5)


@pytest.mark.parametrize("batch", [3, 2])
@pytest.mark.parametrize("name", ["mlp", "lora", "matrix_factorisation", "lenet5_tanh", "gpt"])
def test_partial_batches(guest, name, batch):
    machine = Machine(guest, build(name))
    rows = plain(example_of(name, smooth=True, batch=11))
    machine.guest["batch_size"] = batch
    exact, usual = Twin(rows), Twin(rows, torch.float32)
    start = machine.state()
    machine.run("train", rows)
    exact.train(rows, batch)
    usual.train(rows, batch)
    assert_follows(machine, exact, usual, start)
    if "correct" in machine.manifest.buffers:
        assert machine.guest["correct"] == pytest.approx(exact.correct)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rows_that_share_an_embedding(guest, momentum):
    shape = {"users": 3, "items": 2, "width": 5, "batch": 8}
    example = ZOO["matrix_factorisation"](**shape)
    trained = example["model"].parameters()
    example["optimizer"] = torch.optim.SGD(trained, lr=0.1, momentum=momentum)
    machine = Machine(guest, compiled(example))
    rows = ZOO["matrix_factorisation"](**shape | {"batch": 29}) | {
        "optimizer": example["optimizer"]
    }
    exact, usual = Twin(rows), Twin(rows, torch.float32)
    start = machine.state()
    machine.run("train", rows)
    exact.train(rows, 8)
    usual.train(rows, 8)
    assert_follows(machine, exact, usual, start)


def test_batch_normalisation_leaves_out_a_partial_batch(guest):
    options = {"smooth": True, "batch": 4}
    machine = Machine(guest, build("mobilenetv2"))
    rows = plain(example_of("mobilenetv2", **options | {"batch": 11}))
    exact, usual = Twin(rows), Twin(rows, torch.float32)
    start = machine.state()
    machine.run("train", rows)
    inputs, target = rows["example"]
    whole = {**rows, "example": (inputs[:8], target[:8])}
    for twin in (exact, usual):
        twin.train(whole, 4)
    found = machine.state()
    for name, wanted in exact.state().items():
        if "num_batches" in name:
            assert found[name] == start[name] + 2
            continue
        error = distance(found[name], wanted)
        assert error <= 4 * distance(usual.state()[name], wanted) + FLOOR, name


@pytest.mark.parametrize("name", ["lenet5", "gru", "gpt", "unet", "lora"])
def test_nothing_but_what_the_host_wrote_matters_after_reset(guest, name):
    """Whatever else lies in memory, arena, stack and optimizer's state included, is overwritten."""
    example = {**example_of(name, smooth=True)}
    example["optimizer"] = torch.optim.Adam(example["optimizer"].param_groups[0]["params"])
    task = compiled(example)
    results = []
    for poison in (0, 255):
        machine = Machine(guest, task)
        free = machine.undeclared()
        assert free.sum() > task.arena_bytes
        for entry in ("train", "evaluate", "predict"):
            machine.guest.memory[free] = poison
            assert machine.guest("reset") == Status.OK
            machine.run(entry, example)
        outputs = machine.outputs(len(example["example"][1]))
        results.append((machine.guest.parameters.tobytes(), outputs.tobytes()))
    assert np.isfinite(machine.guest.parameters).all()
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["mlp", "gpt"])
def test_the_same_model_gives_the_same_module(name):
    example = example_of(name)
    state = copy.deepcopy(example["model"].state_dict())
    first = compile_model(**example)
    second = compile_model(**example_of(name))
    assert first.wasm == second.wasm
    for key, value in example["model"].state_dict().items():
        assert torch.equal(value, state[key])


@pytest.mark.parametrize(
    "name",
    ["mlp", "lenet5", "gru", "gpt", pytest.param("mobilenetv2", marks=pytest.mark.slow)],
)
def test_variants(guest, name):
    example = example_of(name, smooth=True)
    results = {}
    for variant in ("scalar", "simd128", "relaxed-simd"):
        machine = Machine(guest, build(name, variant))
        machine.run("train", example)
        machine.run("predict", example)
        results[variant] = (
            machine.guest.parameters.copy(),
            machine.outputs(len(example["example"][1])),
        )
    for scalar, simd, relaxed in zip(*results.values(), strict=True):
        assert scalar.tobytes() == simd.tobytes()
        assert distance(relaxed, simd) < 1e-5


@pytest.mark.parametrize("entry", ["train", "evaluate"])
@pytest.mark.parametrize("value", [-1, 10, 2**31 - 1, -(2**31)])
def test_a_label_out_of_range_is_named_and_nothing_is_done(guest, entry, value):
    task = build("logistic_regression")
    machine = Machine(guest, task)
    rows = machine.give(example_of("logistic_regression", batch=7))
    machine.guest["label"][5] = value
    before = machine.guest.parameters.copy()
    assert machine.guest(entry, rows) == Status.INDEX
    assert machine.guest["fault"] == 5
    np.testing.assert_array_equal(machine.guest.parameters, before)
    assert machine.guest["loss"] == 0
    assert machine.guest(entry, 5) == Status.OK  # rows beyond the count are not looked at
    assert machine.guest("predict", rows) == Status.OK


@pytest.mark.parametrize(
    ("name", "buffer", "value"),
    [
        ("matrix_factorisation", "user", 1000),
        ("matrix_factorisation", "item", -1),
        ("gpt", "features", 100),
        ("gpt", "label", -7),
    ],
)
def test_an_index_out_of_range_is_named(guest, name, buffer, value):
    machine = Machine(guest, build(name))
    rows = machine.give(example_of(name, batch=7))
    before = machine.guest.parameters.copy()
    machine.guest[buffer].reshape(machine.manifest.capacity, -1)[6, -1] = value
    assert machine.guest("train", rows) == Status.INDEX
    assert machine.guest["fault"] == 6
    np.testing.assert_array_equal(machine.guest.parameters, before)
    if buffer != "label":
        assert machine.guest("predict", rows) == Status.INDEX
        assert machine.guest["fault"] == 6


@pytest.mark.parametrize("rows", [-1, 17, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("entry", ["train", "evaluate", "predict"])
def test_rows_beyond_the_capacity_are_refused(guest, entry, rows):
    assert Machine(guest, build("logistic_regression")).guest(entry, rows) == Status.TOO_MANY


def test_reset_forgets_all_but_the_model(guest):
    example = example_of("mlp", smooth=True)
    example["optimizer"] = torch.optim.Adam(example["model"].parameters())
    machine = Machine(guest, compiled(example))
    results = []
    for _ in range(2):
        machine.start()
        machine.run("train", example)
        machine.run("train", example)
        results.append((machine.guest.parameters.tobytes(), machine.guest["loss"].tobytes()))
    assert results[0] == results[1]


def test_frozen_parameters_stay(guest):
    machine = Machine(guest, build("lora"))
    frozen = [b.name for b in machine.manifest.of(Role.ROLE_FROZEN)]
    assert sorted(frozen) == ["0.base.bias", "0.base.weight"]
    before = machine.state()
    machine.run("train", example_of("lora", smooth=True))
    after = machine.state()
    for name, value in after.items():
        assert np.array_equal(value, before[name]) == (name in frozen), name


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_are_one_parameter(guest, tied):
    example = plain(example_of("gpt", tied=tied))
    machine = Machine(guest, build("gpt") if tied else compiled(example))
    assert ("head.weight" in machine.manifest.buffers) == (not tied)
    found = gradients(machine, example)
    for parameter, gradient in Twin(example).gradients(example).items():
        assert distance(found[parameter], gradient) < 1e-5, parameter


@pytest.mark.parametrize("name", ["mlp", "lenet5"])
def test_loss_on_real_digits(guest, name):
    """Rectified networks follow PyTorch while they learn something."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = np.kron(x.reshape(-1, 8, 8) / 16, np.ones((3, 3)))
    images = np.pad(images, ((0, 0), (2, 2), (2, 2))).astype("f4")
    example = example_of(name, batch=16, smooth=False)
    task = compile_model(**example, capacity=320)
    machine, twin = Machine(guest, task), Twin(example)
    shape = inputs_of(example)[0].shape[1:]
    losses = []
    for step in range(20):
        part = slice(16 * step, 16 * step + 16)
        rows = torch.from_numpy(images[part]).reshape(16, *shape)
        batch = {**example, "example": (rows, torch.from_numpy(y[part]).long())}
        before = float(machine.guest["loss"]), twin.total
        machine.run("train", batch)
        twin.train(batch, 16)
        losses.append((float(machine.guest["loss"]) - before[0], twin.total - before[1]))
    found, wanted = np.transpose(losses) / 16
    np.testing.assert_allclose(found, wanted, rtol=1e-2)
    assert wanted[-5:].mean() < wanted[:5].mean()


@pytest.mark.parametrize("name", ZOO)
def test_a_factory_gives_the_same_numbers_whatever_ran_before(name):
    first = ZOO[name](batch=1)
    torch.rand(3)
    second = ZOO[name](batch=1)
    for one, other in zip(first["model"].parameters(), second["model"].parameters(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(inputs_of(first), inputs_of(second), strict=True):
        assert torch.equal(one, other)
