"""The operators one by one, in FP32, INT32 and INT8: each compiled to a module of its own.

An operator is a function of torch; it goes through the compiler like those of a model. Names and
attributes follow ONNX where ONNX has the operator. Reductions run over the whole tensor unless
``axis`` says otherwise.

Integers wrap around as in numpy and torch: INT8 modulo 2**8, INT32 modulo 2**32. Results have the
type of the inputs, but for counts and positions (INT32), comparisons (BOOL), and what adds or
multiplies many integers up (INT32). Div and Mod of integers refuse a divisor of zero; Div rounds
towards zero.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn import functional

DType: TypeAlias = Literal["FP32", "INT32", "INT8", "BOOL"]
TORCH: Mapping[DType, torch.dtype] = {
    "FP32": torch.float32,
    "INT32": torch.int32,
    "INT8": torch.int8,
    "BOOL": torch.bool,
}
DTYPES: tuple[DType, ...] = tuple(d for d in get_args(DType) if d != "BOOL")
"""Types an operator can be asked for in."""
_INDEXING: Mapping[str, DType] = {"indices": "INT32", "condition": "BOOL"}
"""Inputs that have a type of their own, by name."""
FLOATS: tuple[DType, ...] = ("FP32",)
INTEGERS: tuple[DType, ...] = ("INT32", "INT8")


@dataclass(frozen=True)
class Operator:
    """One operator."""

    name: str
    about: str
    function: Callable[..., Tensor]
    """Tensors by position, attributes by name."""
    results: Mapping[DType, DType]
    """Type of the result by the type of the inputs; types not in it are refused."""
    divides: bool = False
    """Whether no element of the second input may be zero, for integers."""

    @property
    def inputs(self) -> tuple[inspect.Parameter, ...]:
        """Its tensors; those with a default may be left out."""
        return tuple(p for p in self._parameters if p.kind != p.KEYWORD_ONLY)

    @property
    def attributes(self) -> dict[str, Any]:
        """Its attributes and their defaults; ``Parameter.empty`` for those without."""
        return {p.name: p.default for p in self._parameters if p.kind == p.KEYWORD_ONLY}

    @property
    def signature(self) -> str:
        """Inputs and attributes as Python writes them; what ends in ? may be left out."""
        words = [
            f"{'*' if p.kind == p.VAR_POSITIONAL else ''}{p.name}{'?' if p.default is None else ''}"
            for p in self.inputs
        ]
        words += [
            name if default is inspect.Parameter.empty else f"{name}={default!r}"
            for name, default in self.attributes.items()
        ]
        return f"({', '.join(words)})"

    def dtype(self, place: int, asked: DType) -> DType:
        """The type of an input when the operator is asked for in some type."""
        inputs = self.inputs
        return _INDEXING.get(inputs[min(place, len(inputs) - 1)].name, asked)

    @property
    def _parameters(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self.function).parameters.values())


OPERATORS: dict[str, Operator] = {}
"""Every operator by its name."""


def _enter(
    name: str,
    function: Callable[..., Tensor],
    about: str,
    dtypes: Sequence[DType] = FLOATS + INTEGERS,
    result: DType | None = None,
    divides: bool = False,
) -> None:
    results = {dtype: result or dtype for dtype in dtypes}
    OPERATORS[name] = Operator(name, about, function, results, divides)


def _sums(name: str, function: Callable[..., Tensor], about: str) -> None:
    """Operators that add or multiply many elements: INT32 of integers."""
    results: dict[DType, DType] = {"FP32": "FP32", "INT32": "INT32", "INT8": "INT32"}
    OPERATORS[name] = Operator(name, about, function, results)


# -- arithmetic ------------------------------------------------------------------------------------

_enter("Add", lambda a, b: torch.add(a, b), "a + b")
_enter("Sub", lambda a, b: torch.sub(a, b), "a - b")
_enter("Mul", lambda a, b: torch.mul(a, b), "a * b")


def _div(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


_enter("Div", _div, "a / b; of integers, rounded towards zero", divides=True)
_enter("Mod", lambda a, b: torch.remainder(a, b), "Remainder with the sign of b", divides=True)
_enter("Neg", lambda x: -x, "-x")
_enter("Abs", lambda x: x.abs(), "Absolute value; -128 stays -128 in INT8")
_enter("Sign", lambda x: x.sign(), "-1, 0 or 1")
_enter("Maximum", lambda a, b: torch.maximum(a, b), "The larger of two")
_enter("Minimum", lambda a, b: torch.minimum(a, b), "The smaller of two")
_enter("Pow", lambda a, b: torch.pow(a, b), "a to the power of b", FLOATS)


def _clip(x: Tensor, *, min: float | None = None, max: float | None = None) -> Tensor:  # noqa: A002
    return x.clamp(min, max)


_enter("Clip", _clip, "x held between min and max")
_enter("Relu", lambda x: torch.relu(x), "max(x, 0)")
_enter("Equal", lambda a, b: a == b, "Whether a = b", result="BOOL")
_enter("Less", lambda a, b: a < b, "Whether a < b", result="BOOL")
_enter("Greater", lambda a, b: a > b, "Whether a > b", result="BOOL")
_enter(
    "Where", lambda condition, a, b: torch.where(condition, a, b), "a where the condition, else b"
)


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """With a signature to look at, which torch's own do not have."""
    return lambda x: function(x)


