"""`cloister job`: what an operator asks of a coordinator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cloister.commands import job_model, job_submit, job_watch
from cloister.commands.connection import connected
from cloister.commands.output import Json, results, say, write_json

if TYPE_CHECKING:
    from cloister.operator import Coordinator

app = typer.Typer(
    help="Submit, follow and stop jobs; fetch their models.",
    no_args_is_help=True,
    epilog="""
Every command takes --coordinator and --token-file, or CLOISTER_COORDINATOR and
CLOISTER_TOKEN_FILE from the environment.
""",
)
app.command(epilog=job_submit.EPILOG)(job_submit.submit)

JobName = Annotated[str, typer.Argument(help="Id, beginning of the id, or name.")]


@app.command("list", epilog="Example:\n\n  cloister job list --limit 5")
@connected
def list_jobs(
    coordinator: Coordinator,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    from cloister.commands.job_view import job_document, job_table

    jobs = coordinator.jobs(limit)
    if as_json:
        for job in jobs:
            write_json(job_document(job.status))
        return
    table = job_table(jobs)
    if not table.row_count:
        say("no jobs yet; `cloister job submit` starts one")
        return
    results().print(table)


@app.command(epilog="Example:\n\n  cloister job show digits")
@connected
def show(coordinator: Coordinator, job: JobName, as_json: Json = False) -> None:
    """Show a job and its model versions."""
    from cloister.commands.job_view import (
        job_document,
        status_table,
        version_document,
        version_table,
    )

    found = coordinator.find_job(job)
    versions = found.versions()
    if as_json:
        document = job_document(found.status)
        document["versions"] = [version_document(version) for version in versions]
        write_json(document)
        return
    out = results()
    out.print(status_table(found.status))
    if versions:
        out.print(version_table(versions[-10:]))


app.command(epilog=job_watch.EPILOG)(job_watch.watch)


@app.command(epilog='Example:\n\n  cloister job cancel digits --reason "wrong task"')
@connected
def cancel(
    coordinator: Coordinator,
    job: JobName,
    reason: Annotated[str, typer.Option(help="For the record.")] = "",
    as_json: Json = False,
) -> None:
    """Stop a job; its model versions stay."""
    from cloister.commands.job_view import job_document, job_state

    found = coordinator.find_job(job)
    status = found.cancel(reason)
    if as_json:
        write_json(job_document(status))
    else:
        say(f"job {found.id} ({found.name}) is {job_state(status)}")


app.command(epilog=job_model.EPILOG)(job_model.model)


@app.command(epilog="Example:\n\n  cloister job clients --connected")
@connected
def clients(
    coordinator: Coordinator,
    connected_only: Annotated[
        bool, typer.Option("--connected", help="Only those connected now.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the clients a coordinator knows."""
    from cloister.commands.job_view import client_document, client_table

    found = (c for c in coordinator.clients() if c.connected or not connected_only)
    if as_json:
        for client in found:
            write_json(client_document(client))
        return
    table = client_table(found)
    if not table.row_count:
        say("no clients yet; `cloister client DEVICE.toml` starts one")
        return
    results().print(table)
