"""The option that says which columns of a file are which input of a task."""

from __future__ import annotations

from typing import Annotated

import typer

from cloister.commands.failure import Mistake

Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=COLUMN,...",
        help="Columns of a task's input of another name; repeat for more. Arrays of an NPZ keep "
        "their names if no columns are given at all.",
    ),
]


def named_inputs(options: list[str] | None) -> dict[str, tuple[str, ...]]:
    """What the options say: names or patterns of columns by input."""
    found = {}
    for option in options or ():
        name, equals, text = option.partition("=")
        columns = tuple(column.strip() for column in text.split(","))
        if not equals or not name.strip() or not all(columns):
            raise Mistake(f"--input takes NAME=COLUMN or NAME=COLUMN,COLUMN, not {option!r}")
        found[name.strip()] = columns
    return found