# -- functions -------------------------------------------------------------------------------------

for _name, _about in {
    "Exp": "e to the power of x",
    "Log": "Natural logarithm",
    "Sqrt": "Square root",
    "Reciprocal": "1 / x",
    "Sin": "Sine",
    "Cos": "Cosine",
    "Tanh": "Hyperbolic tangent",
    "Sigmoid": "1 / (1 + exp(-x))",
    "Erf": "Error function",
    "Floor": "Rounded down",
    "Ceil": "Rounded up",
    "Round": "Rounded to the nearest, halves to even",
}.items():
    _enter(_name, _unary(getattr(torch, _name.lower())), _about, FLOATS)
_enter(
    "Gelu",
    lambda x, *, approximate="none": functional.gelu(x, approximate=approximate),
    "x times the normal distribution's share below x; approximate: none or tanh",
    FLOATS,
)
_enter("Silu", _unary(functional.silu), "x * Sigmoid(x)", FLOATS)
_enter("Softplus", _unary(functional.softplus), "log(1 + exp(x))", FLOATS)
_enter(
    "LeakyRelu",
    lambda x, *, alpha=0.01: functional.leaky_relu(x, alpha),
    "x, or alpha * x where it is negative",
    FLOATS,
)
_enter(
    "Elu",
    lambda x, *, alpha=1.0: functional.elu(x, alpha),
    "x, or alpha * (exp(x) - 1) where it is negative",
    FLOATS,
)
_enter("HardSigmoid", _unary(functional.hardsigmoid), "x / 6 + 1 / 2, held in 0 .. 1", FLOATS)
_enter("HardSwish", _unary(functional.hardswish), "x * HardSigmoid(x)", FLOATS)
_enter(
    "Softmax",
    lambda x, *, axis=-1: functional.softmax(x, axis),
    "Shares exp(x) / sum(exp(x)) along an axis",
    FLOATS,
)
_enter(
    "LogSoftmax",
    lambda x, *, axis=-1: functional.log_softmax(x, axis),
    "Logarithm of Softmax",
    FLOATS,
)

# -- reductions ------------------------------------------------------------------------------------


