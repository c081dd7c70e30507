"""Kernels whose results nobody reads are left out."""

from __future__ import annotations

from cloister_tasks.compiler.expression import Buffer
from cloister_tasks.compiler.ir import Kernel, Program


def prune(program: Program) -> None:
    """Drop what only writes to the arena and is neither read later nor a result."""
    wanted: set[Buffer] = set(program.results.values())
    kept: list[Kernel] = []
    for kernel in reversed(program.kernels):
        if any(b.place is not None or b in wanted for b in kernel.writes()):
            kept.append(kernel)
            wanted.update(kernel.reads())
    program.kernels = kept[::-1]
