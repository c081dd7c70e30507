"""Who vouches for a module: Ed25519 over its digest.

The only part of this package that needs ``cryptography``; not imported with the package.
"""

from __future__ import annotations

from typing import TypedDict

from cryptography.exceptions import InvalidSignature as _Mismatch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cloister_protos import Module as ModuleMessage
from cloister_tasks.errors import InvalidSignature

CONTEXT = b"cloister module v1\0"
"""Stands before the digest, so that the signature means nothing anywhere else."""
DIGEST_BYTES = 32

SMALL_ORDER = frozenset(
    bytes.fromhex(point)
    for point in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)
"""Encodings of the points of order 1 to 8 of edwards25519, sign bit cleared. Anybody can make
signatures that such a public key verifies, so none of them is anybody's key."""


class Signed(TypedDict):
    """Fields of a ``cloister.v1.Module``: ``Module(blob=blob, **sign(digest, key))``."""

    publisher: bytes
    signature: bytes


def sign(digest: bytes, private_key: Ed25519PrivateKey) -> Signed:
    """Vouch for the module with this SHA-256 (32 bytes)."""
    return Signed(
        publisher=private_key.public_key().public_bytes_raw(),
        signature=private_key.sign(_message(digest)),
    )


def verify(module: ModuleMessage) -> bytes:
    """The publisher's public key (32 bytes), if it signed the module's digest.

    That the bytes have this digest, and that the publisher may be trusted, is for the caller to
    check.

    Raises:
        InvalidSignature: the module is unsigned, or not signed by the publisher it names.
    """
    if not module.publisher and not module.signature:
        raise InvalidSignature("the module is not signed")
    if len(module.publisher) == 32 and _unsigned(module.publisher) in SMALL_ORDER:
        raise InvalidSignature("the publisher's key is of small order: it is nobody's key")
    try:
        key = Ed25519PublicKey.from_public_bytes(module.publisher)
        key.verify(module.signature, _message(module.blob.digest))
    except (_Mismatch, ValueError):
        raise InvalidSignature(
            "the module's signature is not by the publisher it names, or not for these bytes"
        ) from None
    return module.publisher


def _unsigned(key: bytes) -> bytes:
    return key[:31] + bytes([key[31] & 0x7F])


def _message(digest: bytes) -> bytes:
    if len(digest) != DIGEST_BYTES:
        raise ValueError(f"a digest has {DIGEST_BYTES} bytes, not {len(digest)}")
    return CONTEXT + digest
