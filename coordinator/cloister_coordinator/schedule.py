"""Hyperparameters that change over a job: what they are for each model version. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from cloister_protos import Role, Schedule, Training
from cloister_tasks import Manifest

MAX_VALUES = 10_000
"""Numbers in a list of values; more are refused."""


def value(schedule: Schedule, version: int, rounds: int) -> float:
    """The number for a round that starts from `version` of a job of so many `rounds`.

    Cosine: Loshchilov and Hutter, "SGDR" (ICLR 2017), equation 5, without restarts.
    """
    match schedule.WhichOneof("kind"):
        case "cosine":
            wave = schedule.cosine
            share = (1 + math.cos(math.pi * version / rounds)) / 2
            return wave.end + (wave.start - wave.end) * share
        case "step":
            return schedule.step.start * schedule.step.factor ** (version // schedule.step.every)
        case "exponential":
            return schedule.exponential.start * schedule.exponential.factor**version
        case _:
            values = schedule.values.values
            return values[min(version, len(values) - 1)]


def training_at(
    training: Training, schedules: Mapping[str, Schedule], version: int, rounds: int
) -> Training:
    """How clients train in a round that starts from `version`: schedules filled in."""
    if not schedules:
        return training
    filled = Training()
    filled.CopyFrom(training)
    for name, schedule in schedules.items():
        filled.hyperparameters[name] = value(schedule, version, rounds)
    return filled


def fault(name: str, schedule: Schedule, manifest: Manifest, rounds: int) -> str | None:
    """Why a task cannot have this schedule for a job of so many rounds; None: it can."""
    buffer = manifest.buffers.get(name)
    if buffer is None or buffer.role != Role.ROLE_HYPERPARAMETER:
        return f"the task has no hyperparameter {name[:80]!r}"
    if buffer.dtype.kind != "f":
        return f"{name} is a whole number for the task; only others can have a schedule"
    kind = schedule.WhichOneof("kind")
    if kind is None:
        return f"{name} has no kind of schedule"
    if kind == "step" and schedule.step.every < 1:
        return f"{name} has a step of every 0 versions; it must be at least 1"
    if kind == "values" and not 1 <= len(schedule.values.values) <= MAX_VALUES:
        return f"{name} has {len(schedule.values.values)} values; it must be 1 to {MAX_VALUES}"
    # each kind but a list is monotone in size, so that its ends bound what lies between
    last = len(schedule.values.values) if kind == "values" else rounds
    versions = range(last) if kind == "values" else (0, rounds - 1)
    limit = float(np.finfo(np.dtype(buffer.dtype.str)).max)
    for version in versions:
        try:
            number = value(schedule, version, rounds)
        except OverflowError:
            number = math.inf
        if not abs(number) <= limit:  # true for NaN
            return f"{name} is {number:g} at version {version}; the task keeps {buffer.dtype.name}"
    return None
