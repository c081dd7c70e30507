"""Keys that two members agree on through a third, and what they seal with them.

X25519 (RFC 7748) for the agreement, HKDF-SHA256 (RFC 5869) to make keys of it, AES-256-GCM
(NIST SP 800-38D) to seal shares.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
"""Of public and private keys, of shared secrets and of keys derived from them."""
SESSION_BYTES = 32
"""Of a session's digest, SHA-256."""
TAG_BYTES = 16
"""A sealed message is longer than the message by so much."""

_NONCE = bytes(12)  # a key seals one message only, so there is nothing to tell apart


class KeyPair:
    """An X25519 key pair, for one round."""

    __slots__ = ("_key", "_public")

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key
        self._public = key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> KeyPair:
        """A new one, from the system's randomness."""
        return cls(X25519PrivateKey.generate())

    @classmethod
    def from_private(cls, private: bytes) -> KeyPair:
        """The pair of a private key of 32 bytes; raises ValueError for another length."""
        return cls(X25519PrivateKey.from_private_bytes(private))

    @property
    def public(self) -> bytes:
        """32 bytes, for everybody."""
        return self._public

    @property
    def private(self) -> bytes:
        """32 bytes, to be shared out among the members and shown to nobody."""
        return self._key.private_bytes_raw()

    def exchange(self, peer_public: bytes) -> bytes:
        """The shared secret, 32 bytes; never a key by itself, only what `derive` makes of it.

        Raises:
            ValueError: not 32 bytes, or a point of small order, with which everybody would have
                the same secret (RFC 7748, section 6.1).
        """
        return self._key.exchange(X25519PublicKey.from_public_bytes(peer_public))

    def __repr__(self) -> str:
        return f"KeyPair(public={self._public.hex()})"


def derive(shared: bytes, session: bytes, purpose: bytes, first: bytes, second: bytes) -> bytes:
    """A key of 32 bytes, for one purpose of one pair of members in one session.

    HKDF-SHA256 with the session as salt, so that no two rounds have a key in common. The order of
    `first` and `second` counts: a key is for one direction, unless both sides sort them.

    Args:
        shared: what `KeyPair.exchange` returned.
        session: digest of all that the members agreed on, 32 bytes.
        purpose: what the key is for, such as ``b"mask"``; a text of our own, without a 0 byte.
        first, second: the two members' identities, of any length.

    Raises:
        ValueError: a shared secret or session that is not 32 bytes long.
    """
    if len(shared) != KEY_BYTES or len(session) != SESSION_BYTES:
        raise ValueError(
            f"a shared secret of {len(shared)} and a session of {len(session)} bytes; both have 32"
        )
    info = [b"cloister ", purpose, b" v1\0"]
    for identity in (first, second):
        info += [struct.pack("<I", len(identity)), identity]
    return HKDF(SHA256(), KEY_BYTES, session, b"".join(info)).derive(shared)


def seal(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Encrypt, and bind to `associated`; TAG_BYTES longer than `plaintext`.

    The nonce is zero: a second message under the same key would betray both.

    Raises:
        ValueError: a key that is not 32 bytes long.
    """
    return _cipher(key).encrypt(_NONCE, plaintext, associated)


def unseal(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """What was sealed.

    Raises:
        ValueError: it was not sealed with this key for `associated`, or has been changed since.
    """
    try:
        return _cipher(key).decrypt(_NONCE, sealed, associated)
    except InvalidTag:
        raise ValueError("not sealed with this key for this purpose, or changed since") from None


def _cipher(key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES:  # AES-128 and AES-192 would be taken as well
        raise ValueError(f"a key of {len(key)} bytes instead of {KEY_BYTES}")
    return AESGCM(key)


__all__ = ["KEY_BYTES", "SESSION_BYTES", "TAG_BYTES", "KeyPair", "derive", "seal", "unseal"]
