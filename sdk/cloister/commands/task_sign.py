"""`cloister task keygen` and `cloister task sign`: a publisher vouches for a task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloister.commands.output import Json, say, write_json

KEYGEN_EPILOG = """
Example:

  cloister task keygen publisher.pem

The public key that it prints goes into the [policy] of every client that trusts this publisher:

  publishers = ["..."]
"""

SIGN_EPILOG = """
Example:

  cloister task sign digits.wasm --key publisher.pem

writes digits.wasm.sig, which `cloister job submit digits.wasm` takes along.
"""


def keygen(
    key: Annotated[Path, typer.Argument(metavar="KEY.pem", help="File for the private key.")],
    as_json: Json = False,
) -> None:
    """Make a publisher's Ed25519 key; prints the public key. Never overwrites a file."""
    from cloister.vouching import create_key

    public = create_key(key)
    if as_json:
        write_json({"path": str(key), "publisher": public})
        return
    typer.echo(public)
    say(f"wrote the private key to {key}; keep it secret. Above is the public key, for clients.")


def sign(
    task: Annotated[Path, typer.Argument(metavar="TASK.wasm", help="The module to vouch for.")],
    key: Annotated[Path, typer.Option(metavar="KEY.pem", help="The publisher's private key.")],
    as_json: Json = False,
) -> None:
    """Vouch for a module: writes a signature file beside it."""
    from cloister.vouching import load_key, write_signature
    from cloister_tasks import Module

    module = Module.parse(task.read_bytes())
    private = load_key(key)
    path = write_signature(task, module.digest, private)
    if as_json:
        publisher = private.public_key().public_bytes_raw().hex()
        write_json({"path": str(path), "publisher": publisher, "digest": module.digest.hex()})
    else:
        say(f"wrote {path}")
