"""Programs to try passes on: random ones over the whole representation, and lowered ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from cloister_tasks.compiler import operators
from cloister_tasks.compiler.capture import Example, Subject, behaviour, traced_graph, training
from cloister_tasks.compiler.compilation import Compilation
from cloister_tasks.compiler.expression import (
    Apply,
    Buffer,
    Constant,
    Dynamic,
    Expr,
    Index,
    Load,
    contiguous,
    count,
    flatten,
    variables,
)
from cloister_tasks.compiler.function import _lowered as lower_function
from cloister_tasks.compiler.ir import Loop, Operand, Program, Reduction, Store
from cloister_tasks.compiler.operators.products import Matrix, Product
from cloister_tasks.compiler.optimizers import rule

from .interpreter import Memory

del operators  # imported for the table it fills

Shape = tuple[int, ...]
FORMS = ("({0} + {1})", "({0} - {1})", "({0} * {1})", "maximum_f32({0}, {1})", "tanh_f32({0})")


def numbers(name: str, ctype: str, size: int) -> np.ndarray:
    """Content of a buffer, the same for the same name."""
    rng = np.random.default_rng(list(name.encode()))
    return rng.normal(size=size) if ctype == "float" else rng.integers(0, 2, size)


def memory_of(program: Program) -> Memory:
    """Numbers for everything that is not in the arena."""
    return Memory(
        {
            buffer: numbers(buffer.name, buffer.ctype, buffer.size)
            for buffer in program.buffers()
            if buffer.place is not None and buffer.place != "register"
        }
    )


def outcome(memory: Memory, results: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Results and what a program left outside of the arena, by name."""
    outside = {
        b.name: a for b, a in memory.items() if b.place is not None and b.place != "register"
    }
    return {**outside, **results}


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Equal up to the order of double additions."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert not np.isnan(value).any(), f"{name} was never written"
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-9, err_msg=name)


