"""The words that members sign, commit to and bind keys to; client and server agree on them here.

Every one begins with a text of its own, so that no signature means anything in another place.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloister_privacy.shamir import SHARE_BYTES
from cloister_privacy.terms import Terms, joined
from cloister_protos import Dealing, Keys, Roster

HASH_BYTES = 32
SIGNATURE_BYTES = 64
KEY_BYTES = 32
SHARE_PAIR_BYTES = 2 * SHARE_BYTES
"""A share of the self-mask's seed, then one of the mask key."""
SEALED_BYTES = SHARE_PAIR_BYTES + 16
"""Such a pair with the tag of its encryption."""
COMMITTED_BYTES = 2 * HASH_BYTES
"""Commitments to both."""


def client_id(public_key: bytes) -> str:
    """A member's id: the first 32 hexadecimal digits of the SHA-256 of its identity key."""
    return hashlib.sha256(public_key).hexdigest()[:32]


def keys(terms: Terms, own: Keys) -> bytes:
    """A member's keys for this round, for what it was told."""
    return b"cloister keys v1\0" + terms.digest + own.share_key + own.mask_key


def session(terms: Terms, roster: Roster) -> bytes:
    """SHA-256 of the terms and of everybody's keys; all that follows is bound to it."""
    fields = [terms.digest, struct.pack("<2I", roster.degree, roster.threshold)]
    for member in roster.members:
        fields += [member.certificate, member.share_key, member.mask_key, member.signature]
    return hashlib.sha256(b"cloister roster v1\0" + joined(fields)).digest()


def dealing(session: bytes, dealt: Dealing) -> bytes:
    """A member's shares, sealed, and its commitments to them."""
    content = joined([dealt.sealed, dealt.commitments, dealt.seed_commitment])
    return b"cloister dealing v1\0" + session + hashlib.sha256(content).digest()


def survivors(session: bytes, dealers: Sequence[int], survivors: Sequence[int]) -> bytes:
    """Who dealt and who survived, as a member was told."""
    fields = joined([_places(dealers), _places(survivors)])
    return b"cloister survivors v1\0" + session + hashlib.sha256(fields).digest()


def share_commitment(share: bytes) -> bytes:
    """SHA-256 of a share, which hides it: a share is uniform over 2^256 values or more."""
    return hashlib.sha256(b"cloister share v1\0" + share).digest()


def seed_commitment(seed: bytes) -> bytes:
    """SHA-256 of a self-mask's seed of 32 random bytes."""
    return hashlib.sha256(b"cloister seed v1\0" + seed).digest()


def sealed_to(dealer: int, holder: int) -> bytes:
    """What a sealed share pair is bound to beside its key, which no other direction shares."""
    return struct.pack("<2I", dealer, holder)


def signed(public_key: bytes, signature: bytes, statement: bytes) -> bool:
    """Whether an Ed25519 signature is by this identity over this statement."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, statement)
    except (InvalidSignature, ValueError):
        return False
    return True


def _places(places: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(places)}I", *places)


def pieces(data: bytes, size: int) -> list[bytes]:
    """Records of one size that lie side by side."""
    return [data[at : at + size] for at in range(0, len(data), size)]
