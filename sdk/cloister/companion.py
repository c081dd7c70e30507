"""The file beside a task with the values its training begins with.

`cloister task compile` writes ``net.safetensors`` beside ``net.wasm``: the initial parameters and
the frozen ones, by name. Whoever runs the task from its path begins with them, unless told to
begin with others.
"""

from __future__ import annotations

from pathlib import Path

from cloister import safetensors, tensors
from cloister.errors import InvalidJob
from cloister.job_spec import ModelSource, ModuleSource, load_block
from cloister.tensors import F32
from cloister_protos import Role
from cloister_tasks import Manifest, Module


def companion_path(task: Path) -> Path:
    """Where the values of a task's file lie."""
    return task.with_suffix(".safetensors")


def companion(task: str | ModuleSource) -> Path | None:
    """The file beside a task; None when there is none, or the task is no file."""
    if not isinstance(task, Path):
        return None
    path = companion_path(task)
    return path if path.is_file() else None


def write_companion(task: Path, manifest: Manifest, parameters: F32, frozen: F32 | None) -> Path:
    """Write the values a task begins with beside its file.

    Args:
        task: the module's file.
        parameters: f32 (parameters,), in manifest order.
        frozen: f32, the frozen block of a task that has one.
    """
    path = companion_path(task)
    values = tensors.whole(manifest, parameters, frozen)
    safetensors.write(path, values, {"task": manifest.name})
    return path


def first_blocks(
    module: Module,
    task: ModuleSource,
    initial_model: ModelSource | None,
    frozen: ModelSource | None,
) -> tuple[F32 | None, F32 | None]:
    """Parameters and frozen parameters to begin with: as given, else a compiled task's own, else
    as they lie beside the task.

    None for parameters means the task's own `init`; for frozen ones, that the task has none.

    Raises InvalidJob: values don't fit the task, or the frozen ones are missing.
    """
    manifest, beside = module.manifest, companion(task)
    if not isinstance(task, bytes | Path | Module):
        initial_model = task.parameters if initial_model is None else initial_model
        frozen = task.frozen if frozen is None else frozen
    blocks: list[F32 | None] = []
    for role, source in ((Role.ROLE_PARAMETER, initial_model), (Role.ROLE_FROZEN, frozen)):
        if source is None and manifest.of(role):
            source = beside
        if source is None and role == Role.ROLE_FROZEN and manifest.of(role):
            names = ", ".join(buffer.name for buffer in manifest.of(role)[:3])
            raise InvalidJob(
                f"{manifest.name} has frozen parameters ({names} ...), and no values are given:"
                " put the .safetensors file of the task beside it, or give --frozen FILE"
            )
        blocks.append(None if source is None else load_block(manifest, source, role))
    return blocks[0], blocks[1]