class _Builder:
    """Adds random kernels that are right by construction."""

    def __init__(self, draw: Callable[[Any], Any], only: Shape | None) -> None:
        self.draw, self.only = draw, only
        self.program = Program("random")
        self.shapes: dict[Buffer, Shape] = {}
        for n in range(3):
            self.new(self.shape(), f"x{n}")
        self.step = self.new((1,), "&step")
        self.labels = Buffer("labels", "int32_t", 4, "labels")

    def chance(self, often: int = 2) -> bool:
        return self.draw(st.integers(0, often)) == 0

    def shape(self) -> Shape:
        if self.only is not None:
            return self.only
        if self.shapes and not self.chance(3):
            return self.draw(st.sampled_from(list(self.shapes.values())))
        return tuple(self.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))

    def new(self, shape: Shape, place: str | None = None) -> Buffer:
        buffer = Buffer(f"b{len(self.shapes)}", "float", count(shape), place)
        self.shapes[buffer] = shape
        return buffer

    # -- expressions ---------------------------------------------------------------------------

    def load(self, domain: Shape, without: Buffer | None = None) -> Expr:
        """A view of some buffer: permuted, flipped, sliced, broadcast; most often as it is."""
        known = [b for b in self.shapes if b is not without]
        same = [b for b in known if self.shapes[b] == domain]
        if same and not self.chance(3):
            chosen = same[-1] if self.chance(1) else self.draw(st.sampled_from(same))
            return Load(chosen, flatten(variables(domain), domain))
        buffer = self.draw(st.sampled_from(known))
        index = Index()
        shape = self.shapes[buffer]
        for size, stride in zip(shape, contiguous(shape), strict=True):
            fitting = [d for d, n in enumerate(domain) if n <= size]
            if not fitting or self.chance(4):
                index = index + stride * self.draw(st.integers(0, size - 1))
                continue
            d = self.draw(st.sampled_from(fitting))
            first = self.draw(st.integers(0, size - domain[d]))
            i = variables(domain)[d]
            if self.chance(4):
                i = i * -1 + (domain[d] - 1)
            index = index + (i + first) * stride
        return Load(buffer, index)

    def expression(self, domain: Shape, without: Buffer | None = None, depth: int = 2) -> Expr:
        kind = self.draw(st.sampled_from([None, None, "constant", *FORMS]))
        if kind == "constant":
            return Constant(self.draw(st.sampled_from([0.5, -1.0, 2.0])), "float")
        if kind is None or not depth:
            return self.load(domain, without)
        arity = 2 if "{1}" in kind else 1
        arguments = tuple(self.expression(domain, without, depth - 1) for _ in range(arity))
        return Apply(kind, arguments, "float")

    # -- kernels -------------------------------------------------------------------------------

    def store(self, buffer: Buffer, value: Expr) -> None:
        domain = self.shapes[buffer]
        place = flatten(variables(domain), domain)
        self.program.kernels.append(Loop(domain, [Store(buffer, place, value)]))

    def elementwise(self) -> None:
        domain = self.shape()
        value = self.expression(domain)
        order = list(range(len(domain)))
        if self.chance(4):
            order = self.draw(st.permutations(order))
        shape = tuple(domain[d] for d in order)
        place = flatten([variables(domain)[d] for d in order], shape)
        target = self.new(shape)
        self.program.kernels.append(Loop(domain, [Store(target, place, value)]))

    def overwrite(self) -> None:
        """Something known gets new values, perhaps from its old ones."""
        target = self.draw(st.sampled_from([b for b in self.shapes if b is not self.step]))
        domain = self.shapes[target]
        value = self.expression(domain, target)
        if self.chance(1):
            own = Load(target, flatten(variables(domain), domain))
            value = Apply("({0} - {1})", (own, value), "float")
        self.store(target, value)

    def reduce(self) -> None:
        domain = self.shape()
        value = self.expression(domain)
        reduced = self.draw(st.sets(st.integers(0, len(domain) - 1), min_size=1))
        keep = tuple(1 if d in reduced else n for d, n in enumerate(domain))
        i = [Index() if d in reduced else v for d, v in enumerate(variables(domain))]
        kind = self.draw(st.sampled_from(["sum", "max"]))
        target = self.new(keep)
        index = flatten(i, keep)
        kernel = Reduction(domain, frozenset(reduced), kind, target, index, value)
        self.program.kernels.append(kernel)

    def concatenate(self) -> None:
        """Two loops write one buffer."""
        first, second = self.draw(st.integers(1, 4)), self.draw(st.integers(1, 4))
        whole = (first + second,)
        if self.chance(1):
            source = self.new(whole)
            self.store(source, self.expression(whole, source))
        target = self.new(whole)
        same = [b for b in self.shapes if self.shapes[b] == whole and b is not target]
        for n, start in ((first, 0), (second, first)):
            place = variables((n,))[0] + start
            value = self.expression((n,), target)
            if same and self.chance(1):
                value = Apply("(-{0})", (Load(same[-1], place),), "float")
            self.program.kernels.append(Loop((n,), [Store(target, place, value)]))

    def chain(self) -> None:
        """Each array made from the one before, which may be needed no more."""
        domain = self.shape()
        source = self.new(domain)
        self.store(source, self.expression(domain, source))
        for _ in range(self.draw(st.integers(1, 3))):
            target = self.new(domain)
            load = Load(source, flatten(variables(domain), domain))
            other = self.expression(domain, target, 1)
            self.store(target, Apply("({0} + {1})", (load, other), "float"))
            source = target

    def matrix(self, m: int, n: int) -> Matrix:
        """A matrix made for the purpose, perhaps by columns."""
        turned = self.chance(1)
        buffer = self.new((n, m) if turned else (m, n), f"m{len(self.shapes)}")
        return Matrix(Operand(buffer), (0, 1, m) if turned else (0, n, 1))

    def update(self) -> None:
        """A product, or rows summed by label, then a step along it; with every possible hitch."""
        m, n = self.draw(st.integers(1, 3)), self.draw(st.integers(1, 3))
        weight = self.new((m, n), f"w{len(self.shapes)}")
        between: list[Buffer] = []
        gradient = self.new((m, n))
        if self.chance(1):
            self.scatter(m, n, weight, gradient, between)
        else:
            left, right = self.matrix(m, n), self.matrix(n, n)
            if self.chance(4):
                left = Matrix(Operand(weight), (0, n, 1))
            form = Product(1, m, n, n, left, right, Operand(gradient))
            self.program.kernels.append(form.call())
            between += [left.operand.buffer, right.operand.buffer]
        if self.chance(4):
            changed = self.draw(st.sampled_from(between))
            self.store(changed, self.expression(self.shapes[changed], changed))
        elif self.chance(3):
            self.kernel()
        place = flatten(variables((m, n)), (m, n))
        turned = place * -1 + (m * n - 1)
        value: Expr = Load(gradient, turned if self.chance(6) else place)
        if self.chance(1):
            value = Apply("({0} * {1})", (Constant(0.5, "float"), value), "float")
        if self.chance(1):
            value = Apply("({0} * {1})", (value, Load(self.step, Index())), "float")
        form = self.draw(st.sampled_from(["({0} - {1})", "({0} + {1})"]))
        base, at = weight, place
        if self.chance(3):
            other = self.new((m, n), f"v{len(self.shapes)}")
            base = self.draw(st.sampled_from([gradient, other]))
            at = self.draw(st.sampled_from([place, turned]))
        self.store(weight, Apply(form, (Load(base, at), value), "float"))

    def scatter(self, m: int, n: int, weight: Buffer, table: Buffer, between: list[Buffer]) -> None:
        """Rows summed into a table by label."""
        self.store(table, Constant(0.0, "float"))
        rows = self.labels.size
        source = self.new((rows, n), f"s{len(self.shapes)}")
        between.append(source)
        i, j = variables((rows, n))
        row = Apply(f"minimum_f32({{0}}, {m - 1})", (Load(self.labels, i),), "int32_t")
        to = Index.of(Dynamic(row, m)) * n + j
        value: Expr = Load(source, i * n + j)
        if self.chance(4):
            value = Apply("({0} + {1})", (value, Load(weight, j)), "float")
        self.program.kernels.append(Loop((rows, n), [Store(table, to, value, True)]))

    def kernel(self) -> None:
        kinds = [self.elementwise] * 3 + [self.overwrite, self.reduce, self.concatenate, self.chain]
        self.draw(st.sampled_from(kinds))()


