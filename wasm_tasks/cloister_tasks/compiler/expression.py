"""Buffers, and expressions over their elements: what a kernel computes, and where.

Shapes, strides and sizes are plain integers; nothing is symbolic but the loop variables of the
kernel at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

CType: TypeAlias = Literal["float", "int32_t", "uint8_t"]
"""Element type of a buffer or expression, as C spells it; booleans are bytes of 0 and 1."""

SIZES: Mapping[str, int] = {"float": 4, "int32_t": 4, "uint8_t": 1}
"""Bytes of one element."""


REGISTER = "register"
"""Place of an array that only ever exists as a variable of a loop."""


@dataclass(eq=False, slots=True)
class Buffer:
    """A region of memory. ``place`` says where it comes from; None: from the arena, by the plan."""

    name: str
    ctype: CType
    size: int
    """Elements."""
    place: str | None = None
    """C expression of its address, for what is not in the arena."""
    offset: int = -1
    """Bytes from the start of the arena, once planned."""

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return self.size * SIZES[self.ctype]

    def __str__(self) -> str:
        return self.name


# -- index expressions -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Var:
    """Loop variable ``number``, running from 0 to ``size`` - 1."""

    number: int
    size: int

    def __str__(self) -> str:
        return f"i{self.number}"


@dataclass(frozen=True, slots=True)
class Div:
    """``index / by``, rounded down; the index is never negative."""

    index: Index
    by: int

    def __str__(self) -> str:
        return f"({self.index})/{self.by}"


@dataclass(frozen=True, slots=True)
class Dynamic:
    """An index computed from data, held within 0 .. size - 1 by the guest."""

    value: Expr
    size: int

    def __str__(self) -> str:
        return f"at({self.value}, {self.size})"


Atom: TypeAlias = Var | Div | Dynamic


@dataclass(frozen=True, slots=True)
class Index:
    """A linear combination of atoms: ``constant + sum(coefficient * atom)``."""

    terms: tuple[tuple[Atom, int], ...] = ()
    constant: int = 0

    @staticmethod
    def of(atom: Atom) -> Index:
        """One atom; a variable with one value only is 0."""
        if isinstance(atom, Var) and atom.size == 1:
            return Index()
        return Index(((atom, 1),))

    def __add__(self, other: Index | int) -> Index:
        if isinstance(other, int):
            return Index(self.terms, self.constant + other) if other else self
        if not other.terms:
            return self + other.constant
        if not self.terms:
            return other + self.constant
        sums = dict(self.terms)
        for atom, coefficient in other.terms:
            sums[atom] = sums.get(atom, 0) + coefficient
        return Index(tuple((a, c) for a, c in sums.items() if c), self.constant + other.constant)

    def __mul__(self, factor: int) -> Index:
        if factor == 1:
            return self
        if factor == 0:
            return Index()
        return Index(tuple((a, c * factor) for a, c in self.terms), self.constant * factor)

    def __floordiv__(self, by: int) -> Index:
        if by == 1:
            return self
        whole = Index(
            tuple((a, c // by) for a, c in self.terms if c % by == 0), self.constant // by
        )
        rest = Index(tuple((a, c) for a, c in self.terms if c % by), self.constant % by)
        low, high = rest.bounds()
        if low < 0:  # C rounds towards zero: divide nothing negative
            turns = -(low // by)
            whole, rest, high = whole + -turns, rest + turns * by, high + turns * by
        if high < by:
            return whole
        return whole + Index.of(Div(rest, by))

    def __mod__(self, by: int) -> Index:
        return self + (self // by) * -by

    def bounds(self) -> tuple[int, int]:
        """Least and largest value."""
        low = high = self.constant
        for atom, coefficient in self.terms:
            if isinstance(atom, Div):
                least, most = (bound // atom.by for bound in atom.index.bounds())
            else:
                least, most = 0, atom.size - 1
            low += coefficient * (least if coefficient > 0 else most)
            high += coefficient * (most if coefficient > 0 else least)
        return low, high

    @property
    def linear(self) -> bool:
        """Nothing but variables in it."""
        return all(isinstance(a, Var) for a, _ in self.terms)

    def coefficient(self, number: int) -> int:
        """The factor of a variable (0: absent) outside divisions."""
        for atom, c in self.terms:
            if isinstance(atom, Var) and atom.number == number:
                return c
        return 0

    def __str__(self) -> str:
        parts = [str(a) if c == 1 else f"{c}*{a}" for a, c in self.terms]
        if self.constant or not parts:
            parts.append(str(self.constant))
        return " + ".join(parts)


# -- value expressions -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Load:
    """An element of a buffer."""

    buffer: Buffer
    index: Index

    @property
    def ctype(self) -> CType:
        """Element type."""
        return self.buffer.ctype

    def __str__(self) -> str:
        return f"{self.buffer}[{self.index}]"


@dataclass(frozen=True, slots=True)
class Constant:
    """A number known to the compiler."""

    value: float | int
    ctype: CType

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Position:
    """The value of an index expression, as int32_t."""

    index: Index
    ctype: CType = "int32_t"

    def __str__(self) -> str:
        return str(self.index)


@dataclass(frozen=True, slots=True)
class Apply:
    """A C expression over arguments: ``form`` with {0}, {1} ... replaced by them."""

    form: str
    arguments: tuple[Expr, ...]
    ctype: CType

    def __str__(self) -> str:
        return self.form.format(*self.arguments)


Expr: TypeAlias = Load | Constant | Position | Apply


def loads(expr: Expr) -> Iterator[Load]:
    """Every load in an expression, also those inside data-dependent indices."""
    if isinstance(expr, Apply):
        for argument in expr.arguments:
            yield from loads(argument)
    elif isinstance(expr, Load):
        yield expr
        yield from loads_of_index(expr.index)
    elif isinstance(expr, Position):
        yield from loads_of_index(expr.index)


def loads_of_index(index: Index) -> Iterator[Load]:
    """Every load inside the atoms of an index."""
    for atom, _ in index.terms:
        if isinstance(atom, Dynamic):
            yield from loads(atom.value)
        elif isinstance(atom, Div):
            yield from loads_of_index(atom.index)


def indices(expr: Expr) -> Iterator[Index]:
    """Every index expression in an expression, those inside divisions left out."""
    if isinstance(expr, Apply):
        for argument in expr.arguments:
            yield from indices(argument)
    elif not isinstance(expr, Constant):
        yield expr.index
        yield from inner_indices(expr.index)


def inner_indices(index: Index) -> Iterator[Index]:
    """Index expressions inside the atoms of an index."""
    for atom, _ in index.terms:
        if isinstance(atom, Dynamic):
            yield from indices(atom.value)
        elif isinstance(atom, Div):
            yield atom.index
            yield from inner_indices(atom.index)


def rewrite(expr: Expr, load: Callable[[Load], Expr], index: Callable[[Index], Index]) -> Expr:
    """An expression with its loads and indices replaced; a load sees its index replaced."""
    if isinstance(expr, Apply):
        return Apply(expr.form, tuple(rewrite(a, load, index) for a in expr.arguments), expr.ctype)
    if isinstance(expr, Constant):
        return expr
    inner = index(rewrite_index(expr.index, load, index))
    return load(Load(expr.buffer, inner)) if isinstance(expr, Load) else Position(inner)


def rewrite_index(
    index: Index, load: Callable[[Load], Expr], change: Callable[[Index], Index]
) -> Index:
    """An index whose atoms' insides are rewritten."""
    if index.linear:
        return index
    result = Index((), index.constant)
    for atom, c in index.terms:
        if isinstance(atom, Dynamic):
            atom = Dynamic(rewrite(atom.value, load, change), atom.size)
        elif isinstance(atom, Div):
            atom = Div(change(rewrite_index(atom.index, load, change)), atom.by)
        result = result + Index(((atom, c),))
    return result


