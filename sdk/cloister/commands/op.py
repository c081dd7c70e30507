"""`cloister op`: the compiler's operators one by one."""

from __future__ import annotations

import typer

from cloister.commands import op_list, op_run

app = typer.Typer(
    help="Run single operators in a sandbox; no coordinator needed.", no_args_is_help=True
)
app.command("list", epilog=op_list.EPILOG)(op_list.show)
app.command(epilog=op_run.EPILOG)(op_run.run)
