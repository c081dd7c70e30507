"""What a tensor of the graph is while it is lowered: a view of a buffer, or an expression.

An expression is a function from an index to an :class:`~.ir.Expr`; it costs nothing until some
kernel asks for its elements, and becomes a buffer at most once (:meth:`Lowering.realize`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from cloister_tasks.compiler.expression import (
    Apply,
    Buffer,
    Constant,
    CType,
    Expr,
    Index,
    Load,
    contiguous,
    count,
    flatten,
    indices,
    unflatten,
    variables,
)

Point: TypeAlias = Sequence[Index]
"""One index expression per dimension."""


class Value:
    """A tensor: shape, element type, and how to read an element."""

    __slots__ = (
        "_load",
        "buffer",
        "cost",
        "ctype",
        "offset",
        "origin",
        "reads",
        "shape",
        "strides",
    )

    def __init__(
        self, shape: Sequence[int], ctype: CType, load: Callable[[Point], Expr], cost: int
    ):
        self.shape, self.ctype, self.cost = tuple(shape), ctype, cost
        self._load = load
        self.buffer: Buffer | None = None
        self.offset = 0
        self.reads = 0
        """Arrays of about its own size that its elements are computed from."""
        self.strides: tuple[int, ...] = ()
        self.origin: tuple[Value, Callable[[Value], Value]] | None = None
        """The value this one is another view of, and how to see it so once it is in memory."""

    @staticmethod
    def lazy(
        shape: Sequence[int], ctype: CType, load: Callable[[Point], Expr], cost: int = 0
    ) -> Value:
        """An expression; `cost` estimates the operations one element takes."""
        return Value(shape, ctype, load, cost)

    @staticmethod
    def view(
        buffer: Buffer,
        shape: Sequence[int],
        strides: Sequence[int] | None = None,
        offset: int = 0,
    ) -> Value:
        """A strided view of a buffer; dense without `strides`."""
        value = Value(shape, buffer.ctype, lambda _: Constant(0, buffer.ctype), 0)
        value.become(buffer, contiguous(shape) if strides is None else strides, offset)
        return value

    def become(self, buffer: Buffer, strides: Sequence[int], offset: int = 0) -> None:
        """From now on, read from a buffer."""
        self.buffer, self.strides, self.offset, self.cost = buffer, tuple(strides), offset, 0
        self.reads = 1

    @property
    def size(self) -> int:
        """Elements."""
        return count(self.shape)

    @property
    def dense(self) -> bool:
        """Whether it is a row-major stretch of a buffer."""
        if self.buffer is None:
            return False
        return all(
            size == 1 or stride == wanted
            for size, stride, wanted in zip(
                self.shape, self.strides, contiguous(self.shape), strict=True
            )
        )

    def at(self, point: Point) -> Expr:
        """The element at an index; dimensions of size 1 are 0 whatever the index says."""
        if self.buffer is None:
            return self._load(
                [Index() if n == 1 else i for i, n in zip(point, self.shape, strict=True)]
            )
        position = Index((), self.offset)
        for i, stride, size in zip(point, self.strides, self.shape, strict=True):
            if size != 1 and stride:
                position = position + i * stride
        return Load(self.buffer, position)

    def broadcast(self, point: Point) -> Expr:
        """The element that meets `point` of a larger shape, aligned at the last dimension."""
        return self.at(point[len(point) - len(self.shape) :])

    # -- views -------------------------------------------------------------------------------------

    def remap(
        self,
        shape: Sequence[int],
        back: Callable[[Point], Point],
        strides: Sequence[int] | None = None,
        offset: int = 0,
    ) -> Value:
        """A view: `back` maps its index to this one's; `strides` and `offset` do so in memory."""
        if self.buffer is not None and strides is not None:
            return Value.view(self.buffer, shape, strides, self.offset + offset)
        return Value.lazy(shape, self.ctype, lambda point: self.at(back(point)), self.cost)

    def seen(self, view: Callable[[Value], Value], result: Value) -> Value:
        """`result`, remembered as `view` of this value."""
        result.reads = self.reads if 2 * self.size > result.size else 0
        if result.buffer is None:
            result.origin = (self, view)
        return result

    def permute(self, order: Sequence[int]) -> Value:
        """Dimensions in another order."""
        inverse = [order.index(d) for d in range(len(order))]
        result = self.remap(
            [self.shape[d] for d in order],
            lambda point: [point[d] for d in inverse],
            [self.strides[d] for d in order] if self.buffer else None,
        )
        return self.seen(lambda value: value.permute(order), result)

    def expand(self, shape: Sequence[int]) -> Value:
        """Broadcast to a larger shape."""
        lead = len(shape) - len(self.shape)
        strides = None
        if self.buffer:
            own = (
                0 if n == 1 else stride for n, stride in zip(self.shape, self.strides, strict=True)
            )
            strides = [0] * lead + list(own)
        result = self.remap(shape, lambda point: point[lead:], strides)
        return self.seen(lambda value: value.expand(shape), result)

    def slice(self, dim: int, start: int, length: int, step: int = 1) -> Value:
        """Every `step`-th element of a dimension from `start` on."""
        shape = [*self.shape[:dim], length, *self.shape[dim + 1 :]]

        def back(point: Point) -> Point:
            return [*point[:dim], point[dim] * step + start, *point[dim + 1 :]]

        if self.buffer is None:
            return self.remap(shape, back)
        stride = self.strides[dim]
        strides = [*self.strides[:dim], stride * step, *self.strides[dim + 1 :]]
        return self.remap(shape, back, strides, start * stride)

    def drop(self, dims: set[int]) -> Value:
        """Without some dimensions of size 1."""
        kept = [d for d in range(len(self.shape)) if d not in dims]

        def back(point: Point) -> Point:
            full = [Index()] * len(self.shape)
            for i, d in zip(point, kept, strict=True):
                full[d] = i
            return full

        result = self.remap(
            [self.shape[d] for d in kept],
            back,
            [self.strides[d] for d in kept] if self.buffer else None,
        )
        return self.seen(lambda value: value.drop(dims), result)

    def insert(self, dim: int) -> Value:
        """With one more dimension of size 1."""
        result = self.remap(
            [*self.shape[:dim], 1, *self.shape[dim:]],
            lambda point: [*point[:dim], *point[dim + 1 :]],
            [*self.strides[:dim], 0, *self.strides[dim:]] if self.buffer else None,
        )
        return self.seen(lambda value: value.insert(dim), result)

    def reshape(self, shape: Sequence[int]) -> Value | None:
        """The same elements in another shape; None if that takes a copy."""
        shape = tuple(shape)
        if shape == self.shape:
            return self
        if self.buffer is not None:
            strides = _view_strides(self.shape, self.strides, shape)
            return None if strides is None else Value.view(self.buffer, shape, strides, self.offset)

        def back(point: Point) -> Point:
            return unflatten(flatten(point, shape), self.shape)

        sample = self.at(back(variables(shape)))
        if not all(index.linear for index in indices(sample)):
            return None
        result = Value.lazy(shape, self.ctype, lambda point: self.at(back(point)), self.cost)

        def again(value: Value) -> Value:
            found = value.reshape(shape)
            assert found is not None
            return found

        return self.seen(again, result)


