"""Local rows, ready for a task: arrays by input name, in the task's own dtypes."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister_client.config import ALL_OTHERS, DataConfig
from cloister_client.errors import DataError
from cloister_client.shuffle import mix
from cloister_client.tables import Table, open_table
from cloister_tasks import Buffer

Rows = Mapping[str, NDArray[Any]]
"""Arrays by input name; the same first dimension, the rows."""


@dataclass(frozen=True)
class Dataset:
    """What one client can train and evaluate on.

    `features` is f32[rows, F], `label` i32[rows], `target` f32[rows, outputs]; only `features`
    is always there. Arrays are never written to.
    """

    train: Rows
    evaluation: Rows

    @property
    def train_rows(self) -> int:
        """Rows to train on."""
        return count(self.train)

    @property
    def evaluation_rows(self) -> int:
        """Rows to evaluate on."""
        return count(self.evaluation)

    def fit(self, inputs: Sequence[Buffer]) -> Dataset:
        """This data as a task with these input buffers takes it.

        Arrays the task does not ask for stay out; the others are reshaped row by row and
        widened to the buffer's dtype where that is exact. Raises DataError when the task asks
        for another input, size or dtype. Label ranges are the guest's to check.
        """
        return Dataset(_fit_all(self.train, inputs), _fit_all(self.evaluation, inputs))


def _fit_all(rows: Rows, inputs: Sequence[Buffer]) -> Rows:
    """No arrays at all are no rows, whatever the task asks for."""
    return {buffer.name: _fit(rows, buffer) for buffer in inputs} if rows else {}


def count(rows: Rows) -> int:
    """Number of rows."""
    return len(next(iter(rows.values()))) if rows else 0


def load_dataset(config: DataConfig) -> Dataset:
    """Read the files that `config` names. Raises DataError naming file, row and column."""
    table = open_table(config.path)
    columns = _columns(table, config)
    rows = _read(config.path, table, columns, config)
    if config.evaluation_path is not None:
        other = open_table(config.evaluation_path)
        held_out = _read(config.evaluation_path, other, columns, config)
        if _width(held_out) != _width(rows):
            raise DataError(
                f"{config.evaluation_path} gives {_width(held_out)} features, "
                f"but {config.path} gives {_width(rows)}"
            )
        return Dataset(rows, held_out)
    held = evaluation_rows(count(rows), config.evaluation_fraction)
    if held.all():
        raise DataError(
            f"{config.path} has {len(held)} rows, and evaluation_fraction = "
            f"{config.evaluation_fraction:g} leaves none of them to train on"
        )
    return Dataset(
        {name: array[~held] for name, array in rows.items()} if held.any() else rows,
        {name: array[held] for name, array in rows.items()},
    )


def evaluation_rows(rows: int, fraction: float) -> NDArray[np.bool_]:
    """Which rows are kept for evaluation: those whose hashed position falls below `fraction`."""
    positions = mix(np.arange(rows, dtype=np.uint64)) >> np.uint64(11)
    return positions * 2.0**-53 < fraction


@dataclass(frozen=True)
class _Columns:
    features: tuple[str, ...]
    label: tuple[str, ...]
    target: tuple[str, ...]

    def all(self) -> tuple[str, ...]:
        return self.features + self.label + self.target


def _columns(table: Table, config: DataConfig) -> _Columns:
    """Resolve the names and patterns of `config` against the table's columns."""
    label = (config.label,) if config.label is not None else ()
    for name in label + config.target:
        _require(config.path, table, name)
    features: list[str] = []
    for item in config.features:
        if item in table.names:
            features.append(item)
            continue
        others = [name for name in table.names if name not in label + config.target]
        found = others if item == ALL_OTHERS else fnmatch.filter(others, item)
        if not found:
            _require(config.path, table, item)
        features += [name for name in found if name not in features]
    if len(set(features)) < len(features):
        raise DataError(f"{config.path}: features name a column twice")
    return _Columns(tuple(features), label, config.target)


