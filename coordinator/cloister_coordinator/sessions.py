"""Who is calling: enrolment by signature, then a session token.

Tokens are kept hashed and only in memory: after a restart every token is unknown, and clients
enrol again, which costs them one round trip.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloister_coordinator.errors import Exhausted, Forbidden, Invalid, Unauthenticated

CONTEXT = b"cloister enrol v1\0"
"""Stands before what a client signs, so that the signature means nothing anywhere else."""
NONCE_SECONDS = 60.0
"""A nonce older than this is refused."""
MAX_NONCES = 10_000
"""Challenges open at once; beyond it the oldest is forgotten and its client tries again."""

_KEY_BYTES = 32


def client_id_of(public_key: bytes) -> str:
    """The first 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(public_key).hexdigest()[:32]


class Sessions:
    """Open challenges and sessions.

    Args:
        join_token: what clients must know; empty: nothing.
        max_clients: sessions at once.
        clock: seconds, monotonic.
    """

    def __init__(
        self, join_token: str, max_clients: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._join_token = join_token
        self._max_clients = max_clients
        self._clock = clock
        self._nonces: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()
        self._clients: dict[bytes, str] = {}
        self._tokens: dict[str, bytes] = {}

    def challenge(self, public_key: bytes) -> bytes:
        """A nonce for this key to sign.

        Raises:
            Invalid: no public key.
        """
        if len(public_key) != _KEY_BYTES:
            raise Invalid("BAD_KEY", f"a public key has {_KEY_BYTES} bytes, not {len(public_key)}")
        nonce = secrets.token_bytes(32)
        self._nonces[nonce] = (public_key, self._clock())
        while len(self._nonces) > MAX_NONCES:
            self._nonces.popitem(last=False)
        return nonce

    def enrol(
        self, public_key: bytes, nonce: bytes, signature: bytes, join_token: str
    ) -> tuple[str, str]:
        """Open a session; client id and token. An older session of the client ends.

        Raises:
            Unauthenticated: the nonce is not ours or too old, or the signature is not right.
            Forbidden: the join token is wrong.
            Exhausted: too many sessions.
        """
        owner, since = self._nonces.pop(nonce, (b"", 0.0))
        if owner != public_key or self._clock() - since > NONCE_SECONDS:
            raise Unauthenticated(
                "BAD_NONCE",
                "the nonce is unknown or older than a minute",
                "Ask for a challenge and enrol right away.",
            )
        try:
            key = Ed25519PublicKey.from_public_bytes(public_key)
            key.verify(signature, CONTEXT + nonce + join_token.encode())
        except (InvalidSignature, ValueError):
            raise Unauthenticated(
                "BAD_SIGNATURE", "the signature is not by this key over nonce and join token"
            ) from None
        if not hmac.compare_digest(join_token.encode(), self._join_token.encode()):
            raise Forbidden(
                "BAD_JOIN_TOKEN",
                "the join token is wrong" if join_token else "this coordinator wants a join token",
                "Ask the coordinator's operator for the join token.",
            )
        client_id = client_id_of(public_key)
        if client_id not in self._tokens and len(self._tokens) >= self._max_clients:
            raise Exhausted(
                "TOO_MANY_CLIENTS",
                f"{self._max_clients} clients have a session already",
                "The coordinator's operator can raise max_clients.",
            )
        token = secrets.token_hex(32)
        self._clients.pop(self._tokens.get(client_id, b""), None)
        self._tokens[client_id] = hashed = _hash(token)
        self._clients[hashed] = client_id
        return client_id, token

    def client(self, authorization: str) -> str:
        """The client id behind ``Bearer <token>``.

        Raises:
            Unauthenticated: there is no such session.
        """
        client_id = self._clients.get(_hash(authorization.removeprefix("Bearer ")))
        if client_id is None:
            raise Unauthenticated(
                "NO_SESSION", "there is no such session", "Enrol, and use the token you get."
            )
        return client_id


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
