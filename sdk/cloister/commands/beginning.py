"""The options that say which values a task begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloister.commands.output import say

_FILES = "NPZ, .safetensors or raw f32; default: the .safetensors file beside the task"

InitialModel = Annotated[
    Path | None,
    typer.Option(help=f"First model version, {_FILES}, else the task's own init."),
]
Frozen = Annotated[Path | None, typer.Option(help=f"Frozen parameters, {_FILES}.")]


def announce(task: Path, *given: Path | None) -> None:
    """Say that a task begins with the file beside it, unless all values were `given`."""
    from cloister.companion import companion

    beside = companion(task)
    if beside is not None and None in given:
        say(f"begins with the values in {beside}, which lies beside the task")
