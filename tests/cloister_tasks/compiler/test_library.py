"""The library of single operators: each in each of its types, against PyTorch and numpy."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from cloister_tasks import BuildError
from cloister_tasks.compiler.library import DTYPES, OPERATORS, TORCH
from cloister_tasks.compiler.operation import MOST_ELEMENTS, compile_operator, find

from .compiled_function import compile_function

NUMPY = {"FP32": np.float32, "INT32": np.int32, "INT8": np.int8, "BOOL": np.bool_}
LARGE = {"FP32": 4.0, "INT32": 2**31 - 1, "INT8": 127}
"""Values of integers reach as far as they can, so that results wrap around."""
SHAPES: dict[str, list[tuple[int, ...]]] = {
    # of inputs, where they are not one or two of (3, 4)
    "Add": [(3, 4), (4,)],
    "Where": [(3, 4), (3, 1), (4,)],
    "MatMul": [(2, 3, 4), (4, 5)],
    "MatMulInteger": [(3, 4), (4,)],
    "Conv2d": [(2, 4, 7, 6), (6, 2, 3, 3), (6,)],
    "MaxPool2d": [(2, 3, 7, 6)],
    "AvgPool2d": [(2, 3, 7, 6)],
    "LayerNorm": [(3, 4), (4,), (4,)],
    "Gather": [(3, 5), (2, 2)],
    "Embedding": [(3, 5), (2, 2)],
    "Concat": [(3, 4), (2, 4), (1, 4)],
}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "Clip": {"min": -2, "max": 3},
    "Softmax": {"axis": 0},
    "Sum": {"axis": 1},
    "Prod": {"axis": 0, "keepdims": True},
    "Max": {"axis": [0, 1]},
    "Argmin": {"axis": 1},
    "CumSum": {"axis": 1},
    "Conv2d": {"strides": [2, 1], "pads": 1, "group": 2},
    "MaxPool2d": {"kernel_shape": 3, "strides": 2, "pads": 1},
    "AvgPool2d": {"kernel_shape": [2, 3]},
    "Transpose": {"perm": [1, 0]},
    "Reshape": {"shape": [2, -1]},
    "Gather": {"axis": 1},
}
IN_NUMPY: dict[str, Any] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Mod": np.mod,
    "Neg": np.negative,
    "Abs": np.abs,
    "Sign": np.sign,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Pow": np.power,
    "Clip": lambda x, min, max: np.clip(x, min, max),  # noqa: A006
    "Relu": lambda x: np.maximum(x, 0),
    "Equal": np.equal,
    "Less": np.less,
    "Greater": np.greater,
    "Where": np.where,
    "Exp": np.exp,
    "Log": np.log,
    "Sqrt": np.sqrt,
    "Reciprocal": lambda x: 1 / x,
    "Sin": np.sin,
    "Cos": np.cos,
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Floor": np.floor,
    "Ceil": np.ceil,
    "Round": np.round,
    "Softmax": lambda x, axis: np.exp(x) / np.exp(x).sum(axis, keepdims=True),
    "Mean": np.mean,
    "Max": lambda x, axis: np.max(x, tuple(axis)),
    "Min": np.min,
    "Argmax": np.argmax,
    "Argmin": np.argmin,
    "EqualCount": lambda a, b: (a == b).sum(),
    "MatMul": np.matmul,
    "Transpose": lambda x, perm: x.T,
    "Reshape": lambda x, shape: x.reshape(shape),
    "Concat": lambda *inputs: np.concatenate(inputs),
    "Gather": np.take,
    "Embedding": lambda weight, indices: weight[indices],
}
"""What is an operator of numpy's too."""
CASES = [(name, dtype) for name, o in OPERATORS.items() for dtype in o.results]


@functools.cache
def arguments(name: str, dtype: str) -> list[np.ndarray]:
    """Inputs of an operator, the same at each call."""
    operator = find(name)
    random = np.random.default_rng(sum(map(ord, name + dtype)))
    usual = [(3, 4)] * sum(p.default is p.empty for p in operator.inputs)
    arrays = []
    for place, shape in enumerate(SHAPES.get(name, usual)):
        own = operator.dtype(place, dtype)  # type: ignore[arg-type]
        size = 3 if own == "INT32" and own != dtype else LARGE.get(own, 1)
        if operator.inputs[min(place, len(operator.inputs) - 1)].name == "indices":
            array = random.integers(0, 3, shape)
        elif own == "FP32":
            array = random.uniform(0.1 if name in ("Log", "Sqrt", "Pow") else -size, size, shape)
        elif own == "BOOL":
            array = random.integers(0, 2, shape)
        else:
            array = random.integers(-size - 1, size, shape, endpoint=True)
            if operator.divides and place:
                array = np.where(array == 0, -1, array)
        arrays.append(array.astype(NUMPY[own]))
    return arrays


