"""What is added to a product goes into the product: gradient sums and plain SGD cost nothing.

``w - rate * (a b)`` is a product with scale ``-rate`` on top of ``w``, written to ``w``; the same
for rows scattered into a table of zeros, where only the rows that were meant are touched.

The weight gradients of convolutions stay out: they are sums over many images, and each of them
would be rounded to the precision of ``w``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cloister_tasks.compiler.expression import (
    Apply,
    Buffer,
    Constant,
    Expr,
    Index,
    Load,
    count,
    flatten,
    variables,
)
from cloister_tasks.compiler.ir import Call, Kernel, Loop, Operand, Program, Store
from cloister_tasks.compiler.operators.products import Base, Product, Scale


@dataclass(frozen=True)
class _Sum:
    """``target = base + scale * term``, element by element over whole buffers."""

    target: Buffer
    base: Load
    term: Buffer
    scale: Scale


def fold(program: Program) -> None:
    """Fold every such sum of a program."""
    kernels: list[Kernel | None] = list(program.kernels)
    touched: dict[Buffer, list[int]] = {}
    for number, kernel in enumerate(program.kernels):
        for buffer in {*kernel.reads(), *kernel.writes()}:
            touched.setdefault(buffer, []).append(number)
    kept = set(program.results.values())
    for number, kernel in enumerate(program.kernels):
        if not isinstance(kernel, Loop):
            continue
        for found in _sums(kernel):
            places = [n for n in touched[found.term] if n != number]
            if found.term.place is not None or found.term in kept:
                continue
            if len(places) == 1 and _into_product(kernels, places[0], number, found, touched):
                break
            if len(places) == 2 and _into_scatter(kernels, places, number, found):
                break
    program.kernels = [k for k in kernels if k is not None]


def _sums(loop: Loop) -> list[_Sum]:
    """The ways to read a loop as such a sum."""
    if len(loop.stores) != 1 or loop.stores[0].accumulate:
        return []
    store = loop.stores[0]
    value = store.value
    if store.index != flatten(variables(loop.domain), loop.domain):
        return []
    if not isinstance(value, Apply) or value.form not in ("({0} + {1})", "({0} - {1})"):
        return []
    sign = 1.0 if "+" in value.form else -1.0
    pairs = [(value.arguments[0], value.arguments[1])]
    if sign > 0:
        pairs.append((value.arguments[1], value.arguments[0]))
    found = []
    for base, rest in pairs:
        scaled = _scaled(rest, store.index, Scale(sign))
        if isinstance(base, Load) and base.index == store.index and scaled is not None:
            term, scale = scaled
            if term is not base.buffer and term is not store.buffer:
                found.append(_Sum(store.buffer, base, term, scale))
    return found


def _scaled(expr: Expr, index: Index, scale: Scale) -> tuple[Buffer, Scale] | None:
    """A load at the index, times numbers and scalars."""
    if isinstance(expr, Load) and expr.index == index:
        return expr.buffer, scale
    if not isinstance(expr, Apply) or expr.form != "({0} * {1})":
        return None
    for factor, rest in (expr.arguments, expr.arguments[::-1]):
        if isinstance(factor, Constant):
            more = Scale(scale.number * float(factor.value), scale.factors)
        elif isinstance(factor, Load) and not factor.index.terms and factor.buffer.place:
            operand = Operand(factor.buffer, factor.index.constant)
            more = Scale(scale.number, (*scale.factors, operand))
        else:
            continue
        found = _scaled(rest, index, more)
        if found is not None:
            return found
    return None


def _into_product(
    kernels: list[Kernel | None],
    place: int,
    number: int,
    found: _Sum,
    touched: dict[Buffer, list[int]],
) -> bool:
    """Let the product that makes the term make the sum instead, at the sum's place."""
    producer = kernels[place]
    if not isinstance(producer, Call) or place > number:
        return False
    form = producer.form
    if not isinstance(form, Product) or form.base is not None:
        return False
    if form.scale != Scale() or form.result != Operand(found.term):
        return False
    if found.base.index.constant:
        return False
    operands = {o.buffer for o in producer.inputs.values()}
    if found.target in operands:
        return False
    if any(_writes(kernels[n], operands) for n in range(place + 1, number)):
        return False
    base = Base(Operand(found.base.buffer), (form.m * form.n, form.n, 1))
    changed = replace(form, base=base, scale=found.scale, result=Operand(found.target))
    call = changed.call()
    call.origin = producer.origin
    kernels[place] = None
    kernels[number] = call
    for operand in call.inputs.values():
        touched.setdefault(operand.buffer, []).append(number)
    touched[found.term] = []
    return True


def _writes(kernel: Kernel | None, buffers: set[Buffer]) -> bool:
    return kernel is not None and not buffers.isdisjoint(kernel.writes())


def _into_scatter(
    kernels: list[Kernel | None], places: list[int], number: int, found: _Sum
) -> bool:
    """Rows added to zeros, then to the base in place: add them to the base."""
    if found.base.buffer is not found.target:
        return False
    zero, scatter = (kernels[n] for n in sorted(places))
    if not (isinstance(zero, Loop) and isinstance(scatter, Loop) and len(scatter.stores) == 1):
        return False
    store = scatter.stores[0]
    nothing = zero.stores[0].value
    if not store.accumulate or not isinstance(nothing, Constant) or nothing.value != 0:
        return False
    if count(zero.domain) != found.term.size or len(zero.stores) != 1:
        return False
    if zero.stores[0].buffer is not found.term or store.buffer is not found.term:
        return False
    if max(places) > number:
        return False
    value = store.value
    operands = set(scatter.reads()) - {found.term}
    late = any(_writes(kernels[n], operands) for n in range(max(places) + 1, number))
    first: Loop | None = None
    if late or found.target in operands:
        # Its inputs will have changed by then: keep what is to be added, which is little.
        if 2 * count(scatter.domain) > found.term.size:
            return False
        place = flatten(variables(scatter.domain), scatter.domain)
        rows = Buffer(f"{found.term.name}_rows", found.term.ctype, count(scatter.domain))
        first = Loop(scatter.domain, [Store(rows, place, value)], scatter.origin)
        value = Load(rows, place)
    factors: list[Expr] = [Constant(found.scale.number, "float")]
    factors += [Load(o.buffer, Index((), o.offset)) for o in found.scale.factors]
    for factor in factors:
        value = Apply("({0} * {1})", (factor, value), "float")
    for n in places:
        kernels[n] = None
    kernels[max(places)] = first
    kernels[number] = Loop(
        scatter.domain, [Store(found.target, store.index, value, True)], scatter.origin
    )
    return True
