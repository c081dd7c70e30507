"""Which passes run, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch.fx import Graph

from cloister_tasks.compiler.ir import Program
from cloister_tasks.compiler.passes.deduplicate import deduplicate, keep_results
from cloister_tasks.compiler.passes.fold import fold
from cloister_tasks.compiler.passes.fuse import fuse
from cloister_tasks.compiler.passes.gather_sums import gather_sums
from cloister_tasks.compiler.passes.prune import prune
from cloister_tasks.compiler.passes.reuse import reuse
from cloister_tasks.compiler.passes.schedule import schedule

PASSES: tuple[tuple[str, Callable[[Program], None]], ...] = (
    ("pruned", prune),
    ("folded", fold),
    ("fused", fuse),
    ("scheduled", schedule),
    ("reused", reuse),
)
"""Passes over a program, by what ``--explain`` calls the state after them."""


def graph(captured: Graph, wanted: Sequence[bool]) -> Graph:
    """The part of a graph that some of its results need, each computation once."""
    result = keep_results(captured, wanted)
    deduplicate(result)
    gather_sums(result)
    return result


def run(program: Program, show: Callable[[str, Program], None] | None = None) -> None:
    """All passes over a program."""
    for title, change in PASSES:
        change(program)
        if show is not None:
            show(title, program)
