"""`cloister pki init`: a new authority."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloister.commands.output import Json, say, write_json

PassphraseFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File with the passphrase of the authority's key."),
]

EPILOG = """
Examples:

  cloister pki init hospitals

  cloister pki init hospitals --name "Hospitals of Berlin" --passphrase-file secret.txt

writes authority-key.pem, which stays offline, and authority.pem, for every device.

Prints the SHA-256 of the latter's DER, for devices' owners to compare.
"""


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Made when missing.")],
    name: Annotated[
        str | None, typer.Option(help="For people; default: the folder's name.")
    ] = None,
    days: Annotated[
        int, typer.Option(min=1, max=36_500, help="Validity; nothing it signs is for longer.")
    ] = 3650,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Make an authority: its key and its certificate. Never overwrites one."""
    import hashlib

    from cloister.commands.pki_folder import Folder, date, milliseconds, now, read_passphrase

    passphrase = read_passphrase(passphrase_file)
    found = Folder(folder)
    authority = found.create(name or folder.resolve().name, days, passphrase, now())
    fingerprint = hashlib.sha256(authority.certificate).hexdigest()
    own = authority.certified
    if as_json:
        write_json(
            {
                "name": own.name,
                "key": str(found.key),
                "encrypted": passphrase is not None,
                "certificate": str(found.certificate),
                "fingerprint": fingerprint,
                "expires_at_ms": milliseconds(own.not_after),
            }
        )
        return
    typer.echo(fingerprint)
    secrecy = "" if passphrase is not None else "; it is not encrypted"
    say(f"wrote the private key to {found.key}; keep it offline, and a copy elsewhere{secrecy}")
    say(f"wrote {found.certificate}, for every device; valid until {date(own.not_after)}")
    say("above is the SHA-256 of that certificate, for devices' owners to compare")
