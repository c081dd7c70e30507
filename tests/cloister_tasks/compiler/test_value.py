"""Views against numpy, in memory and as expressions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cloister_tasks.compiler.expression import Apply, Buffer, Constant, Load, variables
from cloister_tasks.compiler.lower import Lowering
from cloister_tasks.compiler.value import Value, cast

from .interpreter import Memory, element, evaluate


def content(value, memory):
    """The elements of a value as an array."""
    expr = value.at(variables(value.shape))
    points = itertools.product(*(range(n) for n in value.shape))
    found = [element(expr, p, memory) for p in points]
    return np.array(found, float).reshape(value.shape)


@st.composite
def viewed(draw):
    """A value after some views, the array that numpy makes of the same, and the memory."""
    shape = draw(st.lists(st.integers(1, 4), max_size=4).map(tuple))
    size = int(np.prod(shape))
    buffer = Buffer("b", "float", size, "b")
    memory = Memory({buffer: np.arange(1.0, size + 1)})
    array = memory[buffer].reshape(shape)
    value = Value.view(buffer, shape)
    if draw(st.booleans()):
        source = value
        value = Value.lazy(shape, "float", lambda p: Apply("(-{0})", (source.at(p),), "float"), 1)
        array = -array
    for _ in range(draw(st.integers(0, 4))):
        value, array = draw(one_view(value, array))
        assume(array.size <= 500)
    return value, array, memory


@st.composite
def one_view(draw, value, array):
    rank = array.ndim
    names = ["insert", "expand", "reshape"] + ["permute", "slice", "drop"] * bool(rank)
    name = draw(st.sampled_from(names))
    if name == "permute":
        order = draw(st.permutations(range(rank)))
        return value.permute(order), array.transpose(order)
    if name == "insert":
        dim = draw(st.integers(0, rank))
        return value.insert(dim), np.expand_dims(array, dim)
    if name == "drop":
        ones = [d for d, n in enumerate(array.shape) if n == 1]
        dims = set(draw(st.lists(st.sampled_from(ones), unique=True))) if ones else set()
        return value.drop(dims), array.squeeze(tuple(dims))
    if name == "expand":
        shape = [draw(st.integers(1, 3)) if n == 1 else n for n in array.shape]
        shape = draw(st.lists(st.integers(1, 2), max_size=1)) + shape
        return value.expand(shape), np.broadcast_to(array, shape)
    if name == "slice":
        dim = draw(st.integers(0, rank - 1))
        start = draw(st.integers(0, array.shape[dim] - 1))
        step = draw(st.integers(1, 3))
        length = draw(st.integers(1, -(-(array.shape[dim] - start) // step)))
        where = (slice(None),) * dim + (slice(start, start + (length - 1) * step + 1, step),)
        return value.slice(dim, start, length, step), array[where]
    shape = draw(st.sampled_from(factorings(array.size)))
    found = value.reshape(shape)
    return (value, array) if found is None else (found, array.reshape(shape))


def factorings(size):
    """Shapes of so many elements."""
    found = [(size,), (1, size), (size, 1)]
    for n in range(2, size):
        if size % n == 0:
            found.append((n, size // n))
            found += [(n, m, size // n // m) for m in (2, 3) if size // n % m == 0]
    return found


@given(viewed())
@settings(deadline=None, max_examples=300)
def test_views_show_what_numpy_shows(case):
    value, array, memory = case
    assert value.shape == array.shape
    assert value.size == array.size
    np.testing.assert_array_equal(content(value, memory), array)


@given(viewed(), st.booleans())
@settings(deadline=None, max_examples=200)
def test_a_value_in_memory_is_the_value(case, dense):
    """Also when it was a view of an expression, which then is computed once."""
    value, array, memory = case
    lowering = Lowering("p", [], {}, set())
    held = lowering.dense(value) if dense else lowering.realize(value)
    assert held.buffer is not None
    assert held.dense or not dense
    evaluate(lowering.program, memory)
    np.testing.assert_array_equal(content(held, memory), array)
    if held.dense:
        stored = memory[held.buffer][held.offset : held.offset + array.size]
        np.testing.assert_array_equal(stored, array.ravel())
    before = len(lowering.program.kernels)
    lowering.realize(held)
    assert len(lowering.program.kernels) == before


@given(viewed(), st.data())
@settings(deadline=None, max_examples=200)
def test_reshape_always_finds_a_way(case, data):
    value, array, memory = case
    lowering = Lowering("p", [], {}, set())
    shape = data.draw(st.sampled_from(factorings(array.size)))
    result = lowering.reshape(value, shape)
    evaluate(lowering.program, memory)
    np.testing.assert_array_equal(content(result, memory), array.reshape(shape))


@given(viewed(), st.lists(st.integers(1, 3), max_size=2))
@settings(deadline=None)
def test_broadcasting_aligns_at_the_end(case, more):
    value, array, memory = case
    shape = (*more, *array.shape)
    expr = value.broadcast(variables(shape))
    points = itertools.product(*(range(n) for n in shape))
    found = np.reshape([element(expr, p, memory) for p in points], shape)
    np.testing.assert_array_equal(found, np.broadcast_to(array, shape))


def test_views_of_memory_stay_in_memory():
    value = Value.view(Buffer("b", "float", 24), (2, 3, 4))
    assert value.dense
    turned = value.permute([2, 0, 1])
    assert turned.buffer is value.buffer
    assert turned.strides == (1, 12, 4)
    assert not turned.dense
    assert turned.reshape((4, 6)).strides == (1, 4)
    assert turned.reshape((8, 3)) is None
    assert value.slice(1, 1, 2).offset == 4
    assert value.expand((5, 2, 3, 4)).strides == (0, 12, 4, 1)


@pytest.mark.parametrize(
    ("number", "of", "to", "wanted"),
    [(2.7, "float", "int32_t", 2), (0.5, "float", "uint8_t", 1), (3, "int32_t", "float", 3.0)],
)
def test_casts(number, of, to, wanted):
    constant = cast(Constant(number, of), to)
    assert constant == Constant(wanted, to)
    assert type(constant.value) is type(wanted)
    buffer = Buffer("b", of, 1, "b")
    load = Load(buffer, variables((1,))[0])
    made = cast(load, to)
    assert made.ctype == to
    assert element(made, (0,), Memory({buffer: np.array([number])})) == wanted
    assert cast(load, of) is load
