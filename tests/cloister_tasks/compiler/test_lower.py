"""Graphs as programs: what is written where, in which order, and what is refused."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cloister_tasks.compiler.emit import Functions
from cloister_tasks.compiler.expression import Buffer
from cloister_tasks.compiler.ir import Call, Loop
from cloister_tasks.compiler.lower import COST_KEPT, CTYPES, OPERATORS, Lowering, lowers
from cloister_tasks.compiler.passes import pipeline
from cloister_tasks.compiler.plan import plan

from .interpreter import evaluate
from .program_cases import assert_same, lowered, memory_of, numbers, training_step


def results(function, *example):
    """A function's results by its program and by torch, both in float64."""
    program = lowered(function, *example)
    arguments = []
    for n, a in enumerate(example):
        content = torch.from_numpy(numbers(f"argument{n}", CTYPES[a.dtype], a.numel()))
        kind = torch.bool if a.dtype == torch.bool else content.dtype
        arguments.append(content.reshape(a.shape).to(kind))
    wanted = {str(n): r.double().numpy().ravel() for n, r in enumerate(function(*arguments))}
    return program, evaluate(program, memory_of(program)), wanted


x, y, flags = torch.zeros(3, 4), torch.zeros(4), torch.zeros(3, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y, f: [x + y, x.T @ x, (x * y).sum(0)],
        lambda x, y, f: [torch.softmax(x, 1), functional.layer_norm(x, (4,))],
        lambda x, y, f: [torch.cat([x, x.flip(0)]), torch.where(f, x, -x)],
        lambda x, y, f: [x[1:, ::2].reshape(-1), x.unfold(1, 2, 1).sum(-1)],
        lambda x, y, f: [x.permute(1, 0).reshape(2, 6), torch.stack([y, y.exp()])],
        lambda x, y, f: [torch.func.grad(lambda v: (v @ y).tanh().square().sum())(x)],
        lambda x, y, f: [x, x.T, y.expand(3, 4), x[0]],
        lambda x, y, f: [x.argmax(1), x.amax(0), f.any(1), f.all(0)],
    ],
)
def test_programs_compute_what_torch_computes(function):
    program, found, wanted = results(function, x, y, flags)
    assert_same(found, wanted)
    pipeline.run(program)
    assert_same(evaluate(program, memory_of(program), seed=1), wanted)


def test_every_result_has_memory_of_its_own():
    program = lowered(lambda x: [x, x + 1, x.T, x[:1]], torch.zeros(3, 4))
    buffers = list(program.results.values())
    assert all(b.place is None for b in buffers)
    assert [b.size for b in buffers] == [12, 12, 12, 4]
    assert len(set(buffers)) == 4


def test_an_expression_with_one_user_is_not_stored():
    (loop,) = lowered(lambda x: [((x + 1) * 2).exp().sqrt()], x).kernels
    assert isinstance(loop, Loop)


def test_costly_expressions_with_many_users_are_stored_once():
    def shared(x):
        e = x.exp()
        return [e + 1, e * 2]

    cheap = lowered(lambda x: [v := x + 1, v * 2], x)
    assert str(lowered(shared, x)).count("exp_f32") == 1
    assert COST_KEPT < 12
    assert len(cheap.kernels) == 2


@pytest.mark.parametrize("shape", [(), (1,), (3, 4)])
@pytest.mark.parametrize(
    "step",
    [
        lambda v: v * torch.sigmoid(v),
        lambda v: v * v,
        lambda v: v**3,
        lambda v: torch.where(v > 0.1, v, -0.5 * v.tanh()),
    ],
)
def test_what_is_written_grows_no_faster_than_the_graph(shape, step):
    def chained(steps):
        def run(v):
            for _ in range(steps):
                v = step(v)
            return [v]

        program = lowered(run, torch.zeros(shape))
        pipeline.run(program)
        plan(program)
        functions = Functions()
        for kernel in program.kernels:
            functions.invoke(kernel, None)
        return len(functions.definitions())

    # Whole groups of steps, so that neither end falls between two that are stored.
    assert chained(48) < 2.5 * chained(24)
    assert chained(24) < 40_000


