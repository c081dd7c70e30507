"""Operators whose indices come from data. No such index reaches memory unchecked.

Indices that depend on the rows alone (labels, tokens) are checked before the program runs, so that
a bad one is reported with its row and nothing has changed; others are held in range where they are
used, and the call fails afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from cloister_tasks.compiler.expression import (
    Apply,
    Constant,
    CType,
    Dynamic,
    Expr,
    Index,
    Position,
    count,
    variables,
)
from cloister_tasks.compiler.ir import Loop, Store
from cloister_tasks.compiler.lower import Lowering, lowers, shape_of
from cloister_tasks.compiler.operators.pointwise import SELECT
from cloister_tasks.compiler.operators.views import write
from cloister_tasks.compiler.unsupported import Unsupported
from cloister_tasks.compiler.value import Point, Value, cast

aten = torch.ops.aten


def checked(lowering: Lowering, index: Value, size: int, wraps: bool = False) -> Value:
    """An index value that lies in 0 .. size - 1 wherever it is read; `wraps`: -1 is the last."""
    if wraps:
        form = f"({{0}} + select_i32({{0}} < 0, {size}, 0))"
        inner = index
        index = Value.lazy(
            inner.shape, "int32_t", lambda p: Apply(form, (inner.at(p),), "int32_t"), inner.cost + 2
        )
    if index.cost > 8:
        lowering.realize(index)
    if lowering.depends_on_rows_only(index):
        lowering.check(index, size)
        return index
    held = index
    return Value.lazy(
        held.shape,
        "int32_t",
        lambda p: Apply(f"within({{0}}, {size})", (held.at(p),), "int32_t"),
        held.cost + 2,
    )


def dynamic(expr: Expr, size: int) -> Index:
    """An index read from data."""
    if isinstance(expr, Position):
        return expr.index
    if isinstance(expr, Constant):
        return Index((), int(expr.value))
    return Index.of(Dynamic(expr, size))


@lowers(aten.embedding.default)
def embedding(lowering: Lowering, node: Node, table: Value, index: Value, *rest: Any) -> Value:
    """Rows of a table."""
    index = checked(lowering, index, table.shape[0])
    lowering.realize(table)
    depth = len(index.shape)

    def load(point: Point) -> Expr:
        row = dynamic(index.at(point[:depth]), table.shape[0])
        return table.at([row if table.shape[0] > 1 else Index(), *point[depth:]])

    return Value.lazy(shape_of(node), table.ctype, load, 2)


@lowers(aten.embedding_dense_backward.default)
def embedding_gradient(
    lowering: Lowering,
    node: Node,
    gradient: Value,
    index: Value,
    rows: int,
    padding: int,
    by_frequency: bool,
) -> Value:
    """Gradients summed into the rows they belong to; the padding row gets none."""
    if by_frequency:
        raise Unsupported(node, "scale_grad_by_freq; leave it False")
    shape = shape_of(node)
    table = zeroed(lowering, shape, gradient.ctype)
    index = checked(lowering, index, rows)
    point = variables(gradient.shape)
    depth = len(index.shape)
    row = index.at(point[:depth])
    value = gradient.at(point)
    if padding >= 0:
        value = Apply(f"select_f32({{0}} == {padding}, 0, {{1}})", (row, value), "float")
    scatter(lowering, table, [dynamic(row, rows), *point[depth:]], gradient.shape, value, True)
    return table


def zeroed(lowering: Lowering, shape: Sequence[int], ctype: CType) -> Value:
    """A new buffer of zeros."""
    target = Value.view(lowering.buffer(count(shape), ctype), shape)
    zero = Constant(0.0 if ctype == "float" else 0, ctype)
    write(lowering, target, Value.lazy(shape, ctype, lambda _: zero))
    return target


def copied(lowering: Lowering, x: Value) -> Value:
    """A new buffer with the same elements."""
    target = Value.view(lowering.buffer(x.size, x.ctype), x.shape)
    write(lowering, target, x)
    return target


def scatter(
    lowering: Lowering,
    target: Value,
    to: Point,
    domain: Sequence[int],
    value: Expr,
    accumulate: bool,
) -> None:
    """Store `value` at data-dependent places of a buffer."""
    place = target.at(to)
    assert target.buffer is not None
    assert not isinstance(place, (Apply, Constant))
    lowering.emit(
        Loop(
            tuple(domain),
            [Store(target.buffer, place.index, cast(value, target.ctype), accumulate)],
        )
    )


@lowers(aten.gather.default)
def gather(lowering: Lowering, node: Node, x: Value, dim: int, index: Value, **_: Any) -> Value:
    """One element of a dimension for each index."""
    if not x.shape:
        return x.expand(index.shape)
    dim %= len(x.shape)
    index = checked(lowering, index, x.shape[dim])
    if x.cost > 2:
        lowering.realize(x)

    def load(point: Point) -> Expr:
        chosen = list(point)
        chosen[dim] = dynamic(index.at(point), x.shape[dim])
        return x.at(chosen)

    return Value.lazy(shape_of(node), x.ctype, load, x.cost + index.cost + 2)


@lowers(aten.scatter.value, aten.scatter.src, aten.scatter_add.default)
def scatter_(
    lowering: Lowering, node: Node, x: Value, dim: int, index: Value, source: Any, **_: Any
) -> Value:
    """A copy with elements of a dimension replaced, or added to."""
    adds = node.target is aten.scatter_add.default
    dim %= max(len(x.shape), 1)
    others = [n for d, n in enumerate(x.shape) if d != dim]
    if not isinstance(source, Value):
        number = Constant(float(source) if x.ctype == "float" else int(source), x.ctype)
        source = Value.lazy(index.shape, x.ctype, lambda _: number)
    if index.shape[dim] == 1 and [n for d, n in enumerate(index.shape) if d != dim] == others:
        # One index per line: each element asks whether it is meant.
        checked(lowering, index, x.shape[dim])
        form = SELECT[x.ctype].format("{0} == {1}", "{2} + {3}" if adds else "{3}", "{2}")

        def load(point: Point) -> Expr:
            line = [Index() if d == dim else i for d, i in enumerate(point)]
            return Apply(
                form,
                (index.at(line), Position(point[dim]), x.at(point), cast(source.at(line), x.ctype)),
                x.ctype,
            )

        return Value.lazy(x.shape, x.ctype, load, x.cost + index.cost + source.cost + 2)
    index = checked(lowering, index, x.shape[dim])
    target = copied(lowering, x)
    point = variables(index.shape)
    to = list(point)
    to[dim] = dynamic(index.at(point), x.shape[dim])
    scatter(lowering, target, to, index.shape, source.at(point), adds)
    return target


@lowers(aten.index_select.default)
def index_select(lowering: Lowering, node: Node, x: Value, dim: int, index: Value) -> Value:
    """Chosen positions of a dimension."""
    dim %= len(x.shape)
    index = checked(lowering, index, x.shape[dim])
    if x.cost > 2:
        lowering.realize(x)

    def load(point: Point) -> Expr:
        chosen = dynamic(index.at([point[dim]]), x.shape[dim])
        return x.at([*point[:dim], chosen, *point[dim + 1 :]])

    return Value.lazy(shape_of(node), x.ctype, load, x.cost + 2)


class _Places:
    """The index tensors of ``x[i, :, j]``: which dimensions they take and what they select."""

    def __init__(self, lowering: Lowering, node: Node, x: Value, indices: Sequence[Value | None]):
        if any(i is not None and i.ctype == "uint8_t" for i in indices):
            raise Unsupported(
                node, "a boolean mask as index: its result has no fixed shape; use torch.where"
            )
        self.dims = [d for d, i in enumerate(indices) if i is not None]
        given = [i for i in indices if i is not None]
        self.shape = tuple(torch.broadcast_shapes(*(i.shape for i in given)))
        self._given = [
            checked(lowering, i, x.shape[d], wraps=True)
            for i, d in zip(given, self.dims, strict=True)
        ]
        self._x = x
        adjacent = self.dims == list(range(self.dims[0], self.dims[-1] + 1))
        self._at = self.dims[0] if adjacent else 0
        kept = [n for d, n in enumerate(x.shape) if d not in self.dims]
        self.result = (*kept[: self._at], *self.shape, *kept[self._at :])

    def back(self, point: Point) -> Point:
        """From a place in the result to a place in x."""
        chosen = point[self._at : self._at + len(self.shape)]
        rest = iter([*point[: self._at], *point[self._at + len(self.shape) :]])
        full: list[Index] = []
        for d, size in enumerate(self._x.shape):
            if d in self.dims:
                index = self._given[self.dims.index(d)]
                full.append(dynamic(index.broadcast(chosen), size))
            else:
                full.append(next(rest))
        return full


@lowers(aten.index.Tensor, aten._unsafe_index.Tensor)
def index_(lowering: Lowering, node: Node, x: Value, indices: Sequence[Value | None]) -> Value:
    """Elements chosen by index tensors."""
    places = _Places(lowering, node, x, indices)
    if x.cost > 2:
        lowering.realize(x)
    return Value.lazy(shape_of(node), x.ctype, lambda p: x.at(places.back(p)), x.cost + 3)


@lowers(aten.index_put.default, aten._unsafe_index_put.default)
def index_put(
    lowering: Lowering,
    node: Node,
    x: Value,
    indices: Sequence[Value | None],
    values: Value,
    accumulate: bool = False,
) -> Value:
    """A copy with chosen elements replaced, or added to."""
    places = _Places(lowering, node, x, indices)
    target = copied(lowering, x)
    point = variables(places.result)
    value = values.broadcast(point)
    scatter(lowering, target, places.back(point), places.result, value, accumulate)
    return target


@lowers(aten.masked_scatter.default, aten.nonzero.default, aten.masked_select.default)
def data_dependent(_: Lowering, node: Node, *arguments: Any, **options: Any) -> Value:
    """Nothing whose shape depends on data has a place in a fixed memory plan."""
    raise Unsupported(node, "its result's shape depends on data; use torch.where instead")
