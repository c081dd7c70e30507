"""The compiler's intermediate representation: kernels, and programs of them.

Printing a program shows it in full (``cloister task compile --explain``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from cloister_tasks.compiler.expression import (
    Buffer,
    Expr,
    Index,
    Load,
    loads,
    loads_of_index,
    rewrite,
    rewrite_index,
)


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
            yield from (load.buffer for load in loads_of_index(store.index))
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

    As many of them belong to each row of the batch, so that a bad one names its row.
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
