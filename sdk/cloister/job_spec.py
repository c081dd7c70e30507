"""From what an operator means to the words of the wire: modules, models and the spec of a job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister import tensors
from cloister.errors import InvalidJob
from cloister_protos import Blob, Kind, Role
from cloister_protos import Module as ModuleMessage
from cloister_tasks import Manifest, Module, builtin


class Compiled(Protocol):
    """A task with the values it begins with, as `cloister.compile` gives it."""

    @property
    def wasm(self) -> bytes:
        """The module."""

    @property
    def parameters(self) -> NDArray[np.float32]:
        """f32 (parameters,), in manifest order."""

    @property
    def frozen(self) -> NDArray[np.float32] | None:
        """The frozen block, f32, of a task that has one."""


ModuleSource: TypeAlias = "bytes | Path | Module | Compiled"
ModelSource: TypeAlias = "Path | NDArray[Any] | Mapping[str, NDArray[Any]]"
"""A block f32 (parameters,), tensors by name, or a file: NPZ, .safetensors or raw f32."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def load_module(source: str | ModuleSource, *, aggregation: bool) -> Module:
    """Parse a task or an aggregation; a string names a built-in aggregation.

    Raises InvalidModule, BuildError, or InvalidJob for a module of the other kind or no file.
    """
    if isinstance(source, str):
        source = builtin.aggregation(source)
    module = parsed(source)
    if (module.manifest.kind == Kind.KIND_AGGREGATION) != aggregation:
        wanted = "an aggregation" if aggregation else "a task"
        raise InvalidJob(f"{module.manifest.name} is not {wanted}: it is of another kind")
    return module


def parsed(source: ModuleSource) -> Module:
    """The module of any source. Raises InvalidModule, or InvalidJob for no file."""
    if isinstance(source, Module):
        return source
    if isinstance(source, Path):
        source = _read(source)
    return Module.parse(source if isinstance(source, bytes) else source.wasm)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidJob(f"cannot read {path}: {error.strerror}") from error


def signature_path(module: Path) -> Path:
    """Where the signature of a module's file lies."""
    return module.with_name(module.name + ".sig")


def vouched(blob: Blob, source: str | ModuleSource) -> ModuleMessage:
    """The module's entry in a job, with the signature that lies beside its file.

    Raises InvalidSignature for a signature file that does not fit.
    """
    if isinstance(source, Path):
        path = signature_path(source)
        if path.exists():
            from cloister.vouching import read_signature

            return read_signature(path, blob)
    return ModuleMessage(blob=blob)


def load_block(manifest: Manifest, source: ModelSource, role: Role) -> tensors.F32:
    """A block as the wire has it: f32, little-endian, in manifest order. Raises InvalidJob."""
    if isinstance(source, Path):
        block = tensors.load(manifest, source, role)
    else:
        block = tensors.join(manifest, source, role)
    if not np.isfinite(block).all():
        raise InvalidJob("the parameters given are not all finite")
    return block.astype("<f4", copy=False)


def check(name: str, rounds: int, cohort: int, minimum: int, over_selection: float) -> None:
    """Catch what would be refused anyway before anything is uploaded. Raises InvalidJob."""
    if not _NAME.fullmatch(name):
        raise InvalidJob(f"a job's name is letters, digits, '.', '_' and '-', not {name[:80]!r}")
    if not 1 <= rounds <= 1_000_000:
        raise InvalidJob(f"rounds are from 1 to 1000000, not {rounds}")
    if not 1 <= minimum <= cohort <= 100_000:
        raise InvalidJob(f"1 <= minimum <= cohort <= 100000 must hold, not {minimum} <= {cohort}")
    if not 1 <= over_selection <= 10:
        raise InvalidJob(f"over_selection is from 1 to 10, not {over_selection:g}")
