"""The `cloister` command."""

from __future__ import annotations

import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cloister.commands import client, coordinator, failure, job, op, pki, privacy, simulate, task
from cloister.commands.exit_code import MEANINGS, ExitCode
from cloister.commands.output import say

_EPILOG = "\n\n".join(
    [
        "Examples:",
        "  cloister simulate digits --clients 20 --rounds 20",
        "  cloister task build softmax-regression --features 64 --classes 10",
        "  cloister coordinator --data-dir state",
        "  cloister client --init device.toml",
        "  cloister job submit softmax-regression.wasm --cohort 3 --rounds 10 --watch",
        "  cloister pki init hospitals",
        "  cloister privacy budget --epsilon 2 --delta 1e-6 --noise-multiplier 10",
        "Exit codes:",
        *(f"  {code.value:>3}  {meaning}" for code, meaning in MEANINGS.items()),
    ]
)


class _Guarded(TyperGroup):
    """The one place where errors become messages and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; typer reports its own errors, all others are reported here."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except typer.Abort:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            raise
        except Exception as error:
            if failure.is_own(error):
                raise
            message, code = failure.explain(error, ctx.invoked_subcommand)
            if failure.debugging(ctx.params.get("debug", False)):
                say(traceback.format_exc().rstrip())
            say(f"error: {message}")
            raise typer.Exit(code) from error


app = typer.Typer(
    name="cloister",
    cls=_Guarded,
    help="Federated learning in which training code runs in a sandbox beside the data.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"cloister {version('cloister')}")
        except PackageNotFoundError:
            typer.echo("cloister, not installed: run from a source tree")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of an error (or set CLOISTER_DEBUG=1)."),
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Federated learning in which training code runs in a sandbox beside the data."""


app.command(epilog=simulate.EPILOG)(simulate.simulate)
app.command(epilog=coordinator.EPILOG)(coordinator.coordinator)
app.command(epilog=client.EPILOG)(client.client)
app.add_typer(job.app, name="job")
app.add_typer(task.app, name="task")
app.add_typer(op.app, name="op")
app.add_typer(pki.app, name="pki")
app.add_typer(privacy.app, name="privacy")
