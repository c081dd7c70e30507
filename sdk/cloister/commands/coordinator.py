"""`cloister coordinator`: run the service that runs rounds."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cloister.commands.failure import Mistake
from cloister.commands.output import say
from cloister.environment import DEFAULT_ADDRESS, data_dir


class LogFormat(StrEnum):
    """How a line of the log looks."""

    text = "text"
    json = "json"


EPILOG = """
Examples:

  cloister coordinator                              this machine only, state in the user's folder

  cloister coordinator --data-dir state --listen 127.0.0.1:8470

  cloister coordinator --listen 0.0.0.0:8470 --tls-cert server.pem --tls-key server-key.pem
  --client-ca clients.pem --join-token-file join.token

Operators need the token that the first start writes to operator.token in the data folder.
"""


def coordinator(
    folder: Annotated[
        Path,
        typer.Option(
            "--data-dir",
            envvar="CLOISTER_DATA_DIR",
            default_factory=data_dir,
            show_default="in the user's data folder",
            help="Folder of all state, made when missing.",
        ),
    ],
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = DEFAULT_ADDRESS,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM chain of the server.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM private key of the server.")] = None,
    client_ca: Annotated[
        Path | None, typer.Option(help="PEM certificates that clients' are checked against (mTLS).")
    ] = None,
    identity_authority: Annotated[
        Path | None,
        typer.Option(
            help="PEM certificate of the authority behind clients' identities; jobs with secure"
            " aggregation need it. See `cloister pki`."
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow plaintext beyond this machine.")
    ] = False,
    database: Annotated[
        str, typer.Option(metavar="URL", help="SQLAlchemy URL; default: SQLite in the data folder.")
    ] = "",
    join_token_file: Annotated[
        Path | None, typer.Option(help="File with the secret that clients enrol with.")
    ] = None,
    reconnect_grace: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="How long a client may be away in a round before it counts as lost.",
        ),
    ] = 10.0,
    log_format: Annotated[LogFormat, typer.Option(help="How log lines look.")] = LogFormat.text,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every step.")] = False,
) -> None:
    """Run rounds: give clients work, collect updates, fold them into model versions."""
    import asyncio
    import logging

    from cloister_coordinator.config import CoordinatorConfig
    from cloister_coordinator.logs import configure
    from cloister_coordinator.server import serve

    config = CoordinatorConfig(
        data_dir=folder,
        address=listen,
        database_url=database,
        tls_certificate=tls_cert,
        tls_key=tls_key,
        tls_client_ca=client_ca,
        identity_authority=identity_authority,
        insecure=insecure,
        join_token=_secret(join_token_file),
        reconnect_grace_seconds=reconnect_grace,
    )
    configure(log_format.value, logging.DEBUG if verbose else logging.INFO)

    def ready(address: str) -> None:
        if log_format is LogFormat.text:
            say(f"serving at {address}; operators use the token in {folder / 'operator.token'}")

    asyncio.run(serve(config, ready=ready))


def _secret(path: Path | None) -> str:
    if path is None:
        return ""
    secret = path.read_text(encoding="utf-8").strip()
    if not secret:
        raise Mistake(f"{path} is empty; it must hold the join token")
    return secret
