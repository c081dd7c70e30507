from pathlib import Path

import numpy as np
import pytest

from cloister import datasets
from cloister_client.errors import DataError


@pytest.mark.parametrize(
    ("name", "rows", "features", "classes"),
    [
        ("digits", 1797, 64, 10),
        ("breast-cancer", 569, 30, 2),
        ("wine", 178, 13, 3),
        ("iris", 150, 4, 3),
        ("diabetes", 442, 10, 0),
    ],
)
def test_the_bundled_sets(name: str, rows: int, features: int, classes: int) -> None:
    split = datasets.load(name)
    other = "label" if classes else "target"
    assert (split.features, split.classes) == (features, classes)
    assert len(split.test["features"]) == round(0.2 * rows)
    assert len(split.train["features"]) + len(split.test["features"]) == rows
    for part in (split.train, split.test):
        assert set(part) == {"features", other}
        assert part["features"].dtype == np.float32
        assert part[other].dtype == (np.int32 if classes else np.float32)
        assert len(part[other]) == len(part["features"])


def test_digits_are_scaled_by_their_range() -> None:
    split = datasets.load("digits")
    assert split.train["features"].min() == 0
    assert split.train["features"].max() == 1


@pytest.mark.parametrize("name", ["wine", "diabetes"])
def test_the_others_are_standardised_by_the_training_rows_alone(name: str) -> None:
    split = datasets.load(name)
    np.testing.assert_allclose(split.train["features"].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(split.train["features"].std(axis=0), 1, atol=1e-5)
    assert np.abs(split.test["features"].mean(axis=0)).max() > 1e-3


def test_the_seed_decides_which_rows_are_held_out() -> None:
    one, same, other = (datasets.load("iris", seed=seed).test["features"] for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_each_row_is_held_out_or_not() -> None:
    columns = {
        "features": np.arange(50, dtype=np.float32)[:, None],
        "label": np.zeros(50, np.int32),
    }
    split = datasets.hold_out("rows", columns, test_fraction=0.3, seed=5)
    train, test = (part["features"][:, 0] for part in (split.train, split.test))
    assert len(test) == 15
    assert sorted([*train, *test]) == list(range(50))
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(test) > 0)


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.99, 1.0, 2.0, -0.5])
def test_a_part_without_rows_is_an_error(fraction: float) -> None:
    columns = {"features": np.zeros((10, 1), np.float32)}
    with pytest.raises(ValueError, match="leaves a part of 10 rows empty"):
        datasets.hold_out("rows", columns, test_fraction=fraction)


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"'mnist'.*csv.*digits, breast-cancer"):
        datasets.load("mnist")


def test_a_regression_is_partitioned_by_deciles() -> None:
    split = datasets.load("diabetes")
    counts = np.bincount(split.labels)
    assert len(counts) == 10
    assert counts.max() - counts.min() <= 12  # ties in the target share a decile


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b,outcome\n" + "".join(f"{i},{-i},{i % 3}\n" for i in range(20)))
    split = datasets.load_file(path, label="outcome", test_fraction=0.25)
    assert (split.name, split.features, split.classes) == ("rows", 2, 3)
    assert len(split.test["label"]) == 5
    assert np.array_equal(split.train["features"][:, 0] % 3, split.train["label"])
    assert np.array_equal(split.labels, split.train["label"])
    numbers = datasets.load_file(path, target="outcome")
    assert (numbers.features, numbers.classes) == (2, 0)
    assert numbers.train["target"].shape == (16, 1)


def test_a_file_that_cannot_serve(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(ValueError, match=r"which column of rows\.csv to predict"):
        datasets.load_file(path)
    with pytest.raises(ValueError, match="which column"):
        datasets.load_file(path, label="a", target="b")
    with pytest.raises(DataError, match="no column 'c'; it has: a, b"):
        datasets.load_file(path, label="c")
    with pytest.raises(DataError, match=r"gone\.csv"):
        datasets.load_file(tmp_path / "gone.csv", label="a")
