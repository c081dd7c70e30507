"""`cloister job model`: fetch a model version into a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloister.commands.connection import connected
from cloister.commands.failure import Mistake
from cloister.commands.output import Json, say, write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cloister.job import Job
    from cloister.operator import Coordinator

EPILOG = """
Examples:

  cloister job model digits                        the newest version as NPZ

  cloister job model digits --version 5 -o m.safetensors

  cloister job model digits --format torch         a state_dict for torch.load

  cloister job model digits --format onnx --model zoo:digits

  cloister job model digits --list                 what versions there are
"""


class Format(StrEnum):
    """File formats of a model."""

    npz = "npz"
    raw = "raw"
    safetensors = "safetensors"
    torch = "torch"
    onnx = "onnx"


_BY_SUFFIX = {
    ".npz": Format.npz,
    ".raw": Format.raw,
    ".bin": Format.raw,
    ".safetensors": Format.safetensors,
    ".pt": Format.torch,
    ".pth": Format.torch,
    ".onnx": Format.onnx,
}
_SUFFIXES = {Format.torch: "pt"}
"""Where the suffix is not the format's name."""


@connected
def model(
    coordinator: Coordinator,
    job: Annotated[str, typer.Argument(help="Id, beginning of the id, or name.")],
    version: Annotated[
        int | None, typer.Option(min=0, help="Model version; default: the newest.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default NAME-vN.npz.")
    ] = None,
    form: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="npz, raw (the f32 block), safetensors, torch (a state_dict) or onnx; default by"
            " the suffix.",
        ),
    ] = None,
    factory: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="MODULE:FACTORY",
            help="For onnx: the function that makes the model, as for `cloister task compile`.",
        ),
    ] = None,
    show_list: Annotated[
        bool, typer.Option("--list", help="List the model versions instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch a model version of a job, its frozen parameters with it (but for raw)."""
    found = coordinator.find_job(job)
    if show_list:
        _list(found, as_json)
        return
    if output is not None and form is None and output.suffix not in _BY_SUFFIX:
        raise Mistake(
            f"the suffix of {output.name} says no format; use {', '.join(_BY_SUFFIX)} or --format"
        )
    number = found.refresh().version if version is None else version
    chosen = form or (_BY_SUFFIX[output.suffix] if output is not None else Format.npz)
    if (factory is not None) != (chosen == Format.onnx):
        raise Mistake("--format onnx and --model MODULE:FACTORY need each other")
    path = output or Path(f"{found.name}-v{number}.{_SUFFIXES.get(chosen, chosen)}")
    block = found.block(number)
    _save(found, block, path, chosen, factory)
    if as_json:
        write_json(
            {
                "job_id": found.id,
                "version": number,
                "path": str(path),
                "format": chosen,
                "parameters": len(block),
            }
        )
    else:
        say(f"wrote version {number} of {found.name}, {len(block):,} parameters, to {path}")


def _save(
    job: Job, block: NDArray[np.float32], path: Path, form: Format, factory: str | None
) -> None:
    from cloister import tensors

    manifest, frozen = job.manifest, job.frozen()
    match form:
        case Format.torch:
            from cloister.pytorch import save_state_dict

            save_state_dict(path, tensors.whole(manifest, block, frozen))
        case Format.onnx:
            from cloister.pytorch import save_onnx
            from cloister_protos import Role

            assert factory is not None
            local = [buffer.name for buffer in manifest.of(Role.ROLE_LOCAL)]
            kept = save_onnx(path, factory, tensors.whole(manifest, block, frozen), local)
            if kept:
                say(f"as the factory makes them, for they stay on devices: {', '.join(kept)}")
        case Format.npz:
            tensors.save(manifest, block, path, "npz", frozen)
        case Format.raw:
            tensors.save(manifest, block, path, "raw")
        case Format.safetensors:
            tensors.save(manifest, block, path, "safetensors", frozen)


def _list(job: Job, as_json: bool) -> None:
    from cloister.commands.job_view import version_document, version_table
    from cloister.commands.output import results

    versions = job.versions()
    if as_json:
        for version in versions:
            write_json(version_document(version))
    else:
        results().print(version_table(versions))
