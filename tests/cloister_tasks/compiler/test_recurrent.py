"""The definitions of recurrent layers against torch's own, forwards and backwards, in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from cloister_tasks.compiler.recurrent import Recurrent

TIME, BATCH, FEATURES, HIDDEN = 4, 3, 2, 5
OPTIONS = [
    {"num_layers": n, "bidirectional": b, "batch_first": f, "bias": bias}
    for n, b, f, bias in itertools.product((1, 2), (False, True), (False, True), (True, False))
]


def network(kind, seed=0, **options):
    torch.manual_seed(seed)
    return kind(FEATURES, HIDDEN, **options).double()


def ends_of(layer, batch=BATCH):
    """Initial states."""
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    states = [torch.randn(rows, batch, HIDDEN, dtype=torch.float64) for _ in range(2)]
    for state in states:
        state.requires_grad_()
    return tuple(states) if isinstance(layer, nn.LSTM) else states[0]


def flat(outcome):
    """Output and last states in one list."""
    output, last = outcome
    return [output, *(last if isinstance(last, tuple) else [last])]


def run(layer, x, first, *, ours):
    """Results, and gradients of a weighted sum of them by everything there is."""
    if ours:
        with Recurrent():
            found = flat(layer(x, first))
    else:
        found = flat(layer(x, first))
    total = sum((r * torch.linspace(-1, 2, r.numel()).view(r.shape)).sum() for r in found)
    given = [] if first is None else list(first) if isinstance(first, tuple) else [first]
    return [*found, *torch.autograd.grad(total, [x, *layer.parameters(), *given])]


@pytest.mark.parametrize("start", [False, True], ids=["zeros", "given"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "".join(str(int(v)) for v in o.values()))
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_results_and_gradients_are_torchs(kind, options, start):
    layer = network(kind, dropout=0.0, **options)
    shape = (BATCH, TIME) if options["batch_first"] else (TIME, BATCH)
    x = torch.randn(*shape, FEATURES, dtype=torch.float64, requires_grad=True)
    first = ends_of(layer) if start else None
    for found, wanted in zip(
        run(layer, x, first, ours=True), run(layer, x, first, ours=False), strict=True
    ):
        assert found.shape == wanted.shape
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_the_operators_are_used(kind):
    """And nothing of torch's fused kernels."""
    layer = network(kind)
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with Watch(), Recurrent():
        layer(torch.zeros(TIME, BATCH, FEATURES, dtype=torch.float64))
    assert f"cloister.{kind.__name__.lower()}.default" in seen


@pytest.mark.parametrize("time", [1, 2])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_gradients_are_those_of_finite_differences(kind, time):
    layer = network(kind)
    x = torch.randn(time, 2, FEATURES, dtype=torch.float64, requires_grad=True)
    first = ends_of(layer, 2)
    given = list(first) if isinstance(first, tuple) else [first]

    def function(x, *rest):
        states, weights = rest[: len(given)], rest[len(given) :]
        named = dict(zip(dict(layer.named_parameters()), weights, strict=True))
        start = tuple(states) if len(given) > 1 else states[0]
        with Recurrent():
            return tuple(flat(torch.func.functional_call(layer, named, (x, start))))

    weights = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(function, (x, *given, *weights), atol=1e-7)


def shapes(result):
    return [tuple(r.shape) for r in result]


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_fake_tensors_have_the_shapes_of_real_ones(name):
    """What tracing believes is what running gives; also of the gradients."""
    width = (4 if name == "lstm" else 3) * HIDDEN

    def operands():
        x, state = torch.randn(TIME, BATCH, width), torch.randn(BATCH, HIDDEN)
        weight, bias = torch.randn(width, HIDDEN), torch.randn(width)
        return (x, state, state, weight) if name == "lstm" else (x, state, weight, bias)

    def both():
        x, state, *rest = operands()
        forward = getattr(torch.ops.cloister, name)(x, state, *rest)
        states, second, third = forward
        weight = rest[1] if name == "lstm" else rest[0]
        if name == "lstm":
            given = (torch.zeros_like(states), state, third, second, state, weight)
        else:
            given = (torch.zeros_like(states), second, third, states, state, weight)
        backward = getattr(torch.ops.cloister, f"{name}_backward")(*given)
        return shapes(forward), shapes(backward)

    with torch._subclasses.FakeTensorMode():
        fake = both()
    assert fake == both()


def test_dropout_between_layers_is_drawn_only_in_training():
    layer = network(nn.LSTM, num_layers=2, dropout=0.5)
    x = torch.randn(TIME, BATCH, FEATURES, dtype=torch.float64)
    with Recurrent():
        layer.train()
        assert not torch.equal(layer(x)[0], layer(x)[0])
        layer.eval()
        assert torch.equal(layer(x)[0], layer(x)[0])
        torch.testing.assert_close(layer(x)[0], network(nn.LSTM, num_layers=2).eval()(x)[0])


def test_what_it_does_not_know_is_left_to_torch():
    """Projections, packed sequences, one sequence without a batch, plain recurrent layers."""
    x = torch.randn(TIME, BATCH, FEATURES, dtype=torch.float64)
    projected = network(nn.LSTM, proj_size=3)
    layer = network(nn.GRU)
    plain = network(nn.RNN)
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 3, 1]))
    with Recurrent():
        found = [projected(x)[0], layer(packed)[0].data, layer(x[:, 0])[0], plain(x)[0]]
    wanted = [projected(x)[0], layer(packed)[0].data, layer(x[:, 0])[0], plain(x)[0]]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
