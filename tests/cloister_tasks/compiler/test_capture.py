"""What is found out about a model, and that it is left as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cloister_tasks.compiler import compilation
from cloister_tasks.compiler import compile as compile_model
from cloister_tasks.compiler.capture import Example, Subject, behaviour, evaluation, training
from cloister_tasks.compiler.optimizers import rule
from cloister_tasks.errors import BuildError

FEATURES = torch.linspace(-1, 1, 12).reshape(4, 3)
LABELS = torch.tensor([0, 1, 1, 0])


def subject(model=None, loss=functional.cross_entropy, inputs=(FEATURES,), target=LABELS):
    torch.manual_seed(0)
    model = nn.Linear(3, 2) if model is None else model
    return Subject(
        model, loss, rule(torch.optim.SGD(model.parameters(), 0.1)), Example(inputs, target)
    )


def compiled(monkeypatch, model, loss, example, **options):
    """Compile all the way but for the C compiler."""
    monkeypatch.setattr(compilation, "compile_c", lambda *a, **k: b"")
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return compile_model(model, loss, optimizer, example, **options)


@pytest.mark.parametrize(
    ("loss", "reduction"),
    [
        (functional.cross_entropy, "mean"),
        (lambda o, t: functional.cross_entropy(o, t, reduction="sum"), "sum"),
        (lambda o, t: functional.cross_entropy(o, t) ** 2, "batch"),
        (lambda o, t: functional.cross_entropy(o, t) + o.var(), "batch"),
        (lambda o, t: functional.cross_entropy(o, t, reduction="sum") / 7, "sum"),
        (lambda o, t: functional.cross_entropy(o, t, label_smoothing=0.1), "mean"),
        (lambda o, t: functional.cross_entropy(o, t, weight=torch.tensor([1.0, 9.0])), "batch"),
        (lambda o, t: functional.cross_entropy(o, t)[None], "mean"),
    ],
    ids=["mean", "sum", "square", "variance", "seventh", "smooth", "weighted", "one_element"],
)
def test_reductions(loss, reduction):
    how = behaviour(subject(loss=loss))
    assert how.reduction == reduction
    assert not how.coupled
    assert how.maskable is (reduction != "batch")


class Centred(nn.Module):
    """Rows see the batch's mean."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x - x.mean(0))


@pytest.mark.parametrize(
    ("layers", "coupled"),
    [
        ([nn.BatchNorm1d(3)], True),
        ([nn.LayerNorm(3)], False),
        ([nn.Dropout(0.5)], False),
        ([nn.Dropout(0.5), nn.BatchNorm1d(3, track_running_stats=False)], True),
        ([Centred(), nn.Linear(2, 3)], True),
    ],
    ids=["batch_norm", "layer_norm", "dropout", "both", "centred"],
)
def test_rows_that_influence_each_other_are_noticed(layers, coupled):
    how = behaviour(subject(nn.Sequential(*layers, nn.Linear(3, 2))))
    assert how.coupled is coupled
    assert how.maskable is not coupled


def test_one_row_alone_is_judged_by_its_layers():
    one = {"inputs": (torch.ones(1, 1, 3, 3),), "target": LABELS[:1]}
    for norm, coupled in ((nn.BatchNorm2d(1), True), (nn.GroupNorm(1, 1), False)):
        model = nn.Sequential(norm, nn.Flatten(), nn.Linear(9, 2))
        assert behaviour(subject(model, **one)).coupled is coupled


def test_frozen_batch_norm_couples_nothing():
    class Frozen(nn.BatchNorm1d):
        def train(self, mode=True):
            return super().train(False)

    assert not behaviour(subject(nn.Sequential(Frozen(3), nn.Linear(3, 2)))).coupled


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda o, t: functional.cross_entropy(o, t, reduction="none"), "one number"),
        (lambda o, t: 1.0, "one number"),
        (lambda o, t: (o[1:] - o[:1]).square().mean() + o[1].sum(), "row by row"),
        (lambda o, t: o.sum() * float(t.sum()), "row by row"),
    ],
    ids=["rows", "no_tensor", "second_row", "item"],
)
def test_losses_that_do_not_do_are_refused(loss, message):
    with pytest.raises(BuildError, match=message):
        behaviour(subject(loss=loss))


