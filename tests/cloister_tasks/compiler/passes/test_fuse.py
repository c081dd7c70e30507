"""Joined loops mean what the loops meant, and store less."""

from __future__ import annotations

import torch
from hypothesis import given, settings

from cloister_tasks.compiler.expression import (
    REGISTER,
    Apply,
    Buffer,
    Load,
    flatten,
    indices,
    loads,
    variables,
)
from cloister_tasks.compiler.ir import Loop, Program, Store
from cloister_tasks.compiler.passes.fuse import MOST_ARRAYS, fuse, merged, refined

from ..interpreter import evaluate
from ..program_cases import assert_same, lowered, memory_of, outcome, programs

BOTH = "({0} + {1})"


def elementwise(target, *sources, domain=(6,), index=None):
    """A loop that stores a sum of sources, each read at its own index or the loop's."""
    place = flatten(variables(domain), domain)
    values = [s if isinstance(s, Load) else Load(s, place) for s in sources]
    value = values[0] if len(values) == 1 else Apply(BOTH, tuple(values), "float")
    return Loop(domain, [Store(target, place if index is None else index, value)])


def arrays(names, size=6):
    """Buffers: those in capitals have a place of their own."""
    return [Buffer(n, "float", size, n if n.isupper() else None) for n in names]


@given(programs())
@settings(deadline=None, max_examples=200)
def test_the_meaning_stays(program):
    memory = memory_of(program)
    wanted = outcome(memory, evaluate(program, memory))
    before = len(program.kernels)
    fuse(program)
    assert len(program.kernels) <= before
    memory = memory_of(program)
    assert_same(outcome(memory, evaluate(program, memory, seed=1)), wanted)
    for kernel in program.kernels:
        stored = {}
        for store in kernel.stores if isinstance(kernel, Loop) else ():
            for load in loads(store.value):
                assert load.buffer.place != REGISTER or stored[load.buffer] == load.index
            stored[store.buffer] = store.index


def test_a_chain_becomes_one_loop_and_only_its_end_is_stored():
    x, a, b, c = arrays(["X", "a", "b", "c"])
    program = Program("p", [elementwise(a, x), elementwise(b, a), elementwise(c, a, b)])
    program.results = {"0": c}
    fuse(program)
    (loop,) = program.kernels
    assert [s.buffer for s in loop.stores] == [a, b, c]
    assert [s.buffer.place for s in loop.stores] == [REGISTER, REGISTER, None]


def test_a_result_is_stored_even_if_only_this_loop_uses_it():
    x, a, b = arrays(["X", "a", "b"])
    program = Program("p", [elementwise(a, x), elementwise(b, a)], results={"0": a, "1": b})
    fuse(program)
    assert len(program.kernels) == 1
    assert a.place is None
    assert b.place is None


def test_elements_of_other_iterations_keep_loops_apart():
    x, a, b = arrays(["X", "a", "b"])
    (i,) = variables((6,))
    backwards = Load(a, i * -1 + 5)
    program = Program("p", [elementwise(a, x), elementwise(b, backwards)], results={"0": b})
    fuse(program)
    assert len(program.kernels) == 2
    assert a.place is None


def test_a_loop_does_not_pass_a_writer_of_what_it_reads():
    x, y, a, b = arrays(["X", "Y", "a", "b"])
    between = elementwise(y, Load(a, variables((6,))[0] * -1 + 5))
    program = Program("p", [elementwise(a, x), between, elementwise(b, x, y)], results={"0": b})
    memory = memory_of(program)
    wanted = outcome(memory, evaluate(program, memory))
    fuse(program)
    memory = memory_of(program)
    assert_same(outcome(memory, evaluate(program, memory)), wanted)


def test_accumulating_loops_stay_alone():
    x, a, b = arrays(["X", "a", "b"])
    adds = elementwise(a, x)
    adds.stores = [Store(a, adds.stores[0].index, adds.stores[0].value, accumulate=True)]
    program = Program("p", [elementwise(a, x), adds, elementwise(b, a)], results={"0": b})
    fuse(program)
    assert len(program.kernels) == 3


def test_loops_that_store_an_element_more_than_once_stay_alone():
    x, a, b = arrays(["X", "a", "b"])
    half = variables((6,))[0] // 2
    repeated = elementwise(a, Load(x, half), index=half)
    program = Program("p", [repeated, elementwise(b, Load(a, half))], results={"0": b})
    fuse(program)
    assert len(program.kernels) == 2


def test_no_loop_works_on_too_many_arrays():
    sources = arrays([f"X{n}" for n in range(20)])
    x, *rest = sources
    results = arrays([f"r{n}" for n in range(19)])
    kernels = [elementwise(r, x, y) for r, y in zip(results, rest, strict=True)]
    program = Program("p", list(kernels), results=dict(enumerate(results)))
    fuse(program)
    assert 1 < len(program.kernels) < 19
    for loop in program.kernels:
        assert len({*loop.reads(), *loop.writes()}) <= MOST_ARRAYS


def test_a_loop_takes_up_one_of_fewer_dimensions():
    x, a, b = arrays(["X", "a", "b"])
    row = Buffer("ROW", "float", 3, "ROW")
    i, j = variables((2, 3))
    second = Loop(
        (2, 3), [Store(b, i * 3 + j, Apply(BOTH, (Load(a, i * 3 + j), Load(row, j)), "float"))]
    )
    program = Program("p", [elementwise(a, x), second], results={"0": b})
    fuse(program)
    (loop,) = program.kernels
    assert loop.domain == (2, 3)


@given(programs(most=3))
@settings(deadline=None)
def test_merging_dimensions_and_refining_them_again_keeps_the_meaning(program):
    memory = memory_of(program)
    wanted = outcome(memory, evaluate(program, memory))
    changed = []
    for kernel in program.kernels:
        if isinstance(kernel, Loop):
            loop = merged(kernel)
            assert len(loop.domain) <= len(kernel.domain)
            fine = refined(loop, kernel.domain)
            kernel = loop if fine is None else fine
        changed.append(kernel)
    program.kernels = changed
    memory = memory_of(program)
    assert_same(outcome(memory, evaluate(program, memory)), wanted)


def test_a_dense_loop_has_one_dimension():
    x, y = arrays(["X", "Y"], 24)
    loop = merged(elementwise(y, x, domain=(2, 3, 4)))
    assert loop.domain == (24,)
    i, j = variables((4, 6))
    turned = Loop((4, 6), [Store(y, i * 6 + j, Load(x, j * 4 + i))])
    assert merged(turned) is turned
    assert refined(loop, (5, 5)) is None
    assert refined(loop, (2, 3, 4)).domain == (2, 3, 4)
    assert list(indices(loop.stores[0].value)) == list(variables((24,)))


def test_a_gelu_and_its_gradient_are_two_loops():
    x, g = torch.zeros(4, 5), torch.zeros(4, 5)

    def both(x, g):
        return torch.func.vjp(torch.nn.functional.silu, x)[1](g)

    program = lowered(both, x, g)
    memory = memory_of(program)
    wanted = evaluate(program, memory)
    fuse(program)
    assert len(program.kernels) == 1
    assert_same(evaluate(program, memory), wanted)
    (place,) = (memory[b] for b in program.buffers() if b.name == "argument0")
    value = torch.from_numpy(place).reshape(4, 5).requires_grad_()
    direction = next(memory[b] for b in program.buffers() if b.name == "argument1")
    torch.nn.functional.silu(value).backward(torch.from_numpy(direction).reshape(4, 5))
    assert_same(wanted, {"0": value.grad.numpy().ravel()})
