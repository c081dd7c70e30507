"""One node for each distinct computation of a graph, and none that nobody needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

aten = torch.ops.aten
_RANDOM = {
    aten.bernoulli.p,
    aten.bernoulli.default,
    aten.rand.default,
    aten.rand_like.default,
    aten.randn.default,
    aten.randn_like.default,
}
"""Two of these are two draws."""


def keep_results(graph: Graph, wanted: Sequence[bool]) -> Graph:
    """A copy of a graph that gives some of its results only."""
    copy = Graph()
    nodes: dict[Node, Node] = {}
    copy.graph_copy(graph, nodes)
    output = next(node for node in graph.nodes if node.op == "output")
    results = output.args[0]
    copy.output([nodes[r] for r, keep in zip(results, wanted, strict=True) if keep])
    copy.eliminate_dead_code()
    return copy


def deduplicate(graph: Graph) -> None:
    """Let equal nodes become one."""
    seen: dict[Any, Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target in _RANDOM:
            continue
        key = (node.target, _hashable(node.args), _hashable(node.kwargs))
        known = seen.setdefault(key, node)
        if known is not node:
            node.replace_all_uses_with(known)
            graph.erase_node(node)


def _hashable(argument: Any) -> Any:
    if isinstance(argument, (list, tuple)):
        return tuple(_hashable(a) for a in argument)
    if isinstance(argument, dict):
        return tuple((k, _hashable(v)) for k, v in sorted(argument.items()))
    if isinstance(argument, (int, float, bool)):
        return (type(argument), argument)
    return argument
