"""A model's one f32 block as named tensors, in memory and in files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from cloister.errors import InvalidJob
from cloister_protos import Role
from cloister_tasks import Manifest

F32 = NDArray[np.float32]

Format: TypeAlias = Literal["npz", "raw", "safetensors"]
FORMATS: tuple[Format, ...] = get_args(Format)
"""``npz`` named arrays · ``raw`` the f32 block, little-endian, as on the wire · ``safetensors``."""


def split(manifest: Manifest, block: F32, role: Role = Role.ROLE_PARAMETER) -> dict[str, F32]:
    """The tensors of a block by name, in manifest order; views of `block`."""
    tensors, start = {}, 0
    for buffer in manifest.of(role):
        tensors[buffer.name] = block[start : start + buffer.size].reshape(buffer.shape)
        start += buffer.size
    return tensors


def join(
    manifest: Manifest,
    values: NDArray[Any] | Mapping[str, NDArray[Any]],
    role: Role = Role.ROLE_PARAMETER,
) -> F32:
    """One f32 block from tensors by name, or from a block. Raises InvalidJob if they don't fit."""
    buffers = manifest.of(role)
    if not isinstance(values, Mapping):
        size = sum(buffer.size for buffer in buffers)
        if values.size != size:
            raise InvalidJob(f"{manifest.name} has {size} parameters, not {values.size}")
        return np.ascontiguousarray(values, np.dtype("<f4")).reshape(-1)
    if set(values) != {buffer.name for buffer in buffers}:
        wanted = ", ".join(buffer.name for buffer in buffers) or "none"
        raise InvalidJob(f"{manifest.name} has the tensors {wanted}, not {', '.join(values)}")
    for buffer in buffers:
        if values[buffer.name].shape != buffer.shape:
            shape = values[buffer.name].shape
            raise InvalidJob(f"{buffer.name} has the shape {buffer.shape}, not {shape}")
    flat = [np.asarray(values[buffer.name], np.dtype("<f4")).reshape(-1) for buffer in buffers]
    return np.concatenate(flat) if flat else np.empty(0, np.float32)


def load(manifest: Manifest, path: Path, role: Role = Role.ROLE_PARAMETER) -> F32:
    """Read a block from an NPZ file, or from the raw f32 of any other. Raises InvalidJob."""
    try:
        if not zipfile.is_zipfile(path):
            return join(manifest, np.frombuffer(path.read_bytes(), "<f4"), role)
        with np.load(path, allow_pickle=False) as archive:
            return join(manifest, dict(archive), role)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InvalidJob(f"cannot read a model from {path}: {error}") from error


def save(manifest: Manifest, block: F32, path: Path, form: Format) -> None:
    """Write a model's parameters, f32 (parameters,), to a file."""
    with path.open("wb") as file:
        match form:
            case "npz":
                np.savez(file, allow_pickle=False, **split(manifest, block))
            case "raw":
                file.write(block.astype("<f4", copy=False).data)
            case "safetensors":
                file.write(_safetensors_header(manifest))
                file.write(block.astype("<f4", copy=False).data)


def _safetensors_header(manifest: Manifest) -> bytes:
    """What precedes the data in a .safetensors file: a length, and JSON padded to 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": {"task": manifest.name}}
    start = 0
    for buffer in manifest.of(Role.ROLE_PARAMETER):
        end = start + buffer.nbytes
        shape = list(buffer.shape)
        entries[buffer.name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
        start = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header
