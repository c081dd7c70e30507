"""Operators whose every element is one C expression of the elements that meet it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from cloister_tasks.compiler.expression import Apply, Constant, CType, Expr
from cloister_tasks.compiler.lower import CTYPES, Lowering, ctype_of, lowers, shape_of
from cloister_tasks.compiler.unsupported import Unsupported
from cloister_tasks.compiler.value import Point, Value, cast

aten = torch.ops.aten


@dataclass(frozen=True)
class Pointwise:
    """A C expression for floats and one for integers, and what an element of it costs."""

    floats: str | None
    integers: str | None = None
    cost: int = 1


def _wrapping(form: str) -> str:
    """The same of integers: modulo 2**32, where C leaves signed overflow undefined."""
    return "(int32_t)" + form.replace("{", "(uint32_t){")


def _function(name: str, cost: int = 12) -> Pointwise:
    return Pointwise(f"{name}_f32({{0}})", None, cost)


ARITHMETIC = {
    aten.mul.Tensor: Pointwise("({0} * {1})", _wrapping("({0} * {1})")),
    aten.mul.Scalar: Pointwise("({0} * {1})", _wrapping("({0} * {1})")),
    aten.div.Tensor: Pointwise("({0} / {1})", None, 4),
    aten.div.Scalar: Pointwise("({0} / {1})", None, 4),
    aten.neg.default: Pointwise("(-{0})", _wrapping("(-{0})")),
    aten.abs.default: Pointwise("__builtin_fabsf({0})", "abs_i32({0})"),
    aten.sign.default: Pointwise("sign_f32({0})", "sign_i32({0})", 2),
    aten.sgn.default: Pointwise("sign_f32({0})", "sign_i32({0})", 2),
    aten.square.default: Pointwise("({0} * {0})", _wrapping("({0} * {0})")),
    aten.reciprocal.default: Pointwise("(1.0f / {0})", None, 4),
    aten.sqrt.default: Pointwise("__builtin_sqrtf({0})", None, 6),
    aten.rsqrt.default: _function("rsqrt", 8),
    aten.relu.default: Pointwise("relu_f32({0})", "maximum_i32({0}, 0)"),
    aten.maximum.default: Pointwise("maximum_f32({0}, {1})", "maximum_i32({0}, {1})", 2),
    aten.minimum.default: Pointwise("minimum_f32({0}, {1})", "minimum_i32({0}, {1})", 2),
    aten.fmax.default: Pointwise("fmax_f32({0}, {1})", "maximum_i32({0}, {1})", 2),
    aten.fmin.default: Pointwise("fmin_f32({0}, {1})", "minimum_i32({0}, {1})", 2),
    aten.fmod.Tensor: Pointwise("fmod_f32({0}, {1})", "fmod_i32({0}, {1})", 8),
    aten.fmod.Scalar: Pointwise("fmod_f32({0}, {1})", "fmod_i32({0}, {1})", 8),
    aten.remainder.Tensor: Pointwise("remainder_f32({0}, {1})", "remainder_i32({0}, {1})", 8),
    aten.remainder.Scalar: Pointwise("remainder_f32({0}, {1})", "remainder_i32({0}, {1})", 8),
    aten.copysign.Tensor: Pointwise("__builtin_copysignf({0}, {1})"),
    aten.copysign.Scalar: Pointwise("__builtin_copysignf({0}, {1})"),
    aten.atan2.default: Pointwise("atan2_f32({0}, {1})", None, 20),
    aten.floor.default: Pointwise("__builtin_floorf({0})", "{0}"),
    aten.ceil.default: Pointwise("__builtin_ceilf({0})", "{0}"),
    aten.trunc.default: Pointwise("__builtin_truncf({0})", "{0}"),
    aten.round.default: Pointwise("__builtin_nearbyintf({0})", "{0}"),
    aten.bitwise_and.Tensor: Pointwise(None, "({0} & {1})"),
    aten.bitwise_and.Scalar: Pointwise(None, "({0} & {1})"),
    aten.bitwise_or.Tensor: Pointwise(None, "({0} | {1})"),
    aten.bitwise_or.Scalar: Pointwise(None, "({0} | {1})"),
    aten.bitwise_xor.Tensor: Pointwise(None, "({0} ^ {1})"),
    aten.bitwise_xor.Scalar: Pointwise(None, "({0} ^ {1})"),
}
FUNCTIONS = {
    getattr(aten, name).default: _function(name)
    for name in [
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log10",
        "log1p",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "acosh",
        "atanh",
        "sigmoid",
        "erf",
        "erfc",
        "erfinv",
    ]
}
COMPARISONS = {
    getattr(getattr(aten, name), overload): f"({{0}} {sign} {{1}})"
    for name, sign in (
        ("eq", "=="),
        ("ne", "!="),
        ("lt", "<"),
        ("le", "<="),
        ("gt", ">"),
        ("ge", ">="),
    )
    for overload in ("Tensor", "Scalar")
}
LOGICAL = {
    aten.logical_and.default: "({0} & {1})",
    aten.logical_or.default: "({0} | {1})",
    aten.logical_xor.default: "({0} ^ {1})",
    aten.logical_not.default: "({0} ^ 1)",
}


SELECT: dict[CType, str] = {
    "float": "select_f32({0}, {1}, {2})",
    "int32_t": "select_i32({0}, {1}, {2})",
    "uint8_t": "select_i32({0}, {1}, {2})",
}
"""A choice between two values, both of them computed: so that loops stay free of branches."""


def apply(
    shape: Sequence[int], form: str, arguments: Sequence[Any], inner: CType, outer: CType, cost: int
) -> Value:
    """`form` over arguments (Values or numbers) that meet by broadcasting, read as `inner`."""

    def load(point: Point) -> Expr:
        read = tuple(element(a, point, inner) for a in arguments)
        return Apply(form, read, outer)

    values = [a for a in arguments if isinstance(a, Value)]
    cost += sum(
        form.count(f"{{{n}}}") * a.cost for n, a in enumerate(arguments) if isinstance(a, Value)
    )
    result = Value.lazy(shape, outer, load, cost)
    result.reads = sum(v.reads for v in values if 2 * v.size > result.size)
    return result


def element(argument: Any, point: Point, ctype: CType) -> Expr:
    """The element of a Value or number that meets a point, in some type."""
    if isinstance(argument, Value):
        return cast(argument.broadcast(point), ctype)
    return cast(Constant(argument, "float" if isinstance(argument, float) else "int32_t"), ctype)


def common(arguments: Sequence[Any]) -> CType:
    """The type in which mixed arguments are compared."""
    found = {
        a.ctype
        if isinstance(a, Value)
        else CTYPES[torch.bool]
        if isinstance(a, bool)
        else CTYPES[torch.float32]
        if isinstance(a, float)
        else CTYPES[torch.int32]
        for a in arguments
    }
    order: list[CType] = ["float", "int32_t", "uint8_t"]
    return next(ctype for ctype in order if ctype in found)


def _arithmetic(rule: Pointwise) -> Callable[..., Value]:
    def lower(_: Lowering, node: Node, *arguments: Any, **options: Any) -> Value:
        if any(value not in (None, 0) for value in options.values()):
            raise Unsupported(node, f"not with {options}")
        ctype = ctype_of(node)
        form = rule.floats if ctype == "float" else rule.integers
        if form is None:
            raise Unsupported(node, f"not for {node.meta['val'].dtype}")
        inner = ctype
        return apply(shape_of(node), form, arguments, inner, ctype, rule.cost)

    return lower


for _target, _rule in {**ARITHMETIC, **FUNCTIONS}.items():
    lowers(_target)(_arithmetic(_rule))


def _comparison(form: str) -> Callable[..., Value]:
    def lower(_: Lowering, node: Node, *arguments: Any) -> Value:
        return apply(shape_of(node), form, arguments, common(arguments), "uint8_t", 1)

    return lower


for _target, _form in COMPARISONS.items():
    lowers(_target)(_comparison(_form))


def _logical(form: str) -> Callable[..., Value]:
    def lower(_: Lowering, node: Node, *arguments: Any) -> Value:
        return apply(shape_of(node), form, arguments, "uint8_t", "uint8_t", 1)

    return lower


for _target, _form in LOGICAL.items():
    lowers(_target)(_logical(_form))


@lowers(aten.bitwise_not.default)
def bitwise_not(_: Lowering, node: Node, x: Value) -> Value:
    """Flip every bit; a boolean has one."""
    form = "({0} ^ 1)" if x.ctype == "uint8_t" else "(~{0})"
    return apply(x.shape, form, [x], x.ctype, x.ctype, 1)


def _sum(sign: str) -> Callable[..., Value]:
    def lower(_: Lowering, node: Node, x: Any, y: Any, alpha: float = 1) -> Value:
        ctype = ctype_of(node)
        if ctype == "uint8_t":
            return apply(shape_of(node), "({0} | {1})", [x, y], ctype, ctype, 1)
        form, arguments = f"({{0}} {sign} {{1}})", [x, y]
        if alpha != 1:
            form, arguments = f"({{0}} {sign} {{2}} * {{1}})", [x, y, alpha]
        if ctype == "int32_t":
            form = _wrapping(form)
        return apply(shape_of(node), form, arguments, ctype, ctype, len(arguments) - 1)

    return lower


lowers(aten.add.Tensor, aten.add.Scalar)(_sum("+"))
lowers(aten.sub.Tensor, aten.sub.Scalar)(_sum("-"))


@lowers(aten.rsub.Scalar)
def rsub(_: Lowering, node: Node, x: Value, y: float, alpha: float = 1) -> Value:
    """``y - alpha * x``."""
    ctype = ctype_of(node)
    form = "({1} - {2} * {0})"
    if ctype == "int32_t":
        form = _wrapping(form)
    return apply(x.shape, form, [x, y, alpha], ctype, ctype, 2)


@lowers(aten.div.Tensor_mode, aten.div.Scalar_mode)
def divide(_: Lowering, node: Node, x: Any, y: Any, rounding_mode: str | None = None) -> Value:
    """Division, rounded down (``floor``) or towards zero (``trunc``)."""
    ctype = ctype_of(node)
    if ctype == "float":
        form = {None: "({0} / {1})", "floor": "floor_divide_f32({0}, {1})"}.get(
            rounding_mode, "__builtin_truncf({0} / {1})"
        )
    else:
        form = "floor_divide_i32({0}, {1})" if rounding_mode == "floor" else "divide_i32({0}, {1})"
    return apply(shape_of(node), form, [x, y], ctype, ctype, 6)


@lowers(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
def where(_: Lowering, node: Node, condition: Value, x: Any, y: Any) -> Value:
    """Select by a condition."""
    ctype = ctype_of(node)

    def load(point: Point) -> Expr:
        chosen = (element(a, point, ctype) for a in (x, y))
        return Apply(SELECT[ctype], (condition.broadcast(point), *chosen), ctype)

    values = [a for a in (condition, x, y) if isinstance(a, Value)]
    result = Value.lazy(shape_of(node), ctype, load, 1 + sum(v.cost for v in values))
    result.reads = sum(v.reads for v in values if 2 * v.size > result.size)
    return result


@lowers(aten.clamp.default, aten.clamp.Tensor)
def clamp(
    _: Lowering, node: Node, x: Value, low: Any = None, high: Any = None, **named: Any
) -> Value:
    """Hold within bounds; no number stays no number."""
    low, high = named.get("min", low), named.get("max", high)
    ctype = ctype_of(node)
    suffix = "f32" if ctype == "float" else "i32"
    form, arguments = "{0}", [x]
    for bound, name in ((low, "maximum"), (high, "minimum")):
        if bound is not None:
            form = f"{name}_{suffix}({form}, {{{len(arguments)}}})"
            arguments.append(bound)
    return apply(shape_of(node), form, arguments, ctype, ctype, 2)


@lowers(aten.pow.Tensor_Scalar)
def power(_: Lowering, node: Node, x: Value, exponent: float) -> Value:
    """A power; small whole and half exponents by products and roots."""
    ctype = ctype_of(node)
    forms = {
        0: "1",
        1: "{0}",
        2: "({0} * {0})",
        3: "({0} * {0} * {0})",
        4: "square_f32({0} * {0})",
        0.5: "__builtin_sqrtf({0})",
        -0.5: "rsqrt_f32({0})",
        -1: "(1.0f / {0})",
        -2: "(1.0f / ({0} * {0}))",
    }
    form = forms.get(exponent)
    if ctype == "float":
        return apply(
            x.shape,
            form or "pow_f32({0}, {1})",
            [x, float(exponent)],
            ctype,
            ctype,
            4 if form else 40,
        )
    if form is None or exponent != int(exponent) or not 0 <= exponent <= 3:
        raise Unsupported(node, f"the power {exponent} of integers; convert them to float first")
    return apply(x.shape, _wrapping(form), [x], ctype, ctype, 2)


@lowers(aten.pow.Tensor_Tensor, aten.pow.Scalar)
def power_of(_: Lowering, node: Node, x: Any, y: Any) -> Value:
    """A power whose exponent is a tensor."""
    if ctype_of(node) != "float":
        raise Unsupported(node, "powers of integers by a tensor; convert them to float first")
    return apply(shape_of(node), "pow_f32({0}, {1})", [x, y], "float", "float", 40)


@lowers(aten._to_copy.default)
def to_copy(_: Lowering, node: Node, x: Value, **options: Any) -> Value:
    """Convert between element types."""
    ctype = ctype_of(node)
    narrow = {torch.int8: "int8_t", torch.uint8: "uint8_t", torch.int16: "int16_t"}
    dtype = node.meta["val"].dtype
    if dtype in narrow and node.args[0].meta["val"].dtype != dtype:  # type: ignore[union-attr]
        return apply(x.shape, f"(int32_t)({narrow[dtype]})({{0}})", [x], x.ctype, ctype, 1)
    if x.ctype == ctype:
        return x
    return Value.lazy(x.shape, ctype, lambda point: cast(x.at(point), ctype), x.cost)


@lowers(aten.isnan.default)
def isnan(_: Lowering, node: Node, x: Value) -> Value:
    """Whether it is no number."""
    return apply(x.shape, "({0} != {0})", [x], x.ctype, "uint8_t", 1)


@lowers(aten.isinf.default)
def isinf(_: Lowering, node: Node, x: Value) -> Value:
    """Whether it is infinite."""
    if x.ctype != "float":
        return apply(x.shape, "0", [], x.ctype, "uint8_t", 0)
    return apply(x.shape, "(__builtin_fabsf({0}) == __builtin_inff())", [x], "float", "uint8_t", 2)
