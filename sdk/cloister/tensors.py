"""A model's blocks of f32 as named tensors, in memory and in files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from cloister import safetensors
from cloister.errors import InvalidJob
from cloister_protos import Role
from cloister_tasks import Manifest

F32 = NDArray[np.float32]

Format: TypeAlias = Literal["npz", "raw", "safetensors"]
FORMATS: tuple[Format, ...] = get_args(Format)
"""``npz`` named arrays · ``raw`` the f32 block, little-endian, as on the wire · ``safetensors``."""

_BLOCKS = (Role.ROLE_PARAMETER, Role.ROLE_FROZEN)
_SHOWN = 6
"""Names listed in a message; of more the first are shown."""


def split(manifest: Manifest, block: F32, role: Role = Role.ROLE_PARAMETER) -> dict[str, F32]:
    """The tensors of a block by name, in manifest order; views of `block`."""
    tensors, start = {}, 0
    for buffer in manifest.of(role):
        tensors[buffer.name] = block[start : start + buffer.size].reshape(buffer.shape)
        start += buffer.size
    return tensors


def whole(manifest: Manifest, block: F32, frozen: F32 | None) -> dict[str, F32]:
    """Parameters and frozen parameters by name, in manifest order; views of the blocks."""
    tensors = split(manifest, block)
    if frozen is not None:
        tensors |= split(manifest, frozen, Role.ROLE_FROZEN)
    return {name: tensors[name] for name in manifest.buffers if name in tensors}


def join(
    manifest: Manifest,
    values: NDArray[Any] | Mapping[str, NDArray[Any]],
    role: Role = Role.ROLE_PARAMETER,
) -> F32:
    """One f32 block from tensors by name, or from a block. Raises InvalidJob if they don't fit.

    Names of the other block are passed over, so that one mapping can hold a whole model.
    """
    buffers = manifest.of(role)
    if not isinstance(values, Mapping):
        size = sum(buffer.size for buffer in buffers)
        if values.size != size:
            what = "parameters" if role == Role.ROLE_PARAMETER else "frozen parameters"
            raise InvalidJob(f"{manifest.name} has {size} {what}, not {values.size}")
        return np.ascontiguousarray(values, np.dtype("<f4")).reshape(-1)
    known = {buffer.name for role in _BLOCKS for buffer in manifest.of(role)}
    lacking = [buffer.name for buffer in buffers if buffer.name not in values]
    foreign = [name for name in values if name not in known]
    if lacking or foreign:
        wanted = _names([buffer.name for buffer in buffers])
        faults = (("lack", lacking), ("have the unknown", foreign))
        found = " and ".join(f"{verb} {_names(names)}" for verb, names in faults if names)
        raise InvalidJob(f"{manifest.name} has the tensors {wanted}; those given {found}")
    for buffer in buffers:
        if values[buffer.name].shape != buffer.shape:
            shape = values[buffer.name].shape
            raise InvalidJob(f"{buffer.name} has the shape {buffer.shape}, not {shape}")
    flat = [np.asarray(values[buffer.name], np.dtype("<f4")).reshape(-1) for buffer in buffers]
    return np.concatenate(flat) if flat else np.empty(0, np.float32)


def load(manifest: Manifest, path: Path, role: Role = Role.ROLE_PARAMETER) -> F32:
    """Read a block from NPZ, from .safetensors, or from the raw f32 of any other file.

    Raises InvalidJob, whose message names the file.
    """
    try:
        if path.suffix == ".safetensors":
            return join(manifest, safetensors.read(path), role)
        if not zipfile.is_zipfile(path):
            return join(manifest, np.frombuffer(path.read_bytes(), "<f4"), role)
        with np.load(path, allow_pickle=False) as archive:
            return join(manifest, dict(archive), role)
    except (OSError, ValueError, zipfile.BadZipFile, InvalidJob) as error:
        raise InvalidJob(f"cannot read a model from {path}: {error}") from error


def save(
    manifest: Manifest, block: F32, path: Path, form: Format, frozen: F32 | None = None
) -> None:
    """Write a model's parameters, f32 (parameters,), to a file.

    Frozen parameters, f32, go along in the formats that name their tensors.
    """
    match form:
        case "npz":
            _write_npz(path, whole(manifest, block, frozen))
        case "raw":
            path.write_bytes(block.astype("<f4", copy=False).data)
        case "safetensors":
            tensors = whole(manifest, block, frozen)
            safetensors.write(path, tensors, {"task": manifest.name})


def _write_npz(path: Path, tensors: Mapping[str, F32]) -> None:
    """As `numpy.savez`, whose own arguments would shadow a tensor named ``file``."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, tensor in tensors.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, tensor, allow_pickle=False)


def _names(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    listed = ", ".join(name[:80] for name in names[:_SHOWN]) or "none"
    return f"{listed} and {rest} more" if rest > 0 else listed
