"""Which coordinator is meant when nobody says: the environment, then this machine's own.

- ``CLOISTER_COORDINATOR``  address; default 127.0.0.1:8470
- ``CLOISTER_TOKEN_FILE``   file with the operator token; default operator.token in the data folder
- ``CLOISTER_DATA_DIR``     the coordinator's data folder; default in the user's data folder
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cloister.errors import InvalidJob

if TYPE_CHECKING:
    from cloister.operator import Coordinator

DEFAULT_ADDRESS = "127.0.0.1:8470"
"""Where a coordinator listens and is looked for."""

_MAX_TOKEN_BYTES = 4096


def data_dir() -> Path:
    """The data folder of this user's coordinator on this machine."""
    if own := os.environ.get("CLOISTER_DATA_DIR"):
        return Path(own)
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "cloister" / "coordinator"


def connect(
    address: str | None = None,
    token_file: Path | None = None,
    *,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    insecure: bool = False,
) -> Coordinator:
    """The coordinator at an address; what is left out comes from the environment.

    Raises InvalidJob without a token, ConfigError for settings that contradict each other.
    """
    from cloister.operator import Coordinator

    return Coordinator(
        address or os.environ.get("CLOISTER_COORDINATOR") or DEFAULT_ADDRESS,
        token=read_token(token_file),
        ca=ca,
        certificate=certificate,
        key=key,
        insecure=insecure,
    )


def read_token(path: Path | None = None) -> str:
    """The operator token. Raises InvalidJob saying where it was looked for."""
    named = os.environ.get("CLOISTER_TOKEN_FILE")
    path = path or (Path(named) if named else data_dir() / "operator.token")
    try:
        with path.open("rb") as file:
            token = file.read(_MAX_TOKEN_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidJob(
            f"no operator token in {path}: name the coordinator's operator.token with --token-file"
            " or CLOISTER_TOKEN_FILE"
        ) from error
    if not token or not token.isprintable():
        raise InvalidJob(f"{path} holds no operator token")
    return token
