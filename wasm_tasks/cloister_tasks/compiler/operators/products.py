"""Matrix products and convolutions, on ``kernels/matmul.h`` and ``kernels/convolution.h``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.fx import Node

from cloister_tasks.compiler.convolution import Conv2d
from cloister_tasks.compiler.expression import Apply, Buffer, Constant, Expr, count
from cloister_tasks.compiler.ir import Call, Operand
from cloister_tasks.compiler.lower import Lowering, lowers, shape_of
from cloister_tasks.compiler.matmul import workspace
from cloister_tasks.compiler.operators.reductions import Typed, reduce
from cloister_tasks.compiler.unsupported import Unsupported
from cloister_tasks.compiler.value import Point, Value

aten = torch.ops.aten


@dataclass(frozen=True)
class Scale:
    """A factor of a product: a number, times elements of buffers (the learning rate)."""

    number: float = 1.0
    factors: tuple[Operand, ...] = ()


@dataclass(frozen=True)
class Base:
    """What a product is added to: an operand and its strides, one per dimension of the result."""

    operand: Operand
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Matrix:
    """A stack of matrices in memory: strides of (stack, row, column)."""

    operand: Operand
    strides: tuple[int, int, int]


@dataclass(frozen=True)
class Product:
    """``result[q] = base[q] + scale * left[q] right[q]`` for a stack of dense results."""

    stack: int
    m: int
    n: int
    k: int
    left: Matrix
    right: Matrix
    result: Operand
    base: Base | None = None
    scale: Scale = Scale()

    def renamed(self, old: Buffer, new: Buffer) -> Product:
        """The same with one buffer for another."""
        return replace(
            self,
            left=replace(self.left, operand=_swap(self.left.operand, old, new)),
            right=replace(self.right, operand=_swap(self.right.operand, old, new)),
            result=_swap(self.result, old, new),
            base=self.base and replace(self.base, operand=_swap(self.base.operand, old, new)),
        )

    def call(self) -> Call:
        """The kernel that computes it."""
        inputs = {"left": self.left.operand, "right": self.right.operand}
        base_stack = 0 if self.base is None else self.base.strides[0]
        init, init_row, init_column = "0", 0, 0
        if self.base is not None:
            inputs["base"] = self.base.operand
            init, init_row, init_column = "{base}", *self.base.strides[1:]
        q = "q" if self.stack > 1 else "0"
        a, b, c = self.left.strides, self.right.strides, self.m * self.n
        code = (
            f"matmul({self.m}, {self.n}, {self.k}, {_scale(self.scale, inputs)},"
            f" {{left}} + {q} * {a[0]}, {a[1]}, {a[2]},"
            f" {{right}} + {q} * {b[0]}, {b[1]}, {b[2]},"
            f" {init}{f' + {q} * {base_stack}' if self.base else ''}, {init_row}, {init_column},"
            f" {{result}} + {q} * {c}, {self.n}, {{work}}, 0);"
        )
        if self.stack > 1:
            code = f"for (int q = 0; q < {self.stack}; q++) {code}"
        return Call(
            "matmul",
            code,
            inputs,
            {"result": self.result},
            workspace(self.m, self.n, self.k),
            self,
        )


def _swap(operand: Operand, old: Buffer, new: Buffer) -> Operand:
    return Operand(new, operand.offset) if operand.buffer is old else operand


def _scale(scale: Scale, inputs: dict[str, Operand]) -> str:
    """The C expression of a factor; its operands join the inputs."""
    text = f"{float(scale.number)!r}f"
    for number, operand in enumerate(scale.factors):
        inputs[f"scale{number}"] = operand
        text += f" * *{{scale{number}}}"
    return text


def matrix(lowering: Lowering, x: Value) -> Matrix:
    """A value of two or three dimensions as a stack of matrices in memory."""
    x = lowering.realize(x)
    assert x.buffer is not None
    strides = (0, *x.strides) if len(x.shape) == 2 else x.strides
    sizes = (1, *x.shape) if len(x.shape) == 2 else x.shape
    stack, row, column = (0 if n == 1 else s for s, n in zip(strides, sizes, strict=True))
    return Matrix(Operand(x.buffer, x.offset), (stack, row, column))


def multiply(lowering: Lowering, node: Node, left: Value, right: Value) -> Value:
    """``left right``, or a stack of such products."""
    shape = shape_of(node)
    if 0 in shape or 0 in left.shape:
        return Value.lazy(shape, "float", lambda _: Constant(0.0, "float"))
    if node.meta["val"].dtype != torch.float32:
        raise Unsupported(node, "matrix products of integers; convert them to float32 first")
    stack = shape[0] if len(shape) == 3 else 1
    result = Value.view(lowering.buffer(count(shape), "float"), shape)
    assert result.buffer is not None
    a, b = matrix(lowering, left), matrix(lowering, right)
    product = Product(stack, shape[-2], shape[-1], left.shape[-1], a, b, Operand(result.buffer))
    lowering.emit(product.call())
    return result


@lowers(aten.mm.default, aten.bmm.default)
def mm(lowering: Lowering, node: Node, left: Value, right: Value) -> Value:
    """Matrix product."""
    return multiply(lowering, node, left, right)


@lowers(aten.addmm.default, aten.baddbmm.default)
def addmm(
    lowering: Lowering,
    node: Node,
    base: Value,
    left: Value,
    right: Value,
    beta: float = 1,
    alpha: float = 1,
) -> Value:
    """``beta * base + alpha * left right``."""
    result = multiply(lowering, node, left, right)
    shape = shape_of(node)
    kernel = lowering.program.kernels[-1] if result.buffer else None
    if beta != 1 or kernel is None or not isinstance(kernel, Call):

        def load(point: Point) -> Expr:
            terms = (base.broadcast(point), result.at(point))
            numbers = (Constant(float(beta), "float"), Constant(float(alpha), "float"))
            return Apply("({2} * {0} + {3} * {1})", (*terms, *numbers), "float")

        return Value.lazy(shape, "float", load, 3 + base.cost)
    lowering.program.kernels.pop()
    product = kernel.form
    assert isinstance(product, Product)
    whole = lowering.realize(base).expand(shape)
    assert whole.buffer is not None
    strides = whole.strides if len(shape) == 3 else (0, *whole.strides)
    lowering.emit(
        replace(
            product,
            base=Base(Operand(whole.buffer, whole.offset), strides),
            scale=Scale(float(alpha)),
        ).call()
    )
    return result


# -- convolutions ----------------------------------------------------------------------------------


def _conv2d(
    lowering: Lowering, shape: Conv2d, x: Value, w: Value, bias: Value | None, out: Sequence[int]
) -> Value:
    result = Value.view(lowering.buffer(count(out), "float"), out)
    inputs = {"x": _operand(lowering, x), "w": _operand(lowering, w)}
    if bias is not None:
        inputs["bias"] = _operand(lowering, bias)
    code = (
        f"conv2d({shape.literal()}, {{x}}, {{w}}, {'{bias}' if bias else '0'},"
        " {result}, {work}, 0);"
    )
    assert result.buffer is not None
    outputs = {"result": Operand(result.buffer)}
    lowering.emit(Call("conv2d", code, inputs, outputs, shape.workspace_forward(), shape))
    return result


def _input_gradient(
    lowering: Lowering, shape: Conv2d, gradient: Value, w: Value, out: Sequence[int]
) -> Value:
    result = Value.view(lowering.buffer(count(out), "float"), out)
    inputs = {"gradient": _operand(lowering, gradient), "w": _operand(lowering, w)}
    code = f"conv2d_input_gradient({shape.literal()}, {{gradient}}, {{w}}, {{result}}, {{work}});"
    assert result.buffer is not None
    outputs = {"result": Operand(result.buffer)}
    work = shape.workspace_input_gradient()
    lowering.emit(Call("conv2d_input_gradient", code, inputs, outputs, work, shape))
    return result


def _weight_gradient(
    lowering: Lowering, shape: Conv2d, gradient: Value, x: Value, out: Sequence[int]
) -> Value:
    result = Value.view(lowering.buffer(count(out), "float"), out)
    inputs = {"gradient": _operand(lowering, gradient), "x": _operand(lowering, x)}
    code = (
        f"conv2d_weight_gradient({shape.literal()}, {{gradient}}, {{x}}, 1, 0, {{result}},"
        " {work});"
    )
    assert result.buffer is not None
    outputs = {"result": Operand(result.buffer)}
    work = shape.workspace_weight_gradient()
    lowering.emit(Call("conv2d_weight_gradient", code, inputs, outputs, work, shape))
    return result


def _operand(lowering: Lowering, x: Value) -> Operand:
    x = lowering.dense(x)
    assert x.buffer is not None
    return Operand(x.buffer, x.offset)


def _mirror(
    node: Node,
    x: Sequence[int],
    w: Sequence[int],
    y: Sequence[int],
    arguments: Sequence[Any],
) -> Conv2d:
    """The convolution from images of shape `x` to `y` with weights `w`; one dimension: height 1."""
    stride, padding, dilation, groups = arguments
    if len(x) not in (3, 4):
        raise Unsupported(node, f"convolutions over {len(x) - 2} dimensions; 1 and 2 are known")
    flat = len(x) == 3

    def pair(values: Sequence[int], filler: int) -> tuple[int, int]:
        full = list(values) if len(values) == len(x) - 2 else list(values) * (len(x) - 2)
        return (filler, full[0]) if flat else (full[0], full[1])

    height = (1, x[2]) if flat else (x[2], x[3])
    kernel = (1, w[2]) if flat else (w[2], w[3])
    out = (1, y[2]) if flat else (y[2], y[3])
    (sy, sx), (py, px), (dy, dx) = pair(stride, 1), pair(padding, 0), pair(dilation, 1)
    return Conv2d(
        batch=x[0],
        groups=groups,
        channels=x[1],
        height=height[0],
        width=height[1],
        outputs=y[1],
        kernel_height=kernel[0],
        kernel_width=kernel[1],
        stride_y=sy,
        stride_x=sx,
        pad_y=py,
        pad_x=px,
        dilation_y=dy,
        dilation_x=dx,
        out_height=out[0],
        out_width=out[1],
    )


@lowers(aten.convolution.default)
def convolution(
    lowering: Lowering,
    node: Node,
    x: Value,
    w: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    """Convolution, or its transpose: the gradient of a convolution by its input."""
    out = shape_of(node)
    options = (stride, padding, dilation, groups)
    if not transposed:
        return _conv2d(lowering, _mirror(node, x.shape, w.shape, out, options), x, w, bias, out)
    result = _input_gradient(lowering, _mirror(node, out, w.shape, x.shape, options), x, w, out)
    if bias is None:
        return result
    channel = lowering.reshape(bias, [bias.size, *([1] * (len(out) - 2))])

    def load(point: Point) -> Expr:
        return Apply("({0} + {1})", (result.at(point), channel.broadcast(point)), "float")

    return Value.lazy(out, "float", load, 1)


@lowers(aten.convolution_backward.default)
def convolution_backward(
    lowering: Lowering,
    node: Node,
    gradient: Value,
    x: Value,
    w: Value,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> list[Value | None]:
    """Gradients by input, weights and bias."""
    options = (stride, padding, dilation, groups)
    used = {u.args[1] for u in node.users if u.users}
    results: list[Value | None] = [None, None, None]
    if mask[2] and 2 in used:
        dims = [d for d in range(len(gradient.shape)) if d != 1]
        lowering.realize(gradient)
        results[2] = reduce(lowering, Typed(node.meta["val"][2]), "sum", gradient, dims)
    if transposed:
        shape = _mirror(node, gradient.shape, w.shape, x.shape, options)
        if mask[0] and 0 in used:
            results[0] = _conv2d(lowering, shape, gradient, w, None, x.shape)
        if mask[1] and 1 in used:
            results[1] = _weight_gradient(lowering, shape, x, gradient, w.shape)
        return results
    shape = _mirror(node, x.shape, w.shape, gradient.shape, options)
    if mask[1] and 1 in used:
        results[1] = _weight_gradient(lowering, shape, gradient, x, w.shape)
    if mask[0] and 0 in used:
        results[0] = _input_gradient(lowering, shape, gradient, w, x.shape)
    return results
