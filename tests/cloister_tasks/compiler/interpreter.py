"""What a program means: its kernels run one element at a time in Python.

Elements of a loop are visited in a shuffled order, for a loop promises to be right in any. What is
read before it was written is no number, what lies outside of a buffer raises, and an array in a
register is forgotten after each iteration.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cloister_tasks.compiler.expression import (
    REGISTER,
    Apply,
    Buffer,
    Constant,
    Div,
    Expr,
    Index,
    Load,
    Position,
    Var,
)
from cloister_tasks.compiler.ir import Call, Loop, Operand, Program, Reduction
from cloister_tasks.compiler.operators.products import Product

Point = tuple[int, ...]


class Memory(dict[Buffer, np.ndarray]):
    """An array for each buffer: doubles, or 64-bit integers; what nobody gave is no number."""

    def __missing__(self, buffer: Buffer) -> np.ndarray:
        if buffer.ctype == "float":
            self[buffer] = np.full(buffer.size, np.nan)
        else:
            self[buffer] = np.full(buffer.size, -(1 << 40))
        return self[buffer]


def evaluate(program: Program, memory: Memory, seed: int = 0) -> dict[str, np.ndarray]:
    """Run a program; gives its results, and leaves in memory what it stored elsewhere."""
    order = random.Random(seed)
    for kernel in program.kernels:
        if isinstance(kernel, Loop):
            _loop(kernel, memory, order)
        elif isinstance(kernel, Reduction):
            _reduction(kernel, memory, order)
        else:
            _call(kernel, memory)
    return {name: memory[buffer].copy() for name, buffer in program.results.items()}


def element(expr: Expr, point: Point, memory: Memory) -> Any:
    """An expression at one point of its domain."""
    if isinstance(expr, Constant):
        return expr.value
    if isinstance(expr, Position):
        return position(expr.index, point, memory)
    if isinstance(expr, Load):
        return memory[expr.buffer][_place(expr.buffer, expr.index, point, memory)].item()
    return form(expr.form)(*(element(a, point, memory) for a in expr.arguments))


def position(index: Index, point: Point, memory: Memory) -> int:
    """An index expression at one point."""
    total = index.constant
    for atom, coefficient in index.terms:
        if isinstance(atom, Var):
            assert 0 <= point[atom.number] < atom.size
            found = point[atom.number]
        elif isinstance(atom, Div):
            inner = position(atom.index, point, memory)
            assert inner >= 0, f"{atom} of a negative number"
            found = inner // atom.by
        else:
            found = element(atom.value, point, memory)
            assert 0 <= found < atom.size, f"{atom} is {found}"
        total += coefficient * found
    return total


def _place(buffer: Buffer, index: Index, point: Point, memory: Memory) -> int:
    found = position(index, point, memory)
    assert 0 <= found < buffer.size, f"{buffer}[{index}] is outside at {point}"
    return found


def _points(domain: Point) -> Iterator[Point]:
    return itertools.product(*(range(n) for n in domain))


def _loop(loop: Loop, memory: Memory, order: random.Random) -> None:
    points = list(_points(loop.domain))
    order.shuffle(points)
    for point in points:
        for store in loop.stores:
            at = _place(store.buffer, store.index, point, memory)
            value = element(store.value, point, memory)
            if store.accumulate:
                memory[store.buffer][at] += value
            else:
                memory[store.buffer][at] = value
        for store in loop.stores:
            if store.buffer.place == REGISTER:
                del memory[store.buffer]


_REDUCE: dict[str, Callable[[list[Any]], Any]] = {
    "sum": sum,
    "prod": math.prod,
    "max": max,
    "min": min,
    "any": any,
    "all": all,
    "argmax": lambda values: values.index(max(values)),
    "argmin": lambda values: values.index(min(values)),
}


def _reduction(kernel: Reduction, memory: Memory, order: random.Random) -> None:
    assert kernel.target not in set(kernel.reads())
    found: dict[int, list[Any]] = {}
    points = list(_points(kernel.domain))
    if not kernel.kind.startswith("arg"):
        order.shuffle(points)
    for point in points:
        at = _place(kernel.target, kernel.index, point, memory)
        found.setdefault(at, []).append(element(kernel.value, point, memory))
    for at, values in found.items():
        memory[kernel.target][at] = _REDUCE[kernel.kind](values)


def _call(call: Call, memory: Memory) -> None:
    product = call.form
    assert isinstance(product, Product), f"{call.name} has no meaning here"
    result = product.result.buffer
    factors = (product.left.operand.buffer, product.right.operand.buffer)
    assert result not in (*factors, *(o.buffer for o in product.scale.factors))
    shape = (product.stack, product.m, product.n)
    dense = (product.m * product.n, product.n, 1)
    left = _strided(
        memory, product.left.operand, (shape[0], shape[1], product.k), product.left.strides
    )
    right = _strided(
        memory, product.right.operand, (shape[0], product.k, shape[2]), product.right.strides
    )
    scale = product.scale.number
    for factor in product.scale.factors:
        scale *= memory[factor.buffer][factor.offset].item()
    value = scale * (left @ right)
    if product.base is not None:
        if product.base.operand.buffer is result:
            assert product.base.operand == product.result
            assert product.base.strides == dense
        value = value + _strided(memory, product.base.operand, shape, product.base.strides)
    at = product.result.offset + np.arange(value.size)
    assert at[-1] < result.size
    memory[result][at] = value.ravel()


def _strided(memory: Memory, operand: Operand, shape: Point, strides: Point) -> np.ndarray:
    at = np.full(shape, operand.offset)
    for axis, stride in zip(np.indices(shape), strides, strict=True):
        at += axis * stride
    assert at.min() >= 0
    assert at.max() < operand.buffer.size
    return memory[operand.buffer][at]


# -- expressions of C ------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"\s*(?:\{(?P<slot>\d+)\}|(?P<number>\d+\.?\d*(?:e[-+]?\d+)?)(?:f|u|ll)?"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<sign><=|>=|==|!=|[-+*/()?:,<>&|^~]))"
)
_LEVELS = (("|",), ("^",), ("&",), ("==", "!="), ("<", "<=", ">", ">="), ("+", "-"), ("*", "/"))


@functools.cache
def form(text: str) -> Callable[..., Any]:
    """The Python function of the arguments {0}, {1} ... that a C expression is."""
    tokens: list[tuple[str, str]] = []
    at = 0
    while at < len(text.rstrip()):
        match = _TOKEN.match(text, at)
        assert match is not None, f"{text!r} is not understood at {at}"
        kind = match.lastgroup
        assert kind is not None
        tokens.append((kind, match[kind]))
        at = match.end()
    parser = _Parser([*tokens, ("end", "")])
    body = parser.ternary()
    assert parser.next() == ("end", ""), f"{text!r} has more than an expression"
    return eval(f"lambda *a: {body}", dict(_FUNCTIONS))


class _Parser:
    """C in, Python out, every operation in parentheses."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = iter(tokens)
        self.ahead = next(self.tokens)

    def next(self) -> tuple[str, str]:
        token, self.ahead = self.ahead, next(self.tokens, ("end", ""))
        return token

    def take(self, sign: str) -> bool:
        if self.ahead == ("sign", sign):
            self.next()
            return True
        return False

    def ternary(self) -> str:
        condition = self.binary(0)
        if not self.take("?"):
            return condition
        yes = self.ternary()
        assert self.take(":")
        return f"({yes} if {condition} else {self.ternary()})"

    def binary(self, level: int) -> str:
        if level == len(_LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while self.ahead[0] == "sign" and self.ahead[1] in _LEVELS[level]:
            sign = self.next()[1]
            right = self.binary(level + 1)
            left = f"divide({left}, {right})" if sign == "/" else f"({left} {sign} {right})"
        return left

    def unary(self) -> str:
        kind, text = self.next()
        if kind == "slot":
            return f"a[{text}]"
        if kind == "number":
            return text
        if kind == "name":
            assert self.take("(")
            arguments = []
            while not self.take(")"):
                arguments.append(self.ternary())
                self.take(",")
            return f"{text}({', '.join(arguments)})"
        if text in "-~":
            return f"({text}{self.unary()})"
        assert text == "(", f"unexpected {text!r}"
        if self.ahead[0] == "name" and self.ahead[1] in _CASTS:
            name = self.next()[1]
            assert self.take(")")
            return f"{name}({self.unary()})"
        inner = self.ternary()
        assert self.take(")")
        return inner


def _divide(x: float, y: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.float64(x) / np.float64(y))


def _within(x: int, size: int) -> int:
    return x if 0 <= x < size else 0


_CASTS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "int32_t": lambda x: (int(x) + 2**31) % 2**32 - 2**31,
    "uint32_t": lambda x: int(x) % 2**32,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **_CASTS,
    "divide": _divide,
    "within": _within,
    "exp_f32": math.exp,
    "log_f32": math.log,
    "tanh_f32": math.tanh,
    "sigmoid_f32": lambda x: 1 / (1 + math.exp(-x)),
    "relu_f32": lambda x: max(x, 0.0),
    "maximum_f32": max,
    "minimum_f32": min,
    "select_f32": lambda c, x, y: x if c else y,
    "select_i32": lambda c, x, y: x if c else y,
    "rsqrt_f32": lambda x: 1 / math.sqrt(x),
    "__builtin_sqrtf": math.sqrt,
    "__builtin_fabsf": abs,
    "philox_uniform": lambda key, stream, n: random.Random(f"{key} {stream} {n}").random(),
}

__all__ = ["Apply", "Memory", "element", "evaluate", "form", "position"]
