"""Published vectors for what the package builds on, and for what it makes of them."""

from __future__ import annotations

import hashlib
import hmac
import pickle

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from cloister_privacy.agreement import KeyPair, derive, seal, unseal

KEYS = st.binary(min_size=32, max_size=32)

# X25519


@pytest.mark.parametrize(
    ("scalar", "point", "product"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_x25519_of_rfc_7748(scalar, point, product):
    pair = KeyPair.from_private(bytes.fromhex(scalar))
    assert pair.exchange(bytes.fromhex(point)).hex() == product


def test_x25519_a_thousand_times():
    """RFC 7748, section 5.2: each result is the next scalar, and each scalar the next point."""
    scalar = point = b"\x09" + bytes(31)
    for turn in range(1000):
        scalar, point = KeyPair.from_private(scalar).exchange(point), scalar
        if turn == 0:
            once = "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
            assert scalar.hex() == once
    assert scalar.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_the_two_sides_of_rfc_7748():
    alice = KeyPair.from_private(
        bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    )
    bob = KeyPair.from_private(
        bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    )
    assert alice.public.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert alice.exchange(bob.public).hex() == bob.exchange(alice.public).hex() == shared


FIELD = 2**255 - 19
ORDER_EIGHT = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)


@pytest.mark.parametrize(
    "point", [0, 1, *ORDER_EIGHT, FIELD - 1, FIELD, FIELD + 1], ids=lambda p: hex(p)[:10]
)
@pytest.mark.parametrize("top_bit", [0, 1 << 255])
def test_points_of_small_order_are_refused(point, top_bit):
    public = (point | top_bit).to_bytes(32, "little")
    for pair in (KeyPair.generate(), KeyPair.from_private(bytes(32))):
        with pytest.raises(ValueError, match="shared key"):
            pair.exchange(public)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_keys_of_another_length_are_refused(length):
    with pytest.raises(ValueError, match="32 bytes"):
        KeyPair.from_private(bytes(length))
    with pytest.raises(ValueError, match="32 bytes"):
        KeyPair.generate().exchange(bytes(length))


@given(KEYS)
def test_a_private_key_goes_there_and_back(private):
    pair = KeyPair.from_private(private)
    assert pair.private == private
    assert KeyPair.from_private(pair.private).public == pair.public
    peer = KeyPair.generate()
    assert pair.exchange(peer.public) == peer.exchange(pair.public)


def test_new_pairs_are_different():
    pairs = [KeyPair.generate() for _ in range(20)]
    assert len({pair.public for pair in pairs}) == len({pair.private for pair in pairs}) == 20


def test_no_private_key_is_shown():
    pair = KeyPair.generate()
    shown = f"{pair!r} {pair} {[pair]}"
    assert pair.public.hex() in shown
    assert pair.private.hex() not in shown
    assert repr(pair.private) not in shown
    with pytest.raises(TypeError):
        pickle.dumps(pair)


# HKDF-SHA256


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, sections 2.2 and 2.3, by the standard library."""
    extracted = hmac.digest(salt, secret, hashlib.sha256)
    found = block = b""
    for index in range(1, -(-length // 32) + 1):
        block = hmac.digest(extracted, block + info + bytes([index]), hashlib.sha256)
        found += block
    return found[:length]


def test_hkdf_of_rfc_5869():
    """Test case 1, for the library and for this file's oracle."""
    secret, salt, info = b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))
    expected = (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    assert HKDF(SHA256(), 42, salt, info).derive(secret).hex() == expected
    assert hkdf(secret, salt, info, 42).hex() == expected


@given(KEYS, KEYS, st.binary(max_size=40), st.binary(max_size=40))
def test_derived_keys_are_hkdf(shared, session, first, second):
    info = b"cloister mask v1\0"
    info += len(first).to_bytes(4, "little") + first + len(second).to_bytes(4, "little") + second
    assert derive(shared, session, b"mask", first, second) == hkdf(shared, session, info, 32)


def test_everything_makes_another_key():
    usual = (b"k" * 32, b"s" * 32, b"mask", b"ab", b"c")
    others = [
        (b"K" * 32, b"s" * 32, b"mask", b"ab", b"c"),
        (b"k" * 32, b"S" * 32, b"mask", b"ab", b"c"),
        (b"k" * 32, b"s" * 32, b"seal", b"ab", b"c"),
        (b"k" * 32, b"s" * 32, b"mask", b"c", b"ab"),  # the other direction
        (b"k" * 32, b"s" * 32, b"mask", b"a", b"bc"),  # the same bytes, divided elsewhere
        (b"k" * 32, b"s" * 32, b"mask", b"abc", b""),
    ]
    keys = {derive(*arguments) for arguments in (usual, *others)}
    assert len(keys) == len(others) + 1
    assert {len(key) for key in keys} == {32}


@pytest.mark.parametrize(("shared", "session"), [(31, 32), (32, 0), (32, 33), (0, 32)])
def test_no_key_of_a_secret_or_session_of_another_length(shared, session):
    with pytest.raises(ValueError, match="both have 32"):
        derive(bytes(shared), bytes(session), b"mask", b"", b"")


# AES-256-GCM


def test_gcm_of_its_authors():
    """McGrew and Viega, "The Galois/Counter mode of operation": test cases 13, 14 and 16."""
    assert seal(bytes(32), b"", b"").hex() == "530f8afbc74536b9a963b4f1c4cb738b"
    assert seal(bytes(32), bytes(16), b"").hex() == (
        "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
    )
    sealed = AESGCM(bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)).encrypt(
        bytes.fromhex("cafebabefacedbaddecaf888"),
        bytes.fromhex(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
        ),
        bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
    )
    assert sealed.hex() == (
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
        "76fc6ece0f4e1768cddf8853bb2d551b"
    )


