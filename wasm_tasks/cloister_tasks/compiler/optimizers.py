"""Update rules as torch expressions, captured together with the gradients they use.

The user's own ``torch.optim`` object says which rule and with what settings; nothing of its state
is used. Settings that a job may change become hyperparameters; what torch computes in double
precision from them (bias corrections, say) is computed so in the guest, once a step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from cloister_tasks.errors import BuildError

Scalars = Mapping[str, Tensor]
"""f32 scalars of a step, by name."""


@dataclass(frozen=True)
class Setting:
    """A hyperparameter of the task."""

    ctype: Literal["float", "double", "int32_t", "int64_t"]
    default: float
    about: str


@dataclass
class Rule(ABC):
    """What an optimizer does to one parameter."""

    settings: dict[str, Setting]
    scalars: dict[str, str] = field(default_factory=dict)
    """f32 values of each step: C expressions over the settings and ``steps``, counted from 1."""
    states: tuple[str, ...] = ()
    """State kept for each parameter, zero after ``reset``."""

    @abstractmethod
    def apply(
        self, p: Tensor, g: Tensor, state: Mapping[str, Tensor], s: Scalars
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The next parameter and state."""


class SGD(Rule):
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD``."""

    def __init__(
        self, lr: float, momentum: float, dampening: float, weight_decay: float, nesterov: bool
    ):
        settings = {"learning_rate": Setting("float", lr, "Step size")}
        if momentum:
            settings["momentum"] = Setting("float", momentum, "Weight of earlier gradients")
        if weight_decay:
            settings["weight_decay"] = Setting("float", weight_decay, "L2 penalty")
        scalars = {name: name for name in settings}
        if dampening and momentum:
            settings["dampening"] = Setting("float", dampening, "Part of a gradient left out")
            scalars["part"] = "steps == 1 ? 1 : 1 - dampening"  # the first one counts in full
        super().__init__(settings, scalars, ("momentum_buffer",) if momentum else ())
        self.nesterov = nesterov

    def apply(
        self, p: Tensor, g: Tensor, state: Mapping[str, Tensor], s: Scalars
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sutskever et al., "On the importance of initialization and momentum", 2013."""
        if "weight_decay" in s:
            g = g + s["weight_decay"] * p
        if not self.states:
            return p - s["learning_rate"] * g, {}
        part = s["part"] * g if "part" in s else g
        velocity = s["momentum"] * state["momentum_buffer"] + part
        step = g + s["momentum"] * velocity if self.nesterov else velocity
        return p - s["learning_rate"] * step, {"momentum_buffer": velocity}


class Adam(Rule):
    """Adam and AdamW, as torch.optim has them."""

    def __init__(
        self,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        decoupled: bool,
    ):
        settings = {
            "learning_rate": Setting("float", lr, "Step size"),
            "beta1": Setting("double", betas[0], "Decay of the mean gradient"),
            "beta2": Setting("double", betas[1], "Decay of the mean squared gradient"),
            "epsilon": Setting("double", eps, "Added to the root of the mean squared gradient"),
        }
        scalars = {
            "rate": "learning_rate / (1 - power_f64(beta1, steps))",
            "root": "__builtin_sqrt(1 - power_f64(beta2, steps))",
            "rest1": "1 - beta1",
            "rest2": "1 - beta2",
            "beta2": "beta2",
            "epsilon": "epsilon",
        }
        if weight_decay:
            settings["weight_decay"] = Setting("float", weight_decay, "Decay of the weights")
            if decoupled:
                scalars["decay"] = "1 - (double)learning_rate * weight_decay"
            else:
                scalars["weight_decay"] = "weight_decay"
        super().__init__(settings, scalars, ("exp_avg", "exp_avg_sq"))

    def apply(
        self, p: Tensor, g: Tensor, state: Mapping[str, Tensor], s: Scalars
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Kingma and Ba, ICLR 2015, algorithm 1; Loshchilov and Hutter, ICLR 2019, algorithm 2."""
        if "weight_decay" in s:
            g = g + s["weight_decay"] * p
        if "decay" in s:
            p = p * s["decay"]
        m, v = state["exp_avg"], state["exp_avg_sq"]
        m = m + s["rest1"] * (g - m)
        v = s["beta2"] * v + s["rest2"] * g * g
        root = torch.sqrt(v) / s["root"] + s["epsilon"]
        return p - s["rate"] * m / root, {"exp_avg": m, "exp_avg_sq": v}


_READ = {
    torch.optim.SGD: {"lr", "momentum", "dampening", "weight_decay", "nesterov"},
    torch.optim.Adam: {"lr", "betas", "eps", "weight_decay"},
    torch.optim.AdamW: {"lr", "betas", "eps", "weight_decay"},
}
"""Options each rule follows; any other must be at its default."""
_IRRELEVANT = {
    "foreach",
    "fused",
    "capturable",
    "differentiable",
    "decoupled_weight_decay",
    "params",
}
"""Options that say how torch computes, not what."""


def rule(optimizer: torch.optim.Optimizer) -> Rule:
    """The rule of a torch optimizer.

    Raises:
        BuildError: another class, several parameter groups, or an option the compiler lacks.
    """
    kind = type(optimizer)
    if kind not in _READ:
        known = ", ".join(k.__name__ for k in _READ)
        raise BuildError(f"the optimizer {kind.__name__} is not known; there are {known}")
    if len(optimizer.param_groups) != 1:
        raise BuildError(
            "the optimizer has several parameter groups: give all parameters the same options,"
            " and freeze what shall not change with requires_grad_(False)"
        )
    options = dict(optimizer.param_groups[0])
    usual = kind([torch.zeros(1, requires_grad=True)]).defaults  # type: ignore[call-arg]
    for name, value in options.items():
        if name in _READ[kind] | _IRRELEVANT or name not in usual:
            continue
        if value != usual[name]:
            raise BuildError(f"{kind.__name__}({name}={value}) is not known; leave {name} out")
    given = {name: options[name] for name in _READ[kind]}
    if kind is torch.optim.SGD:
        return SGD(**given)
    return Adam(**given, decoupled=options["decoupled_weight_decay"])
