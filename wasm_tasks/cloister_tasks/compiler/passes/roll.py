"""Repeated sequences of calls become loops: the time steps of an unrolled recurrent network.

Two stretches repeat when they call the same functions in the same order; their addresses may
differ and are read from tables. So code size and compile time do not grow with the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloister_tasks.compiler.emit import Invocation

LONGEST = 96
"""Calls in a repeated stretch; longer ones are not looked for."""
WORTHWHILE = 4
"""Repetitions from which a loop is made."""


@dataclass(frozen=True)
class Step:
    """Calls made a number of times: ``calls[turn][position]``."""

    calls: tuple[tuple[Invocation, ...], ...]

    @property
    def times(self) -> int:
        """Repetitions."""
        return len(self.calls)


def roll(calls: Sequence[Invocation]) -> list[Step]:
    """Greedily, the repetition that covers most calls from each position on."""
    kinds: dict[tuple[object, ...], int] = {}
    functions = [kinds.setdefault(call.kind, len(kinds)) for call in calls]
    steps: list[Step] = []
    at = 0
    while at < len(calls):
        length, times = _longest(functions, at)
        turns = tuple(tuple(calls[at + t * length : at + (t + 1) * length]) for t in range(times))
        steps.append(Step(turns))
        at += length * times
    return steps


def _longest(functions: Sequence[int], at: int) -> tuple[int, int]:
    """Length and number of the repetition that begins here and covers most; else one call."""
    best = (1, 1)
    for length in range(1, min(LONGEST, (len(functions) - at) // WORTHWHILE) + 1):
        if functions[at] != functions[at + length]:
            continue
        end = at + length
        while end < len(functions) and functions[end] == functions[end - length]:
            end += 1
        times = (end - at) // length
        if times >= WORTHWHILE and times * length > best[0] * best[1]:
            best = (length, times)
    return best
