"""`cloister privacy`: what protects a job's updates, and what it costs, before there is a job."""

from __future__ import annotations

import typer

from cloister.commands import privacy_budget, privacy_plan

app = typer.Typer(
    help="Plan secure aggregation and a privacy budget; offline, no coordinator needed.",
    no_args_is_help=True,
)
app.command(epilog=privacy_plan.EPILOG)(privacy_plan.plan)
app.command(epilog=privacy_budget.EPILOG)(privacy_budget.budget)
