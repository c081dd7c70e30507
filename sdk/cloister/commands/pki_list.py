"""`cloister pki list`: what an authority has issued."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloister.commands.output import Json, results, say, write_json

EPILOG = """
Example:

  cloister pki list hospitals
"""


def list_issued(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The authority's.")],
    as_json: Json = False,
) -> None:
    """List the certificates that were issued, in order; needs no key."""
    from cloister.commands.pki_folder import Folder, date, milliseconds, now

    moment = now()
    authority = Folder(folder)
    found = authority.issued()
    if as_json:
        for one in found:
            write_json(
                {
                    "name": one.certified.name,
                    "client_id": one.certified.client_id,
                    "public_key": one.certified.key.hex(),
                    "serial": one.serial,
                    "begins_at_ms": milliseconds(one.certified.not_before),
                    "expires_at_ms": milliseconds(one.certified.not_after),
                    "state": one.state(moment),
                }
            )
        return
    if not found:
        say(f"nothing issued yet; `cloister pki sign {folder} WHO` does")
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("name", "client", "serial", "expires", "state")
    for one in found:
        state = one.state(moment)
        table.add_row(
            escape(one.certified.name),
            one.certified.client_id,
            one.serial,
            date(one.certified.not_after),
            f"[{'green' if state == 'valid' else 'red'}]{state}[/]",
        )
    results().print(table)
