"""What cannot be compiled is named, with the line of the user's model that asks for it."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from torch.fx import Graph

from cloister_tasks.compiler import Unsupported
from cloister_tasks.compiler import compile as compile_model
from cloister_tasks.compiler.unsupported import INSTEAD, place
from cloister_tasks.errors import BuildError


class Model(nn.Module):
    """Asks for something in the line that says so."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


class Sort(Model):
    def forward(self, x):
        x = x * self.weight
        return torch.sort(x)[0]  # here


class Fft(Model):
    def forward(self, x):
        return torch.fft.fft(x * self.weight).real  # here


class Median(Model):
    def forward(self, x):
        return x * self.weight + x.median(1, keepdim=True).values  # here


class Determinant(Model):
    def forward(self, x):
        x = x * self.weight
        return x + torch.linalg.det(x.T @ x)  # here


class Double(Model):
    def forward(self, x):
        return (x * self.weight).double()  # here


class Half(Model):
    def forward(self, x):
        return (x * self.weight).half().float()  # here


class Inner(Model):
    """The innermost forward counts."""

    def __init__(self):
        super().__init__()
        self.sort = Sort()

    def forward(self, x):
        return self.sort(x) * self.weight


def line_of(kind):
    """Number and text of the line marked as such."""
    lines, first = inspect.getsourcelines(kind)
    return next((first + n, text.strip()) for n, text in enumerate(lines) if "# here" in text)


def attempt(model):
    compile_model(
        model,
        lambda output, target: (output.float() - target).square().mean(),
        torch.optim.SGD(model.parameters(), 0.1),
        (torch.linspace(-1, 1, 12).reshape(4, 3), torch.zeros(4, 3)),
    )


@pytest.mark.parametrize(
    ("kind", "operator", "where"),
    [
        (Sort, "aten.sort", Sort),
        (Fft, "aten._fft", Fft),
        (Median, "aten.median", Median),
        (Determinant, "aten._linalg_det", Determinant),
        (Double, "float64", Double),
        (Half, "float16", Half),
        (Inner, "aten.sort", Sort),
    ],
    ids=lambda x: x.__name__ if isinstance(x, type) else "",
)
def test_operator_and_line_are_said(kind, operator, where):
    with pytest.raises(Unsupported) as caught:
        attempt(kind())
    number, text = line_of(where)
    assert operator in str(caught.value)
    assert f'{__file__}", line {number}, in forward' in str(caught.value)
    assert text.removesuffix("  # here") in str(caught.value)
    assert caught.value.operator.startswith("aten.")


@pytest.mark.parametrize(("kind", "name"), [(Sort, "sort"), (Median, "median")])
def test_something_else_is_suggested(kind, name):
    with pytest.raises(Unsupported) as caught:
        attempt(kind())
    assert INSTEAD[name] in str(caught.value)


class Nonzero(Model):
    def forward(self, x):
        return x * self.weight + torch.nonzero(x).sum()


class Mask(Model):
    def forward(self, x):
        return x * self.weight + x[x > 0].sum()


class Item(Model):
    def forward(self, x):
        return x * self.weight * x.sum().item()


class Branch(Model):
    def forward(self, x):
        return x * self.weight if x.sum() > 0 else x


@pytest.mark.parametrize("kind", [Nonzero, Mask, Item, Branch])
def test_what_depends_on_data_is_refused(kind):
    with pytest.raises(BuildError):
        attempt(kind())


def test_the_innermost_line_outside_torch_is_the_place():
    node = Graph().placeholder("x")
    assert place(node) == ""
    assert str(Unsupported(node, "no")) == "x: no"
    mine = '  File "/home/torch/model.py", line 7, in forward\n    return torch.foo(x)'
    node.meta["stack_trace"] = (
        '  File "/home/me/outer.py", line 3, in forward\n    inner(x)\n'
        f"{mine}\n"
        f'  File "{torch.__path__[0]}/functional.py", line 9, in foo\n    return _foo(x)\n'
    )
    assert (
        place(node) == '  File "/home/torch/model.py", line 7, in forward\n    return torch.foo(x)'
    )
    error = Unsupported(node, "no")
    assert str(error) == f"x: no\n{error.place}"
    assert isinstance(error, BuildError)
