"""Constants, ranges and random numbers: values without inputs, never stored.

Random numbers come from a counter: the generator is a function of the step's key, the operator
and the element (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). So a
dropout mask is computed again wherever it is needed, forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from cloister_tasks.compiler.expression import Apply, Constant, Expr, Position, flatten
from cloister_tasks.compiler.lower import Lowering, ctype_of, lowers, shape_of
from cloister_tasks.compiler.unsupported import Unsupported
from cloister_tasks.compiler.value import Point, Value, cast

aten = torch.ops.aten


def filled(node: Any, number: Any) -> Value:
    """A tensor of one number."""
    ctype = ctype_of(node)
    expr = cast(Constant(number, "float" if isinstance(number, float) else "int32_t"), ctype)
    return Value.lazy(shape_of(node), ctype, lambda _: expr)


@lowers(aten.full.default, aten.full_like.default)
def full(_: Lowering, node: Node, shape: Any, number: float, **options: Any) -> Value:
    """All of it one number."""
    return filled(node, number)


@lowers(aten.scalar_tensor.default)
def scalar_tensor(_: Lowering, node: Node, number: float, **options: Any) -> Value:
    """One number."""
    return filled(node, number)


@lowers(aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default)
def zeros(_: Lowering, node: Node, *arguments: Any, **options: Any) -> Value:
    """All zero."""
    return filled(node, 0)


@lowers(aten.ones.default, aten.ones_like.default, aten.new_ones.default)
def ones(_: Lowering, node: Node, *arguments: Any, **options: Any) -> Value:
    """All one."""
    return filled(node, 1)


@lowers(
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.empty_permuted.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
)
def empty(_: Lowering, node: Node, *arguments: Any, **options: Any) -> Value:
    """Nothing in particular; here zero, so that nothing uninitialised is ever read."""
    return filled(node, 0)


@lowers(aten.arange.start_step, aten.arange.default, aten.arange.start)
def arange(_: Lowering, node: Node, *arguments: Any, **options: Any) -> Value:
    """Numbers at equal distances."""
    start: Any = 0
    step: Any = 1
    if len(arguments) > 1:
        start = arguments[0]
    if len(arguments) > 2:
        step = arguments[2]
    ctype = ctype_of(node)

    def load(point: Point) -> Expr:
        if isinstance(start, int) and isinstance(step, int):
            return cast(Position(point[0] * step + start), ctype)
        position = cast(Position(point[0]), "float")
        terms = (Constant(float(start), "float"), position, Constant(float(step), "float"))
        return Apply("({0} + {1} * {2})", terms, "float")

    return Value.lazy(shape_of(node), ctype, load)


def _random(lowering: Lowering, node: Node, form: str, *constants: float) -> Value:
    """`form` of the step's key {0}, this operator's number {1} and the element's number {2}."""
    shape, stream = shape_of(node), lowering.random_stream()
    numbers = tuple(Constant(float(c), "float") for c in constants)

    def load(point: Point) -> Expr:
        where = (lowering.key(), Constant(stream, "int32_t"), Position(flatten(point, shape)))
        return Apply(form, (*where, *numbers), "float")

    return Value.lazy(shape, "float", load, 4)


@lowers(aten.bernoulli.p, aten.bernoulli.default)
def bernoulli(
    lowering: Lowering, node: Node, x: Value, p: float | None = None, **options: Any
) -> Value:
    """1 with probability p, else 0."""
    if p is None:
        raise Unsupported(node, "a probability for each element; use one number, as dropout does")
    return _random(lowering, node, "(philox_uniform({0}, {1}, {2}) < {3} ? 1.0f : 0.0f)", p)


@lowers(aten.rand.default, aten.rand_like.default)
def rand(lowering: Lowering, node: Node, *arguments: Any, **options: Any) -> Value:
    """Uniform in [0, 1)."""
    return _random(lowering, node, "philox_uniform({0}, {1}, {2})")


@lowers(aten.randn.default, aten.randn_like.default)
def randn(lowering: Lowering, node: Node, *arguments: Any, **options: Any) -> Value:
    """Standard normal."""
    return _random(lowering, node, "philox_normal({0}, {1}, {2})")
