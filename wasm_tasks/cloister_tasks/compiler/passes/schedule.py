"""The order of kernels: what frees memory runs as early as it may, the rest in its given order.

So a parameter is updated right after the last use of its old value, its gradient dies there, and
long sums take their terms up as they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from cloister_tasks.compiler.expression import Buffer
from cloister_tasks.compiler.ir import Kernel, Program


def dependencies(kernels: Sequence[Kernel]) -> list[set[int]]:
    """For each kernel those that must run before it: writers of what it reads and the like."""
    before: list[set[int]] = []
    writer: dict[Buffer, int] = {}
    readers: dict[Buffer, list[int]] = {}
    for number, kernel in enumerate(kernels):
        needs: set[int] = set()
        for buffer in kernel.reads():
            if buffer in writer:
                needs.add(writer[buffer])
            readers.setdefault(buffer, []).append(number)
        for buffer in kernel.writes():
            needs.update(readers.pop(buffer, ()))
            if buffer in writer:
                needs.add(writer[buffer])
            writer[buffer] = number
        needs.discard(number)
        before.append(needs)
    return before


def schedule(program: Program) -> None:
    """Reorder a program's kernels."""
    kernels = program.kernels
    waiting = dependencies(kernels)
    after: list[list[int]] = [[] for _ in kernels]
    for number, needs in enumerate(waiting):
        for need in needs:
            after[need].append(number)
    users: dict[Buffer, int] = {}
    touches: list[set[Buffer]] = []
    for kernel in kernels:
        touched = {b for b in (*kernel.reads(), *kernel.writes()) if b.place is None}
        touches.append(touched)
        for buffer in touched:
            users[buffer] = users.get(buffer, 0) + 1
    for buffer in program.results.values():
        users[buffer] = users.get(buffer, 0) + 1  # never freed
    alive: set[Buffer] = set()

    def growth(number: int) -> int:
        """Bytes that running a kernel adds to what is alive."""
        total = 0
        for buffer in touches[number]:
            if buffer not in alive:
                total += buffer.nbytes
            if users[buffer] == 1:
                total -= buffer.nbytes
        return total

    ready = [n for n, needs in enumerate(waiting) if not needs]
    heapify(ready)
    order: list[Kernel] = []
    while ready:
        chosen = min((n for n in ready if growth(n) <= 0), default=None)
        if chosen is None:
            chosen = heappop(ready)
        else:
            ready.remove(chosen)
            heapify(ready)
        order.append(kernels[chosen])
        for buffer in touches[chosen]:
            alive.add(buffer)
            users[buffer] -= 1
            if not users[buffer]:
                alive.discard(buffer)
        for number in after[chosen]:
            waiting[number].discard(chosen)
            if not waiting[number]:
                heappush(ready, number)
    assert len(order) == len(kernels)
    program.kernels = order