@st.composite
def programs(draw: Callable[[Any], Any], most: int = 8, only: Shape | None = None) -> Program:
    """Loops, reductions, products and updates, with some of the arrays as results.

    `only`: the shape of nearly all arrays, so that they meet more often.
    """
    build = _Builder(draw, only)
    for _ in range(draw(st.integers(1, most))):
        if build.chance(4):
            build.update()
        else:
            build.kernel()
    made = [b for b in build.shapes if b.place is None]
    if made:
        chosen = draw(st.lists(st.sampled_from(made), max_size=3, unique=True))
        build.program.results = {str(n): b for n, b in enumerate(chosen)}
    return build.program


# -- lowered ---------------------------------------------------------------------------------------


def lowered(function: Callable[..., Sequence[Tensor]], *example: Tensor) -> Program:
    """A torch function as a program that no pass has seen; arguments are ``argument0`` ..."""
    groups = [("argument", {str(n): a for n, a in enumerate(example)})]
    captured = traced_graph(lambda *a: [r.clone() for r in function(*a)], groups, [], False)
    output = next(node for node in captured.graph.nodes if node.op == "output")
    return lower_function(captured, example, len(output.args[0]))[0]


def training_step(
    model: nn.Module,
    loss: Callable[[Any, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    inputs: Tensor,
    target: Tensor,
) -> Program:
    """A training step of a model as a program that no pass has seen."""
    subject = Subject(model, loss, rule(optimizer), Example((inputs,), target))
    how = behaviour(subject)
    compilation = Compilation(
        subject, how, ["features"], "step", "", "simd128", None, (), explain=False
    )
    captured = training(subject, how)
    wanted = {r: r[0] != "metric" for r in captured.results}
    return compilation._lower("train", captured, wanted)
