import contextlib
import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister_client.config import DataConfig
from cloister_client.dataset import Dataset, evaluation_rows, load_dataset
from cloister_client.errors import DataError
from cloister_protos import Role
from cloister_tasks import Buffer

CSV = "id,age,bmi,sick\n1,30,20.5,0\n2,60,30,1\n\n3,45,25,1\n"


def write(folder: Path, text: str, name: str = "data.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def load(path: Path, **settings: object) -> Dataset:
    return load_dataset(DataConfig(path, **settings))  # type: ignore[arg-type]


def test_csv_columns_become_inputs(tmp_path: Path) -> None:
    data = load(
        write(tmp_path, CSV),
        features=("bmi", "age"),
        label="sick",
        scale=(2.0, 0.5),
        offset=(-1.0,),
    )
    np.testing.assert_array_equal(
        data.train["features"], np.float32([[40, 14], [59, 29], [49, 21.5]])
    )
    np.testing.assert_array_equal(data.train["label"], [0, 1, 1])
    assert [data.train[name].dtype for name in ("features", "label")] == [np.float32, np.int32]
    assert (data.train_rows, data.evaluation_rows) == (3, 0)
    assert data.evaluation["features"].shape == (0, 2)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (("all others",), ["id", "age", "bmi"]),
        (("*i*",), ["id", "bmi"]),
        (("bmi", "*i*"), ["bmi", "id"]),
    ],
)
def test_patterns_follow_the_files_order(
    tmp_path: Path, features: tuple[str, ...], expected: list[str]
) -> None:
    columns = {"id": 1.0, "age": 30.0, "bmi": 20.5}
    data = load(write(tmp_path, CSV), features=features, label="sick")
    assert data.train["features"][0].tolist() == [columns[name] for name in expected]


def test_targets_are_a_matrix(tmp_path: Path) -> None:
    data = load(write(tmp_path, CSV), features=("age",), target=("bmi", "id"))
    np.testing.assert_array_equal(data.train["target"], np.float32([[20.5, 1], [30, 2], [25, 3]]))
    assert "label" not in data.train


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("a,b\n1,2\n3,x\n", {}, r"row 3, column 'b': 'x' is not a number"),
        ("a,b\n1,2\n3,\n", {}, r"row 3, column 'b': the cell is missing"),
        ("a,b\n1,2\n\n3,nan\n", {}, r"row 4, column 'b': the cell is missing"),
        ("a,b\n1,inf\n", {"missing": 0.0}, r"row 2, column 'b': the number is infinite"),
        ("a,b\n1,2\n3\n", {}, "row 3: 1 cells, but the first row names 2"),
        ("a,b\n1,2,3\n", {}, "row 2: 3 cells"),
        ("a,b\n1,0.5\n", {"label": "b"}, r"row 2, column 'b': a label is a whole number"),
        ("a,b\n1,-1\n", {"label": "b"}, "a label is a whole number"),
        ("a,b\n1,\n", {"label": "b", "missing": 0.0}, r"column 'b': the cell is missing"),
        ("a,b\n1,2\n", {"label": "c"}, r"has no column 'c'; it has: a, b"),
        ("a,b\n1,2\n", {"features": ("z*",)}, r"has no column 'z\*'"),
        ("a,b\n1,2\n", {"features": ("a", "a")}, "twice"),
        ("a,b\n1,2\n", {"scale": (1.0, 2.0, 3.0)}, "2 features, but scale lists 3"),
        ("a,b\n1,2\n", {"scale": (1e39,)}, "row 2: a number is too large"),
        ("a,a\n1,2\n", {}, "'a' appears more than once"),
        ("a,b\n", {}, "no rows"),
        ("", {}, "empty"),
        ('a,b\n1,"2\n', {}, "row 2: unexpected end of data"),
        ("a,b\n1,2\n", {"evaluation_fraction": 0.999}, "none of them to train on"),
    ],
)
def test_csv_mistakes_name_row_and_column(
    tmp_path: Path, text: str, settings: dict[str, object], message: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=message) as caught:
        load(path, **settings)
    assert str(path) in str(caught.value)


def test_missing_cells_take_the_constant_before_scaling(tmp_path: Path) -> None:
    data = load(write(tmp_path, "a,b\n,2\n 3 ,NaN\n"), missing=5.0, scale=(2.0,))
    np.testing.assert_array_equal(data.train["features"], np.float32([[10, 4], [6, 10]]))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        load(tmp_path / "absent.csv")
    with pytest.raises(DataError, match=r"end in \.csv, \.npz, \.parquet"):
        load(tmp_path / "data.xlsx")
    (tmp_path / "latin.csv").write_bytes(b"a,b\xe4\n1,2\n")
    with pytest.raises(DataError, match="not UTF-8"):
        load(tmp_path / "latin.csv")
    for name in ("broken.npz", "broken.parquet"):
        (tmp_path / name).write_bytes(b"broken")
        with pytest.raises(DataError, match="is no"):
            load(tmp_path / name)


