"""Equal computations happen once; two draws stay two."""

from __future__ import annotations

import pytest
import torch
from torch.fx import Graph, GraphModule

from cloister_tasks.compiler.capture import traced_graph
from cloister_tasks.compiler.passes.deduplicate import deduplicate, keep_results

aten = torch.ops.aten


def graph_of(function, *example):
    groups = [("argument", {str(n): a for n, a in enumerate(example)})]
    return traced_graph(lambda *a: list(function(*a)), groups, [], False).graph


def targets(graph):
    return [node.target for node in graph.nodes if node.op == "call_function"]


def test_equal_nodes_become_one():
    def function(x):
        return x.exp() * 2 + x.exp() * 2, x.sum(0), x.sum(0)

    graph = graph_of(function, torch.ones(3, 4))
    deduplicate(graph)
    graph.lint()
    found = targets(graph)
    assert found.count(aten.exp.default) == 1
    assert found.count(aten.mul.Tensor) == 1
    assert found.count(aten.sum.dim_IntList) == 1
    x = torch.randn(3, 4)
    for got, wanted in zip(GraphModule({}, graph)(x), function(x), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("first", "second"), [(1, 1.0), (0, False), (1, True)], ids=["1 1.0", "0 False", "1 True"]
)
def test_numbers_of_two_types_are_two(first, second):
    graph = Graph()
    results = [graph.call_function(aten.full.default, ([2], n)) for n in (first, second)]
    graph.output(results)
    deduplicate(graph)
    assert len(targets(graph)) == 2


def test_other_arguments_are_other_nodes():
    graph = graph_of(lambda x: [x.sum(0), x.sum(1), x.sum(0, keepdim=True)], torch.ones(3, 3))
    deduplicate(graph)
    assert targets(graph).count(aten.sum.dim_IntList) == 3


@pytest.mark.parametrize(
    "draw",
    [lambda x: torch.dropout(x, 0.5, True), torch.rand_like, torch.randn_like, torch.bernoulli],
    ids=["dropout", "rand_like", "randn_like", "bernoulli"],
)
def test_two_draws_stay_two(draw):
    graph = graph_of(lambda x: [draw(x), draw(x)], torch.full((8,), 0.5))
    before = targets(graph)
    deduplicate(graph)
    left, right = next(n for n in graph.nodes if n.op == "output").args[0]
    assert left is not right
    random = {t for t in before if any(w in str(t) for w in ("rand", "bernoulli"))}
    assert random
    for target in random:
        assert targets(graph).count(target) == before.count(target) == 2


def test_only_what_the_wanted_results_need_is_kept():
    graph = graph_of(lambda x: [x.exp(), x.sin(), x.exp() + 1], torch.ones(3))
    kept = keep_results(graph, [False, True, False])
    assert targets(kept) == [aten.sin.default]
    assert targets(graph).count(aten.exp.default) >= 1
    x = torch.randn(3)
    (found,) = GraphModule({}, kept)(x)
    torch.testing.assert_close(found, x.sin())
    assert all("val" in n.meta for n in kept.nodes if n.op == "call_function")
