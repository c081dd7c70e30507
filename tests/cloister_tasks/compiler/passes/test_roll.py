"""Rolled calls, unrolled again, are the calls; so they are in C."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_tasks.compiler.driver import _step as step_in_c
from cloister_tasks.compiler.emit import Address, Invocation
from cloister_tasks.compiler.expression import Buffer
from cloister_tasks.compiler.passes.roll import LONGEST, WORTHWHILE, roll

ARENA = Buffer("a", "float", 4096)
ARENA.offset = 64
PARAMETER = Buffer("w", "float", 64, "w")
INPUT = Buffer("x", "float", 64, "now_x0")


def calls_of(functions):
    """Calls whose arguments all differ."""
    buffers = (ARENA, PARAMETER, INPUT)
    return [
        Invocation(f, (Address(buffers[f % 3], n), Address(ARENA, 100 + n % 2)))
        for n, f in enumerate(functions)
    ]


def unrolled(steps):
    return [call for step in steps for turn in step.calls for call in turn]


functions = st.lists(st.integers(0, 3), max_size=30)
repeated = st.builds(
    lambda before, body, times, after: before + body * times + after,
    functions,
    functions,
    st.integers(1, 9),
    functions,
)


@given(repeated)
@settings(deadline=None)
def test_unrolled_again_they_are_the_calls(numbers):
    calls = calls_of(numbers)
    steps = roll(calls)
    assert unrolled(steps) == calls
    for step in steps:
        assert step.times == 1 or step.times >= WORTHWHILE
        assert len({len(turn) for turn in step.calls}) == 1
        for turn in step.calls:
            assert [c.kind for c in turn] == [c.kind for c in step.calls[0]]


@pytest.mark.parametrize("times", [WORTHWHILE - 1, WORTHWHILE, 50])
@pytest.mark.parametrize("length", [1, 3, LONGEST])
def test_a_repetition_is_one_step_from_four_turns_on(times, length):
    body = [0] * (length - 1) + [1]
    steps = roll(calls_of([2, *body * times, 2]))
    whole = [s for s in steps if s.times == times and len(s.calls[0]) == length]
    assert bool(whole) is (times >= WORTHWHILE)


def test_one_function_over_and_over_is_a_repetition_of_one():
    (step,) = roll(calls_of([1] * 10))
    assert (step.times, len(step.calls[0])) == (10, 1)


def test_addresses_that_move_and_those_that_do_not_are_not_mixed():
    calls = [Invocation(0, (Address(b, n),)) for n, b in enumerate([ARENA, INPUT] * 3)]
    assert calls[0].kind != calls[1].kind
    assert all(step.times == 1 for step in roll(calls))
    assert roll([]) == []


@given(repeated)
@settings(deadline=None, max_examples=60)
def test_the_c_of_the_steps_makes_the_same_calls(numbers):
    """Read the C as a machine would: loops over tables of addresses."""
    calls = calls_of(numbers)
    tables: list[str] = []
    text = [step_in_c(step, "train", tables) for step in roll(calls)]
    values = {}
    for table in tables:
        name, content = re.fullmatch(r"static .*?(train_\d+)\[\] = \{(.*)\};", table).groups()
        values[name] = content.split(", ")
    made = []
    for part in text:
        loop = re.match(r"    for \(int t = 0; t < (\d+); t\+\+\)", part)
        for turn in range(int(loop[1]) if loop else 1):
            for function, arguments in re.findall(r"k(\d+)\((.*)\);", part):
                given_ = [
                    re.sub(r"(train_\d+)\[t\]", lambda m, t=turn: values[m[1]][t], a)
                    for a in arguments.split(", ")
                ]
                made.append((int(function), given_))

    def plain(address):
        return re.sub(r" \+ 0$", "", address)

    assert [(f, [plain(a) for a in given_]) for f, given_ in made] == [
        (c.function, [a.c() for a in c.arguments]) for c in calls
    ]
