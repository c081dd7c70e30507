"""Local files as named columns: CSV, NPZ and Parquet behind one face.

A table hands out its columns in blocks of rows, so that a file is never in memory both as text
and as numbers.
"""

from __future__ import annotations

import csv
import math
import operator
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from cloister_client.errors import DataError

_CELLS = 1 << 18
"""Cells per block; bounds the text of a CSV that is in memory at once to some 20 MB."""

Block = tuple[Sequence[int], NDArray[np.float64]]
"""Row numbers, as people count in this format, and f64[rows, width]; missing cells are NaN."""


class Table(Protocol):
    """A file of rows."""

    names: tuple[str, ...]
    """Columns in the file's order."""
    own_names: bool
    """Whether its columns are whole inputs, which may keep their names: arrays of an NPZ."""

    def width(self, name: str, /) -> int:
        """Numbers per row in this column."""

    def stored(self, name: str, /) -> NDArray[Any] | None:
        """A column that is an array of its own, [rows, ...]; None for text or Parquet's columns."""

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        """The given columns side by side, block by block of rows. Raises DataError."""


def open_table(path: Path) -> Table:
    """The file at `path`, by its suffix. Raises DataError."""
    readers: dict[str, Callable[[Path], Table]] = {
        ".csv": CsvTable,
        ".npz": NpzTable,
        ".parquet": ParquetTable,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: data files end in {', '.join(readers)}")
    try:
        return reader(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


class CsvTable:
    """Comma separated values, UTF-8, RFC 4180 quotes; the first row names the columns."""

    own_names = False

    def __init__(self, path: Path):
        self._path = path
        with path.open(encoding="utf-8-sig", newline="") as file:
            _, header = next(self._rows(file), (1, []))
        self.names = tuple(name.strip() for name in header)
        if not self.names:
            raise DataError(f"{path} is empty; its first row must name the columns")
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice:
            raise DataError(f"{path}: column {twice[0]!r} appears more than once")

    def width(self, _name: str, /) -> int:
        """Always 1."""
        return 1

    def stored(self, _name: str, /) -> None:
        """Nothing: cells are read block by block."""

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        """As in Table; row numbers are line numbers, the header's being 1."""
        indices = [self.names.index(column) for column in columns]
        pick = (
            operator.itemgetter(*indices)
            if len(indices) > 1
            else operator.itemgetter(slice(indices[0], indices[0] + 1))
        )
        size = max(1, _CELLS // len(self.names))
        lines: list[int] = []
        cells: list[Sequence[str]] = []
        with self._path.open(encoding="utf-8-sig", newline="") as file:
            rows = self._rows(file)
            next(rows)
            for line, row in rows:
                if len(row) != len(self.names):
                    raise DataError(
                        f"{self._path}, row {line}: {len(row)} cells, "
                        f"but the first row names {len(self.names)} columns"
                    )
                lines.append(line)
                cells.append(pick(row))
                if len(lines) == size:
                    yield lines, self._numbers(lines, columns, cells)
                    lines, cells = [], []
        if lines:
            yield lines, self._numbers(lines, columns, cells)

    def _rows(self, file: TextIO) -> Iterator[tuple[int, list[str]]]:
        """Line number and cells of each row that is not blank."""
        reader = csv.reader(file, strict=True)
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"{self._path}, row {reader.line_num}: {error}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{self._path} is not UTF-8 text: {error.reason}") from error

    def _numbers(
        self, lines: Sequence[int], columns: Sequence[str], cells: Sequence[Sequence[str]]
    ) -> NDArray[np.float64]:
        try:
            return np.array(cells, dtype=np.float64)
        except ValueError:  # a missing or a wrong cell: look at each
            return np.array(
                [
                    [self._number(line, *named) for named in zip(columns, row, strict=True)]
                    for line, row in zip(lines, cells, strict=True)
                ],
                dtype=np.float64,
            )

    def _number(self, line: int, column: str, cell: str) -> float:
        try:
            return float(cell) if cell.strip() else math.nan
        except ValueError as error:
            raise DataError(
                f"{self._path}, row {line}, column {column!r}: {cell[:40]!r} is not a number "
                "(missing cells are left empty)"
            ) from error


class NpzTable:
    """Arrays saved by `numpy.savez`, whose first dimension counts the rows."""

    own_names = True

    def __init__(self, path: Path):
        self._path = path
        try:
            with np.load(path, allow_pickle=False) as file:
                self._arrays = {name: np.asarray(file[name]) for name in file.files}
        except (ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
            raise DataError(f"{path} is no NPZ file of plain arrays: {error}") from error
        if len({a.shape[:1] for a in self._arrays.values()} - {()}) != 1:
            raise DataError(f"{path}: all arrays must have the same first dimension, the rows")
        self.names = tuple(self._arrays)
        for name, array in self._arrays.items():
            if array.ndim == 0 or array.dtype.kind not in "biuf":
                raise DataError(f"{path}: array {name!r} does not hold rows of numbers")

    def width(self, name: str, /) -> int:
        """Numbers per row: the product of the array's further dimensions."""
        return math.prod(self._arrays[name].shape[1:])

    def stored(self, name: str, /) -> NDArray[Any] | None:
        """The array itself."""
        return self._arrays[name]

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        """As in Table; rows count from 0, as in numpy."""
        arrays = [self._arrays[column].reshape(-1, self.width(column)) for column in columns]
        size = max(1, _CELLS // sum(array.shape[1] for array in arrays))
        for start in range(0, len(arrays[0]), size):
            parts = [array[start : start + size].astype(np.float64) for array in arrays]
            yield range(start, start + len(parts[0])), np.concatenate(parts, axis=1)


class ParquetTable:
    """A Parquet file of numeric columns. Needs pyarrow."""

    own_names = False

    def __init__(self, path: Path):
        try:
            from pyarrow import lib, parquet
        except ImportError as error:
            raise DataError(
                f"{path}: reading Parquet needs pyarrow; install the extra `cloister[parquet]`"
            ) from error
        self._path, self._arrow = path, lib
        try:
            self._file = parquet.ParquetFile(path, memory_map=True)
        except lib.ArrowInvalid as error:
            raise DataError(f"{path} is no Parquet file: {error}") from error
        self.names = tuple(self._file.schema_arrow.names)

    def width(self, _name: str, /) -> int:
        """Always 1."""
        return 1

    def stored(self, _name: str, /) -> None:
        """Nothing: cells are read block by block."""

    def blocks(self, columns: Sequence[str]) -> Iterator[Block]:
        """As in Table; rows count from 0."""
        start = 0
        size = max(1, _CELLS // len(columns))
        for batch in self._file.iter_batches(batch_size=size, columns=list(columns)):
            block = np.empty((batch.num_rows, len(columns)))
            for index, column in enumerate(columns):
                block[:, index] = self._numbers(batch.column(column), column)
            yield range(start, start + len(block)), block
            start += len(block)

    def _numbers(self, column: object, name: str) -> NDArray[np.float64]:
        try:
            numbers = column.cast(self._arrow.float64())  # type: ignore[attr-defined]
        except (self._arrow.ArrowInvalid, self._arrow.ArrowNotImplementedError) as error:
            raise DataError(f"{self._path}, column {name!r} does not hold numbers") from error
        return np.asarray(numbers.to_numpy(zero_copy_only=False), dtype=np.float64)