def _view_strides(
    shape: Sequence[int], strides: Sequence[int], wanted: Sequence[int]
) -> list[int] | None:
    """Strides under which the same memory has another shape; None if there are none."""
    if count(shape) == 0:
        return list(contiguous(wanted))
    # Runs of dimensions that lie densely in each other: [size, innermost stride].
    runs: list[list[int]] = []
    for size, stride in zip(shape, strides, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == size * stride:
            runs[-1] = [runs[-1][0] * size, stride]
        else:
            runs.append([size, stride])
    result = [0] * len(wanted)
    for dim in range(len(wanted) - 1, -1, -1):
        size = wanted[dim]
        if size == 1:
            continue
        if not runs or runs[-1][0] % size:
            return None
        result[dim] = runs[-1][1]
        runs[-1] = [runs[-1][0] // size, runs[-1][1] * size]
        if runs[-1][0] == 1:
            runs.pop()
    return result


def cast(expr: Expr, ctype: CType) -> Expr:
    """An expression in another type; booleans are 0 or 1."""
    if expr.ctype == ctype:
        return expr
    if isinstance(expr, Constant):
        if ctype == "uint8_t":
            return Constant(int(bool(expr.value)), ctype)
        return Constant(float(expr.value) if ctype == "float" else int(expr.value), ctype)
    form = "({0} != 0)" if ctype == "uint8_t" else f"({ctype})({{0}})"
    return Apply(form, (expr,), ctype)