def substitute(what: Any, mapping: Mapping[int, Index]) -> Any:
    """An expression or index with variables replaced by index expressions."""
    if isinstance(what, Index):
        result = Index((), what.constant)
        for atom, c in what.terms:
            if isinstance(atom, Var):
                result = result + mapping[atom.number] * c
            elif isinstance(atom, Div):
                result = result + (substitute(atom.index, mapping) // atom.by) * c
            else:
                inner = Dynamic(substitute(atom.value, mapping), atom.size)
                result = result + Index(((inner, c),))
        return result
    if isinstance(what, Apply):
        return Apply(what.form, tuple(substitute(a, mapping) for a in what.arguments), what.ctype)
    if isinstance(what, Load):
        return Load(what.buffer, substitute(what.index, mapping))
    if isinstance(what, Position):
        return Position(substitute(what.index, mapping))
    return what


# -- shapes ---------------------------------------------------------------------------------------


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a dense row-major array."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def variables(domain: Iterable[int]) -> tuple[Index, ...]:
    """The loop variables of a domain."""
    return tuple(Index.of(Var(number, size)) for number, size in enumerate(domain))


def flatten(index: Sequence[Index], shape: Sequence[int]) -> Index:
    """Position in a dense row-major array."""
    total = Index()
    for i, stride in zip(index, contiguous(shape), strict=True):
        total = total + i * stride
    return total


def unflatten(position: Index, shape: Sequence[int]) -> tuple[Index, ...]:
    """The inverse of :func:`flatten`."""
    result: list[Index] = []
    for size, stride in zip(shape, contiguous(shape), strict=True):
        if size == 1:
            result.append(Index())
        else:
            quotient = position // stride
            result.append(quotient)
            position = position + quotient * -stride
    return tuple(result)


def count(shape: Sequence[int]) -> int:
    """Elements of a shape."""
    return math.prod(shape)
