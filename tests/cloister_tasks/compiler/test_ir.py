"""Kernels and programs: what they touch, how they print."""

from __future__ import annotations

import pytest

from cloister_tasks.compiler.expression import Buffer, Dynamic, Index, Load, variables
from cloister_tasks.compiler.ir import Call, Check, Loop, Operand, Program, Reduction, Store

A, B = Buffer("a", "float", 24), Buffer("b", "float", 24)


def kernel(kind):
    (i,) = variables((6,))
    if kind == "loop":
        return Loop((6,), [Store(B, i, Load(A, Index.of(Dynamic(Load(A, i), 6))))])
    if kind == "reduction":
        return Reduction((6,), frozenset({0}), "sum", B, Index(), Load(A, i))
    return Call("f", "f({x}, {y});", {"x": Operand(A, 3)}, {"y": Operand(B)})


@pytest.mark.parametrize("kind", ["loop", "reduction", "call"])
def test_renaming_reaches_reads_and_writes(kind):
    made = kernel(kind)
    assert set(made.reads()) == {A}
    assert set(made.writes()) == {B}
    new, other = Buffer("c", "float", 24), Buffer("d", "float", 24)
    made.rename(A, new)
    made.rename(B, other)
    assert set(made.reads()) == {new}
    assert set(made.writes()) == {other}
    assert "c" in str(made)


def test_an_accumulating_store_reads_its_target():
    (i,) = variables((6,))
    loop = Loop((6,), [Store(B, i, Load(A, i), accumulate=True)])
    assert set(loop.reads()) == {A, B}


def test_a_program_prints_in_full():
    program = Program("p", [kernel(k) for k in ("loop", "reduction", "call")], results={"0": B})
    text = str(program)
    assert text.startswith("program p:")
    assert "y=b = f(x=a+3)" in text
    assert "b[0] = sum(i0) a[i0]" in text
    assert "a[at(a[i0], 6)]" in text
    assert "result 0 = b" in text
    assert program.buffers() == [A, B]
    assert Buffer("x", "uint8_t", 5).nbytes == 5
    assert A.nbytes == 96


def test_a_check_prints_its_bounds():
    (i,) = variables((6,))
    assert str(Check((6,), Load(A, i), 4)) == "check 0 <= a[i0] < 4 for 6"
