"""One operator of the library, compiled for inputs of given shapes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from inspect import Parameter
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from cloister_tasks.compiler.function import FunctionModule, function_module
from cloister_tasks.compiler.library import INTEGERS, OPERATORS, TORCH, DType, Operator
from cloister_tasks.contract import Variant
from cloister_tasks.errors import BuildError

MOST_ELEMENTS = 1 << 22
"""Elements of all inputs together, and of the result; more are refused."""


def compile_operator(
    name: str,
    inputs: Sequence[NDArray[Any]],
    dtype: DType = "FP32",
    attributes: Mapping[str, Any] | None = None,
    variant: Variant = "simd128",
) -> FunctionModule:
    """The module of one operator for inputs of these shapes.

    Args:
        name: one of :data:`~..library.OPERATORS`.
        inputs: arrays in the operator's types (see :meth:`Operator.dtype`).
        dtype: the type it is asked for in.
        attributes: values by name; the others keep their defaults.
        variant: instruction set.

    Raises:
        BuildError: there is no such operator, or not in this type; inputs or attributes don't
            fit it or one another; they are too large, or a divisor is zero.
    """
    operator = find(name)
    if dtype not in operator.results:
        has = ", ".join(operator.results)
        raise BuildError(f"there is no {name} in {dtype}; there is {has}")
    given = dict(attributes or {})
    _check_arguments(operator, len(inputs), given)
    if sum(array.size for array in inputs) > MOST_ELEMENTS:
        raise BuildError(f"{name}: the inputs have more than {MOST_ELEMENTS:,} elements together")
    if operator.divides and dtype in INTEGERS and not inputs[1].all():
        raise BuildError(f"{name}: a divisor is zero")
    tensors = [
        torch.empty(array.shape, dtype=TORCH[operator.dtype(place, dtype)], device="meta")
        for place, array in enumerate(inputs)
    ]

    def run(*arguments: Tensor) -> list[Tensor]:
        result = operator.function(*arguments, **given)
        return [result.to(TORCH[operator.results[dtype]])]

    try:
        (result,) = run(*tensors)
    except (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError) as error:
        raise BuildError(f"{name}: {_first_line(error)}") from error
    if result.numel() > MOST_ELEMENTS:
        raise BuildError(f"{name}: the result would have more than {MOST_ELEMENTS:,} elements")
    if not result.numel() or not all(math.prod(t.shape) for t in tensors):
        raise BuildError(f"{name}: nothing to compute without elements")
    try:
        examples = [torch.empty_like(t, device="cpu") for t in tensors]
        return function_module(run, *examples, variant=variant)
    except BuildError as error:
        if error.__cause__ is None:
            raise
        raise BuildError(f"{name}: {_first_line(error.__cause__)}") from error


def find(name: str) -> Operator:
    """The operator of a name, in whatever case. Raises BuildError: there is none."""
    known = {key.lower(): operator for key, operator in OPERATORS.items()}
    if (found := known.get(name.lower())) is not None:
        return found
    near = [known[n].name for n in difflib.get_close_matches(name.lower(), known)]
    hint = f"did you mean {' or '.join(near)}?" if near else "`cloister op list` names them all"
    raise BuildError(f"there is no operator {name!r}; {hint}")


def _check_arguments(operator: Operator, given: int, attributes: Mapping[str, Any]) -> None:
    inputs, name = operator.inputs, f"{operator.name}{operator.signature}"
    most = None if inputs[0].kind == inputs[0].VAR_POSITIONAL else len(inputs)
    least = 1 if most is None else sum(p.default is p.empty for p in inputs)
    if given < least or (most is not None and given > most):
        wanted = str(least) if least == most else f"{least} to {most}" if most else "some"
        raise BuildError(f"{name} takes {wanted} inputs, not {given}")
    for key in attributes:
        if key not in operator.attributes:
            raise BuildError(f"{name} has no attribute {key!r}")
    for key, default in operator.attributes.items():
        if default is Parameter.empty and key not in attributes:
            raise BuildError(f"{name} needs the attribute {key}")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
