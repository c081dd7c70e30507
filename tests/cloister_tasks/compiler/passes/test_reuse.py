"""Buffers that become one change nothing but the number of buffers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_tasks.compiler.expression import Apply, Buffer, Index, Load, variables
from cloister_tasks.compiler.ir import Loop, Operand, Program, Reduction, Store
from cloister_tasks.compiler.operators.products import Base, Matrix, Product
from cloister_tasks.compiler.passes.fuse import fuse
from cloister_tasks.compiler.passes.reuse import reuse

from ..interpreter import evaluate
from ..program_cases import assert_same, memory_of, outcome, programs

I = variables((6,))[0]  # noqa: E741 - the loop variable


def copy(target, source, place=I, at=I):
    return Loop((6,), [Store(target, place, Apply("(-{0})", (Load(source, at),), "float"))])


def arena(program):
    return [b for b in program.buffers() if b.place is None]


@given(st.one_of(programs(), programs(only=(2, 3)), programs(12, only=(2, 2))), st.booleans())
@settings(deadline=None, max_examples=300)
def test_the_meaning_stays(program, fused):
    if fused:
        fuse(program)
    memory = memory_of(program)
    wanted = outcome(memory, evaluate(program, memory))
    before, names = len(arena(program)), list(program.results)
    reuse(program)
    assert len(arena(program)) <= before
    assert list(program.results) == names
    memory = memory_of(program)
    assert_same(outcome(memory, evaluate(program, memory, seed=1)), wanted)


def buffers(*names):
    return [Buffer(n, "float", 6, n if n.isupper() else None) for n in names]


def test_a_chain_works_in_one_buffer():
    x, a, b, c, d = buffers("X", "a", "b", "c", "d")
    program = Program("p", [copy(a, x), copy(b, a), copy(c, b), copy(d, c), copy(x, d)])
    reuse(program)
    assert arena(program) == [a]


def test_what_is_read_later_is_not_overwritten():
    x, a, b = buffers("X", "a", "b")
    program = Program("p", [copy(a, x), copy(b, a), copy(x, a), copy(x, b)])
    reuse(program)
    assert len(arena(program)) == 2


def test_results_and_what_has_a_place_are_not_overwritten():
    x, a, b = buffers("X", "a", "b")
    program = Program("p", [copy(a, x), copy(b, a)], results={"a": a, "b": b})
    reuse(program)
    assert arena(program) == [a, b]
    assert program.results == {"a": a, "b": b}


@pytest.mark.parametrize(("place", "at"), [(I, I * -1 + 5), (I * -1 + 5, I), (I, Index())], ids=str)
def test_elements_of_other_iterations_are_not_overwritten(place, at):
    x, a, b = buffers("X", "a", "b")
    program = Program("p", [copy(a, x), copy(b, a, place, at), copy(x, b)])
    reuse(program)
    assert len(arena(program)) == 2


@pytest.mark.parametrize(("ctype", "size"), [("int32_t", 6), ("float", 7), ("float", 5)])
def test_other_sizes_and_types_do_not_share(ctype, size):
    x, a = buffers("X", "a")
    other = Buffer("o", ctype, size)
    (i,) = variables((5,))
    program = Program("p", [copy(a, x), Loop((5,), [Store(other, i, Load(a, i))])])
    program.kernels.append(Loop((5,), [Store(x, i, Load(other, i))]))
    reuse(program)
    assert arena(program) == [a, other]


def test_a_buffer_that_the_same_loop_writes_is_not_taken():
    x, a, b = buffers("X", "a", "b")
    both = Loop((6,), [Store(b, I, Load(a, I)), Store(a, I, Load(x, I))])
    program = Program("p", [copy(a, x), both, copy(x, b)])
    reuse(program)
    assert arena(program) == [a, b]


def test_a_buffer_stored_before_it_is_read_in_the_same_iteration_stays():
    x, a, b, c = buffers("X", "a", "b", "c")
    both = Loop((6,), [Store(b, I, Load(x, I)), Store(c, I, Load(a, I))])
    both.stores.append(Store(x, I, Apply("({0} + {1})", (Load(b, I), Load(c, I)), "float")))
    program = Program("p", [copy(a, x), both])
    memory = memory_of(program)
    wanted = outcome(memory, evaluate(program, memory))
    reuse(program)
    memory = memory_of(program)
    assert_same(outcome(memory, evaluate(program, memory)), wanted)


def test_reductions_take_new_memory():
    x, a, b = buffers("X", "a", "b")
    total = Reduction((6, 1), frozenset({1}), "sum", b, I, Load(a, I))
    program = Program("p", [copy(a, x), total, copy(x, b)])
    reuse(program)
    assert arena(program) == [a, b]


@pytest.mark.parametrize("strides", [(6, 3, 1), (0, 0, 1)], ids=["whole", "row"])
def test_a_product_grows_on_its_base_where_that_is_dense(strides):
    x, w, a, b = buffers("X", "W", "a", "b")
    form = Product(
        1,
        2,
        3,
        2,
        Matrix(Operand(x), (0, 2, 1)),
        Matrix(Operand(w), (0, 3, 1)),
        Operand(b),
        Base(Operand(a), strides),
    )
    program = Program("p", [copy(a, x), form.call(), copy(x, b)])
    memory = memory_of(program)
    wanted = outcome(memory, evaluate(program, memory))
    reuse(program)
    assert len(arena(program)) == (1 if strides[0] else 2)
    memory = memory_of(program)
    assert_same(outcome(memory, evaluate(program, memory)), wanted)


def test_a_product_does_not_grow_on_its_own_factor():
    x, a, b = buffers("X", "a", "b")
    matrix = Matrix(Operand(a), (0, 3, 1))
    right = Matrix(Operand(Buffer("W", "float", 9, "W")), (0, 3, 1))
    form = Product(1, 2, 3, 3, matrix, right, Operand(b), Base(Operand(a), (6, 3, 1)))
    program = Program("p", [copy(a, x), form.call(), copy(x, b)])
    reuse(program)
    assert arena(program) == [a, b]


def test_a_buffer_that_is_written_in_two_parts_stays():
    """Its second part must not go to another place than its first."""
    x, a, b = buffers("X", "a", "b")
    (half,) = variables((3,))
    parts = [Loop((3,), [Store(b, p, Load(s, p))]) for p, s in ((half, x), (half + 3, a))]
    program = Program("p", [parts[0], copy(a, x), parts[1], copy(x, b)])
    memory = memory_of(program)
    wanted = outcome(memory, evaluate(program, memory))
    reuse(program)
    memory = memory_of(program)
    assert_same(outcome(memory, evaluate(program, memory)), wanted)
    assert len(arena(program)) == 2


def test_a_loop_that_adds_takes_new_memory():
    x, a, b = buffers("X", "a", "b")
    adds = Loop((6,), [Store(b, I, Load(a, I), accumulate=True)])
    program = Program("p", [copy(a, x), adds, copy(x, b)])
    reuse(program)
    assert arena(program) == [a, b]