def expected(name: str, dtype: str, arrays: list[np.ndarray]) -> np.ndarray:
    """The answer of numpy, or else of PyTorch, in float64 or the integers asked for."""
    operator = find(name)
    tensors = [torch.from_numpy(a.astype("f8") if a.dtype.kind == "f" else a) for a in arrays]
    attributes = ATTRIBUTES.get(name, {})
    if name in ("Sum", "CumSum", "Prod") and dtype != "FP32":
        function: Any = {"Sum": np.sum, "CumSum": np.cumsum, "Prod": np.prod}[name]
        return function(arrays[0], dtype=np.int32, **attributes)
    if name.startswith("MatMul") and dtype != "FP32":
        wide = arrays[0].astype("i8") @ arrays[1].astype("i8")
        return wide.astype(NUMPY[operator.results[dtype]])
    if name == "MaxPool2d":
        floats = functional.max_pool2d(tensors[0].double(), 3, 2, 1)
        return floats.numpy().astype(NUMPY[dtype])
    if name in IN_NUMPY:
        result = np.asarray(IN_NUMPY[name](*(t.numpy() for t in tensors), **attributes))
    elif name == "Div" and dtype != "FP32":
        result = np.trunc(arrays[0].astype("f8") / arrays[1]).astype("i8")
    else:
        result = operator.function(*tensors, **attributes).numpy()
    wanted = NUMPY[operator.results[dtype]]
    return result if wanted == np.float32 else result.astype(wanted)


@functools.cache
def results() -> dict[tuple[str, str], np.ndarray]:
    """Every operator in every type, from one module."""
    inputs = {case: arguments(*case) for case in CASES}

    def every(*given: torch.Tensor) -> list[torch.Tensor]:
        rest = iter(given)
        found = []
        for name, dtype in CASES:
            operator = find(name)
            tensors = [next(rest) for _ in inputs[name, dtype]]
            result = operator.function(*tensors, **ATTRIBUTES.get(name, {}))
            found.append(result.to(TORCH[operator.results[dtype]]))
        return found

    flat = [torch.from_numpy(a) for arrays in inputs.values() for a in arrays]
    run = compile_function(every, *flat)
    return dict(zip(CASES, run(*(a.numpy() for a in flat)), strict=True))


@pytest.mark.parametrize(("name", "dtype"), CASES, ids="-".join)
def test_an_operator_in_a_type(name: str, dtype: str) -> None:
    found = results()[name, dtype]
    wanted = expected(name, dtype, arguments(name, dtype))
    assert found.dtype == NUMPY[find(name).results[dtype]]
    if found.dtype.kind == "f":
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-6)
    else:
        np.testing.assert_array_equal(found, wanted)


def test_the_table_is_in_order() -> None:
    for name, operator in OPERATORS.items():
        assert operator.name == name
        assert operator.results
        assert set(operator.results) <= set(DTYPES)
        assert "|" not in operator.about + operator.signature


F = np.zeros((2, 3), np.float32)
I = np.ones((2, 3), np.int32)  # noqa: E741


@pytest.mark.parametrize(
    ("name", "inputs", "dtype", "attributes", "message"),
    [
        ("Ad", [F, F], "FP32", {}, "did you mean Add"),
        ("Quux", [F], "FP32", {}, "op list"),
        ("Exp", [I], "INT32", {}, "no Exp in INT32; there is FP32"),
        ("Add", [F], "FP32", {}, r"Add\(a, b\) takes 2 inputs, not 1"),
        ("Conv2d", [F] * 4, "FP32", {}, "takes 2 to 3 inputs, not 4"),
        ("Concat", [], "FP32", {}, "takes some inputs, not 0"),
        ("Add", [F, F], "FP32", {"axis": 0}, "no attribute 'axis'"),
        ("Reshape", [F], "FP32", {}, "needs the attribute shape"),
        ("Reshape", [F], "FP32", {"shape": [4, 4]}, "Reshape: .*shape"),
        ("Reshape", [F], "FP32", {"shape": "wide"}, "Reshape: "),
        ("Sum", [F], "FP32", {"axis": 2}, "Sum: .*[Dd]imension"),
        ("Add", [F, np.zeros((2, 2), np.float32)], "FP32", {}, "Add: "),
        ("MatMul", [I, I], "INT32", {}, "do not fit each other"),
        ("Div", [I, I * 0], "INT32", {}, "a divisor is zero"),
        ("Add", [F, np.zeros((2, 0), np.float32)], "FP32", {}, "Add: "),
        ("Relu", [np.zeros((0, 3), np.float32)], "FP32", {}, "nothing to compute"),
    ],
)
def test_what_makes_no_sense_is_explained(
    name: str, inputs: list[np.ndarray], dtype: Any, attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BuildError, match=message):
        compile_operator(name, inputs, dtype, attributes)


def test_what_is_too_large_is_refused_before_it_is_computed() -> None:
    half = np.broadcast_to(np.float32(0), (MOST_ELEMENTS // 2, 1))
    with pytest.raises(BuildError, match="the result would have more"):
        compile_operator("Add", [half, np.zeros((1, 3), np.float32)])
    with pytest.raises(BuildError, match="the inputs have more"):
        compile_operator("Concat", [half, half, half])
