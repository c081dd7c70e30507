"""A new order of kernels respects what depends on what, and lets memory go early."""

from __future__ import annotations

from hypothesis import given, settings

from cloister_tasks.compiler.expression import Buffer, Index, Load, variables
from cloister_tasks.compiler.ir import Loop, Program, Store
from cloister_tasks.compiler.passes.schedule import dependencies, schedule
from cloister_tasks.compiler.plan import plan

from ..interpreter import evaluate
from ..program_cases import assert_same, memory_of, outcome, programs


def conflicts(first, second):
    """Whether two kernels have to keep their order: one writes what the other touches."""
    return not {*first.reads(), *first.writes()}.isdisjoint(second.writes()) or not set(
        first.writes()
    ).isdisjoint(second.reads())


@given(programs())
@settings(deadline=None, max_examples=200)
def test_the_meaning_and_every_order_that_matters_stay(program):
    memory = memory_of(program)
    wanted = outcome(memory, evaluate(program, memory))
    before = list(program.kernels)
    schedule(program)
    assert sorted(map(id, program.kernels)) == sorted(map(id, before))
    at = {id(kernel): n for n, kernel in enumerate(program.kernels)}
    for n, first in enumerate(before):
        for second in before[n + 1 :]:
            assert not conflicts(first, second) or at[id(first)] < at[id(second)]
    memory = memory_of(program)
    assert_same(outcome(memory, evaluate(program, memory, seed=1)), wanted)


@given(programs())
@settings(deadline=None, max_examples=200)
def test_dependencies_reach_every_conflict(program):
    """What conflicts is ordered, through other kernels perhaps."""
    before = dependencies(program.kernels)
    reach: list[set[int]] = []
    for needs in before:
        reach.append(set(needs).union(*(reach[n] for n in needs)))
    for n, kernel in enumerate(program.kernels):
        assert reach[n] == {
            m
            for m in range(n)
            if conflicts(program.kernels[m], kernel)
            or any(m in reach[k] for k in range(n) if conflicts(program.kernels[k], kernel))
        }


@given(programs())
@settings(deadline=None, max_examples=200)
def test_the_peak_grows_by_no_more_than_one_kernel_works_on(program):
    """What moves up adds nothing when it is done, only while it runs."""
    before = plan(program).lower_bound
    one = max(
        sum(a.nbytes for a in plan(Program("one", [kernel])).lifetimes)
        for kernel in program.kernels
    )
    schedule(program)
    assert plan(program).lower_bound <= before + one


def kernel(target, *sources, size=8):
    (i,) = variables((size,))
    values = [Load(s, i if s.size == size else Index()) for s in sources]
    return Loop((size,), [Store(target, i, value) for value in values])


def test_gradients_die_one_by_one():
    """All gradients first, then all updates: updates move up, and one gradient lives at once."""
    x = Buffer("X", "float", 8, "X")
    weights = [Buffer(f"W{n}", "float", 8, f"W{n}") for n in range(5)]
    gradients = [Buffer(f"g{n}", "float", 8) for n in range(5)]
    kernels = [kernel(g, x) for g in gradients]
    kernels += [kernel(w, g) for w, g in zip(weights, gradients, strict=True)]
    program = Program("p", kernels)
    assert plan(program).lower_bound == 5 * 32
    schedule(program)
    assert plan(program).lower_bound == 32
    assert program.kernels[:2] == [kernels[0], kernels[5]]


def test_without_gain_the_order_stays():
    x = Buffer("X", "float", 8, "X")
    made = [Buffer(f"b{n}", "float", 8) for n in range(4)]
    kernels = [kernel(b, x) for b in made]
    program = Program("p", list(kernels), results=dict(enumerate(made)))
    schedule(program)
    assert program.kernels == kernels