def test_npz_arrays_are_laid_out_row_by_row(tmp_path: Path) -> None:
    images = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2)
    np.savez(tmp_path / "d.npz", images=images, age=np.float64([1, 2, 3]), y=np.int64([2, 0, 1]))
    data = load(tmp_path / "d.npz", label="y", scale=(0.5,))
    expected = np.concatenate([images.reshape(3, 4), [[1], [2], [3]]], axis=1) * 0.5
    np.testing.assert_array_equal(data.train["features"], expected.astype(np.float32))
    np.testing.assert_array_equal(data.train["label"], [2, 0, 1])
    np.savez(tmp_path / "bad.npz", a=np.zeros(3), b=np.zeros(4))
    with pytest.raises(DataError, match="same first dimension"):
        load(tmp_path / "bad.npz")
    np.savez(tmp_path / "text.npz", a=np.array(["x"]))
    with pytest.raises(DataError, match="'a' does not hold rows of numbers"):
        load(tmp_path / "text.npz")
    np.savez(tmp_path / "pickle.npz", a=np.array([object()]))
    with pytest.raises(DataError, match="no NPZ file of plain arrays"):
        load(tmp_path / "pickle.npz")


def test_parquet_columns(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({"a": [1, None, 3], "b": [0.5, 1.5, 2.5], "y": [1, 0, 1], "t": ["x"] * 3})
    parquet.write_table(table, tmp_path / "d.parquet")
    data = load(tmp_path / "d.parquet", features=("a", "b"), label="y", missing=0.0)
    np.testing.assert_array_equal(
        data.train["features"], np.float32([[1, 0.5], [0, 1.5], [3, 2.5]])
    )
    with pytest.raises(DataError, match="row 1, column 'a': the cell is missing"):
        load(tmp_path / "d.parquet", features=("a",))
    with pytest.raises(DataError, match="column 't' does not hold numbers"):
        load(tmp_path / "d.parquet", features=("t",))


def test_evaluation_rows_are_stable_and_about_the_fraction(tmp_path: Path) -> None:
    held = evaluation_rows(10_000, 0.2)
    assert 0.18 < held.mean() < 0.22
    np.testing.assert_array_equal(held[:500], evaluation_rows(500, 0.2))
    assert not evaluation_rows(1000, 0.0).any()
    rows = "\n".join(f"{i},{i % 2}" for i in range(500))
    data = load(write(tmp_path, f"a,y\n{rows}\n"), label="y", evaluation_fraction=0.2)
    np.testing.assert_array_equal(data.evaluation["features"][:, 0], np.flatnonzero(held[:500]))
    np.testing.assert_array_equal(data.train["features"][:, 0], np.flatnonzero(~held[:500]))


def test_evaluation_file(tmp_path: Path) -> None:
    other = write(tmp_path, "sick,bmi,id,age\n1,7,8,9\n", "test.csv")
    data = load(write(tmp_path, CSV), label="sick", evaluation_path=other)
    assert data.train_rows == 3
    assert data.evaluation["features"].tolist() == [[8, 9, 7]]
    narrow = write(tmp_path, "sick,bmi\n1,7\n", "narrow.csv")
    with pytest.raises(DataError, match=r"narrow\.csv has no column 'id'"):
        load(tmp_path / "data.csv", label="sick", evaluation_path=narrow)


def buffer(name: str, dtype: str, *shape: int) -> Buffer:
    return Buffer(name, Role.ROLE_INPUT, np.dtype(dtype), shape, 0, "")


def test_fit_shapes_widens_and_leaves_out(tmp_path: Path) -> None:
    features = np.arange(24, dtype=np.float32).reshape(3, 8)
    rows = {"features": features, "label": np.int32([0, 1, 2])}
    data = Dataset(rows, {name: array[:0] for name, array in rows.items()})
    fitted = data.fit([buffer("features", "f4", 64, 1, 2, 4)])
    assert set(fitted.train) == {"features"}
    assert np.shares_memory(fitted.train["features"], features)
    assert fitted.train["features"].shape == (3, 1, 2, 4)
    assert fitted.evaluation["features"].shape == (0, 1, 2, 4)
    assert data.fit([buffer("label", "i8", 64)]).train["label"].dtype == np.int64


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (buffer("target", "f4", 64, 1), "'target', but this dataset gives only: features, label"),
        (buffer("features", "f4", 64, 9), "9 numbers per row of 'features', .* gives 8"),
        (buffer("features", "i4", 64, 8), r"as int32, which cannot hold 0\.5 in row 1"),
    ],
)
def test_unfit_tasks_are_data_errors(wanted: Buffer, message: str) -> None:
    rows = {"features": np.zeros((3, 8), np.float32), "label": np.zeros(3, np.int32)}
    rows["features"][1, 3] = 0.5
    with pytest.raises(DataError, match=message):
        Dataset(rows, rows).fit([wanted])


