"""Sums of products over time become one product."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cloister_tasks.compiler.capture import traced_graph
from cloister_tasks.compiler.ir import Call
from cloister_tasks.compiler.passes import pipeline
from cloister_tasks.compiler.passes.gather_sums import FEWEST, gather_sums

from ..interpreter import evaluate
from ..program_cases import assert_same, lowered, memory_of

aten = torch.ops.aten


def graph_of(function, *example):
    groups = [("argument", {str(n): a for n, a in enumerate(example)})]
    return traced_graph(lambda *a: [r.clone() for r in function(*a)], groups, [], False).graph


def times(graph, target):
    return sum(node.target is target for node in graph.nodes)


def run(graph, *arguments):
    """The graph in torch."""
    module = torch.fx.GraphModule(torch.nn.Module(), graph)
    return module(*arguments)


def weight_gradient(steps):
    """sum_t g_t^T h_t and sum_t g_t, as a recurrent network has them."""

    def function(g, h):
        products = [g[t].T @ h[t] for t in range(steps)]
        sums = [g[t].sum(0, keepdim=True).view(-1) for t in range(steps)]
        return sum(products[1:], products[0]), sum(sums[1:], sums[0])

    return function


@pytest.mark.parametrize("steps", range(FEWEST - 1, 7))
def test_one_product_instead_of_one_per_step(steps):
    torch.manual_seed(steps)
    g, h = (torch.randn(steps, 5, n, dtype=torch.float64) for n in (2, 3))
    graph = graph_of(weight_gradient(steps), g.float(), h.float())
    assert times(graph, aten.mm.default) == steps
    gather_sums(graph)
    graph.lint()
    expected = 1 if steps >= FEWEST else steps
    assert times(graph, aten.mm.default) == expected
    assert times(graph, aten.sum.dim_IntList) == expected
    product, total = run(graph, g, h)
    torch.testing.assert_close(product, torch.einsum("tbi,tbj->ij", g, h))
    torch.testing.assert_close(total, g.sum((0, 1)))


def test_other_terms_stay_in_the_sum():
    torch.manual_seed(0)
    g, h, w = (torch.randn(*s, dtype=torch.float64) for s in ((4, 5, 2), (4, 5, 3), (2, 3)))

    def function(g, h, w):
        total = w.tanh()
        for t in range(4):
            total = total + g[t].T @ h[t]
        return (total + 2 * w,)

    graph = graph_of(function, g.float(), h.float(), w.float())
    gather_sums(graph)
    graph.lint()
    assert times(graph, aten.mm.default) == 1
    (found,) = run(graph, g, h, w)
    torch.testing.assert_close(found, *function(g, h, w))


def test_a_product_used_elsewhere_is_still_there():
    def function(g, h):
        products = [g[t].T @ h[t] for t in range(4)]
        return sum(products[1:], products[0]), products[2]

    g, h = (torch.randn(4, 5, n, dtype=torch.float64) for n in (2, 3))
    graph = graph_of(function, g.float(), h.float())
    gather_sums(graph)
    assert times(graph, aten.mm.default) == 2
    for found, wanted in zip(run(graph, g, h), function(g, h), strict=True):
        torch.testing.assert_close(found, wanted)


def test_scaled_additions_are_not_taken_apart():
    def function(g, h):
        total = g[0].T @ h[0]
        for t in range(1, 4):
            total = torch.add(total, g[t].T @ h[t], alpha=2)
        return (total,)

    g, h = (torch.randn(4, 5, n, dtype=torch.float64) for n in (2, 3))
    graph = graph_of(function, g.float(), h.float())
    gather_sums(graph)
    (found,) = run(graph, g, h)
    torch.testing.assert_close(found, *function(g, h))


def test_sums_of_two_shapes_are_kept_apart():
    def function(g, h):
        wide, high = g[0].T @ h[0], h[0].T @ g[0]
        for t in range(1, 4):
            wide, high = wide + g[t].T @ h[t], high + h[t].T @ g[t]
        return wide, high

    g, h = (torch.randn(4, 5, n, dtype=torch.float64) for n in (2, 3))
    graph = graph_of(function, g.float(), h.float())
    gather_sums(graph)
    assert times(graph, aten.mm.default) == 2
    for found, wanted in zip(run(graph, g, h), function(g, h), strict=True):
        torch.testing.assert_close(found, wanted)


def test_two_permutations_are_one_or_none():
    def function(x):
        turned = x.permute(1, 2, 0)
        return turned.permute(2, 0, 1) * 2, turned.permute(1, 0, 2) * 3

    x = torch.randn(2, 3, 4, dtype=torch.float64)
    graph = graph_of(function, x.float())
    gather_sums(graph)
    assert times(graph, aten.permute.default) == 1
    for found, wanted in zip(run(graph, x), function(x), strict=True):
        torch.testing.assert_close(found, wanted)


def test_an_unrolled_recurrent_network_makes_one_product_per_weight():
    steps, batch, size = 5, 3, 4
    torch.manual_seed(0)
    x, u, w = torch.randn(steps, batch, 2), torch.randn(size, size), torch.randn(size, 2)

    def loss(u: Tensor, w: Tensor, x: Tensor) -> Tensor:
        state = x.new_zeros(batch, size)
        for row in x:
            state = torch.tanh(state @ u.T + row @ w.T)
        return state.square().sum()

    def gradients(u, w, x):
        return torch.func.grad(loss, (0, 1))(u, w, x)

    example = (u, w, x)
    graph = graph_of(gradients, *example)
    before = times(graph, aten.mm.default)
    gathered = pipeline.graph(graph, [True, True])
    assert times(gathered, aten.mm.default) <= before - 2 * (steps - 2)
    program = lowered(gradients, *example)
    assert sum(isinstance(k, Call) for k in program.kernels) == times(gathered, aten.mm.default)
    memory = memory_of(program)
    by_name = {b.name: memory[b] for b in memory}
    exact = [
        torch.from_numpy(by_name[f"argument{n}"]).reshape(a.shape) for n, a in enumerate(example)
    ]
    found = evaluate(program, memory)
    assert_same(found, {str(n): g.numpy().ravel() for n, g in enumerate(gradients(*exact))})
