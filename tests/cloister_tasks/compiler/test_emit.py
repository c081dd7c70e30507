"""The C of known kernels, and constants to the last bit."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_tasks.compiler.emit import LANES, Address, Functions, check, number
from cloister_tasks.compiler.expression import (
    REGISTER,
    Apply,
    Buffer,
    Constant,
    Dynamic,
    Index,
    Load,
    Position,
    flatten,
    variables,
)
from cloister_tasks.compiler.ir import Call, Check, Loop, Operand, Reduction, Store

A, B, C = (Buffer(n, "float", 240) for n in "abc")
N = Buffer("n", "int32_t", 240)
for place, buffer in enumerate((A, B, C, N)):
    buffer.offset = 1024 * place


def text(kernel, scratch=None):
    """Signature and body in one line, without hints to the C compiler."""
    functions = Functions()
    call = functions.invoke(kernel, scratch)
    body = re.sub(r'_Pragma\("[^"]*"\) ', "", functions.bodies[0])
    return " ".join(body.split()), call


def copy(target, source, domain, place=None, at=None):
    dense = flatten(variables(domain), domain)
    load = Load(source, dense if at is None else at)
    return Loop(domain, [Store(target, dense if place is None else place, load)])


def test_an_elementwise_loop():
    value = Apply("({0} + {1})", (Load(A, variables((6,))[0]), Constant(0.5, "float")), "float")
    body, call = text(Loop((6,), [Store(B, variables((6,))[0], value)]))
    assert body == (
        "(const float *restrict a0, float *restrict a1) {"
        " for (int i0 = 0; i0 < 6; i0++) { a1[i0] = (a0[i0] + 0.5f); } }"
    )
    assert [a.c() for a in call.arguments] == ["(float *)(arena + 0)", "(float *)(arena + 1024)"]


def test_dimensions_walked_as_one_are_one():
    body, _ = text(copy(B, A, (2, 3, 4)))
    assert "for (int i2 = 0; i2 < 24; i2++) { a1[i2] = a0[i2]; }" in body
    assert body.count("for") == 1
    i, j, k = variables((2, 3, 4))
    turned, _ = text(copy(B, A, (2, 3, 4), at=k * 6 + i * 3 + j))
    assert turned.count("for") == 2  # i and j are one
    assert "i1 < 6" in turned
    broadcast, _ = text(copy(B, A, (2, 3, 4), at=j * 4 + k))
    assert broadcast.count("for") == 2
    assert "i2 < 12" in broadcast


def test_offsets_are_addresses_and_share_a_function():
    (i,) = variables((4,))
    functions = Functions()
    first = functions.invoke(copy(B, A, (4,), place=i + 8, at=i + 2), None)
    second = functions.invoke(copy(C, B, (4,), place=i), None)
    assert first.function == second.function
    assert len(functions.bodies) == 1
    assert [a.c() for a in first.arguments] == [
        "(float *)(arena + 8)",
        "(float *)(arena + 1056)",
    ]
    third = functions.invoke(copy(C, B, (5,)), None)
    assert third.function == 1
    assert functions.definitions().count("__attribute__((noinline)) void k") == 2


def test_two_addresses_of_a_written_buffer_are_not_restrict():
    (i,) = variables((4,))
    body, call = text(copy(A, A, (4,), place=i + 4))
    assert body.startswith("(float *a0, float *a1)")
    assert len(call.arguments) == 2
    same, call = text(copy(A, A, (4,)))
    assert same.startswith("(float *restrict a0)")
    assert len(call.arguments) == 1


def test_what_a_loop_stores_it_does_not_load_again():
    (i,) = variables((6,))
    kept = Buffer("kept", "float", 6, REGISTER)
    negative = Apply("(-{0})", (Load(A, i),), "float")
    sums = Apply("({0} + {1})", (Load(kept, i), Load(kept, i)), "float")
    body, call = text(Loop((6,), [Store(kept, i, negative), Store(B, i, sums)]))
    assert "float v0 = (-a0[i0]); float v1 = (v0 + v0); a1[i0] = v1;" in body
    assert [a.buffer for a in call.arguments] == [A, B]


def test_indices_from_data_and_divisions():
    (i,) = variables((6,))
    at = Index.of(Dynamic(Load(N, i), 5)) * 8 + i // 4 + 3
    body, call = text(copy(B, A, (6,), at=at))
    assert "a2[i0] = a1[(a0[i0]) * 8 + ((i0) / 4)];" in body or (
        "a2[i0] = a0[(a1[i0]) * 8 + ((i0) / 4)];" in body
    )
    assert {(a.buffer, a.offset) for a in call.arguments} == {(A, 3), (N, 0), (B, 0)}
    position, _ = text(Loop((6,), [Store(N, i, Position(i * 2 + 1))]))
    assert "a0[i0] = (i0 * 2 + 1);" in position


def test_accumulating():
    (i,) = variables((6,))
    body, _ = text(Loop((6,), [Store(B, i // 2, Load(A, i), accumulate=True)]))
    assert "+= a0[i0];" in body


def test_a_short_sum_is_a_plain_loop_of_doubles():
    i, j = variables((3, 4))
    body, _ = text(Reduction((3, 4), frozenset({1}), "sum", B, i, Load(A, i * 4 + j)))
    assert "for (int i0 = 0; i0 < 3; i0++) { double s = 0;" in body
    assert "for (int i1 = 0; i1 < 4; i1++) { s += (double)(a0[i0 * 4 + i1]); }" in body
    assert "a1[i0] = (float)s;" in body


@pytest.mark.parametrize("size", [2 * LANES, 2 * LANES + 3, 100])
def test_a_long_sum_has_lanes_and_takes_every_element(size):
    (i,) = variables((size,))
    body, _ = text(Reduction((size,), frozenset({0}), "sum", B, Index(), Load(A, i)))
    whole = size - size % LANES
    assert f"for (int b = 0; b < {whole}; b += {LANES})" in body
    assert (f"int i0 = {whole} + l;" in body) is (whole < size)
    assert f"l < {size - whole}" in body or whole == size


def test_reduced_dimensions_merge_among_themselves_only():
    i, j, k = variables((3, 4, 5))
    flat = flatten((i, j, k), (3, 4, 5))
    body, _ = text(Reduction((3, 4, 5), frozenset({1, 2}), "max", B, i, Load(A, flat)))
    assert "20" in body
    assert "i0 < 3" in body
    whole, _ = text(Reduction((3, 4, 5), frozenset({0, 1, 2}), "sum", B, Index(), Load(A, flat)))
    assert "b < 56" in whole  # 60 elements in lanes of 8


def test_extremes_by_position():
    i, j = variables((3, 4))
    body, _ = text(Reduction((3, 4), frozenset({1}), "argmin", N, i, Load(A, i * 4 + j)))
    assert "v < m" in body
    assert "a1[i0] = best;" in body


def test_calls_fill_in_addresses_and_scratch():
    call = Call(
        "f",
        "f({x}, {x}, {y}, {result}, {work});",
        {"x": Operand(A, 2), "y": Operand(A, 2)},
        {"result": Operand(B)},
        workspace=8,
    )
    body, made = text(call, C)
    assert body == "(const float *restrict a0, float *restrict a1, float *restrict a2) { " + (
        "f(a0, a0, a0, a1, a2); }"
    )
    assert [(a.buffer, a.offset) for a in made.arguments] == [(A, 2), (B, 0), (C, 0)]
    assert "f(a0, a0, a0, a1, 0);" in text(call)[0]


def test_addresses():
    assert Address(A, 3).c() == "(float *)(arena + 12)"
    assert Address(Buffer("w", "float", 8, "w"), 0).c() == "w"
    assert Address(Buffer("w", "float", 8, "w"), 3).c() == "w + 3"
    assert Address(Buffer("x", "float", 8, "now_x0"), 3).moves == "now_x0"
    assert Address(A, 0).moves is None
    with pytest.raises(AssertionError, match="no place"):
        Address(Buffer("unplanned", "float", 8), 0).c()


@pytest.mark.parametrize(
    ("value", "ctype", "wanted"),
    [
        (0.0, "float", "0.0f"),
        (-0.0, "float", "(-0.0f)"),
        (1, "float", "1.0f"),
        (-1.5, "float", "(-1.5f)"),
        (float("inf"), "float", "__builtin_inff()"),
        (float("-inf"), "float", "(-__builtin_inff())"),
        (float("nan"), "float", '__builtin_nanf("")'),
        (3, "int32_t", "3"),
        (-3, "int32_t", "(-3)"),
        (True, "uint8_t", "1"),
        (2**40 + 5, "int32_t", "(int32_t)1099511627781ll"),
    ],
)
def test_constants(value, ctype, wanted):
    assert number(value, ctype) == wanted


def read(literal):
    """A C literal of a float, rounded as C rounds it."""
    plain = literal.strip("()")
    assert plain.endswith("f")
    plain = plain[:-1]
    sign = -1 if plain.startswith("-") else 1
    exact = float.fromhex(plain) if "0x" in plain else float(plain)
    return np.copysign(np.float32(abs(exact)), np.float32(sign))


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
@settings(deadline=None, max_examples=500)
def test_floats_are_exact_to_the_last_bit(value):
    literal = number(value, "float")
    assert literal.startswith("(-") is bool(np.signbit(np.float32(value)))
    assert read(literal).tobytes() == np.float32(value).tobytes()


@pytest.mark.parametrize("value", [1e-45, -1e-45, 3.4028235e38, 1.17549435e-38, 0.1, 1 / 3])
def test_extreme_floats(value):
    assert read(number(value, "float")) == np.float32(value)


def test_checks_name_the_row():
    labels = Buffer("labels", "int32_t", 12, "now_x1")
    i, j = variables((4, 3))
    text = check(Check((4, 3), Load(labels, i * 3 + j), 10), 4)
    assert "for (int i0 = 0; i0 < 4; i0++) { for (int i1 = 0; i1 < 3; i1++) {" in text
    assert "if ((uint32_t)((now_x1)[i0 * 3 + i1]) >= 10u)" in text
    assert "fault = at + (i0 * 3 + i1 * 1) / 3; return CLOISTER_INDEX;" in text
    odd = check(Check((5,), Load(labels, variables((5,))[0]), 10), 4)
    assert "fault = -1;" in odd