@given(KEYS, st.binary(max_size=100), st.binary(max_size=20))
def test_what_is_sealed_can_be_unsealed(key, plaintext, associated):
    sealed = seal(key, plaintext, associated)
    assert len(sealed) == len(plaintext) + 16
    assert unseal(key, sealed, associated) == plaintext


@given(KEYS, st.binary(max_size=68), st.data())
def test_any_change_is_seen(key, plaintext, data):
    sealed = bytearray(seal(key, plaintext, b"1 to 2"))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1), label="bit")
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match="changed since"):
        unseal(key, bytes(sealed), b"1 to 2")


def test_another_key_direction_or_length_is_seen():
    sealed = seal(b"k" * 32, b"a share", b"1 to 2")
    wrong = [
        (b"K" * 32, sealed, b"1 to 2"),
        (b"k" * 32, sealed, b"2 to 1"),
        (b"k" * 32, sealed[:-1], b"1 to 2"),
        (b"k" * 32, sealed + b"\0", b"1 to 2"),
        (b"k" * 32, sealed[:15], b"1 to 2"),
        (b"k" * 32, b"", b"1 to 2"),
    ]
    for arguments in wrong:
        with pytest.raises(ValueError, match="changed since"):
            unseal(*arguments)


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33])
def test_no_weaker_cipher(length):
    with pytest.raises(ValueError, match="instead of 32"):
        seal(bytes(length), b"", b"")
    with pytest.raises(ValueError, match="instead of 32"):
        unseal(bytes(length), bytes(16), b"")


# Ed25519, with which members sign their keys


@pytest.mark.parametrize(
    ("private", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ],
)
def test_ed25519_of_rfc_8032(private, public, message, signature):
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(private))
    assert key.public_key().public_bytes_raw().hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    verifier = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    verifier.verify(bytes.fromhex(signature), bytes.fromhex(message))
    with pytest.raises(InvalidSignature):
        verifier.verify(bytes.fromhex(signature), b"another message")
