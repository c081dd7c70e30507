"""What nobody reads is not computed; all else is."""

from __future__ import annotations

from hypothesis import given, settings

from cloister_tasks.compiler.passes.prune import prune

from ..interpreter import evaluate
from ..program_cases import assert_same, memory_of, outcome, programs


@given(programs())
@settings(deadline=None)
def test_the_meaning_stays_and_every_kernel_left_matters(program):
    memory = memory_of(program)
    wanted = outcome(memory, evaluate(program, memory))
    before = list(program.kernels)
    prune(program)
    assert [k for k in before if any(k is kept for kept in program.kernels)] == program.kernels
    memory = memory_of(program)
    found = outcome(memory, evaluate(program, memory))
    assert_same(found, {name: wanted[name] for name in found})
    results = set(program.results.values())
    for at, kernel in enumerate(program.kernels):
        later = {b for k in program.kernels[at + 1 :] for b in k.reads()}
        own = set(kernel.reads())
        assert any(
            b.place is not None or b in results or b in later or b in own for b in kernel.writes()
        )
    kernels = list(program.kernels)
    prune(program)
    assert program.kernels == kernels