class Everything(nn.Module):
    """Buffers that change, randomness, frozen parameters."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.5)
        self.last = nn.Linear(4, 2)
        self.last.requires_grad_(False)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.last(self.dropout(self.norm(self.first(x))))


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_model_optimizer_and_randomness_stay_as_they_were(mode, monkeypatch):
    torch.manual_seed(3)
    model = Everything().train(mode)
    model.norm.train(not mode)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    state, options = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    identities = {name: id(t) for name, t in model.state_dict(keep_vars=True).items()}
    flags = [m.training for m in model.modules()]
    example = (FEATURES.clone(), LABELS.clone())
    random = torch.get_rng_state()
    monkeypatch.setattr(compilation, "compile_c", lambda *a, **k: b"")
    compile_model(model, functional.cross_entropy, optimizer, example, proximal=0.1)
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in model.modules()] == flags
    assert {n: id(t) for n, t in model.state_dict(keep_vars=True).items()} == identities
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert optimizer.state_dict() == options
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(example[0], FEATURES)
    assert torch.equal(example[1], LABELS)


def test_the_input_may_be_the_target(monkeypatch):
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3))
    task = compiled(monkeypatch, model, functional.mse_loss, (FEATURES, FEATURES))
    reads = {b.name for k in task.programs["train"].kernels for b in k.reads()}
    assert {"input.0", "target"} <= reads


class Two(nn.Module):
    """Two inputs, the second with a default."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, left, right=None):
        return self.layer(left) if right is None else self.layer(left - right)


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (FEATURES, ["features"]),
        ((FEATURES,), ["features"]),
        ((FEATURES, FEATURES + 1), ["left", "right"]),
        ([FEATURES, FEATURES + 1], ["left", "right"]),
        ({"right": FEATURES + 1, "left": FEATURES}, ["left", "right"]),
        ({"left": FEATURES}, ["left"]),
    ],
    ids=["tensor", "one", "tuple", "list", "mapping", "mapping_of_one"],
)
def test_inputs_in_every_form(inputs, names, monkeypatch):
    task = compiled(monkeypatch, Two(), functional.cross_entropy, (inputs, LABELS))
    for name in [*names, "label"]:
        assert f'"{name}", CLOISTER_ROLE_INPUT' in task.source
    assert task.source.count("CLOISTER_ROLE_INPUT") == len(names) + 1


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (FEATURES, "has to be .inputs, target."),
        ((FEATURES, LABELS, LABELS), "has to be .inputs, target."),
        (({"middle": FEATURES}, LABELS), "no argument 'middle'; it has left, right"),
        (((FEATURES,) * 3, LABELS), "3 inputs; forward takes 2"),
        ((FEATURES.double(), LABELS), "features is torch.float64; give float32"),
        ((FEATURES, LABELS[:2]), "features has 4 rows, the target 2"),
        ((FEATURES, torch.tensor(1.0)), "at least one row"),
        ((FEATURES[:0], LABELS[:0]), "at least one row"),
        ((FEATURES.numpy(), LABELS), "has to be a tensor"),
    ],
    ids=lambda x: None if isinstance(x, str) else "",
)
def test_examples_that_do_not_do_are_refused(example, message):
    model = Two()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(BuildError, match=message):
        compile_model(model, functional.cross_entropy, optimizer, example)


class Tied(nn.Module):
    """One matrix for the way in and the way out."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.table.weight

    def forward(self, x):
        return self.out(self.table(x))


def test_tied_weights_are_one_parameter():
    torch.manual_seed(0)
    model = Tied()
    tokens = torch.tensor([1, 4, 2])
    it = subject(model, inputs=(tokens,), target=tokens)
    assert list(it.trained) == ["table.weight"]
    captured = training(it, behaviour(it))
    assert [name for kind, name in captured.inputs if kind == "parameter"] == ["table.weight"]
    values = {"table.weight": model.table.weight.detach()}
    arguments = []
    for kind, name in captured.inputs:
        arguments.append(
            {
                "parameter": values.get(name),
                "scalar": torch.tensor(0.1),
                "input": tokens,
                "target": tokens,
                "weight": torch.full((3,), 1 / 3),
            }[kind]
        )
    module = torch.fx.GraphModule(captured.constants, captured.graph)
    after = dict(zip(captured.results, module(*arguments), strict=True))
    functional.cross_entropy(model(tokens), tokens).backward()
    wanted = model.table.weight.detach() - 0.1 * model.table.weight.grad
    torch.testing.assert_close(after["parameter", "table.weight"], wanted)


def test_running_buffers_are_found_and_go_in_and_out():
    it = subject(Everything())
    assert set(it.running) == {
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
        "calls",
    }
    assert set(it.trained) == {"first.weight", "first.bias", "norm.weight", "norm.bias"}
    assert set(it.frozen) == {"last.weight", "last.bias"}
    captured = training(it, behaviour(it))
    assert {n for kind, n in captured.results if kind == "running"} == set(it.running)
    plain = evaluation(it)
    assert {kind for kind, _ in plain.results} == {"output", "metric"}
    assert all("bernoulli" not in str(n.target) for n in plain.graph.nodes)


class Branching(nn.Module):
    """What no graph can hold."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else self.layer(-x)


def test_branches_on_values_are_refused_and_explained():
    it = subject(Branching())
    with pytest.raises(BuildError, match=r"may not branch on the values.*torch\.where"):
        training(it, behaviour(it))


def test_a_model_that_fails_by_itself_is_told_so():
    model = nn.Linear(5, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(BuildError, match="without any compiler: RuntimeError"):
        compile_model(model, functional.cross_entropy, optimizer, (FEATURES, LABELS))


def test_a_model_without_parameters_is_refused():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.requires_grad_(False)
    with pytest.raises(BuildError, match="nothing to train"):
        compile_model(model, functional.cross_entropy, optimizer, (FEATURES, LABELS))


def test_metrics_are_measured_row_by_row():
    it = subject()
    it.metrics = {"size": lambda o, t: o.abs().sum(1)}
    captured = evaluation(it)
    names = [name for kind, name in captured.results if kind == "metric"]
    assert names == ["loss", "size"]
    values = {**it.trained, "0": FEATURES, "": LABELS}
    module = torch.fx.GraphModule(captured.constants, captured.graph)
    output, rows, size = module(*(values[name] for _, name in captured.inputs))
    wanted = functional.linear(FEATURES, it.trained["weight"], it.trained["bias"])
    torch.testing.assert_close(output, wanted)
    torch.testing.assert_close(rows, functional.cross_entropy(wanted, LABELS, reduction="none"))
    np.testing.assert_allclose(size, wanted.abs().sum(1), rtol=1e-6)
