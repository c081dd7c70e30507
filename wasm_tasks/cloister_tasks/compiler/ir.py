"""The compiler's intermediate representation: buffers, index and value expressions, kernels.

A :class:`Program` is a list of kernels over buffers. Shapes, strides and sizes are plain integers;
nothing is symbolic but the loop variables of the kernel at hand. Printing a program shows it in
full (``cloister task compile --explain``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
        if low >= 0 and high < by:
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
        yield from _index_loads(expr.index)
    elif isinstance(expr, Position):
        yield from _index_loads(expr.index)


def _index_loads(index: Index) -> Iterator[Load]:
    for atom, _ in index.terms:
        if isinstance(atom, Dynamic):
            yield from loads(atom.value)
        elif isinstance(atom, Div):
            yield from _index_loads(atom.index)


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


# -- kernels ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Store:
    """``buffer[index] = value``, or ``+=``."""

    buffer: Buffer
    index: Index
    value: Expr
    accumulate: bool = False

    def __str__(self) -> str:
        return f"{self.buffer}[{self.index}] {'+=' if self.accumulate else '='} {self.value}"


@dataclass(slots=True)
class Loop:
    """Stores for every point of a domain, in any order unless one of them accumulates."""

    domain: tuple[int, ...]
    stores: list[Store]
    origin: str = ""

    def reads(self) -> Iterator[Buffer]:
        """Buffers read, with repetitions."""
        for store in self.stores:
            yield from (load.buffer for load in loads(store.value))
            yield from (load.buffer for load in _index_loads(store.index))
            if store.accumulate:
                yield store.buffer

    def writes(self) -> Iterator[Buffer]:
        """Buffers written, with repetitions."""
        return (store.buffer for store in self.stores)

    def rename(self, old: Buffer, new: Buffer) -> None:
        """Let every access to one buffer go to another."""

        def swap(load: Load) -> Load:
            return Load(new, load.index) if load.buffer is old else load

        self.stores = [
            Store(
                new if s.buffer is old else s.buffer,
                rewrite_index(s.index, swap, lambda i: i),
                rewrite(s.value, swap, lambda i: i),
                s.accumulate,
            )
            for s in self.stores
        ]

    def __str__(self) -> str:
        lines = [f"for {'x'.join(map(str, self.domain)) or '1'}:"]
        return "\n".join([*lines, *(f"    {store}" for store in self.stores)])


@dataclass(slots=True)
class Reduction:
    """``target[keep] = reduce(value over the reduced variables)``; sums are kept in doubles."""

    domain: tuple[int, ...]
    reduced: frozenset[int]
    """Which variables of the domain are reduced."""
    kind: Literal["sum", "prod", "max", "min", "any", "all", "argmax", "argmin"]
    target: Buffer
    index: Index
    value: Expr
    origin: str = ""

    def reads(self) -> Iterator[Buffer]:
        """Buffers read, with repetitions."""
        return (load.buffer for load in loads(self.value))

    def writes(self) -> Iterator[Buffer]:
        """The target."""
        yield self.target

    def rename(self, old: Buffer, new: Buffer) -> None:
        """Let every access to one buffer go to another."""
        self.value = rewrite(
            self.value,
            lambda load: Load(new, load.index) if load.buffer is old else load,
            lambda i: i,
        )
        if self.target is old:
            self.target = new

    def __str__(self) -> str:
        axes = ",".join(f"i{n}" for n in sorted(self.reduced))
        return (
            f"for {'x'.join(map(str, self.domain)) or '1'}:\n"
            f"    {self.target}[{self.index}] = {self.kind}({axes}) {self.value}"
        )


@dataclass(frozen=True, slots=True)
class Operand:
    """Where a kernel of the library finds one of its arrays: a buffer and elements into it."""

    buffer: Buffer
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.buffer}+{self.offset}" if self.offset else str(self.buffer)


@dataclass(slots=True)
class Call:
    """A kernel of the library: C statements over operands.

    ``code`` refers to the address of an operand as {name}; the rest of it is constant, so that
    calls that differ in their operands only share one function.
    """

    name: str
    code: str
    inputs: dict[str, Operand]
    outputs: dict[str, Operand]
    workspace: int = 0
    """Floats of scratch memory, as {work}."""
    form: object = None
    """What passes need to know to change the call; see ``operators.products``."""
    origin: str = ""

    def reads(self) -> Iterator[Buffer]:
        """Buffers read, with repetitions."""
        return (o.buffer for o in self.inputs.values())

    def writes(self) -> Iterator[Buffer]:
        """Buffers written, with repetitions."""
        return (o.buffer for o in self.outputs.values())

    def rename(self, old: Buffer, new: Buffer) -> None:
        """Let every access to one buffer go to another."""
        for operands in (self.inputs, self.outputs):
            for key, o in operands.items():
                if o.buffer is old:
                    operands[key] = replace(o, buffer=new)

    def __str__(self) -> str:
        given = ", ".join(f"{k}={o}" for k, o in self.inputs.items())
        made = ", ".join(f"{k}={o}" for k, o in self.outputs.items())
        return f"{made} = {self.name}({given})"


Kernel: TypeAlias = Loop | Reduction | Call


@dataclass(slots=True)
class Check:
    """Data-dependent indices that must lie in 0 .. size - 1 before anything runs.

    ``rows`` index values belong to each row of the batch, so that a bad one names its row.
    """

    domain: tuple[int, ...]
    value: Expr
    size: int

    def __str__(self) -> str:
        return f"check 0 <= {self.value} < {self.size} for {'x'.join(map(str, self.domain))}"


@dataclass
class Program:
    """Kernels in order of execution, with what goes in and what comes out."""

    name: str
    kernels: list[Kernel] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    results: dict[str, Buffer] = field(default_factory=dict)
    """Buffers that hold the program's results when it has run: they live to the end."""

    def buffers(self) -> list[Buffer]:
        """Every buffer of the kernels, in order of appearance."""
        seen: dict[Buffer, None] = {}
        for kernel in self.kernels:
            for buffer in (*kernel.reads(), *kernel.writes()):
                seen.setdefault(buffer)
        for buffer in self.results.values():
            seen.setdefault(buffer)
        return list(seen)

    def __str__(self) -> str:
        lines = [f"program {self.name}:"]
        lines += [f"  {check}" for check in self.checks]
        for number, kernel in enumerate(self.kernels):
            text = str(kernel).replace("\n", "\n      ")
            lines.append(
                f"  {number:4d} {text}" + (f"    # {kernel.origin}" if kernel.origin else "")
            )
        lines += [f"  result {name} = {buffer}" for name, buffer in self.results.items()]
        return "\n".join(lines)


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