def _reduces(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A reduction of torch over an axis, several of them, or all."""

    def reduce(x: Tensor, *, axis: Any = None, keepdims: bool = False) -> Tensor:
        axes = tuple(range(x.ndim)) if axis is None else axis
        return function(x, axes, keepdims) if x.ndim else x

    return reduce


def _product(x: Tensor, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    if axis is None:
        return _wide(x).prod()
    return _wide(x).prod(axis, keepdims)


def _wide(x: Tensor) -> Tensor:
    """Integers as INT32."""
    return x if x.is_floating_point() else x.to(torch.int32)


def _place(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Where an extreme is, along an axis or in the flattened tensor."""

    def find_place(x: Tensor, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
        return function(x, axis, keepdims)

    return find_place


_sums("Sum", _reduces(lambda x, axes, keep: _wide(x).sum(axes, keep, dtype=_wide(x).dtype)), "Sum")
_sums("Prod", _product, "Product")
_enter("Mean", _reduces(lambda x, axes, keep: x.mean(axes, keep)), "Sum over count", FLOATS)
_enter("Max", _reduces(lambda x, axes, keep: x.amax(axes, keep)), "The largest")
_enter("Min", _reduces(lambda x, axes, keep: x.amin(axes, keep)), "The smallest")
_enter("Argmax", _place(torch.argmax), "Where the first largest is", result="INT32")
_enter("Argmin", _place(torch.argmin), "Where the first smallest is", result="INT32")
_enter(
    "EqualCount",
    lambda a, b: (a == b).sum(dtype=torch.int32),
    "How many elements of a and b are equal",
    result="INT32",
)
_sums(
    "CumSum", lambda x, *, axis: x.cumsum(axis, dtype=_wide(x).dtype), "Running sum along an axis"
)

# -- layers ----------------------------------------------------------------------------------------


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point():
        return a @ b
    if not a.ndim or not b.ndim:
        raise ValueError("both inputs need at least one dimension")
    left = a if a.ndim > 1 else a.unsqueeze(0)
    right = b if b.ndim > 1 else b.unsqueeze(1)
    if left.shape[-1] != right.shape[-2]:
        raise ValueError(f"shapes {tuple(a.shape)} and {tuple(b.shape)} do not fit each other")
    product = _wide(left).unsqueeze(-1) * _wide(right).unsqueeze(-3)
    result = product.sum(-2, dtype=torch.int32)
    result = result if b.ndim > 1 else result.squeeze(-1)
    return result if a.ndim > 1 else result.squeeze(-1 if b.ndim == 1 else -2)


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    strides: Any = 1,
    pads: Any = 0,
    dilations: Any = 1,
    group: int = 1,
) -> Tensor:
    return functional.conv2d(x, weight, bias, strides, pads, dilations, group)


def _max_pool(x: Tensor, *, kernel_shape: Any, strides: Any = None, pads: Any = 0) -> Tensor:
    # FP32 holds every INT8 exactly
    return functional.max_pool2d(x.float(), kernel_shape, strides, pads).to(x.dtype)


def _average_pool(x: Tensor, *, kernel_shape: Any, strides: Any = None, pads: Any = 0) -> Tensor:
    return functional.avg_pool2d(x, kernel_shape, strides, pads)


def _layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, epsilon: float = 1e-5
) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], weight, bias, epsilon)


_enter("MatMul", _matmul, "Matrix product, of stacks too")
_enter("MatMulInteger", _matmul, "The same with results that do not wrap", ("INT8",), "INT32")
_enter("Conv2d", _conv2d, "Convolution: x (n, c, h, w), weight (o, c / group, kh, kw)", FLOATS)
_enter("MaxPool2d", _max_pool, "Largest of each window of x (n, c, h, w)", ("FP32", "INT8"))
_enter("AvgPool2d", _average_pool, "Mean of each window of x (n, c, h, w)", FLOATS)
_enter("LayerNorm", _layer_norm, "Normalised over the last axis, times weight, plus bias", FLOATS)

# -- elements elsewhere ----------------------------------------------------------------------------


def _transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(tuple(perm) if perm is not None else tuple(reversed(range(x.ndim))))


def _gather(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    axis = range(x.ndim)[axis]
    picked = x.index_select(axis, indices.flatten())
    return picked.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


_enter("Transpose", _transpose, "Axes in the order perm; by default reversed")
_enter("Reshape", lambda x, *, shape: x.reshape(shape), "Another shape; one -1 is what is left")
_enter(
    "Concat", lambda *inputs, axis=0: torch.cat(inputs, axis), "One after the other along an axis"
)
_enter("Gather", _gather, "Slices of x at indices (INT32, from 0) along an axis")
_enter(
    "Embedding",
    lambda weight, indices: functional.embedding(indices, weight),
    "Rows of weight at indices (INT32, from 0)",
    FLOATS,
)
