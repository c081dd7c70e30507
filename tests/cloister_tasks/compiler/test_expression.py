"""Index arithmetic against Python's integers, over every value of every variable."""

from __future__ import annotations

import itertools
import operator

from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_tasks.compiler.expression import (
    Apply,
    Buffer,
    Constant,
    Div,
    Dynamic,
    Index,
    Load,
    Position,
    Var,
    contiguous,
    count,
    flatten,
    indices,
    loads,
    rewrite,
    substitute,
    unflatten,
    variables,
)

from .interpreter import Memory, element, position

SIZES = (3, 1, 4, 2)
POINTS = list(itertools.product(*(range(n) for n in SIZES)))
NOTHING = Memory()


def values(index):
    return [position(index, point, NOTHING) for point in POINTS]


@st.composite
def indexes(draw, negative=True, depth=3):
    """An index over the variables of SIZES, built by the operations."""
    index = Index((), draw(st.integers(-9 if negative else 0, 40)))
    for i in draw(st.lists(st.sampled_from(variables(SIZES)), max_size=4)):
        index = index + i * draw(st.integers(-5 if negative else 0, 9))
    for _ in range(draw(st.integers(0, depth))):
        low, _ = index.bounds()
        by = draw(st.integers(1, 8))
        if low < 0:
            index = index + -low
        index = draw(st.sampled_from([operator.floordiv, operator.mod, operator.mul]))(index, by)
    return index


@given(indexes(), indexes(), st.integers(-9, 9))
@settings(deadline=None)
def test_sums_and_multiples(left, right, factor):
    pairs = list(zip(values(left), values(right), strict=True))
    assert values(left + right) == [x + y for x, y in pairs]
    assert values(left + factor) == [x + factor for x, _ in pairs]
    assert values(left * factor) == [x * factor for x, _ in pairs]


@given(indexes(negative=False), st.integers(1, 30))
@settings(deadline=None, max_examples=300)
def test_quotients_and_remainders(index, by):
    found = values(index)
    assert values(index // by) == [x // by for x in found]
    assert values(index % by) == [x % by for x in found]


@given(indexes())
@settings(deadline=None, max_examples=300)
def test_bounds_hold_every_value(index):
    low, high = index.bounds()
    found = values(index)
    assert low <= min(found)
    assert max(found) <= high
    if len({a for a, _ in index.terms if isinstance(a, Var)}) == len(index.terms):
        assert (low, high) == (min(found), max(found))


def test_simple_quotients_leave_no_division():
    i, j = variables((5, 4))
    flat = i * 4 + j
    assert flat // 4 == i
    assert flat % 4 == j
    assert (flat * 6 + 2) // 6 == flat
    assert (i + j + i * -1).terms == j.terms
    assert (i + i * -1) == Index()
    assert not (flat // 3).linear
    assert flat.coefficient(0) == 4
    assert flat.coefficient(7) == 0


def test_nothing_negative_is_divided():
    """C rounds towards zero: -1 / 2 is 0 there."""
    (i,) = variables((6,))
    backwards = i * -1 + 5
    (quotient,) = [atom for atom, _ in (backwards // 4).terms]
    assert isinstance(quotient, Div)
    assert quotient.index.bounds()[0] >= 0
    assert [position(backwards % 4, (n,), NOTHING) for n in range(6)] == [1, 0, 3, 2, 1, 0]


shapes = st.lists(st.integers(1, 5), max_size=4).map(tuple)


@given(shapes)
@settings(deadline=None)
def test_flatten_walks_row_by_row_and_unflatten_back(shape):
    point = variables(shape)
    flat = flatten(point, shape)
    points = list(itertools.product(*(range(n) for n in shape)))
    assert [position(flat, p, NOTHING) for p in points] == list(range(count(shape)))
    assert unflatten(flat, shape) == point
    (i,) = variables((count(shape),))
    back = unflatten(i, shape)
    found = [tuple(position(b, (n,), NOTHING) for b in back) for n in range(count(shape))]
    assert found == points
    assert contiguous(shape) == tuple(count(shape[d + 1 :]) for d in range(len(shape)))


@given(indexes(negative=False), st.lists(indexes(negative=False), min_size=4, max_size=4))
@settings(deadline=None)
def test_substitution_is_composition(index, inner):
    """Each variable i becomes an index that stays within it."""
    mapping = {d: inner[d] % n for d, n in enumerate(SIZES)}
    changed = substitute(index, mapping)
    for point in POINTS:
        moved = tuple(position(mapping[d], point, NOTHING) for d in range(len(SIZES)))
        assert position(changed, point, NOTHING) == position(index, moved, NOTHING)


A, B = Buffer("a", "float", 24), Buffer("b", "float", 24)
N = Buffer("n", "int32_t", 24)


def expression():
    i, j, k = variables((2, 3, 4))
    dynamic = Index.of(Dynamic(Load(N, i * 12 + j), 6))
    return Apply(
        "({0} + {1})",
        (
            Apply("({0} * {1})", (Load(A, (i * 3 + j) // 2 + k), Constant(2.0, "float")), "float"),
            Apply("({0} - {1})", (Load(B, dynamic * 4 + k), Position(j)), "float"),
        ),
        "float",
    )


def test_walks_reach_every_load_and_index():
    expr = expression()
    assert [load.buffer for load in loads(expr)] == [A, B, N]
    assert len(list(indices(expr))) == 5  # three loads, a position, the inside of a division


def test_rewriting_replaces_loads_also_inside_of_indices():
    memory = Memory()
    for n, buffer in enumerate((A, B)):
        memory[buffer][:] = [x * 7 % 24 + n for x in range(24)]
    memory[N][:] = [x % 6 for x in range(24)]
    copies = {b: Buffer(f"{b}2", b.ctype, b.size) for b in (A, B, N)}
    for old, new in copies.items():
        memory[new] = memory[old][::-1].copy()
    expr = expression()
    flipped = rewrite(
        expr, lambda load: Load(copies[load.buffer], load.index * -1 + 23), lambda index: index
    )
    assert {load.buffer for load in loads(flipped)} == set(copies.values())
    for point in itertools.product(range(2), range(3), range(4)):
        assert element(flipped, point, memory) == element(expr, point, memory)
    assert rewrite(expr, lambda load: load, lambda index: index) == expr
