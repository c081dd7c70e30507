"""`cloister task`: build, compile, look at, try and sign tasks; no coordinator needed."""

from __future__ import annotations

import typer

from cloister.commands import task_build, task_compile, task_inspect, task_run, task_sign

app = typer.Typer(
    help="Build, compile, inspect, try and sign tasks; no coordinator needed.", no_args_is_help=True
)
app.command(epilog=task_build.EPILOG)(task_build.build)
app.command(cls=task_compile.Explained, epilog=task_compile.EPILOG)(task_compile.compile)
app.command(epilog=task_inspect.EPILOG)(task_inspect.inspect)
app.command(epilog=task_run.EPILOG)(task_run.run)
app.command(epilog=task_sign.KEYGEN_EPILOG)(task_sign.keygen)
app.command(epilog=task_sign.SIGN_EPILOG)(task_sign.sign)
