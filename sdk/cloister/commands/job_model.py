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
    from cloister.job import Job
    from cloister.operator import Coordinator

EPILOG = """
Examples:

  cloister job model digits                        the newest version as NPZ

  cloister job model digits --version 5 -o m.safetensors

  cloister job model digits --list                 what versions there are
"""


class Format(StrEnum):
    """File formats of a model."""

    npz = "npz"
    raw = "raw"
    safetensors = "safetensors"


_BY_SUFFIX = {
    ".npz": Format.npz,
    ".raw": Format.raw,
    ".bin": Format.raw,
    ".safetensors": Format.safetensors,
}


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
            "--format", help="npz, raw (the f32 block) or safetensors; default by the suffix."
        ),
    ] = None,
    show_list: Annotated[
        bool, typer.Option("--list", help="List the model versions instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch a model version of a job."""
    from cloister.tensors import save

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
    path = output or Path(f"{found.name}-v{number}.{chosen}")
    block = found.block(number)
    save(found.manifest, block, path, chosen.value)
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


def _list(job: Job, as_json: bool) -> None:
    from cloister.commands.job_view import version_document, version_table
    from cloister.commands.output import results

    versions = job.versions()
    if as_json:
        for version in versions:
            write_json(version_document(version))
    else:
        results().print(version_table(versions))
