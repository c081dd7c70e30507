"""A certificate before anything in it is believed: what is signed, by what name, how.

Everything outside the signed part has to be what DER prescribes, byte for byte, so that a
certificate has one form only. That part's own form is the X.509 parser's to check, once it is
known that the authority has signed it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloister_privacy.errors import PrivacyError

MAX_BYTES = 1024
"""Longest certificate in DER; those we make have less than 500 bytes."""
MAX_SERIAL = (1 << 159) - 1
"""RFC 5280, 4.1.2.2: at most 20 octets, and not negative."""

_SEQUENCE, _INTEGER = 0x30, 0x02
_VERSION_3 = bytes.fromhex("a003020102")
_ED25519 = bytes.fromhex("300506032b6570")
_SEAL = _ED25519 + bytes.fromhex("034100")  # then come the 64 bytes of the signature
_SIGNATURE_BYTES = 64


class Reason(StrEnum):
    """Why a certificate is none."""

    TOO_LONG = "too_long"
    MALFORMED = "malformed"
    """No X.509 v3 certificate in DER."""
    TRAILING_BYTES = "trailing_bytes"
    WRONG_ISSUER = "wrong_issuer"
    BAD_SIGNATURE = "bad_signature"
    WRONG_KEY = "wrong_key"
    """For another kind of key than Ed25519."""
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    IS_AUTHORITY = "is_authority"
    """It may sign others, which no member's may."""
    UNKNOWN_EXTENSION = "unknown_extension"
    """One that is critical and says what is not processed here."""
    WRONG_USAGE = "wrong_usage"
    """Not for digital signatures, or for something else."""
    NO_AUTHORITY = "no_authority"
    """What should be pinned is not an authority's certificate."""


class BadCertificate(PrivacyError):
    """No valid identity certificate of the authority.

    Attributes:
        reason: of the kinds there are.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Envelope:
    """A certificate before anything in it is believed."""

    issuer: bytes
    """Its name, DER."""
    signed: bytes
    """What the signature is over, DER (TBSCertificate)."""
    seal: bytes
    """Algorithm and signature, DER."""

    @classmethod
    def of(cls, der: bytes) -> Envelope:
        """Take a certificate apart as far as its issuer (RFC 5280, 4.1); raises BadCertificate."""
        if len(der) > MAX_BYTES:
            raise too_long(der)
        outer, end = _content(der, 0, len(der), _SEQUENCE)
        if end < len(der):
            raise BadCertificate(
                Reason.TRAILING_BYTES, f"{len(der) - end} bytes come after its end"
            )
        inner, sealed = _content(der, outer, end, _SEQUENCE)
        if not der.startswith(_VERSION_3, inner):
            raise malformed()
        serial, at = _content(der, inner + len(_VERSION_3), sealed, _INTEGER)
        if not 0 < int.from_bytes(der[serial:at], signed=True) <= MAX_SERIAL:
            raise malformed()
        _, issuer = _content(der, at, sealed, _SEQUENCE)
        inner_algorithm = der[at:issuer]
        _, at = _content(der, issuer, sealed, _SEQUENCE)
        seal = der[sealed:end]
        if not seal.startswith(inner_algorithm):
            raise malformed()
        return cls(der[issuer:at], der[outer:sealed], seal)

    def verify(self, key: Ed25519PublicKey) -> None:
        """Whether this key has signed it; raises BadCertificate if not."""
        if not self.seal.startswith(_SEAL) or len(self.seal) != len(_SEAL) + _SIGNATURE_BYTES:
            raise BadCertificate(Reason.BAD_SIGNATURE, "it is not signed with Ed25519")
        try:
            key.verify(self.seal[len(_SEAL) :], self.signed)
        except InvalidSignature as error:
            raise BadCertificate(
                Reason.BAD_SIGNATURE, "its signature is not the authority's"
            ) from error


def _content(der: bytes, at: int, limit: int, tag: int) -> tuple[int, int]:
    """Where the content of the element at `at` begins and ends; shortest lengths only."""
    if at + 2 > limit or der[at] != tag:
        raise malformed()
    length, begin = der[at + 1], at + 2
    if length >= 0x80:
        count = length - 0x80
        digits = der[begin : min(begin + count, limit)]
        length, begin = int.from_bytes(digits), begin + count
        # 0x80 is BER's unknown length, and no certificate here needs more than two bytes
        if count not in (1, 2) or len(digits) < count or length < (0x80, 0x100)[count - 1]:
            raise malformed()
    if begin + length > limit:
        raise malformed()
    return begin, begin + length


def too_long(der: bytes) -> BadCertificate:
    """What to raise for too many bytes."""
    return BadCertificate(
        Reason.TOO_LONG, f"it has {len(der)} bytes; there may be {MAX_BYTES} at most"
    )


def malformed() -> BadCertificate:
    """What to raise for bytes that are no certificate."""
    return BadCertificate(Reason.MALFORMED, "it is no X.509 v3 certificate in DER")
