"""What all factories of the zoo share: fixed random numbers, and activations by smoothness."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeAlias

import torch
from torch import Tensor, nn

Example: TypeAlias = dict[str, Any]
"""Arguments of ``compile``: model, loss, optimizer, example = (inputs, target), and options."""

Arguments = ParamSpec("Arguments")

SEED = 2017
"""Seeds parameters and examples alike."""


Factory: TypeAlias = Callable[..., Example]
"""Builds a model, its loss, its optimizer and an example batch.

Keywords: ``batch`` (rows of the example), ``smooth`` (activations) and options of its own.
"""


def fixed(factory: Callable[Arguments, Example]) -> Callable[Arguments, Example]:
    """Let a factory draw from a generator of its own, so that every call gives the same numbers."""

    @functools.wraps(factory)
    def build(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Example:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            return factory(*args, **kwargs)

    return build


def activation(smooth: bool, kinked: type[nn.Module] = nn.ReLU) -> nn.Module:
    """An activation: the customary one, or a smooth one of a similar course."""
    if not smooth:
        return kinked()
    return nn.SiLU() if kinked in (nn.ReLU6, nn.Hardswish) else nn.Softplus(beta=2)


def rows_of(shape: tuple[int, ...], classes: int, batch: int) -> tuple[Tensor, Tensor]:
    """Standard normal rows f32[batch, *shape] and their labels i64[batch]."""
    return torch.randn(batch, *shape), torch.randint(classes, (batch,))


def sgd(model: nn.Module, lr: float, momentum: float = 0.0) -> torch.optim.Optimizer:
    """Plain stochastic gradient descent on what the model trains."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(trained, lr=lr, momentum=momentum)
