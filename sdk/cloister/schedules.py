"""Hyperparameters that change over a job, as one writes them in TOML or Python.

::

    learning_rate = { kind = "cosine", start = 0.1, end = 0.001 }
    learning_rate = { kind = "step", start = 0.1, factor = 0.5, every = 10 }
    learning_rate = { kind = "exponential", start = 0.1, factor = 0.98 }
    learning_rate = [0.1, 0.1, 0.05, 0.01]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from cloister.errors import InvalidJob
from cloister_client import setting
from cloister_client.errors import ConfigError
from cloister_coordinator.schedule import fault
from cloister_protos import Schedule
from cloister_tasks import Manifest

ScheduleSource: TypeAlias = "Mapping[str, str | float] | list[float] | tuple[float, ...] | Schedule"
"""A kind with its numbers, or a number for each version, of which the last stays."""

_FIELDS = {
    "cosine": ("start", "end"),
    "step": ("start", "factor", "every"),
    "exponential": ("start", "factor"),
}


def read_schedule(source: object) -> Schedule:
    """A ScheduleSource in the words of the wire. Raises ConfigError("must be ...")."""
    if isinstance(source, Schedule):
        return source
    if isinstance(source, Mapping):
        return _of_kind(dict(source))
    if not isinstance(source, list | tuple) or not source:
        kinds = ", ".join(_FIELDS)
        raise ConfigError(f"must be a list of numbers, or a table with a kind: {kinds}")
    return Schedule(values=Schedule.Values(values=[setting.number(item) for item in source]))


def _of_kind(fields: dict[str, str | float]) -> Schedule:
    kind = fields.pop("kind", None)
    wanted = _FIELDS.get(str(kind))
    if wanted is None:
        raise ConfigError(f"must have a kind, one of {', '.join(_FIELDS)}")
    if set(fields) != set(wanted):
        raise ConfigError(f"of kind {kind} must have {', '.join(wanted)}")
    numbers = {name: setting.number(value) for name, value in fields.items()}
    match kind:
        case "cosine":
            return Schedule(cosine=Schedule.Cosine(**numbers))
        case "exponential":
            return Schedule(exponential=Schedule.Exponential(**numbers))
    every = numbers.pop("every")
    if not 1 <= every < 1 << 32 or not every.is_integer():
        raise ConfigError("must have a whole number from 1 as every")
    return Schedule(step=Schedule.Step(**numbers, every=int(every)))


def read_schedules(
    sources: Mapping[str, ScheduleSource], manifest: Manifest, rounds: int
) -> dict[str, Schedule]:
    """The schedules of a job by hyperparameter, checked against the task. Raises InvalidJob."""
    found = {}
    for name, source in sources.items():
        try:
            found[name] = read_schedule(source)
        except ConfigError as error:
            raise InvalidJob(f"the schedule of {name} {error}") from error
        if (why := fault(name, found[name], manifest, rounds)) is not None:
            raise InvalidJob(why)
    return found
