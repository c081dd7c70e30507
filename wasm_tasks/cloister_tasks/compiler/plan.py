"""Where each buffer lies in the arena: best fit over lifetimes, and the proof that it is right.

The arena is shared by the programs of a task, which never run at the same time. Within one, two
buffers may share memory when they are never alive together. Of several orders of placement (as in
Pisarchyk and Lee, "Efficient memory management for deep neural net inference", 2020) the smallest
result is taken.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cloister_tasks.compiler.expression import Buffer
from cloister_tasks.compiler.ir import Call, Program

ALIGNMENT = 16
"""Bytes; every buffer begins at a multiple, as vector loads like it."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A buffer and the kernels between which it must not be disturbed."""

    buffer: Buffer
    first: int
    last: int

    @property
    def nbytes(self) -> int:
        """Bytes it takes in the arena."""
        return -(-self.buffer.nbytes // ALIGNMENT) * ALIGNMENT

    def meets(self, other: Lifetime) -> bool:
        """Whether both are alive at some kernel."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """A layout of one program's buffers."""

    lifetimes: tuple[Lifetime, ...]
    scratch: dict[int, Buffer]
    """Scratch memory of the kernels that need some, by their position in the program."""
    nbytes: int
    """Size of the arena."""
    lower_bound: int
    """The most bytes alive at one kernel: no layout can be smaller."""
    unshared: int
    """Bytes without any sharing."""


Layout: TypeAlias = tuple[list[tuple[Lifetime, int]], int]
"""Offsets, and the first byte behind all of them."""
PLACEMENTS = 20_000
"""Buffers placed in all while looking for a layout closer to the lower bound."""
MOVED = 40
"""Of the largest buffers, how many are moved."""


def plan(program: Program) -> Plan:
    """Give every buffer of a program its offset.

    Raises AssertionError should two buffers that are alive together overlap.
    """
    lifetimes, scratch = _lifetimes(program)
    orders: tuple[Callable[[Lifetime], tuple[int, ...]], ...] = (
        lambda a: (-a.nbytes, a.first),
        lambda a: (-a.nbytes * (a.last - a.first + 1), a.first),
        lambda a: (a.first, -a.nbytes),
        lambda a: (a.first - a.last, -a.nbytes),
    )
    least = _most_alive(lifetimes, len(program.kernels))
    starts = [sorted(lifetimes, key=order) for order in orders]
    best = min((_place(start) for start in starts), key=lambda layout: layout[1])
    best = _improve(best, starts[0], least)
    for lifetime, offset in best[0]:
        lifetime.buffer.offset = offset
    _prove(lifetimes)
    return Plan(
        tuple(lifetimes),
        scratch,
        best[1],
        least,
        sum(a.nbytes for a in lifetimes),
    )


def _lifetimes(program: Program) -> tuple[list[Lifetime], dict[int, Buffer]]:
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    scratch: dict[int, Buffer] = {}
    for number, kernel in enumerate(program.kernels):
        for buffer in (*kernel.reads(), *kernel.writes()):
            if buffer.place is None:
                first.setdefault(buffer, number)
                last[buffer] = number
        if isinstance(kernel, Call) and kernel.workspace:
            work = Buffer(f"work{number}", "float", kernel.workspace)
            scratch[number] = work
            first[work] = last[work] = number
    for buffer in program.results.values():
        if buffer.place is None:
            first.setdefault(buffer, 0)
            last[buffer] = len(program.kernels)
    return [Lifetime(b, first[b], last[b]) for b in first], scratch


def _place(order: Sequence[Lifetime]) -> Layout:
    """Put each where it fits best among those already placed that it meets."""
    placed: list[tuple[Lifetime, int]] = []
    top = 0
    for lifetime in order:
        taken = sorted((at, at + other.nbytes) for other, at in placed if lifetime.meets(other))
        at = _best_gap(taken, lifetime.nbytes)
        placed.append((lifetime, at))
        top = max(top, at + lifetime.nbytes)
    return placed, top


def _improve(best: Layout, order: list[Lifetime], least: int) -> Layout:
    """Climb from an order of placement to better ones by moving one of the largest buffers."""
    draw = random.Random(0)  # noqa: S311 - the same layout every time
    current = _place(order)
    reach = min(len(order), MOVED)
    for _ in range(PLACEMENTS // max(len(order), 1)):
        if best[1] <= least:
            break
        changed = list(order)
        changed.insert(draw.randrange(reach), changed.pop(draw.randrange(reach)))
        layout = _place(changed)
        if layout[1] <= current[1]:
            order, current = changed, layout
        best = min(best, layout, key=lambda one: one[1])
    return best


def _best_gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    """Start of the smallest gap that holds `size`, else the end."""
    best: tuple[int, int] | None = None
    end = 0
    for low, high in taken:
        gap = low - end
        if gap >= size and (best is None or gap < best[1]):
            best = (end, gap)
        end = max(end, high)
    return end if best is None else best[0]


def _prove(lifetimes: Sequence[Lifetime]) -> None:
    """No two buffers that are alive together share a byte."""
    by_start = sorted(lifetimes, key=lambda a: a.first)
    alive: list[Lifetime] = []
    for lifetime in by_start:
        alive = [other for other in alive if other.last >= lifetime.first]
        start = lifetime.buffer.offset
        for other in alive:
            begin = other.buffer.offset
            apart = start + lifetime.nbytes <= begin or begin + other.nbytes <= start
            assert apart, f"{lifetime.buffer} and {other.buffer} overlap"
        alive.append(lifetime)


def _most_alive(lifetimes: Sequence[Lifetime], kernels: int) -> int:
    change = [0] * (kernels + 2)
    for lifetime in lifetimes:
        change[lifetime.first] += lifetime.nbytes
        change[lifetime.last + 1] -= lifetime.nbytes
    most = now = 0
    for delta in change:
        now += delta
        most = max(most, now)
    return most
