"""What ``compile`` is given, checked before anything is traced: each mistake has its own words."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cloister_tasks.compiler.capture import Loss, Subject
from cloister_tasks.compiler.lower import CTYPES
from cloister_tasks.compiler.unsupported import culprit
from cloister_tasks.errors import BuildError


def check_runs(model: nn.Module, loss: Loss, inputs: Sequence[Tensor], target: Tensor) -> None:
    """Refuse a model or loss that fails on the example even without a compiler."""
    try:
        with torch.no_grad():
            loss(copy.deepcopy(model)(*inputs), target)
    except Exception as error:
        raise BuildError(
            "the model or its loss fails on the example, without any compiler:"
            f" {type(error).__name__}: {error}\n{culprit(error)}"
        ) from error


def read_example(model: nn.Module, example: Any) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs by name, and the target; float64 and other surprises are refused here."""
    if not isinstance(example, (tuple, list)) or len(example) != 2:
        raise BuildError("example has to be (inputs, target): one batch of rows")
    inputs, target = example
    arguments = [
        p.name
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if isinstance(inputs, Mapping):
        unknown = sorted(set(inputs) - set(arguments))
        if unknown:
            raise BuildError(
                f"forward has no argument {unknown[0]!r}; it has {', '.join(arguments)}"
            )
        named = {name: inputs[name] for name in arguments if name in inputs}
    elif isinstance(inputs, (tuple, list)) and len(inputs) != 1:
        if len(inputs) > len(arguments):
            raise BuildError(f"{len(inputs)} inputs; forward takes {len(arguments)}")
        named = dict(zip(arguments, inputs, strict=False))
    else:
        named = {"features": inputs[0] if isinstance(inputs, (tuple, list)) else inputs}
    for what, tensor in {"the target": target, **named}.items():
        if not isinstance(tensor, Tensor) or tensor.ndim < 1 or not tensor.numel():
            raise BuildError(f"{what} has to be a tensor of at least one row")
        if tensor.dtype not in CTYPES:
            raise BuildError(f"{what} is {tensor.dtype}; give float32, an integer type or bool")
        if len(tensor) != len(target):
            raise BuildError(f"{what} has {len(tensor)} rows, the target {len(target)}")
    return named, target


def correct(output: Tensor, target: Tensor) -> Tensor:
    """The part of positions whose largest output (over dimension 1) is at the label."""
    return (output.argmax(1) == target).float()


def metrics_of(subject: Subject, given: Mapping[str, Loss] | None) -> dict[str, Loss]:
    """What is reported beside the loss; ``correct`` where it has a meaning."""
    found: dict[str, Loss] = {}
    target = subject.example.target
    if not target.is_floating_point() and target.dtype != torch.bool:
        output = subject.output()
        if (
            isinstance(output, Tensor)
            and output.ndim == target.ndim + 1
            and output.shape[:1] + output.shape[2:] == target.shape
        ):
            found["correct"] = correct
    for key, expression in (given or {}).items():
        if not key.isidentifier() or key == "loss":
            raise BuildError(f"{key!r} cannot be the name of a metric")
        found[key] = expression
    return found
