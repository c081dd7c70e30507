from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cloister import safetensors as ours
from cloister.errors import InvalidJob

DTYPES = [np.dtype(d) for d in ("f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1", "?")]
TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__"),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0))
    ),
    max_size=4,
)
SAME_FOLDER = hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@SAME_FOLDER
@given(TENSORS)
def test_the_reference_library_reads_what_we_write_and_we_what_it_writes(
    tmp_path: Path, tensors: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "t.safetensors"
    ours.write(path, tensors, {"a": "b"})
    for found in (safetensors.numpy.load_file(path), ours.read(path)):
        assert set(found) == set(tensors)
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            assert found[name].shape == tensor.shape
            assert found[name].tobytes() == tensor.tobytes()
    safetensors.numpy.save_file(tensors, path)
    found = ours.read(path)
    assert {name: t.tobytes() for name, t in found.items()} == {
        name: t.tobytes() for name, t in tensors.items()
    }


def test_bf16_comes_as_f32(tmp_path: Path) -> None:
    values = np.array([1.0, -0.5, 3.140625, np.inf], np.float32)
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)
    file(tmp_path, {"x": entry("BF16", [4], 0, 8)}, upper.tobytes())
    found = ours.read(tmp_path / "t.safetensors")["x"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values)


def entry(dtype: str, shape: list[object], start: object, stop: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def file(folder: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "t.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


X = entry("F32", [2], 0, 8)


@pytest.mark.parametrize(
    ("header", "data", "says"),
    [
        (b"{", b"", "no JSON"),
        (b"[]", b"", "no JSON object"),
        (b"[" * 100_000, b"", "no JSON"),
        (b'{"x": 1, "x": 2}', b"", "appears twice"),
        ({"x": 1}, b"", "no data_offsets"),
        ({"x": {**X, "data_offsets": [0]}}, bytes(8), "no data_offsets"),
        ({"x": entry("F32", [2], 8, 0)}, bytes(8), "no data_offsets"),
        ({"x": entry("F32", [2], -8, 0)}, bytes(8), "no data_offsets"),
        ({"x": entry("F32", [3], 0, 8)}, bytes(8), "where its shape says"),
        ({"x": entry("F32", [2], 8, 16)}, bytes(16), "where its shape says"),
        ({"x": X, "y": X}, bytes(8), "where its shape says"),
        ({"x": X}, bytes(4), "where its shape says"),
        ({"x": X}, bytes(9), "1 bytes belong to no tensor"),
        ({"x": entry("F99", [2], 0, 8)}, bytes(8), "is none of F32"),
        ({"x": entry("F32", [-2], 0, 8)}, bytes(8), "impossible shape"),
        ({"x": entry("F32", [2**40, 2**40], 0, 8)}, bytes(8), "impossible shape"),
        ({"x": entry("F32", [1] * 9, 0, 4)}, bytes(4), "8 dimensions"),
        ({"x": {**X, "shape": 2}}, bytes(8), "8 dimensions"),
    ],
)
def test_a_file_that_lies_is_refused(
    tmp_path: Path, header: object, data: bytes, says: str
) -> None:
    with pytest.raises(InvalidJob, match=says):
        ours.read(file(tmp_path, header, data))


def test_a_header_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    for content, says in ((b"", "0 bytes"), (b"\xff" * 8, "its header claims")):
        path.write_bytes(content)
        with pytest.raises(InvalidJob, match=says):
            ours.read(path)


@SAME_FOLDER
@given(st.binary(max_size=100), st.binary(max_size=16))
def test_any_bytes_are_read_or_refused(tmp_path: Path, header: bytes, data: bytes) -> None:
    with contextlib.suppress(InvalidJob):
        ours.read(file(tmp_path, header, data))
