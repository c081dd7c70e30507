"""The options that set a task's hyperparameters."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from cloister.commands.failure import Mistake

LearningRate = Annotated[
    float | None, typer.Option(help="Step size; short for --set learning_rate=...")
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Rows per training step; short for --set batch_size=...")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A hyperparameter of the task; repeat for more. `cloister task inspect` lists them.",
    ),
]


def hyperparameters(
    learning_rate: float | None, batch_size: int | None, settings: list[str] | None
) -> dict[str, float]:
    """What the options say, by name; what they don't mention keeps the task's default."""
    values: dict[str, float] = {}
    if learning_rate is not None:
        values["learning_rate"] = learning_rate
    if batch_size is not None:
        values["batch_size"] = float(batch_size)
    for setting in settings or ():
        name, equals, text = setting.partition("=")
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not equals or not math.isfinite(number):
            raise Mistake(f"--set takes NAME=NUMBER, not {setting!r}")
        values[name.strip()] = number
    return values
