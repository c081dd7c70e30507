"""`cloister job watch`: rounds as they end, with a progress bar."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cloister.commands.connection import connected
from cloister.commands.output import Json, notes, results, write_json

if TYPE_CHECKING:
    from cloister.job import Job
    from cloister.operator import Coordinator

EPILOG = """
Examples:

  cloister job watch digits                 by name (the newest), id, or beginning of the id

  cloister job watch digits --json          one JSON object for each ended round, then the job
"""


@connected
def watch(
    coordinator: Coordinator,
    job: Annotated[str, typer.Argument(help="Id, beginning of the id, or name.")],
    from_round: Annotated[int, typer.Option(min=0, help="First round to show.")] = 0,
    as_json: Json = False,
) -> None:
    """Follow a job until it ends; exit code 6 if it does not succeed."""
    follow(coordinator.find_job(job), from_round=from_round, as_json=as_json)


def follow(job: Job, *, from_round: int = 0, as_json: bool = False) -> None:
    """Show a job's rounds as they end. Raises JobFailed if the job ends without success."""
    if as_json:
        _follow_for_programs(job, from_round)
    else:
        _follow_for_people(job, from_round)
    job.raise_if_failed()


def _follow_for_programs(job: Job, from_round: int) -> None:
    from cloister.commands.job_view import ENDED, job_document, round_document

    shown = 0
    for event in job.watch(from_round):
        if event.HasField("round") and event.round.state in ENDED and event.round.number > shown:
            shown = event.round.number
            write_json(round_document(event.round, event.job.spec))
    write_json(job_document(job.status))


def _follow_for_people(job: Job, from_round: int) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from cloister.commands.job_view import ENDED, coloured_state, spent
    from cloister.commands.round_lines import RoundLines

    # one console for lines and bar where both are seen, or they would overwrite each other
    out = results()
    console = out if sys.stdout.isatty() else notes()
    lines, shown = RoundLines(job.status.spec.HasField("secure_aggregation")), 0
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("versions"),
        TimeElapsedColumn(),
        console=console,
        redirect_stdout=False,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        bar = progress.add_task(job.name, total=job.status.spec.rounds)
        for event in job.watch(from_round):
            remark = f" ({event.job.reason})" if event.job.reason else ""
            progress.update(bar, completed=event.job.version, description=job.name + remark)
            record = event.round
            if event.HasField("round") and record.state in ENDED and record.number > shown:
                shown = record.number
                for line in lines.lines(record):
                    out.print(line, highlight=False, soft_wrap=True)
    status = job.status
    out.print(
        f"job {status.job_id} {coloured_state(status)} with version {status.version}",
        highlight=False,
    )
    if status.HasField("privacy_spent"):
        out.print(f"privacy spent: {spent(status.privacy_spent)}", highlight=False)
