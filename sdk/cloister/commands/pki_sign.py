"""`cloister pki sign`: a certificate for a device."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from cloister.commands.failure import Mistake
from cloister.commands.output import Json, say, write_json
from cloister.commands.pki_init import PassphraseFile

EPILOG = """
Examples:

  cloister pki sign hospitals ward-7.key --name ward-7 -o ward-7.pem

  cloister pki sign hospitals ward-7.key --name ward-7 --again -o renewed.pem

where ward-7.key holds what `cloister client --identity` printed on the device.

What is issued is kept in hospitals/issued too.
"""

_KEY = re.compile(r"[0-9a-fA-F]{64}")


def sign(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The authority's.")],
    who: Annotated[
        str,
        typer.Argument(
            metavar="WHO", help="The device's public key, 64 hexadecimal digits; or a file with it."
        ),
    ],
    name: Annotated[str, typer.Option(help="For people, at most 64 bytes.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File for the certificate; never overwritten.")
    ],
    days: Annotated[int, typer.Option(min=1, max=36_500, help="Validity.")] = 365,
    again: Annotated[
        bool, typer.Option("--again", help="Even if the device has a valid certificate.")
    ] = False,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Certify a device's public key. Make sure first that it is that device's."""
    from cloister.commands.pki_folder import Folder, date, milliseconds, now, read_passphrase

    key = _public_key(who)
    authority = Folder(folder)
    signer = authority.open(read_passphrase(passphrase_file))
    if output.exists():
        raise Mistake(f"{output} exists and is not overwritten; choose another file with -o")
    with output.open("xb") as file, ExitStack() as undo:
        undo.callback(output.unlink)
        issued = authority.issue(signer, key, name, days, now(), again=again)
        file.write(issued.path.read_bytes())
        undo.pop_all()
    found = issued.certified
    if as_json:
        write_json(
            {
                "path": str(output),
                "name": found.name,
                "client_id": found.client_id,
                "public_key": found.key.hex(),
                "serial": issued.serial,
                "expires_at_ms": milliseconds(found.not_after),
            }
        )
    else:
        until = date(found.not_after)
        say(f"wrote {output}: {found.name}, client {found.client_id}, valid until {until}")


def _public_key(who: str) -> bytes:
    text = who
    if not _KEY.fullmatch(text):
        try:
            with Path(who).open("rb") as file:
                text = file.read(1024).decode("ascii", "replace").strip()
        except (OSError, ValueError):
            text = ""
    if not _KEY.fullmatch(text):
        raise Mistake(
            f"{who} is neither a public key of 64 hexadecimal digits nor a file that holds one; "
            "on the device, `cloister client --identity DEVICE.toml` prints it"
        )
    return bytes.fromhex(text)
