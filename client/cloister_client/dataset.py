"""Local rows, ready for a task: arrays by input name, in the task's own dtypes."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister_client.cast import cast, compact
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

    From a file, `features` is f32[rows, F], `label` i32[rows], `target` f32[rows, outputs]; which
    of them are there, and which inputs of other names, its section of the configuration says.
    Arrays may be of any numbers and dimensions behind the first; they are never written to.
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

        Arrays the task does not ask for stay out; the others are reshaped row by row and cast
        to the buffer's dtype: floats are rounded to shorter floats, all else must be exact.
        Raises DataError when the task asks for another input, size or dtype, or a number does
        not survive. Label ranges are the guest's to check.
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
        for name, array in rows.items():
            wanted, given = array.shape[1:], held_out[name].shape[1:]
            if wanted != given:
                raise DataError(
                    f"{config.evaluation_path} gives {math.prod(given)} {name}, "
                    f"but {config.path} gives {math.prod(wanted)}"
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


def _columns(table: Table, config: DataConfig) -> dict[str, tuple[str, ...]]:
    """Which columns become which input; names and patterns of `config` are resolved."""
    wanted = dict(config.inputs)
    if config.label is not None:
        wanted["label"] = (config.label,)
    if config.target:
        wanted["target"] = config.target
    features = config.features
    if features is None and not wanted and table.own_names and len(table.names) > 1:
        return {name: (name,) for name in table.names}
    if features is None and not config.inputs:
        features = (ALL_OTHERS,)
    found = {name: _resolve(config.path, table, name, wanted[name], ()) for name in wanted}
    if features is not None:
        taken = [column for columns in found.values() for column in columns]
        found["features"] = _resolve(config.path, table, "features", features, taken)
    return found


def _resolve(
    path: Path, table: Table, name: str, items: Sequence[str], taken: Sequence[str]
) -> tuple[str, ...]:
    """The columns of one input; a pattern passes over those that are `taken`."""
    columns: list[str] = []
    for item in items:
        if item in table.names:
            columns.append(item)
            continue
        others = [column for column in table.names if column not in taken]
        matching = others if item == ALL_OTHERS else fnmatch.filter(others, item)
        if not matching:
            _require(path, table, item)
        columns += [column for column in matching if column not in columns]
    if len(set(columns)) < len(columns):
        raise DataError(f"{path}: {name} name a column twice")
    return tuple(columns)


def _require(path: Path, table: Table, name: str) -> None:
    if name not in table.names:
        shown = ", ".join(table.names[:12]) + (", ..." if len(table.names) > 12 else "")
        raise DataError(f"{path} has no column {name!r}; it has: {shown}")


def _read(
    path: Path, table: Table, columns: Mapping[str, tuple[str, ...]], config: DataConfig
) -> Rows:
    """The rows of one file, by input."""
    for names in columns.values():
        for name in names:
            _require(path, table, name)
    plain = (config.scale, config.offset, config.missing) == ((1.0,), (0.0,), None)
    if not plain and ("features" not in columns or _own("features", config)):
        raise DataError(f"{path}: scale, offset and missing are for features, and it gives none")
    whole: dict[str, NDArray[Any]] = {}
    for name, names in columns.items():
        stored = table.stored(names[0]) if len(names) == 1 and _own(name, config) else None
        if stored is not None:
            _check_finite(path, range(len(stored)), names, stored.reshape(len(stored), -1))
            whole[name] = stored
    by_block = {name: names for name, names in columns.items() if name not in whole}
    rows = whole | _read_blocks(path, table, by_block, config)
    if not count(rows):
        raise DataError(f"{path} has no rows")
    return {name: rows[name] for name in columns}


def _own(name: str, config: DataConfig) -> bool:
    """Whether an input is taken as it is stored: features are scaled, labels are checked."""
    if name == "features":
        return name in config.inputs
    return not (name == "label" and config.label) and not (name == "target" and config.target)


def _read_blocks(
    path: Path, table: Table, columns: Mapping[str, tuple[str, ...]], config: DataConfig
) -> dict[str, NDArray[Any]]:
    """What is read column by column, as f64 first."""
    if not columns:
        return {}
    unique = list(dict.fromkeys(name for names in columns.values() for name in names))
    ends = np.cumsum([table.width(name) for name in unique])
    places = {
        name: np.arange(end - table.width(name), end)
        for name, end in zip(unique, ends, strict=True)
    }
    index = {name: np.concatenate([places[n] for n in names]) for name, names in columns.items()}
    titles = {
        name: [n for n in names for _ in range(table.width(n))] for name, names in columns.items()
    }
    scaled = "features" in columns and not _own("features", config)
    scale, offset = (
        _constants(path, key, values, len(index["features"]) if scaled else 1)
        for key, values in (("scale", config.scale), ("offset", config.offset))
    )
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in columns}
    for numbers, block in table.blocks(unique):
        for name, part in parts.items():
            values = block[:, index[name]]
            own = _own(name, config)
            if name == "features" and not own and config.missing is not None:
                values[np.isnan(values)] = config.missing
            _check_finite(path, numbers, titles[name], values)
            if own:
                part.append(values)
            elif name == "label":
                part.append(_labels(path, numbers, columns[name][0], values))
            else:
                if name == "features":
                    values *= scale
                    values += offset
                part.append(_narrow(path, numbers, values))
    if not all(parts.values()):
        raise DataError(f"{path} has no rows")
    rows = {name: np.concatenate(blocks) for name, blocks in parts.items()}
    return {
        name: _plain(compact(array)) if _own(name, config) else array
        for name, array in rows.items()
    }


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """One number a row needs no second dimension."""
    return array[:, 0] if array.shape[1] == 1 else array


def _constants(path: Path, key: str, values: tuple[float, ...], width: int) -> NDArray[np.float64]:
    if len(values) not in (1, width):
        raise DataError(f"{path} gives {width} features, but {key} lists {len(values)} numbers")
    return np.array(values)


def _check_finite(
    path: Path, numbers: Sequence[int], columns: Sequence[str], block: NDArray[Any]
) -> None:
    """All of them finite; `columns` names those of the block, or the one they all belong to."""
    if block.dtype.kind != "f" or np.isfinite(block).all():
        return
    row, column = np.argwhere(~np.isfinite(block))[0]
    name = columns[column] if len(columns) > 1 else columns[0]
    where = f"{path}, row {numbers[row]}, column {name!r}"
    if np.isnan(block[row, column]):
        raise DataError(
            f"{where}: the cell is missing; for features, `missing = 0.0` fills such cells"
        )
    raise DataError(f"{where}: the number is infinite")


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


def _fit(rows: Rows, buffer: Buffer) -> NDArray[Any]:
    if buffer.name not in rows:
        raise DataError(
            f"the task asks for the input {buffer.name!r}, "
            f"but this dataset gives only: {', '.join(rows)}"
        )
    array, shape = rows[buffer.name], buffer.shape[1:]
    if array[:1].size and array[0].size != math.prod(shape):
        raise DataError(
            f"the task takes {math.prod(shape)} numbers per row of {buffer.name!r}, "
            f"but this dataset gives {array[0].size}"
        )
    return cast(buffer.name, array, buffer.dtype).reshape(len(array), *shape)
