"""A sum of products over time steps becomes one product: of the steps' factors, one on another.

The gradient of a recurrent network's weights is ``sum_t g_t^T h_t``. As one product of the stacked
``g`` and ``h`` it runs at the speed of a large matrix product; the same for its biases' sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

aten = torch.ops.aten
FEWEST = 3
"""Terms from which it is worth while."""


def gather_sums(graph: Graph) -> None:
    """Rewrite every such sum of a graph."""
    _merge_permutations(graph)
    stacks: dict[tuple[Node, ...], Node] = {}
    for node in list(graph.nodes):
        if node.target is not aten.add.Tensor or not _is_root(node):
            continue
        terms = _terms(node)
        kinds: dict[object, list[Node]] = {}
        for term in terms:
            kinds.setdefault(_kind(term), []).append(term)
        for kind, members in kinds.items():
            if kind is None or len(members) < FEWEST:
                continue
            with graph.inserting_before(node):
                whole = _gathered(graph, members, stacks)
            rest = [t for t in terms if t not in set(members)]
            terms = [whole, *rest]
        if len(terms) < len(_terms(node)):
            with graph.inserting_before(node):
                total = terms[0]
                for term in terms[1:]:
                    total = _call(graph, aten.add.Tensor, (total, term), node.meta["val"])
            node.replace_all_uses_with(total)
    graph.eliminate_dead_code()


def _merge_permutations(graph: Graph) -> None:
    """A permutation of a permutation is one permutation, or nothing."""
    for node in list(graph.nodes):
        if node.target is not aten.permute.default:
            continue
        inner = node.args[0]
        if not isinstance(inner, Node) or inner.target is not aten.permute.default:
            continue
        outer: Any = node.args[1]
        first: Any = inner.args[1]
        rank = len(outer)
        order = [first[d % rank] % rank for d in outer]
        if order == list(range(rank)):
            node.replace_all_uses_with(inner.args[0])
        else:
            node.args = (inner.args[0], order)
    graph.eliminate_dead_code()


def _is_root(node: Node) -> bool:
    """No sum takes this one up as a term of its own."""
    users = list(node.users)
    return not (len(users) == 1 and users[0].target is aten.add.Tensor and not users[0].kwargs)


def _terms(root: Node) -> list[Node]:
    """What a tree of additions adds."""
    if root.kwargs or not all(isinstance(a, Node) for a in root.args):
        return [root]
    shape = root.meta["val"].shape
    found: list[Node] = []
    stack = list(reversed(root.args))
    while stack:
        term = stack.pop()
        assert isinstance(term, Node)
        inner = (
            term.target is aten.add.Tensor
            and len(term.users) == 1
            and not term.kwargs
            and all(isinstance(a, Node) and a.meta["val"].shape == shape for a in term.args)
        )
        if inner:
            stack.extend(reversed(term.args))
        else:
            found.append(term)
    return found


def _kind(term: Node) -> object:
    """Terms of one kind can be gathered; None: not of any kind."""
    if len(term.users) != 1:
        return None
    if term.target is aten.mm.default:
        left, right = term.args
        if isinstance(left, Node) and left.target is aten.permute.default:
            return ("mm", left.meta["val"].shape[0], right.meta["val"].shape[1])  # type: ignore[union-attr]
    if term.target is aten.view.default:
        inner = term.args[0]
        if isinstance(inner, Node) and len(inner.users) == 1 and _sums_rows(inner):
            return ("sum", inner.args[0].meta["val"].shape[1], tuple(term.meta["val"].shape))  # type: ignore[union-attr]
    return None


def _sums_rows(node: Node) -> bool:
    """A matrix summed over its rows."""
    return (
        node.target is aten.sum.dim_IntList
        and list(node.args[1]) == [0]  # type: ignore[arg-type]
        and len(node.args[0].meta["val"].shape) == 2  # type: ignore[union-attr]
    )


def _gathered(graph: Graph, terms: Sequence[Node], stacks: dict[tuple[Node, ...], Node]) -> Node:
    """One node for a sum of terms of one kind."""
    first = terms[0]
    if first.target is aten.mm.default:
        left = _stack(graph, [t.args[0].args[0] for t in terms], stacks)  # type: ignore[union-attr, misc]
        right = _stack(graph, [t.args[1] for t in terms], stacks)  # type: ignore[misc]
        turned = _call(
            graph, aten.permute.default, (left, [1, 0]), left.meta["val"].transpose(0, 1)
        )
        return _call(graph, aten.mm.default, (turned, right), first.meta["val"])
    inner = first.args[0]
    assert isinstance(inner, Node)
    rows = _stack(graph, [t.args[0].args[0] for t in terms], stacks)  # type: ignore[union-attr, misc]
    total = _call(graph, aten.sum.dim_IntList, (rows, *inner.args[1:]), inner.meta["val"])
    return _call(graph, aten.view.default, (total, first.args[1]), first.meta["val"])


def _stack(graph: Graph, parts: Sequence[Node], stacks: dict[tuple[Node, ...], Node]) -> Node:
    key = tuple(parts)
    if key not in stacks:
        sample = parts[0].meta["val"]
        rows = sum(p.meta["val"].shape[0] for p in parts)
        value = sample.new_empty((rows, *sample.shape[1:]))
        stacks[key] = _call(graph, aten.cat.default, (list(parts), 0), value)
    return stacks[key]


def _call(graph: Graph, target: object, arguments: tuple[object, ...], value: object) -> Node:
    node = graph.call_function(target, arguments)  # type: ignore[arg-type]
    node.meta["val"] = value
    return node
