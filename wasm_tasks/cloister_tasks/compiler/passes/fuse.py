"""Elementwise loops over one domain become one loop: what one stores the next need not load.

A loop joins an earlier one that it shares arrays with when nothing in between stands against it and
every element they exchange is exchanged within one iteration. An array that only the joined loop
uses is never stored at all.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloister_tasks.compiler.expression import (
    REGISTER,
    Buffer,
    Index,
    Var,
    count,
    indices,
    inner_indices,
    loads,
    substitute,
    variables,
)
from cloister_tasks.compiler.ir import Kernel, Loop, Program, Store

REACH = 24
"""How many kernels back a partner is looked for."""
MOST_ARRAYS = 12
"""Arrays one loop works on at most: more addresses than registers cost more than they save."""


def fuse(program: Program) -> None:
    """Join loops of a program."""
    kernels: list[Kernel] = []
    for kernel in program.kernels:
        if isinstance(kernel, Loop):
            kernel = merged(kernel)
            if _join(kernels, kernel):
                continue
        kernels.append(kernel)
    program.kernels = kernels
    _keep_in_registers(program)


def merged(loop: Loop) -> Loop:
    """The loop with as few dimensions as its accesses allow."""
    used: list[Index] = []
    for store in loop.stores:
        used += [store.index, *inner_indices(store.index), *indices(store.value)]
    groups: list[list[int]] = []
    for d, size in enumerate(loop.domain):
        if size == 1:
            continue
        if groups:
            e = groups[-1][-1]
            if all(i.coefficient(e) == i.coefficient(d) * size for i in used):
                groups[-1].append(d)
                continue
        groups.append([d])
    domain = tuple(count([loop.domain[d] for d in group]) for group in groups)
    if domain == loop.domain:
        return loop
    mapping: dict[int, Index] = {}
    for group, var in zip(groups, variables(domain), strict=True):
        # Every access walks the group as one: its last variable may stand for all of it.
        for d in group[:-1]:
            mapping[d] = Index()
        mapping[group[-1]] = var
    return Loop(domain, _substituted(loop.stores, mapping), loop.origin)


def refined(loop: Loop, domain: tuple[int, ...]) -> Loop | None:
    """The loop over a domain with more dimensions; None if its own are no products of those."""
    if loop.domain == domain:
        return loop
    fine = variables(domain)
    mapping: dict[int, Index] = {}
    at = 0
    for d, size in enumerate(loop.domain):
        total, position = 1, Index()
        while total < size and at < len(domain):
            position = position * domain[at] + fine[at]
            total *= domain[at]
            at += 1
        if total != size:
            return None
        mapping[d] = position
    if at != len(domain):
        return None
    return Loop(domain, _substituted(loop.stores, mapping), loop.origin)


def _substituted(stores: Sequence[Store], mapping: dict[int, Index]) -> list[Store]:
    return [
        Store(
            s.buffer,
            substitute(s.index, mapping),
            substitute(s.value, mapping),
            s.accumulate,
        )
        for s in stores
    ]


def _join(kernels: list[Kernel], loop: Loop) -> bool:
    """Let a loop join one of the kernels before it."""
    reads, writes = set(loop.reads()), set(loop.writes())
    between_reads: set[Buffer] = set()
    between_writes: set[Buffer] = set()
    for at in range(len(kernels) - 1, max(-1, len(kernels) - 1 - REACH), -1):
        partner = kernels[at]
        partner_reads, partner_writes = set(partner.reads()), set(partner.writes())
        if isinstance(partner, Loop) and _shares(partner_reads | partner_writes, reads, loop):
            up = reads.isdisjoint(between_writes) and writes.isdisjoint(
                between_reads | between_writes
            )
            down = partner_writes.isdisjoint(
                between_reads | between_writes
            ) and partner_reads.isdisjoint(between_writes)
            if up or down:
                joined = _joined(partner, loop)
                if joined is not None:
                    if up:
                        kernels[at] = joined
                    else:
                        del kernels[at]
                        kernels.append(joined)
                    return True
        between_reads |= partner_reads
        between_writes |= partner_writes
    return False


def _shares(touched: set[Buffer], reads: set[Buffer], loop: Loop) -> bool:
    """Some array of about the loop's own size is in both."""
    size = count(loop.domain)
    return any(2 * b.size > size for b in touched & reads)


def _joined(first: Loop, second: Loop) -> Loop | None:
    """Both loops as one, if their domains fit and no element crosses iterations."""
    if any(s.accumulate for s in (*first.stores, *second.stores)):
        return None
    a: Loop | None = first
    b: Loop | None = second
    if len(first.domain) < len(second.domain):
        a = refined(first, second.domain)
    else:
        b = refined(second, first.domain)
    if a is None or b is None:
        return None
    places = {s.buffer: s.index for s in a.stores}
    for store in b.stores:
        if store.buffer in places:
            return None
        for load in loads(store.value):
            if load.buffer in places and load.index != places[load.buffer]:
                return None
    written = {s.buffer: s.index for s in b.stores}
    for store in a.stores:
        for load in loads(store.value):
            if load.buffer in written and load.index != written[load.buffer]:
                return None
    arrays = {*a.reads(), *a.writes(), *b.reads(), *b.writes()}
    if len(arrays) > MOST_ARRAYS:
        return None
    if not _each_once(a) or not _each_once(b):
        return None
    return Loop(a.domain, [*a.stores, *b.stores], f"{a.origin}, {b.origin}")


def _each_once(loop: Loop) -> bool:
    """No element is stored twice, so that an iteration owns what it stores."""
    for store in loop.stores:
        if not store.index.linear:
            return False
        steps = sorted((abs(c), a.size) for a, c in store.index.terms if isinstance(a, Var))
        if len(steps) != sum(n > 1 for n in loop.domain):
            return False
        reach = 1
        for step, size in steps:
            if step < reach:
                return False
            reach = step * size
    return True


def _keep_in_registers(program: Program) -> None:
    """Arrays of the arena that one loop stores and nobody else reads are not stored."""
    users: dict[Buffer, int] = {}
    for kernel in program.kernels:
        for buffer in {*kernel.reads(), *kernel.writes()}:
            users[buffer] = users.get(buffer, 0) + 1
    kept = set(program.results.values())
    for kernel in program.kernels:
        if not isinstance(kernel, Loop) or len(kernel.stores) < 2:
            continue
        for store in kernel.stores:
            buffer = store.buffer
            if buffer.place is None and users[buffer] == 1 and buffer not in kept:
                buffer.place = REGISTER