def test_named_inputs_of_a_csv(tmp_path: Path) -> None:
    path = write(tmp_path, "user,item,t0,t1,t2,big,stars\n7,1,1,2,3,5e9,4.5\n8,0,4,5,6,1,3\n")
    inputs = {"user": ("user",), "tokens": ("t*",), "rest": ("item", "user"), "big": ("big",)}
    data = load(path, inputs=inputs, target=("stars",))
    assert set(data.train) == {*inputs, "target"}  # no features, as nothing asks for them
    assert data.train["user"].tolist() == [7, 8]
    assert data.train["tokens"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert data.train["rest"].tolist() == [[1, 7], [0, 8]]
    assert [data.train[n].dtype for n in ("user", "tokens", "big")] == [
        np.int32,
        np.int32,
        np.float64,
    ]
    fitted = data.fit([buffer("tokens", "i4", 9, 3), buffer("big", "i8", 9)]).train
    assert fitted["big"].tolist() == [5_000_000_000, 1]
    with pytest.raises(
        DataError, match=r"'big' as int32, which cannot hold 5000000000\.0 in row 0"
    ):
        data.fit([buffer("big", "i4", 9)])
    both = load(path, inputs={"user": ("user",)}, features=("all others",), scale=(2.0,))
    assert both.train["features"].shape == (2, 6)
    assert both.train["features"][1].tolist() == [0, 8, 10, 12, 2, 6]
    assert both.train["user"].tolist() == [7, 8]


def test_an_npz_without_named_columns_gives_its_arrays(tmp_path: Path) -> None:
    images = np.arange(5 * 3 * 2 * 2, dtype=np.uint8).reshape(5, 3, 2, 2)
    rows = {"images": images, "tokens": np.arange(10).reshape(5, 2), "label": np.arange(5) - 1}
    np.savez(tmp_path / "d.npz", **rows)
    data = load(tmp_path / "d.npz", evaluation_fraction=0.4)
    held = evaluation_rows(5, 0.4)
    for name, array in rows.items():
        np.testing.assert_array_equal(data.train[name], array[~held])
        np.testing.assert_array_equal(data.evaluation[name], array[held])
        assert data.train[name].dtype == array.dtype
    wanted = [
        buffer("images", "f4", 9, 3, 4),
        buffer("label", "i4", 9),
        buffer("tokens", "i4", 9, 2),
    ]
    fitted = data.fit(wanted).train
    assert fitted["images"].shape == (data.train_rows, 3, 4)
    assert [fitted[b.name].dtype for b in wanted] == [b.dtype for b in wanted]


def test_features_of_an_npz_of_named_arrays_are_scaled(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", features=np.arange(8).reshape(2, 2, 2), label=np.array([0, 1]))
    data = load(tmp_path / "d.npz", scale=(0.5,))
    assert data.train["features"].tolist() == [[0, 0.5, 1, 1.5], [2, 2.5, 3, 3.5]]
    assert data.train["label"].tolist() == [0, 1]
    named = load(tmp_path / "d.npz", inputs={"x": ("features",), "label": ("label",)})
    assert named.train["x"].shape == (2, 2, 2)
    assert set(named.train) == {"x", "label"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inputs": {"u": ("a",)}, "scale": (2.0,)}, "for features, and it gives none"),
        ({"inputs": {"u": ("z",)}}, "has no column 'z'"),
        ({"inputs": {"u": ("a", "a")}}, "u name a column twice"),
        ({"inputs": {"u": ("b",)}}, "row 3, column 'b': the cell is missing"),
        ({"inputs": {"u": ("b",)}, "features": ("b",), "missing": 0.0}, "the cell is missing"),
    ],
)
def test_mistakes_in_named_inputs(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(write(tmp_path, "a,b\n1,2\n3,\n"), **settings)


def test_an_npz_array_that_is_not_finite_is_named(tmp_path: Path) -> None:
    x = np.ones((3, 2, 2))
    x[2, 0, 1] = np.nan
    np.savez(tmp_path / "d.npz", x=x, y=np.zeros(3))
    with pytest.raises(DataError, match="row 2, column 'x': the cell is missing"):
        load(tmp_path / "d.npz")


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=20))
def test_any_numbers_survive_a_csv(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    path = tmp_path_factory.mktemp("csv") / "d.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["a", "b", "c"], *rows])
    np.testing.assert_array_equal(load(path).train["features"], np.float32(rows))


CELLS = st.one_of(NUMBERS.map(str), st.text(max_size=3), st.sampled_from(["", "nan", '"', "inf"]))


@given(st.lists(st.lists(CELLS, max_size=4), max_size=6))
def test_any_csv_gives_finite_rows_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "d.csv"
    path.write_bytes("\n".join(",".join(row) for row in rows).encode("utf-8", "replace"))
    with contextlib.suppress(DataError):
        data = load(path, missing=0.0)
        assert all(math.isfinite(x) for x in data.train["features"].ravel())
