"""Sums, products, extremes and questions over dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch.fx import Node

from cloister_tasks.compiler.expression import Apply, Constant, Expr, Index, count, variables
from cloister_tasks.compiler.ir import Reduction
from cloister_tasks.compiler.lower import Lowering, ctype_of, lowers, shape_of
from cloister_tasks.compiler.operators.creation import filled
from cloister_tasks.compiler.value import Point, Value, cast

aten = torch.ops.aten
Kind = Literal["sum", "prod", "max", "min", "any", "all", "argmax", "argmin"]


def reduce(
    lowering: Lowering, node: Node | Typed, kind: Kind, x: Value, dims: Sequence[int] | int | None
) -> Value:
    """Reduce over `dims` (all of them: None or none given)."""
    rank = len(x.shape)
    if isinstance(dims, int):
        dims = [dims]
    reduced = {d % rank for d in dims} if dims and rank else set(range(rank))
    ctype = ctype_of(node)
    keep = [1 if d in reduced else n for d, n in enumerate(x.shape)]
    target = Value.view(lowering.buffer(count(keep), ctype), keep)
    if x.size == 0:
        neutral = {"sum": 0, "prod": 1, "any": 0, "all": 1}[kind]
        return filled(node, neutral)
    point = variables(x.shape)
    index = target.at([Index() if d in reduced else i for d, i in enumerate(point)])
    assert not isinstance(index, (Apply, Constant))
    source: Expr = x.at(point)
    if kind in ("any", "all"):
        source = cast(source, "uint8_t")
    elif kind in ("sum", "prod"):
        source = cast(source, ctype)
    assert target.buffer is not None
    lowering.emit(Reduction(x.shape, frozenset(reduced), kind, target.buffer, index.index, source))
    return lowering.reshape(target, shape_of(node))


@lowers(aten.sum.dim_IntList, aten.sum.default)
def sum_(
    lowering: Lowering, node: Node, x: Value, dims: Any = None, *rest: Any, **options: Any
) -> Value:
    """Sum, in double precision."""
    if x.size == count(shape_of(node)) and x.size:  # over dimensions of size 1 only
        return cast_value(lowering.reshape(x, shape_of(node)), node)
    return reduce(lowering, node, "sum", x, dims)


def cast_value(x: Value, node: Node) -> Value:
    """A value in the node's element type."""
    ctype = ctype_of(node)
    return (
        x
        if x.ctype == ctype
        else Value.lazy(x.shape, ctype, lambda p: cast(x.at(p), ctype), x.cost)
    )


@lowers(aten.mean.dim, aten.mean.default)
def mean(
    lowering: Lowering, node: Node, x: Value, dims: Any = None, *rest: Any, **options: Any
) -> Value:
    """Sum over count."""
    shape = shape_of(node)
    total = sum_(lowering, node, x, dims)
    factor = count(shape) / x.size if x.size else float("nan")

    def load(point: Point) -> Expr:
        return Apply("({0} * {1})", (total.at(point), Constant(factor, "float")), "float")

    return Value.lazy(shape, "float", load, 1)


def _of(kind: Kind) -> Any:
    def lower(
        lowering: Lowering, node: Node, x: Value, dims: Any = None, *rest: Any, **options: Any
    ) -> Value:
        if kind not in ("argmax", "argmin") and x.size == count(shape_of(node)) and x.size:
            return cast_value(lowering.reshape(x, shape_of(node)), node)
        return reduce(lowering, node, kind, x, dims)

    return lower


lowers(aten.amax.default, aten.max.default)(_of("max"))
lowers(aten.amin.default, aten.min.default)(_of("min"))
lowers(aten.prod.default, aten.prod.dim_int)(_of("prod"))
lowers(aten.any.default, aten.any.dim, aten.any.dims)(_of("any"))
lowers(aten.all.default, aten.all.dim, aten.all.dims)(_of("all"))
lowers(aten.argmax.default)(_of("argmax"))
lowers(aten.argmin.default)(_of("argmin"))


def _extreme(kind: Kind, which: Kind) -> Any:
    def lower(
        lowering: Lowering, node: Node, x: Value, dim: int, keepdim: bool = False
    ) -> list[Value]:
        values, places = node.meta["val"]
        best = reduce(lowering, Typed(values), kind, x, dim)
        place = reduce(lowering, Typed(places), which, x, dim)
        return [best, place]

    return lower


class Typed:
    """Stands for a node with one of several results."""

    def __init__(self, value: torch.Tensor):
        self.meta = {"val": value}


lowers(aten.max.dim)(_extreme("max", "argmax"))
lowers(aten.min.dim)(_extreme("min", "argmin"))


@lowers(aten.cumsum.default)
def cumsum(lowering: Lowering, node: Node, x: Value, dim: int, **options: Any) -> Value:
    """Running sums, as a sum over all positions up to each (short dimensions only)."""
    dim %= max(len(x.shape), 1)
    if not x.shape:
        return x
    lowering.realize(x)
    ctype = ctype_of(node)
    length = x.shape[dim]
    domain = (*x.shape, length)
    point = variables(domain)
    upto = [*point[:-1]]
    upto[dim] = point[-1]
    from cloister_tasks.compiler.expression import Position

    value = Apply(
        "({0} <= {1} ? {2} : 0)",
        (Position(point[-1]), Position(point[dim]), cast(x.at(upto), ctype)),
        ctype,
    )
    target = Value.view(lowering.buffer(x.size, ctype), x.shape)
    index = target.at(point[:-1])
    assert target.buffer is not None
    assert not isinstance(index, (Apply, Constant))
    lowering.emit(
        Reduction(domain, frozenset({len(domain) - 1}), "sum", target.buffer, index.index, value)
    )
    return target
