"""Recurrent layers, on ``kernels/recurrent.h``; ``compiler/recurrent.py`` defines them."""

from __future__ import annotations

import torch
from torch.fx import Node

import cloister_tasks.compiler.recurrent  # noqa: F401 - defines the operators
from cloister_tasks.compiler.ir import Call, Operand
from cloister_tasks.compiler.lower import Lowering, lowers
from cloister_tasks.compiler.value import Value

ops = torch.ops.cloister


def _panels(batch: int, columns: int, depth: int) -> int:
    """Floats of a packed weight, and of a step's rows beside it."""
    return -(-columns // 8) * 8 * depth + -(-batch // 4) * 4 * depth


def _emit(
    lowering: Lowering,
    node: Node,
    name: str,
    sizes: tuple[int, int, int],
    inputs: dict[str, Value],
    outputs: tuple[str, ...],
    work: int,
) -> list[Value]:
    """A call of a kernel: sizes, operands in order, scratch memory."""
    given = {}
    for key, value in inputs.items():
        dense = lowering.dense(value)
        assert dense.buffer is not None
        given[key] = Operand(dense.buffer, dense.offset)
    results = [
        Value.view(lowering.buffer(value.numel(), "float"), tuple(value.shape))
        for value in node.meta["val"]
    ]
    made = {}
    for key, result in zip(outputs, results, strict=True):
        assert result.buffer is not None
        made[key] = Operand(result.buffer)
    operands = ", ".join("{" + key + "}" for key in (*inputs, *outputs))
    numbers = ", ".join(map(str, sizes))
    code = f"{name}({numbers}, {operands}, {{work}});"
    lowering.emit(Call(name, code, given, made, work))
    return results


@lowers(ops.lstm.default)
def lstm(
    lowering: Lowering, node: Node, x: Value, state: Value, cell: Value, weight: Value
) -> list[Value]:
    """States, cells and gates of all steps."""
    steps, batch, gates = x.shape
    inputs = {"x": x, "state": state, "cell": cell, "weight": weight}
    sizes, work = (steps, batch, gates // 4), _panels(batch, gates, gates // 4)
    return _emit(lowering, node, "lstm_forward", sizes, inputs, ("states", "cells", "gates"), work)


@lowers(ops.lstm_backward.default)
def lstm_backward(
    lowering: Lowering,
    node: Node,
    dstates: Value,
    dcell: Value,
    gates: Value,
    cells: Value,
    first: Value,
    weight: Value,
) -> list[Value]:
    """Gradients by the gates, the first state and the first cell."""
    steps, batch, width = gates.shape
    hidden = width // 4
    inputs = {
        "dstates": dstates,
        "dlast": dcell,
        "gates": gates,
        "cells": cells,
        "first": first,
        "weight": weight,
    }
    outputs = ("dgates", "dstate", "dcell")
    work = _panels(batch, hidden, width)
    return _emit(lowering, node, "lstm_backward", (steps, batch, hidden), inputs, outputs, work)


@lowers(ops.gru.default)
def gru(
    lowering: Lowering, node: Node, x: Value, state: Value, weight: Value, bias: Value
) -> list[Value]:
    """States, gates and the state's part of the gates for all steps."""
    steps, batch, gates = x.shape
    inputs = {"x": x, "state": state, "weight": weight, "bias": bias}
    sizes, work = (steps, batch, gates // 3), _panels(batch, gates, gates // 3)
    return _emit(lowering, node, "gru_forward", sizes, inputs, ("states", "gates", "inner"), work)


@lowers(ops.gru_backward.default)
def gru_backward(
    lowering: Lowering,
    node: Node,
    dstates: Value,
    gates: Value,
    inner: Value,
    states: Value,
    first: Value,
    weight: Value,
) -> list[Value]:
    """Gradients by the inputs' part of the gates, the state's part, and the first state."""
    steps, batch, width = gates.shape
    hidden = width // 3
    inputs = {
        "dstates": dstates,
        "gates": gates,
        "inner": inner,
        "states": states,
        "first": first,
        "weight": weight,
    }
    work = _panels(batch, hidden, width)
    outputs = ("dx", "dinner", "dstate")
    return _emit(lowering, node, "gru_backward", (steps, batch, hidden), inputs, outputs, work)
