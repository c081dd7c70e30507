"""Sums go into the products they add to, and mean the same."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from torch import nn

from cloister_tasks.compiler.expression import Apply, Buffer, Constant, Index, Load, variables
from cloister_tasks.compiler.ir import Call, Loop, Operand, Program, Store
from cloister_tasks.compiler.operators.products import Base, Matrix, Product, Scale
from cloister_tasks.compiler.passes.fold import fold

from ..interpreter import evaluate
from ..program_cases import assert_same, memory_of, outcome, programs, training_step

ROW, COLUMN = variables((2, 3))
RATE = Buffer("rate", "float", 1, "&rate")


def product(result, factor=None):
    """g = a b, of shape (2, 3)."""
    left = Buffer("A", "float", 4, "A") if factor is None else factor
    right = Buffer("B", "float", 6, "B")
    matrices = Matrix(Operand(left), (0, 2, 1)), Matrix(Operand(right), (0, 3, 1))
    return Product(1, 2, 3, 2, *matrices, Operand(result)).call()


def updated(w, g, form="({0} - {1})", base=None):
    """w = w - 0.5 * rate * g, or some such."""
    place = ROW * 3 + COLUMN
    step = Apply("({0} * {1})", (Load(RATE, Index()), Load(g, place)), "float")
    step = Apply("({0} * {1})", (step, Constant(0.5, "float")), "float")
    arguments = (Load(w if base is None else base, place), step)
    return Loop((2, 3), [Store(w, place, Apply(form, arguments, "float"))])


@pytest.fixture
def w():
    return Buffer("W", "float", 6, "W")


@pytest.fixture
def g():
    return Buffer("g", "float", 6)


def folded(program):
    """Fold, make sure that it means what it did, and give the kernels."""
    memory = memory_of(program)
    wanted = outcome(memory, evaluate(program, memory))
    fold(program)
    memory = memory_of(program)
    assert_same(outcome(memory, evaluate(program, memory, seed=1)), wanted)
    return program.kernels


@given(programs())
@settings(deadline=None, max_examples=200)
def test_the_meaning_stays(program):
    before = len(program.kernels)
    assert len(folded(program)) <= before


@pytest.mark.parametrize(("form", "sign"), [("({0} - {1})", -1), ("({0} + {1})", 1)])
def test_an_update_goes_into_its_product(w, g, form, sign):
    (call,) = folded(Program("p", [product(g), updated(w, g, form)]))
    assert isinstance(call, Call)
    assert call.form.scale == Scale(sign * 0.5, (Operand(RATE),))
    assert call.form.base == Base(Operand(w), (6, 3, 1))
    assert call.form.result == Operand(w)


def test_the_sum_may_go_elsewhere(w, g):
    (call,) = folded(Program("p", [product(g), updated(w, g, base=Buffer("V", "float", 6, "V"))]))
    assert call.form.base.operand.buffer.name == "V"


def test_a_product_with_another_use_or_that_is_a_result_stays(w, g):
    other = Buffer("O", "float", 6, "O")
    copy = Loop((2, 3), [Store(other, ROW * 3 + COLUMN, Load(g, ROW * 3 + COLUMN))])
    assert len(folded(Program("p", [product(g), copy, updated(w, g)]))) == 3
    assert len(folded(Program("p", [product(g), updated(w, g)], results={"g": g}))) == 2


def test_a_product_of_the_parameter_itself_stays(g):
    w = Buffer("W", "float", 6, "W")
    assert len(folded(Program("p", [product(g, factor=w), updated(w, g)]))) == 2


def test_a_product_whose_factor_changes_in_between_stays(w, g):
    call = product(g)
    factor = call.form.left.operand.buffer
    clear = Loop((4,), [Store(factor, variables((4,))[0], Constant(0.0, "float"))])
    assert len(folded(Program("p", [call, clear, updated(w, g)]))) == 3


def test_a_product_minus_the_parameter_is_no_update(w, g):
    place = ROW * 3 + COLUMN
    backwards = Apply("({0} - {1})", (Load(g, place), Load(w, place)), "float")
    program = Program("p", [product(g), Loop((2, 3), [Store(w, place, backwards)])])
    assert len(folded(program)) == 2


def test_a_transposed_gradient_is_no_update(w):
    g = Buffer("g", "float", 9)
    w = Buffer("W", "float", 9, "W")
    i, j = variables((3, 3))
    square = Matrix(Operand(Buffer("A", "float", 9, "A")), (0, 3, 1))
    call = Product(1, 3, 3, 3, square, square, Operand(g)).call()
    value = Apply("({0} - {1})", (Load(w, i * 3 + j), Load(g, j * 3 + i)), "float")
    assert len(folded(Program("p", [call, Loop((3, 3), [Store(w, i * 3 + j, value)])]))) == 2


def test_a_parameter_read_by_columns_is_no_base(w, g):
    place, other = ROW * 3 + COLUMN, Buffer("V", "float", 6, "V")
    value = Apply("({0} + {1})", (Load(other, COLUMN * 2 + ROW), Load(g, place)), "float")
    program = Program("p", [product(g), Loop((2, 3), [Store(w, place, value)])])
    assert len(folded(program)) == 2


def step_of(model, optimizer, loss=nn.functional.mse_loss):
    torch.manual_seed(0)
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    return training_step(model, loss, optimizer(model.parameters()), x, y)


def test_plain_sgd_has_no_loop_over_a_matrix():
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 2, bias=False))
    program = step_of(model, lambda p: torch.optim.SGD(p, 0.1))
    places = {b for b in program.buffers() if b.name.startswith("parameter")}
    kernels = folded(program)
    writers = [k for k in kernels if not places.isdisjoint(k.writes())]
    assert len(writers) == 2
    assert all(isinstance(k, Call) and k.form.base is not None for k in writers)


def test_momentum_keeps_its_loops():
    model = nn.Linear(3, 2, bias=False)
    program = step_of(model, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9))
    places = {b for b in program.buffers() if b.name.startswith("parameter")}
    assert any(isinstance(k, Loop) for k in folded(program) if not places.isdisjoint(k.writes()))


def test_only_the_rows_meant_of_a_table_are_touched():
    table = nn.Embedding(50, 2)
    x, y = torch.tensor([3, 4, 3]), torch.randn(3, 2)
    optimizer = torch.optim.SGD(table.parameters(), 0.1)
    program = training_step(table, nn.functional.mse_loss, optimizer, x, y)
    kernels = folded(program)
    assert all(len(k.domain) < 1 or 50 not in k.domain for k in kernels)
    assert any(s.accumulate for k in kernels if isinstance(k, Loop) for s in k.stores)


def test_weight_gradients_of_convolutions_stay_out():
    model = nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.Flatten())
    x, y = torch.randn(2, 1, 3, 3), torch.randn(2, 8)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    program = training_step(model, nn.functional.mse_loss, optimizer, x, y)
    before = len(program.kernels)
    fold(program)
    assert len(program.kernels) == before
