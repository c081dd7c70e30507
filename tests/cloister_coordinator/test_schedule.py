"""Schedules against PyTorch's schedulers, which follow the same papers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cloister_coordinator.schedule import fault, training_at, value
from cloister_protos import Schedule, Training
from cloister_tasks import Manifest, Module, build

ROUNDS = 17
COSINE = Schedule(cosine=Schedule.Cosine(start=0.3, end=0.02))
STEP = Schedule(step=Schedule.Step(start=0.3, factor=0.4, every=5))
EXPONENTIAL = Schedule(exponential=Schedule.Exponential(start=0.3, factor=0.93))


@pytest.mark.parametrize(
    ("schedule", "scheduler", "options"),
    [
        (COSINE, "CosineAnnealingLR", {"T_max": ROUNDS, "eta_min": 0.02}),
        (STEP, "StepLR", {"step_size": 5, "gamma": 0.4}),
        (EXPONENTIAL, "ExponentialLR", {"gamma": 0.93}),
    ],
)
def test_the_standard_forms(schedule: Schedule, scheduler: str, options: dict[str, Any]) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    oracle = getattr(torch.optim.lr_scheduler, scheduler)(optimizer, **options)
    for version in range(ROUNDS):
        expected = optimizer.param_groups[0]["lr"]
        assert value(schedule, version, ROUNDS) == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        oracle.step()


def test_of_a_list_the_last_value_stays() -> None:
    schedule = Schedule(values=Schedule.Values(values=[3, 1, 2]))
    assert [value(schedule, version, 9) for version in range(5)] == [3, 1, 2, 2, 2]


def test_schedules_replace_the_jobs_own_hyperparameters() -> None:
    training = Training(epochs=2, hyperparameters={"learning_rate": 9.0, "momentum": 0.5})
    filled = training_at(training, {"learning_rate": STEP}, 5, ROUNDS)
    assert dict(filled.hyperparameters) == {"learning_rate": 0.3 * 0.4, "momentum": 0.5}
    assert filled.epochs == 2
    assert training.hyperparameters["learning_rate"] == 9.0
    assert training_at(training, {}, 5, ROUNDS) is training


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return Module.parse(build("softmax-regression", features=2, classes=2)).manifest


@pytest.mark.parametrize(
    ("name", "schedule", "says"),
    [
        ("speed", COSINE, "no hyperparameter 'speed'"),
        ("weight", COSINE, "no hyperparameter 'weight'"),
        ("batch_size", COSINE, "whole number"),
        ("learning_rate", Schedule(), "no kind"),
        ("learning_rate", Schedule(step=Schedule.Step(start=1, factor=1)), "every 0"),
        ("learning_rate", Schedule(values=Schedule.Values()), "0 values"),
        ("learning_rate", Schedule(values=Schedule.Values(values=[0] * 10_001)), "10001 values"),
        ("learning_rate", Schedule(values=Schedule.Values(values=[1, 1e39])), "version 1"),
        ("learning_rate", Schedule(cosine=Schedule.Cosine(start=1, end=float("nan"))), "nan"),
        (
            "learning_rate",
            Schedule(exponential=Schedule.Exponential(start=1, factor=1e300)),
            "inf at version 16",
        ),
    ],
)
def test_what_a_task_cannot_follow(
    manifest: Manifest, name: str, schedule: Schedule, says: str
) -> None:
    assert says in (fault(name, schedule, manifest, ROUNDS) or "")


@pytest.mark.parametrize("schedule", [COSINE, STEP, EXPONENTIAL])
def test_what_it_can(manifest: Manifest, schedule: Schedule) -> None:
    assert fault("learning_rate", schedule, manifest, ROUNDS) is None
