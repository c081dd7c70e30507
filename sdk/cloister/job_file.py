"""A job described in a TOML file: the arguments of `Coordinator.submit`, by the same names.

::

    task = "digits.wasm"          # relative paths start at the folder of the TOML
    name = "digits"
    aggregation = "fedavg"        # or "median", "sum", or a .wasm file
    rounds = 20
    cohort = 8
    minimum = 6
    over_selection = 1.25
    round_deadline_seconds = 60
    epochs = 1
    evaluate_every = 5
    seed = 7

    [hyperparameters]
    momentum = 0.5
    batch_size = 32

    [schedules]                   # hyperparameters that change from round to round
    learning_rate = { kind = "cosine", start = 0.1, end = 0.001 }
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

from cloister.errors import InvalidJob
from cloister.schedules import read_schedule
from cloister_client import setting
from cloister_client.errors import ConfigError
from cloister_protos import Schedule


def _whole(value: Any) -> int:
    """A whole number from 0 to 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 64:
        raise ConfigError("must be a whole number from 0")
    return value


def _numbers(value: Any) -> dict[str, float]:
    """A table of finite numbers."""
    if not isinstance(value, dict):
        raise ConfigError("must be a table: [hyperparameters]")
    return {name: setting.number(number) for name, number in value.items()}


def _schedules(value: Any) -> dict[str, Schedule]:
    """A table of schedules."""
    if not isinstance(value, dict):
        raise ConfigError("must be a table: [schedules]")
    found = {}
    for name, source in value.items():
        try:
            found[name] = read_schedule(source)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    return found


_AGGREGATION = "aggregation"
_KEYS: dict[str, setting.Reader] = {
    "task": setting.path,
    "name": setting.text(64),
    _AGGREGATION: setting.text(4096),
    "rounds": _whole,
    "cohort": _whole,
    "minimum": _whole,
    "over_selection": setting.positive,
    "round_deadline_seconds": setting.positive,
    "epochs": _whole,
    "keep_order": setting.flag,
    "uniform_weights": setting.flag,
    "evaluate_every": _whole,
    "dataset": setting.text(64),
    "tags": setting.texts(64, 64),
    "seed": _whole,
    "max_abandoned_rounds": _whole,
    "initial_model": setting.path,
    "frozen": setting.path,
    "hyperparameters": _numbers,
    "schedules": _schedules,
}


def load_job(path: Path) -> dict[str, Any]:
    """The arguments for `Coordinator.submit` that a TOML gives; paths are made absolute.

    Raises InvalidJob, whose message names the file and the key.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidJob(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidJob(f"{path} is no TOML file: {error}") from error
    folder = path.absolute().parent
    values = {}
    for key, value in table.items():
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(_KEYS)}"
            raise InvalidJob(f"{path}: unknown key {key!r}; {hint}")
        try:
            read = _KEYS[key](value)
        except ConfigError as error:
            raise InvalidJob(f"{path}: {key} {error}") from error
        if key == _AGGREGATION:
            read = aggregation_source(read, folder)
        values[key] = folder / read if isinstance(read, Path) else read
    return values


def aggregation_source(text: str, folder: Path = Path()) -> str | Path:
    """A built-in aggregation's name as it is; what ends in .wasm as a path."""
    return folder / text if text.endswith(".wasm") else text
