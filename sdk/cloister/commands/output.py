"""What goes where: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="JSON on standard output, for programs.")]


def results() -> Console:
    """The console for what was asked for."""
    from rich.console import Console

    # A narrow table in a file or a pipe would be cut to 80 columns, so it is not.
    return Console() if sys.stdout.isatty() else Console(width=200)


def notes() -> Console:
    """The console for progress and remarks."""
    from rich.console import Console

    return Console(stderr=True)


def say(text: str) -> None:
    """One remark, as it is: no markup, no wrapping."""
    sys.stderr.write(text + "\n")


def write_json(value: Any) -> None:
    """One JSON object on a line of its own, at once; null stands for NaN and infinity."""
    sys.stdout.write(json.dumps(_finite(value), allow_nan=False) + "\n")
    sys.stdout.flush()


def _finite(value: Any) -> Any:
    """JSON has no NaN, and a loss may well become one."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
