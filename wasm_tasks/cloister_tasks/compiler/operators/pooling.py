"""Pooling over windows of images, on ``kernels/pooling.h``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from cloister_tasks.compiler.expression import Buffer, count
from cloister_tasks.compiler.ir import Call, Operand
from cloister_tasks.compiler.lower import Lowering, lowers, shape_of
from cloister_tasks.compiler.pooling import Pool2d
from cloister_tasks.compiler.unsupported import Unsupported
from cloister_tasks.compiler.value import Value

aten = torch.ops.aten


def _pool(
    image: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int] | None,
    padding: Sequence[int] | int | None,
    dilation: Sequence[int] | int | None = None,
) -> Pool2d:
    def pair(values: Any, default: int) -> tuple[int, int]:
        if values is None or values == []:
            return default, default
        if isinstance(values, int):
            return values, values
        return (values[0], values[0]) if len(values) == 1 else (values[0], values[1])

    ky, kx = pair(kernel, 1)
    sy, sx = pair(stride, 0) if stride else (ky, kx)
    (py, px), (dy, dx) = pair(padding, 0), pair(dilation, 1)
    return Pool2d(
        planes=count(image[:-2]),
        height=image[-2],
        width=image[-1],
        kernel_height=ky,
        kernel_width=kx,
        stride_y=sy,
        stride_x=sx,
        pad_y=py,
        pad_x=px,
        dilation_y=dy,
        dilation_x=dx,
        out_height=out[-2],
        out_width=out[-1],
    )


def _operand(lowering: Lowering, x: Value) -> Operand:
    x = lowering.dense(x)
    assert x.buffer is not None
    return Operand(x.buffer, x.offset)


def _call(
    lowering: Lowering, name: str, code: str, inputs: dict[str, Operand], **outputs: Buffer
) -> None:
    made = {key: Operand(buffer) for key, buffer in outputs.items()}
    lowering.emit(Call(name, code, inputs, made))


@lowers(aten.max_pool2d_with_indices.default)
def max_pool(
    lowering: Lowering,
    node: Node,
    x: Value,
    kernel: Sequence[int],
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> list[Value]:
    """Largest elements of windows, and where they are in their plane."""
    if x.ctype != "float":
        raise Unsupported(node, "pooling of integers; convert them to float32 first")
    out = tuple(node.meta["val"][0].shape)
    shape = _pool(x.shape, out, kernel, stride, padding, dilation)
    best, where = lowering.buffer(count(out), "float"), lowering.buffer(count(out), "int32_t")
    code = f"max_pool2d({shape.literal()}, {{x}}, {{best}}, {{where}});"
    _call(lowering, "max_pool2d", code, {"x": _operand(lowering, x)}, best=best, where=where)
    return [Value.view(best, out), Value.view(where, out)]


@lowers(aten.max_pool2d_with_indices_backward.default)
def max_pool_backward(
    lowering: Lowering,
    node: Node,
    gradient: Value,
    x: Value,
    kernel: Sequence[int],
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    where: Value,
) -> Value:
    """Gradients to where the largest elements were."""
    out = shape_of(node)
    shape = _pool(out, gradient.shape, kernel, stride, padding, dilation)
    result = lowering.buffer(count(out), "float")
    inputs = {"gradient": _operand(lowering, gradient), "where": _operand(lowering, where)}
    code = f"max_pool2d_gradient({shape.literal()}, {{gradient}}, {{where}}, {{result}});"
    _call(lowering, "max_pool2d_gradient", code, inputs, result=result)
    return Value.view(result, out)


@lowers(aten.avg_pool2d.default)
def avg_pool(
    lowering: Lowering,
    node: Node,
    x: Value,
    kernel: Sequence[int],
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Value:
    """Means of windows."""
    out = shape_of(node)
    shape = _pool(x.shape, out, kernel, stride, padding)
    result = lowering.buffer(count(out), "float")
    how = f"{int(count_include_pad)}, {divisor or 0}"
    code = f"avg_pool2d({shape.literal()}, {how}, {{x}}, {{result}});"
    _call(lowering, "avg_pool2d", code, {"x": _operand(lowering, x)}, result=result)
    return Value.view(result, out)


@lowers(aten.avg_pool2d_backward.default)
def avg_pool_backward(
    lowering: Lowering,
    node: Node,
    gradient: Value,
    x: Value,
    kernel: Sequence[int],
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Value:
    """Gradients spread over the windows."""
    out = shape_of(node)
    shape = _pool(out, gradient.shape, kernel, stride, padding)
    result = lowering.buffer(count(out), "float")
    how = f"{int(count_include_pad)}, {divisor or 0}"
    code = f"avg_pool2d_gradient({shape.literal()}, {how}, {{gradient}}, {{result}});"
    inputs = {"gradient": _operand(lowering, gradient)}
    _call(lowering, "avg_pool2d_gradient", code, inputs, result=result)
    return Value.view(result, out)
