"""`cloister pki`: an authority that certifies which devices belong to a cohort."""

from __future__ import annotations

import typer

from cloister.commands import pki_init, pki_list, pki_sign

app = typer.Typer(
    help="Certify which devices belong to a cohort; offline, no coordinator needed.",
    no_args_is_help=True,
)
app.command(epilog=pki_init.EPILOG)(pki_init.init)
app.command(epilog=pki_sign.EPILOG)(pki_sign.sign)
app.command("list", epilog=pki_list.EPILOG)(pki_list.list_issued)
