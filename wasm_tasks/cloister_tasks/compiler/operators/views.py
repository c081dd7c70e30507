"""Operators that see the same elements otherwise; most of them make no kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from cloister_tasks.compiler.expression import (
    Apply,
    Constant,
    Index,
    count,
    variables,
)
from cloister_tasks.compiler.ir import Loop, Store
from cloister_tasks.compiler.lower import Lowering, lowers, shape_of
from cloister_tasks.compiler.unsupported import Unsupported
from cloister_tasks.compiler.value import Point, Value

aten = torch.ops.aten


@lowers(
    aten.alias.default,
    aten.clone.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.lift_fresh.default,
    aten.contiguous.default,
)
def same(_: Lowering, node: Node, x: Value, **options: Any) -> Value:
    """The value itself: values never change."""
    return x


@lowers(aten.copy.default)
def copy(_: Lowering, node: Node, x: Value, source: Value, *rest: Any) -> Value:
    """What is copied, in the shape of where it goes."""
    return source if source.shape == x.shape else source.expand(x.shape)


@lowers(aten.copy_.default)
def copy_(lowering: Lowering, node: Node, x: Value, source: Value, *rest: Any) -> Value:
    """An assignment left by functionalization to something nobody reads again."""
    return copy(lowering, node, x, source)


@lowers(aten.view.default, aten._unsafe_view.default, aten.reshape.default)
def view(lowering: Lowering, node: Node, x: Value, shape: Sequence[int]) -> Value:
    """Another shape."""
    return lowering.reshape(x, shape_of(node))


@lowers(aten.permute.default)
def permute(_: Lowering, node: Node, x: Value, order: Sequence[int]) -> Value:
    """Dimensions in another order."""
    return x.permute([d % len(x.shape) for d in order])


@lowers(aten.t.default)
def transpose(_: Lowering, node: Node, x: Value) -> Value:
    """A matrix transposed."""
    return x.permute([1, 0]) if len(x.shape) == 2 else x


@lowers(aten.transpose.int)
def swap(_: Lowering, node: Node, x: Value, a: int, b: int) -> Value:
    """Two dimensions exchanged."""
    order = list(range(len(x.shape)))
    order[a], order[b] = order[b], order[a]
    return x.permute(order)


@lowers(aten.expand.default)
def expand(_: Lowering, node: Node, x: Value, shape: Sequence[int], **options: Any) -> Value:
    """Broadcast."""
    return x.expand(shape_of(node))


@lowers(aten.unsqueeze.default)
def unsqueeze(_: Lowering, node: Node, x: Value, dim: int) -> Value:
    """One more dimension."""
    return x.insert(dim % (len(x.shape) + 1))


@lowers(aten.squeeze.dims, aten.squeeze.dim, aten.squeeze.default)
def squeeze(_: Lowering, node: Node, x: Value, dims: Any = None) -> Value:
    """Without dimensions of size 1."""
    rank = max(len(x.shape), 1)
    chosen = range(rank) if dims is None else [dims] if isinstance(dims, int) else dims
    return x.drop({d % rank for d in chosen if x.shape and x.shape[d % rank] == 1})


@lowers(aten.select.int)
def select(_: Lowering, node: Node, x: Value, dim: int, index: int) -> Value:
    """One index of a dimension."""
    dim %= len(x.shape)
    return x.slice(dim, index % x.shape[dim], 1).drop({dim})


@lowers(aten.slice.Tensor)
def slice_(
    _: Lowering,
    node: Node,
    x: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    """A stretch of a dimension."""
    dim %= len(x.shape)
    first, _last, step = slice(start, end, step).indices(x.shape[dim])
    return x.slice(dim, first, shape_of(node)[dim], step)


@lowers(aten.split_with_sizes.default)
def split_with_sizes(
    _: Lowering, node: Node, x: Value, sizes: Sequence[int], dim: int = 0
) -> list[Value]:
    """Adjacent stretches of a dimension."""
    dim %= len(x.shape)
    parts, start = [], 0
    for size in sizes:
        parts.append(x.slice(dim, start, size))
        start += size
    return parts


@lowers(aten.split.Tensor)
def split(lowering: Lowering, node: Node, x: Value, size: int, dim: int = 0) -> list[Value]:
    """Stretches of one size, the last one shorter."""
    whole = x.shape[dim]
    return split_with_sizes(
        lowering, node, x, [min(size, whole - at) for at in range(0, whole, size)], dim
    )


@lowers(aten.unbind.int)
def unbind(_: Lowering, node: Node, x: Value, dim: int = 0) -> list[Value]:
    """Every index of a dimension."""
    dim %= len(x.shape)
    return [x.slice(dim, i, 1).drop({dim}) for i in range(x.shape[dim])]


@lowers(aten.flip.default)
def flip(_: Lowering, node: Node, x: Value, dims: Sequence[int]) -> Value:
    """Dimensions backwards."""
    chosen = {d % len(x.shape) for d in dims}

    def back(point: Point) -> Point:
        return [
            point[d] * -1 + (x.shape[d] - 1) if d in chosen else point[d]
            for d in range(len(x.shape))
        ]

    return x.remap(x.shape, back)


@lowers(aten.as_strided.default)
def as_strided(
    lowering: Lowering,
    node: Node,
    x: Value,
    size: Sequence[int],
    stride: Sequence[int],
    offset: int | None = None,
) -> Value:
    """Strides said outright, over a tensor that lies in memory as torch thinks it does."""
    source = node.args[0].meta["val"]  # type: ignore[union-attr]
    if not source.is_contiguous() or source.storage_offset():
        raise Unsupported(node, "as_strided; use reshape, permute, expand or unfold by indexing")
    dense = lowering.dense(x)
    assert dense.buffer is not None
    return Value.view(dense.buffer, size, stride, dense.offset + (offset or 0))


@lowers(aten.cat.default)
def cat(lowering: Lowering, node: Node, parts: Sequence[Value], dim: int = 0) -> Value:
    """Tensors one after the other."""
    shape = shape_of(node)
    dim %= len(shape)
    parts = [p for p in parts if p.shape != (0,)]
    if len(parts) == 1:
        return parts[0]
    whole = Value.view(lowering.buffer(count(shape), parts[0].ctype), shape)
    start = 0
    for part in parts:
        write(lowering, whole.slice(dim, start, part.shape[dim]), part)
        start += part.shape[dim]
    return whole


def write(lowering: Lowering, target: Value, source: Value) -> None:
    """Store a value into a view of a buffer."""
    if not source.size:
        return
    point = variables(source.shape)
    to = target.at(point)
    assert target.buffer is not None
    assert not isinstance(to, (Apply, Constant))
    lowering.emit(Loop(source.shape, [Store(target.buffer, to.index, source.at(point))]))


@lowers(aten.constant_pad_nd.default)
def pad(
    lowering: Lowering, node: Node, x: Value, padding: Sequence[int], value: float = 0
) -> Value:
    """A border of one value; negative padding cuts."""
    shape = shape_of(node)
    pairs = [(0, 0)] * (len(shape) - len(padding) // 2)
    pairs += [(padding[i], padding[i + 1]) for i in range(len(padding) - 2, -1, -2)]
    whole = Value.view(lowering.buffer(count(shape), x.ctype), shape)
    filler = Constant(float(value) if x.ctype == "float" else int(value), x.ctype)
    if any(n > 0 for pair in pairs for n in pair):
        write(lowering, whole, Value.lazy(shape, x.ctype, lambda _: filler))
    target = whole
    for dim, (before, after) in enumerate(pairs):
        cut = max(-before, 0)
        length = x.shape[dim] - cut - max(-after, 0)
        x = x.slice(dim, cut, length)
        target = target.slice(dim, max(before, 0), length)
    write(lowering, target, x)
    return whole


@lowers(aten.select_scatter.default)
def select_scatter(
    lowering: Lowering, node: Node, x: Value, source: Value, dim: int, index: int
) -> Value:
    """A copy with one index of a dimension replaced."""
    dim %= len(x.shape)
    return slice_scatter(
        lowering, node, x, source.insert(dim), dim, index % x.shape[dim], index % x.shape[dim] + 1
    )


@lowers(aten.slice_scatter.default)
def slice_scatter(
    lowering: Lowering,
    node: Node,
    x: Value,
    source: Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Value:
    """A copy with a stretch of a dimension replaced."""
    dim %= len(x.shape)
    first, last, step = slice(start, end, step).indices(x.shape[dim])
    if step == 1 and first == 0 and last == x.shape[dim]:
        return source
    whole = Value.view(lowering.buffer(x.size, x.ctype), x.shape)
    write(lowering, whole, x)
    write(lowering, whole.slice(dim, first, len(range(first, last, step)), step), source)
    return whole


@lowers(aten.as_strided_scatter.default)
def as_strided_scatter(
    lowering: Lowering,
    node: Node,
    x: Value,
    source: Value,
    size: Sequence[int],
    stride: Sequence[int],
    offset: int | None = None,
) -> Value:
    """A copy with a strided view of it replaced."""
    whole = Value.view(lowering.buffer(x.size, x.ctype), x.shape)
    write(lowering, whole, x)
    assert whole.buffer is not None
    write(lowering, Value.view(whole.buffer, size, stride, offset or 0), source)
    return whole


@lowers(aten.repeat.default)
def repeat(_: Lowering, node: Node, x: Value, times: Sequence[int]) -> Value:
    """Dimensions repeated as a whole."""
    shape = shape_of(node)
    lead = len(shape) - len(x.shape)

    def back(point: Point) -> Point:
        return [i % n for i, n in zip(point[lead:], x.shape, strict=True)]

    return x.remap(shape, back)


@lowers(aten.diagonal.default)
def diagonal(_: Lowering, node: Node, x: Value, offset: int = 0, a: int = 0, b: int = 1) -> Value:
    """The diagonal of two dimensions, as the last one."""
    a, b = a % len(x.shape), b % len(x.shape)

    def back(point: Point) -> Point:
        full = list(point[:-1])
        for dim in sorted((a, b)):
            full.insert(dim, Index())
        full[a] = point[-1] + max(-offset, 0)
        full[b] = point[-1] + max(offset, 0)
        return full

    return x.remap(shape_of(node), back)