class Network(nn.Module):
    """Two layers, one of them used twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 2)

    def forward(self, x):
        return self.second(self.first(self.first(x).tanh()).sigmoid())


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.AdamW(p, 0.1),
}
SCALARS = {
    "learning_rate": 0.1,
    "momentum": 0.9,
    "rate": 0.1 / (1 - 0.9),
    "root": np.sqrt(1 - 0.999),
    "rest1": 1 - 0.9,
    "rest2": 1 - 0.999,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "decay": 1 - 0.1 * 0.01,
}
LOSSES = {
    "classes": (functional.cross_entropy, torch.tensor([0, 1, 1, 0, 1])),
    "numbers": (functional.mse_loss, torch.linspace(-1, 1, 10).reshape(5, 2)),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_training_step_is_torchs(optimizer, loss):
    """Before and after all passes, in float64, without a machine."""
    torch.manual_seed(0)
    model, (loss_of, target) = Network(), LOSSES[loss]
    features = torch.randn(5, 3)
    program = training_step(
        model, loss_of, OPTIMIZERS[optimizer](model.parameters()), features, target
    )

    def step():
        memory = memory_of(program)
        for buffer in memory:
            kind, _, name = buffer.name.partition(".")
            values = {
                "parameter": lambda name=name: model.get_parameter(name).detach(),
                "input": lambda: features,
                "target": lambda: target,
                "weight": lambda: torch.full((5,), 1 / 5),
                "scalar": lambda name=name: torch.tensor([SCALARS[name]], dtype=torch.float64),
            }.get(kind, lambda size=buffer.size: torch.zeros(size))()
            memory[buffer][:] = values.double().numpy().ravel()
        found = evaluate(program, memory)
        after = {b.name[10:]: a for b, a in memory.items() if b.name.startswith("parameter.")}
        return found["metric loss"], after

    twin = copy.deepcopy(model).double()
    steps = OPTIMIZERS[optimizer](twin.parameters())
    goal = target.double() if target.is_floating_point() else target
    output = twin(features.double())
    rows = [loss_of(output[n : n + 1], goal[n : n + 1]).item() for n in range(5)]
    loss_of(output, goal).backward()
    steps.step()
    for passes in (lambda p: None, pipeline.run):
        passes(program)
        losses, after = step()
        np.testing.assert_allclose(losses, rows, rtol=1e-6)
        assert after.keys() == dict(model.named_parameters()).keys()
        for name, value in twin.named_parameters():
            np.testing.assert_allclose(
                after[name], value.detach().numpy().ravel(), rtol=1e-6, atol=1e-8
            )


def test_a_swap_of_two_parameters_reads_before_it_writes():
    """Results that overwrite what another result reads."""

    graph = torch.fx.Graph()
    nodes = [graph.placeholder(n) for n in "ab"]
    for node in nodes:
        node.meta["val"] = torch.zeros(3)
    graph.output([nodes[1], nodes[0]])
    a, b = Buffer("a", "float", 3, "a"), Buffer("b", "float", 3, "b")
    lowering = Lowering("swap", [a, b], {}, set())
    program = lowering.run(graph, [a, b])
    memory = memory_of(program)
    before = {buffer: memory[buffer].copy() for buffer in (a, b)}
    evaluate(program, memory)
    np.testing.assert_array_equal(memory[a], before[b])
    np.testing.assert_array_equal(memory[b], before[a])


def test_data_dependent_rows_are_checked_before_anything_runs():
    table = torch.zeros(7, 2)
    program = lowered(lambda t, i: [t[i]], table, torch.zeros(3, dtype=torch.int64))
    (check,) = program.checks
    assert check.size == 7
    assert check.domain == (3,)


def test_the_table_takes_handlers_for_several_operators():
    targets = ("one of the tests", "another of the tests")
    try:
        handler = lowers(*targets)(lambda *a: None)
        assert OPERATORS[targets[0]] is OPERATORS[targets[1]] is handler
    finally:
        for target in targets:
            OPERATORS.pop(target, None)


def test_products_are_calls_of_the_library():
    (call,) = lowered(lambda a, b: [a @ b], torch.zeros(2, 3), torch.zeros(3, 4)).kernels
    assert isinstance(call, Call)
    assert (call.form.m, call.form.n, call.form.k) == (2, 4, 3)


def test_integers_have_32_bits_and_booleans_are_bytes():
    kept = {CTYPES[d] for d in CTYPES if d != torch.bool and not d.is_floating_point}
    assert kept == {"int32_t"}
    assert CTYPES[torch.bool] == "uint8_t"
    assert torch.float64 not in CTYPES
