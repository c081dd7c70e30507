"""Who this client is: an Ed25519 key that never leaves the device."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister_client.errors import IdentityError

_ENROL = b"cloister enrol v1\0"


class Identity:
    """The key pair by which the coordinator knows this device again."""

    def __init__(self, key: Ed25519PrivateKey):
        self._key = key
        self.public_key: bytes = key.public_key().public_bytes_raw()
        """Ed25519 public key, 32 bytes."""
        self.client_id: str = hashlib.sha256(self.public_key).hexdigest()[:32]
        """First 32 hexadecimal digits of the SHA-256 of the public key."""

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """The identity in the PEM file `path`, made at the first start (mode 0600).

        Raises IdentityError if the file is unreadable, no Ed25519 key, or open to others.
        """
        if not path.exists():
            _create(path)
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> Identity:
        """The identity in the existing PEM file `path`; raises as `load_or_create`."""
        try:
            mode = path.stat().st_mode
            pem = path.read_bytes()
        except OSError as error:
            raise IdentityError(f"cannot read the identity key {path}: {error.strerror}") from error
        if mode & 0o077:
            raise IdentityError(
                f"others may read the identity key {path}; run `chmod 600 {path}`, or delete it "
                "to become a new client if someone may have copied it"
            )
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise IdentityError(f"{path} holds no readable PEM private key") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise IdentityError(f"{path} holds a key of another kind than Ed25519")
        return cls(key)

    def sign(self, statement: bytes) -> bytes:
        """Ed25519 signature, 64 bytes. Statements begin with a text that tells what they are."""
        return self._key.sign(statement)

    def sign_enrolment(self, nonce: bytes, join_token: str) -> bytes:
        """Ed25519 signature over the enrolment words, the nonce and the join token, 64 bytes."""
        return self.sign(_ENROL + nonce + join_token.encode())


def _create(path: Path) -> None:
    """Write a new key completely before it gets its name, so a crash leaves no torn key."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(handle)
            with contextlib.suppress(FileExistsError):  # another process was faster: its key wins
                os.link(draft, path)
        finally:
            draft.unlink()
    except OSError as error:
        raise IdentityError(f"cannot create the identity key {path}: {error.strerror}") from error
