"""The secret of the coordinator's operator, in a file only the owner can read."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

from cloister_coordinator.errors import ConfigurationError, Unauthenticated

_LEAST_CHARACTERS = 32


class OperatorToken:
    """The token in a file; made at the first start.

    Raises:
        ConfigurationError: the file cannot be read or written, or its token is too short.
    """

    def __init__(self, path: Path) -> None:
        try:
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "w") as file:
                    file.write(secrets.token_hex(32) + "\n")
            except FileExistsError:
                pass
            self._token = path.read_text().strip()
        except OSError as e:
            raise ConfigurationError(f"the operator token is out of reach: {e}") from e
        if len(self._token) < _LEAST_CHARACTERS:
            raise ConfigurationError(
                f"the token in {path} has fewer than {_LEAST_CHARACTERS} characters:"
                " delete the file to have a new one made"
            )

    def check(self, authorization: str) -> None:
        """Admit ``Bearer <token>``.

        Raises:
            Unauthenticated: it is another.
        """
        given = authorization.removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, self._token.encode()):
            raise Unauthenticated(
                "BAD_OPERATOR_TOKEN",
                "this is not the operator token",
                "It is in operator.token in the coordinator's data folder.",
            )
