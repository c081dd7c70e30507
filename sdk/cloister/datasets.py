"""Data to simulate with: scikit-learn's bundled real data sets, or a file of one's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister_client.config import DataConfig
from cloister_client.dataset import count, load_dataset

Columns = dict[str, NDArray[Any]]
"""A task's inputs by name; the leading dimension of each is rows."""

BUNDLED: Mapping[str, tuple[str, bool]] = {
    "digits": ("load_digits", True),
    "breast-cancer": ("load_breast_cancer", True),
    "wine": ("load_wine", True),
    "iris": ("load_iris", True),
    "diabetes": ("load_diabetes", False),
}
"""scikit-learn's loader of each bundled set, and whether it is a classification."""


@dataclass(frozen=True)
class Split:
    """Training and test rows of one data set, in a task's own dtypes."""

    name: str
    train: Columns
    """``features`` f32[n, F] with ``label`` i32[n] or ``target`` f32[n, 1]; of a file also
    inputs of other names."""
    test: Columns
    """The same columns, held out."""

    @property
    def features(self) -> int:
        """Features per row."""
        return math.prod(self.train["features"].shape[1:])

    @property
    def classes(self) -> int:
        """Number of classes; 0 for a regression."""
        if "label" not in self.train:
            return 0
        return 1 + int(max(self.train["label"].max(), self.test["label"].max()))

    @property
    def labels(self) -> NDArray[Any]:
        """What a non-iid partition goes by: the row's first label, or its first target's decile.

        Data with neither is of one kind.
        """
        if "label" in self.train:
            return _first_column(self.train["label"])
        if "target" not in self.train:
            return np.zeros(count(self.train), np.int64)
        target = _first_column(self.train["target"])
        return np.searchsorted(np.quantile(target, np.linspace(0.1, 0.9, 9)), target)


def load(name: str, *, test_fraction: float = 0.2, seed: int = 0) -> Split:
    """Load a bundled data set by name, features scaled to the training rows' range or deviation.

    Digits are scaled by their known range (0 to 16), the others standardised with the
    training rows' mean and deviation.

    :raises ValueError: there is no such data set.
    """
    if name not in BUNDLED:
        raise ValueError(
            f"no data set {name!r}: give a .csv, .npz or .parquet file, or one of"
            f" {', '.join(BUNDLED)}"
        )
    loader, classification = BUNDLED[name]
    from sklearn import datasets as bundled  # here: it takes most of a second

    x, y = getattr(bundled, loader)(return_X_y=True)
    columns: Columns = {"features": np.asarray(x, np.float32)}
    if classification:
        columns["label"] = np.asarray(y, np.int32)
    else:
        columns["target"] = np.asarray(y, np.float32)[:, None]
    split = hold_out(name, columns, test_fraction=test_fraction, seed=seed)
    if name == "digits":
        for part in (split.train, split.test):
            part["features"] /= 16.0
    else:
        _standardise(split, "features")
        if not classification:
            _standardise(split, "target")
    return split


def load_file(
    path: Path,
    *,
    label: str | None = None,
    target: str | None = None,
    inputs: Mapping[str, tuple[str, ...]] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Split:
    """Load CSV, NPZ or Parquet as a client would, and hold test rows out.

    :param label: the column of class numbers, or
    :param target: the column of numbers to predict.
    :param inputs: columns of inputs of other names. An NPZ for which no columns are given at all
        gives its arrays by their names.
    :raises ValueError: not one of label and target is given, or no row is left.
    :raises DataError: the file cannot be read; the message names row and column.
    """
    named = dict(inputs or {})
    given = {"label": label or named.get("label"), "target": target or named.get("target")}
    by_name = not any(given.values()) and not named and path.suffix.lower() == ".npz"
    if not by_name and all(given.values()) == any(given.values()):
        raise ValueError(f"say which column of {path.name} to predict: its label or its target")
    target_columns = () if target is None else (target,)
    config = DataConfig(path, label=label, target=target_columns, inputs=named)
    columns = dict(load_dataset(config).train)
    return hold_out(path.stem, columns, test_fraction=test_fraction, seed=seed)


def hold_out(name: str, columns: Columns, *, test_fraction: float = 0.2, seed: int = 0) -> Split:
    """Split rows at random into training and test, each in stored order.

    :raises ValueError: no row would be left on one side.
    """
    rows = count(columns)
    held = round(rows * test_fraction)
    if not 0 < held < rows:
        raise ValueError(f"a test fraction of {test_fraction:g} leaves a part of {rows} rows empty")
    order = np.random.default_rng(seed).permutation(rows)
    test, train = np.sort(order[:held]), np.sort(order[held:])
    return Split(
        name,
        {key: value[train] for key, value in columns.items()},
        {key: value[test] for key, value in columns.items()},
    )


def _first_column(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(len(array), -1)[:, 0]


def _standardise(split: Split, column: str) -> None:
    mean = split.train[column].mean(axis=0)
    deviation = split.train[column].std(axis=0)
    deviation[deviation == 0] = 1
    for part in (split.train, split.test):
        part[column] = (part[column] - mean) / deviation