def _require(path: Path, table: Table, name: str) -> None:
    if name not in table.names:
        shown = ", ".join(table.names[:12]) + (", ..." if len(table.names) > 12 else "")
        raise DataError(f"{path} has no column {name!r}; it has: {shown}")


def _read(path: Path, table: Table, columns: _Columns, config: DataConfig) -> Rows:
    """The rows of one file as features, label and target."""
    for name in columns.all():
        _require(path, table, name)
    width = sum(table.width(name) for name in columns.features)
    scale, offset = (
        _constants(path, key, values, width)
        for key, values in (("scale", config.scale), ("offset", config.offset))
    )
    parts: dict[str, list[NDArray[Any]]] = {"features": []}
    if columns.label:
        parts["label"] = []
    if columns.target:
        parts["target"] = []
    names = [name for name in columns.all() for _ in range(table.width(name))]
    for numbers, block in table.blocks(columns.all()):
        features, rest = block[:, :width], block[:, width:]
        if config.missing is not None:
            features[np.isnan(features)] = config.missing
        if not np.isfinite(block).all():
            row, column = np.argwhere(~np.isfinite(block))[0]
            raise DataError(_not_finite(path, numbers[row], names[column], block[row, column]))
        features *= scale
        features += offset
        parts["features"].append(_narrow(path, numbers, features))
        if columns.label:
            parts["label"].append(_labels(path, numbers, columns.label[0], rest))
        if columns.target:
            parts["target"].append(_narrow(path, numbers, rest[:, len(columns.label) :]))
    if not parts["features"]:
        raise DataError(f"{path} has no rows")
    return {name: np.concatenate(blocks) for name, blocks in parts.items()}


def _constants(path: Path, key: str, values: tuple[float, ...], width: int) -> NDArray[np.float64]:
    if len(values) not in (1, width):
        raise DataError(f"{path} gives {width} features, but {key} lists {len(values)} numbers")
    return np.array(values)


def _not_finite(path: Path, row: int, column: str, cell: float) -> str:
    where = f"{path}, row {row}, column {column!r}"
    if np.isnan(cell):
        return f"{where}: the cell is missing; for features, `missing = 0.0` fills such cells"
    return f"{where}: the number is infinite"


def _narrow(path: Path, numbers: Sequence[int], block: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        narrow = block.astype(np.float32)
    if not np.isfinite(narrow).all():
        row = int(np.argwhere(~np.isfinite(narrow))[0, 0])
        raise DataError(f"{path}, row {numbers[row]}: a number is too large for 32-bit floats")
    return narrow


def _labels(
    path: Path, numbers: Sequence[int], name: str, block: NDArray[np.float64]
) -> NDArray[np.int32]:
    values = block[:, 0]
    wrong = (values != np.floor(values)) | (values < 0) | (values > np.iinfo(np.int32).max)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"{path}, row {numbers[row]}, column {name!r}: "
            f"a label is a whole number from 0, not {values[row]:g}"
        )
    return values.astype(np.int32)


def _width(rows: Rows) -> int:
    return int(rows["features"].shape[1])


def _fit(rows: Rows, buffer: Buffer) -> NDArray[Any]:
    if buffer.name not in rows:
        raise DataError(
            f"the task asks for the input {buffer.name!r}, "
            f"but this dataset gives only: {', '.join(rows)}"
        )
    array, shape = rows[buffer.name], buffer.shape[1:]
    if not np.can_cast(array.dtype, buffer.dtype, "safe"):
        raise DataError(
            f"the task takes {buffer.name!r} as {buffer.dtype}, which cannot hold {array.dtype}"
        )
    if array[:1].size and array[0].size != np.prod(shape, dtype=np.int64):
        raise DataError(
            f"the task takes {np.prod(shape, dtype=np.int64)} numbers per row of {buffer.name!r}, "
            f"but this dataset gives {array[0].size}"
        )
    return array.reshape(len(array), *shape).astype(buffer.dtype, copy=False)
