"""How ``init(seed)`` draws a fresh model inside the guest.

Layers that torch knows start as torch starts them. Other tensors start with the mean and deviation
of the values given. The values given themselves travel beside the module, not in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cloister_tasks.compiler.driver import Initial


def initial_values(model: nn.Module, identifiers: Mapping[str, str]) -> list[Initial]:
    """One rule for each tensor, by its name in ``state_dict``."""
    state = model.state_dict()
    owners = dict(model.named_modules())
    rules = []
    for name, identifier in identifiers.items():
        module, _, leaf = name.rpartition(".")
        kind, value, spread = _rule(owners.get(module), leaf, state[name])
        rules.append(Initial(identifier, state[name].numel(), kind, value, spread))
    return rules


def _rule(owner: nn.Module | None, leaf: str, value: Tensor) -> tuple[str, float, float]:
    """Kind, mean and spread."""
    value = value.detach().float()
    if bool((value == value.flatten()[0]).all()):
        return "constant", float(value.flatten()[0]), 0.0
    if isinstance(owner, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)):
        fan_in, _ = torch.nn.init._calculate_fan_in_and_fan_out(owner.weight)
        return "uniform", 0.0, 1 / math.sqrt(fan_in)
    if isinstance(owner, nn.RNNBase):
        return "uniform", 0.0, 1 / math.sqrt(owner.hidden_size)
    if isinstance(owner, nn.Embedding) and leaf == "weight":
        return "normal", 0.0, 1.0
    if isinstance(owner, nn.MultiheadAttention) and leaf == "in_proj_weight":
        return "uniform", 0.0, math.sqrt(6 / (value.shape[0] + value.shape[1]))
    return "normal", float(value.mean()), float(value.std())
