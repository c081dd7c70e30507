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
    clip_norm = 1.0               # largest L2 norm of an update
    seed = 7

    [hyperparameters]
    momentum = 0.5
    batch_size = 32

    [schedules]                   # hyperparameters that change from round to round
    learning_rate = { kind = "cosine", start = 0.1, end = 0.001 }

    [secure_aggregation]          # all of it may be left out, but for the heading
    corrupt_fraction = 0.1
    value_bits = 16

    [differential_privacy]
    noise = "distributed"         # or "central"
    noise_multiplier = 1.0
    epsilon = 4
    delta = 1e-6

    [differential_privacy.adaptive]
    quantile = 0.5
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from cloister.errors import InvalidJob
from cloister.protection import (
    GRAPHS,
    NOISES,
    AdaptiveClipping,
    DifferentialPrivacy,
    SecureAggregation,
)
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


def _one_of(words: Iterable[str]) -> setting.Reader:
    """One of these words."""

    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise ConfigError(f"must be one of {', '.join(words)}")
        return value

    return read


def _section(
    name: str, kind: Callable[..., Any], required: Sequence[str] = (), **keys: setting.Reader
) -> setting.Reader:
    """A table with these keys, as one of `kind`."""

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise ConfigError(f"must be a table: [{name}]")
        for key in value:
            if key not in keys:
                raise ConfigError(f"has no {key[:80]!r}; there are: {', '.join(keys)}")
        for key in required:
            if key not in value:
                raise ConfigError(f"must have {key}")
        found = {}
        for key, item in value.items():
            try:
                found[key] = keys[key](item)
            except ConfigError as error:
                raise ConfigError(f"{key}: {error}") from error
        return kind(**found)

    return read


_secure_aggregation = _section(
    "secure_aggregation",
    SecureAggregation,
    graph=_one_of(GRAPHS),
    corrupt_fraction=setting.fraction,
    drop_out_fraction=setting.fraction,
    value_bits=_whole,
    max_weight=_whole,
    step_seconds=setting.positive,
)
_adaptive = _section(
    "differential_privacy.adaptive",
    AdaptiveClipping,
    quantile=setting.positive,
    learning_rate=setting.positive,
    count_noise=setting.positive,
)
_differential_privacy = _section(
    "differential_privacy",
    DifferentialPrivacy,
    ("noise_multiplier", "delta"),
    noise=_one_of(NOISES),
    noise_multiplier=setting.positive,
    delta=setting.positive,
    epsilon=setting.positive,
    adaptive=_adaptive,
)

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
    "clip_norm": setting.positive,
    "secure_aggregation": _secure_aggregation,
    "differential_privacy": _differential_privacy,
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
