"""The .safetensors format: named tensors behind a JSON header, and nothing that could run.

A file is a length (u64), so many bytes of JSON, then the tensors' bytes without gaps; everything
little-endian. See https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from cloister.errors import InvalidJob

MAX_HEADER_BYTES = 16 * 1024 * 1024
"""Bytes of a file's header; a longer one is refused."""
MAX_FILE_BYTES = 4 * 1024**3
"""Bytes of a file, the most a model may have; a longer one is refused."""

_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # the upper half of an f32; widened when read
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_METADATA = "__metadata__"


def read(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file by name, in the header's order; BF16 comes as f32.

    Raises InvalidJob for what is no such file, and OSError for what cannot be read.
    """
    size = path.stat().st_size
    if not 8 <= size <= MAX_FILE_BYTES:
        _refuse(path, f"it has {size} bytes")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER_BYTES, size - 8):
            _refuse(path, f"its header claims {length} bytes")
        entries = _entries(path, file.read(length))
        data = np.fromfile(file, np.uint8)
    found, end = {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: _span(path, *item)):
        start, stop = _span(path, name, entry)
        dtype, shape = _kind(path, name, entry)
        if start != end or stop - start != math.prod(shape) * dtype.itemsize or stop > len(data):
            _refuse(path, f"the tensor {name[:80]!r} does not lie where its shape says")
        found[name] = _values(data[start:stop], entry["dtype"], dtype).reshape(shape)
        end = stop
    if end != len(data):
        _refuse(path, f"{len(data) - end} bytes belong to no tensor")
    return {name: found[name] for name in entries}


def write(
    path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors by name in the order given; each of one of the format's dtypes."""
    codes = {dtype: code for code, dtype in _DTYPES.items() if code != "BF16"}
    entries: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.nbytes
        entries[name] = {
            "dtype": codes[tensor.dtype.newbyteorder("<")],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for tensor in tensors.values():
            little = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
            file.write(np.ascontiguousarray(little).reshape(-1).data)


def _entries(path: Path, header: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(header, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"its header is no JSON: {str(error)[:200]}")
    if not isinstance(entries, dict):
        _refuse(path, "its header is no JSON object")
    entries.pop(_METADATA, None)
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; a key that appears twice would hide one of the two."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name appears twice")
    return made


def _span(path: Path, name: str, entry: Any) -> tuple[int, int]:
    match entry.get("data_offsets") if isinstance(entry, dict) else None:
        case [int(start), int(stop)] if 0 <= start <= stop:
            pass
        case _:
            _refuse(path, f"the tensor {name[:80]!r} has no data_offsets")
    return start, stop


def _kind(path: Path, name: str, entry: dict[str, Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or len(shape) > 8:
        _refuse(path, f"the tensor {name[:80]!r} has no shape of up to 8 dimensions")
    if not all(isinstance(n, int) and 0 <= n <= MAX_FILE_BYTES for n in shape):
        _refuse(path, f"the tensor {name[:80]!r} has an impossible shape")
    dtype = _DTYPES.get(str(entry.get("dtype")))
    if dtype is None:
        _refuse(path, f"the tensor {name[:80]!r} is none of {', '.join(_DTYPES)}")
    return dtype, tuple(shape)


def _values(data: NDArray[np.uint8], code: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    values = np.frombuffer(data.tobytes(), dtype)
    if code == "BF16":
        return (values.astype("<u4") << np.uint32(16)).view("<f4")
    return values


def _refuse(path: Path, reason: str) -> NoReturn:
    raise InvalidJob(f"{path} is no .safetensors file: {reason}")
