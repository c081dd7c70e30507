"""What of torch's optimizers is taken over, and what is refused."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from cloister_tasks.compiler.optimizers import rule
from cloister_tasks.errors import BuildError

STEPS = 4


def parameter():
    return nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64))


def scalars_at(found, step):
    """The scalars of a step, as C would compute them."""
    scope = {name: setting.default for name, setting in found.settings.items()}
    scope |= {"steps": step, "power_f64": math.pow, "__builtin_sqrt": math.sqrt}

    def value(text):
        text = text.replace("(double)", "")
        text = re.sub(r"(.*) \? (.*) : (.*)", r"(\2) if (\1) else (\3)", text)
        return torch.tensor(eval(text, dict(scope)), dtype=torch.float64)

    return {name: value(text) for name, text in found.scalars.items()}


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.3, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.1),
        lambda p: torch.optim.Adam(p, 0.1, betas=(0.5, 0.8), eps=0.1, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.1, decoupled_weight_decay=True),
        lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0),
    ],
    ids=[
        "sgd",
        "momentum",
        "dampening",
        "nesterov",
        "adam",
        "adam_l2",
        "adam_decoupled",
        "adamw",
        "adamw_0",
    ],
)
def test_steps_are_torchs(make):
    theirs = parameter()
    optimizer = make([theirs])
    found = rule(optimizer)
    ours = theirs.detach().clone()
    state = {name: torch.zeros_like(ours) for name in found.states}
    for step in range(1, STEPS + 1):
        gradient = (theirs.detach() * step).cos()
        theirs.grad = gradient.clone()
        ours, state = found.apply(ours, (ours * step).cos(), state, scalars_at(found, step))
        optimizer.step()
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-14)
        assert set(state) == set(found.states)


def test_settings_are_the_optimizers():
    found = rule(torch.optim.AdamW([parameter()], 0.3, betas=(0.1, 0.2), eps=1e-3))
    values = {name: setting.default for name, setting in found.settings.items()}
    assert values == {
        "learning_rate": 0.3,
        "beta1": 0.1,
        "beta2": 0.2,
        "epsilon": 1e-3,
        "weight_decay": 0.01,
    }
    assert set(rule(torch.optim.SGD([parameter()], 0.1)).settings) == {"learning_rate"}


class Mine(torch.optim.SGD):
    """A subclass may do anything."""


@pytest.mark.parametrize(
    "kind", [torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.NAdam, Mine]
)
def test_unknown_optimizers_are_refused_by_name(kind):
    with pytest.raises(BuildError, match=rf"{kind.__name__} is not known; there are SGD, Adam"):
        rule(kind([parameter()], lr=0.1))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_several_groups_are_refused(kind):
    groups = [{"params": [parameter()]}, {"params": [parameter()], "lr": 0.5}]
    with pytest.raises(BuildError, match="several parameter groups"):
        rule(kind(groups, lr=0.1))


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        (torch.optim.SGD, {"maximize": True}),
        (torch.optim.Adam, {"maximize": True}),
        (torch.optim.Adam, {"amsgrad": True}),
        (torch.optim.AdamW, {"amsgrad": True}),
    ],
    ids=lambda o: next(iter(o)) if isinstance(o, dict) else o.__name__,
)
def test_options_it_lacks_are_refused(kind, option):
    with pytest.raises(BuildError, match=next(iter(option))):
        rule(kind([parameter()], lr=0.1, **option))


@pytest.mark.parametrize("option", ["foreach", "fused", "differentiable"])
def test_options_about_how_torch_computes_are_passed_over(option):
    wanted = rule(torch.optim.SGD([parameter()], 0.1))
    found = rule(torch.optim.SGD([parameter()], 0.1, **{option: True}))
    assert found.settings == wanted.settings
    assert found.scalars == wanted.scalars


def test_options_of_a_group_count():
    optimizer = torch.optim.SGD([parameter()], 0.1)
    optimizer.param_groups[0]["lr"] = 0.7
    assert rule(optimizer).settings["learning_rate"].default == 0.7
