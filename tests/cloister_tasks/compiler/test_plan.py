"""Layouts: nothing alive is overwritten, and little memory is wasted."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_tasks.compiler import compilation
from cloister_tasks.compiler import compile as compile_model
from cloister_tasks.compiler.expression import Buffer, Index, Load, variables
from cloister_tasks.compiler.ir import Call, Loop, Operand, Program, Store
from cloister_tasks.compiler.passes import pipeline
from cloister_tasks.compiler.plan import ALIGNMENT, _prove, plan
from cloister_tasks.compiler.zoo import ZOO

from .interpreter import evaluate
from .program_cases import assert_same, memory_of, outcome, programs


def alive(program, layout):
    """The bytes of the arena in use at each kernel, found by walking through the program."""
    kernels = program.kernels
    touched = [{b for b in (*k.reads(), *k.writes()) if b.place is None} for k in kernels]
    touched.append(set(program.results.values()))
    written: set[Buffer] = set()
    for at in range(len(touched)):
        now = set(touched[at])
        now |= {b for b in written if any(b in later for later in touched[at:])}
        if at < len(kernels) and at in layout.scratch:
            now.add(layout.scratch[at])
        written |= touched[at]
        yield {b: range(b.offset, b.offset + b.nbytes) for b in now if b.place is None}


def check(program, layout):
    most = 0
    for ranges in alive(program, layout):
        end = 0
        for taken in sorted(ranges.values(), key=lambda r: r.start):
            assert taken.start >= end, "two buffers share bytes"
            assert taken.start % ALIGNMENT == 0
            end = taken.stop
        assert end <= layout.nbytes
        most = max(most, sum(-(-b.nbytes // ALIGNMENT) * ALIGNMENT for b in ranges))
    assert layout.lower_bound >= most
    assert layout.lower_bound <= layout.nbytes <= layout.unshared
    return most


@given(programs(), st.booleans())
@settings(deadline=None, max_examples=150)
def test_programs_run_in_their_arena(program, passes):
    """All floats in the very bytes they are given, with garbage in them at first."""
    memory = memory_of(program)
    wanted = outcome(memory, evaluate(program, memory))
    if passes:
        pipeline.run(program)
    layout = plan(program)
    check(program, layout)
    arena = np.full(layout.nbytes // 4 * 2, np.nan)  # a double where a float will be
    memory = memory_of(program)
    for lifetime in layout.lifetimes:
        at = lifetime.buffer.offset // 4
        memory[lifetime.buffer] = arena[at : at + lifetime.buffer.size]
    found = outcome(memory, evaluate(program, memory, seed=1))
    assert_same(
        {name: found[name] for name in wanted if name in found},
        {name: value for name, value in wanted.items() if name in found},
    )
    assert set(program.results) <= set(found)


def made_of(lives):
    """A program whose buffers live as said: (elements, first kernel, last kernel)."""
    buffers = [Buffer(f"b{n}", "float", size) for n, (size, _, _) in enumerate(lives)]
    kernels = []
    for at in range(max(last for _, _, last in lives) + 1):
        touched = [b for b, (_, f, l) in zip(buffers, lives, strict=True) if at in (f, l)]  # noqa: E741
        operands = {f"o{n}": Operand(b) for n, b in enumerate(touched)}
        kernels.append(Call("f", "f();", operands, dict(operands)))
    return Program("p", kernels), buffers


lives = st.lists(
    st.tuples(st.integers(1, 12), st.integers(0, 6), st.integers(0, 6)).map(
        lambda t: (t[0], min(t[1:]), max(t[1:]))
    ),
    min_size=1,
    max_size=6,
)


@given(lives)
@settings(deadline=None)
def test_the_lower_bound_is_what_is_alive_at_once(found):
    program, _ = made_of(found)
    layout = plan(program)
    assert check(program, layout) == layout.lower_bound
    assert layout.lower_bound == max(
        sum(-(-4 * size // ALIGNMENT) * ALIGNMENT for size, f, last in found if f <= at <= last)
        for at in range(7)
    )


def smallest(found):
    """The best of all orders in which buffers drop to the lowest free place: the optimum.

    Every layout can be pressed down until each buffer rests on the floor or on another one; placed
    from the lowest to the highest, each then lies at the lowest place above those before it.
    """
    best = 1 << 30
    for order in itertools.permutations(found):
        placed: list[tuple[int, int, int, int]] = []
        for size, first, last in order:
            size = -(-4 * size // ALIGNMENT) * ALIGNMENT
            at = 0
            for low, high, f, end in sorted(placed):
                if f <= last and first <= end and at < high and low < at + size:
                    at = high
            placed.append((at, at + size, first, last))
        best = min(best, max(high for _, high, _, _ in placed))
    return best


@given(lives.filter(lambda found: len(found) <= 5))
@settings(deadline=None, max_examples=60)
def test_small_programs_take_the_least_there_is(found):
    assert plan(made_of(found)[0]).nbytes == smallest(found)


def test_scratch_and_results_are_in_the_plan():
    x = Buffer("X", "float", 6, "X")
    a, b = Buffer("a", "float", 6), Buffer("b", "float", 6)
    (i,) = variables((6,))
    first = Loop((6,), [Store(a, i, Load(x, i))])
    work = Call("f", "f({x}, {work});", {"x": Operand(x)}, {"y": Operand(b)}, workspace=100)
    program = Program("p", [first, work], results={"a": a})
    layout = plan(program)
    check(program, layout)
    assert layout.scratch[1].size == 100
    assert layout.nbytes == 32 + 32 + 400
    assert x.offset == -1
    assert a.offset >= 0
    assert list(layout.scratch) == [1]


def test_nothing_takes_nothing():
    layout = plan(Program("p"))
    assert (layout.nbytes, layout.lower_bound, layout.unshared) == (0, 0, 0)
    x = Buffer("X", "float", 1, "X")
    program = Program("p", [Loop((), [Store(x, Index(), Load(x, Index()))])])
    assert plan(program).nbytes == 0


def test_an_overlap_does_not_get_past_the_proof():
    program, buffers = made_of([(4, 0, 1), (4, 1, 2)])
    layout = plan(program)
    buffers[1].offset = buffers[0].offset + 15
    with pytest.raises(AssertionError, match="overlap"):
        _prove(layout.lifetimes)


SMALL = {
    "mlp": {},
    "lora": {},
    "lenet5": {},
    "cnn_dropout": {},
    "gn_cnn": {},
    "dilated_cnn": {"time": 21},
    "gru": {"time": 5},
    "transformer": {"time": 7},
    "gpt": {"time": 16},
    "unet": {"size": 16},
}


@pytest.mark.parametrize("name", SMALL)
def test_models_take_hardly_more_than_they_must(name, monkeypatch):
    monkeypatch.setattr(compilation, "compile_c", lambda *a, **k: b"")
    task = compile_model(**ZOO[name](batch=4, **SMALL[name]))
    for key, layout in task.plans.items():
        check(task.programs[key], layout)
        assert layout.nbytes <= 1.05 * layout.lower_bound
    (arena,) = re.findall(r"static uint8_t arena\[(\d+)\]", task.source)
    assert int(arena) == task.arena_bytes
    assert task.arena_bytes < task.plans["train"].unshared
