"""The options that say which coordinator is meant, and as whom."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, get_type_hints

import typer

from cloister.environment import DEFAULT_ADDRESS, connect

if TYPE_CHECKING:
    from cloister.operator import Coordinator

P = ParamSpec("P")

_PANEL = "Connection"


def _options(
    *,
    address: Annotated[
        str,
        typer.Option(
            "--coordinator",
            envvar="CLOISTER_COORDINATOR",
            metavar="HOST:PORT",
            help="The coordinator's address.",
            rich_help_panel=_PANEL,
        ),
    ] = DEFAULT_ADDRESS,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="CLOISTER_TOKEN_FILE",
            help="File with the operator token; default: operator.token in the data folder of"
            " this machine's coordinator.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(help="PEM certificates to check the coordinator's.", rich_help_panel=_PANEL),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(help="PEM certificate to show, for mTLS.", rich_help_panel=_PANEL),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="PEM key of --certificate.", rich_help_panel=_PANEL)
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="Plaintext even beyond this machine.", rich_help_panel=_PANEL
        ),
    ] = False,
) -> None:
    """The options by themselves; read by `connected`."""


def connected(command: Callable[Concatenate[Coordinator, P], None]) -> Callable[P, None]:
    """Give a command the options of a connection, and the coordinator they amount to."""
    hints = get_type_hints(command, localns={"Coordinator": Any}, include_extras=True)
    options = inspect.signature(_options, eval_str=True).parameters
    own = list(inspect.signature(command).parameters.values())[1:]

    @functools.wraps(command)
    def run(*arguments: Any, **values: Any) -> None:
        chosen = {name: values.pop(name) for name in options}
        with connect(**chosen) as coordinator:
            command(coordinator, *arguments, **values)

    parameters = [
        parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in own
    ]
    parameters += options.values()
    run.__dict__["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__dict__["__wrapped__"]
    return run
