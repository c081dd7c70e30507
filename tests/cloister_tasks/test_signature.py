from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister_protos import Blob
from cloister_protos import Module as ModuleMessage
from cloister_tasks import InvalidSignature
from cloister_tasks.signature import CONTEXT, SMALL_ORDER, sign, verify

DIGEST = bytes(range(32))
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)


def message(digest: bytes = DIGEST, **changes: bytes) -> ModuleMessage:
    return ModuleMessage(blob=Blob(digest=digest, size=1), **{**sign(DIGEST, KEY), **changes})


def test_a_signed_module_names_its_publisher():
    assert verify(message()) == KEY.public_key().public_bytes_raw()


def test_what_is_signed():
    KEY.public_key().verify(message().signature, b"cloister module v1\0" + DIGEST)
    assert CONTEXT == b"cloister module v1\0"


@pytest.mark.parametrize(
    "forged",
    [
        message(digest=b"\1" * 32),
        message(digest=b""),
        message(signature=b"\0" * 64),
        message(signature=b""),
        message(publisher=b""),
        message(publisher=b"p" * 31),
        message(publisher=Ed25519PrivateKey.generate().public_key().public_bytes_raw()),
        message(signature=KEY.sign(DIGEST)),
        message(publisher=b"", signature=b""),
    ],
)
def test_anything_else_is_refused(forged):
    with pytest.raises(InvalidSignature):
        verify(forged)


def test_only_digests_are_signed():
    with pytest.raises(ValueError, match="32 bytes"):
        sign(b"short", KEY)


@pytest.mark.parametrize("sign_bit", [0x00, 0x80])
@pytest.mark.parametrize("point", sorted(SMALL_ORDER))
def test_a_key_of_small_order_vouches_for_nothing(point: bytes, sign_bit: int):
    """For the identity as key, (R, S) = (identity, 0) satisfies the equation for any message."""
    key = point[:31] + bytes([point[31] | sign_bit])
    identity = (1).to_bytes(32, "little")
    with pytest.raises(InvalidSignature, match="small order"):
        verify(message(publisher=key, signature=identity + bytes(32)))
