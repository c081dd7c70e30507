"""X.509 certificates by which the members of a cohort know each other's identity keys.

An offline authority signs one for each device's Ed25519 key; whoever pins the authority's own
certificate can check them (RFC 5280 for the form, RFC 8410 for Ed25519 in it). There is no chain
in between and no revocation list.

`Trust` verifies the signature over the received bytes before the X.509 parser sees any of them:
no bytes reach it that the authority did not sign (``envelope``).
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID

from cloister_privacy.envelope import (
    MAX_BYTES,
    MAX_SERIAL,
    BadCertificate,
    Envelope,
    Reason,
    malformed,
    too_long,
)

__all__ = [
    "MAX_BYTES",
    "MAX_CACHED",
    "MAX_SERIAL",
    "Authority",
    "BadCertificate",
    "Certified",
    "Reason",
    "Trust",
    "from_pem",
    "to_pem",
]

MAX_CACHED = 16_384
"""Verified certificates that a `Trust` remembers, about 5 MB; of more, those used last."""
_PROCESSED = (ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE)
_PARSER_ERRORS = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    Warning,  # of oddities in what the authority signed, where a process makes warnings errors
)


@dataclass(frozen=True)
class Certified:
    """What the authority says about an identity."""

    key: bytes
    """Ed25519 public key, 32 bytes."""
    name: str
    """For people; nothing else rests on it."""
    serial: int
    not_before: datetime
    not_after: datetime
    """UTC, and the last second of it is included."""

    @property
    def client_id(self) -> str:
        """First 32 hexadecimal digits of the SHA-256 of the public key."""
        return hashlib.sha256(self.key).hexdigest()[:32]


class Trust:
    """In one authority: checks certificates that it has signed. May be used by several threads.

    Args:
        authority: its own certificate, DER. Pinned: only its key counts, and its name.
        cached: verified certificates to remember.

    Raises:
        BadCertificate: it is not an authority's.
    """

    def __init__(self, authority: bytes, cached: int = MAX_CACHED) -> None:
        envelope = Envelope.of(authority)
        certificate = _parsed(authority)
        usage = _extension(certificate, x509.KeyUsage)
        constraints = _extension(certificate, x509.BasicConstraints)
        if constraints is None or not constraints.ca or usage is None or not usage.key_cert_sign:
            raise BadCertificate(Reason.NO_AUTHORITY, "it is not an authority's: it may not sign")
        if certificate.issuer != certificate.subject:
            raise BadCertificate(Reason.NO_AUTHORITY, "another authority has signed it")
        _refuse_unprocessed(certificate)
        self.authority = _certified(certificate)
        """What the authority says about itself."""
        self._issuer = envelope.issuer
        self._key = Ed25519PublicKey.from_public_bytes(self.authority.key)
        envelope.verify(self._key)
        self._limit = cached
        self._cache: OrderedDict[bytes, tuple[bytes, float, float]] = OrderedDict()
        self._lock = threading.Lock()
        self._window = _window(self.authority)

    def identity(self, certificate: bytes, now: datetime | float) -> bytes:
        """The certified Ed25519 public key, 32 bytes.

        Args:
            certificate: DER, from anybody.
            now: the time at which it has to be valid, as the authority's own has; with a time
                zone, or in seconds since the Unix epoch.

        Raises:
            BadCertificate: with the reason.
        """
        moment = _seconds(now)
        if len(certificate) > MAX_BYTES:
            raise too_long(certificate)
        digest = hashlib.sha256(certificate).digest()
        with self._lock:
            if (found := self._cache.get(digest)) is not None:
                self._cache.move_to_end(digest)
        if found is None:
            certified = self.certified(certificate)
            found = (certified.key, *_window(certified))
            with self._lock:
                self._cache[digest] = found
                while len(self._cache) > self._limit:
                    self._cache.popitem(last=False)
        key, *window = found
        _check_window("it", window, moment)
        _check_window("its authority's certificate", self._window, moment)
        return key

    def certified(self, certificate: bytes) -> Certified:
        """What a certificate says, verified in all but the time. Raises BadCertificate."""
        envelope = Envelope.of(certificate)
        if envelope.issuer != self._issuer:
            raise BadCertificate(
                Reason.WRONG_ISSUER,
                f"another authority than {self.authority.name!r} has issued it",
            )
        envelope.verify(self._key)
        parsed = _parsed(certificate)
        _refuse_unprocessed(parsed)
        constraints = _extension(parsed, x509.BasicConstraints)
        if constraints is not None and constraints.ca:
            raise BadCertificate(Reason.IS_AUTHORITY, "it is an authority's, not a member's")
        usage = _extension(parsed, x509.KeyUsage)
        if usage is None or not usage.digital_signature or usage.key_cert_sign or usage.crl_sign:
            raise BadCertificate(Reason.WRONG_USAGE, "its key is not for digital signatures only")
        # An authority may sign for other ends too: a TLS server's certificate makes no member.
        purposes = _extension(parsed, x509.ExtendedKeyUsage)
        if purposes is not None and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in purposes:
            raise BadCertificate(Reason.WRONG_USAGE, "it was issued for another purpose")
        return _certified(parsed)


class Authority:
    """Who signs; its key belongs on a machine without a network."""

    def __init__(self, key: Ed25519PrivateKey, certificate: bytes) -> None:
        trust = Trust(certificate)
        if trust.authority.key != key.public_key().public_bytes_raw():
            raise ValueError("the authority's key and certificate do not belong together")
        self.certificate = certificate
        """Its own, DER: what members pin."""
        self.certified = trust.authority
        """What that says."""
        self._key = key
        self._subject = _parsed(certificate).subject

    @classmethod
    def create(cls, name: str, not_before: datetime, not_after: datetime) -> Authority:
        """A new one, with a new key.

        Args:
            name: for people, 1 to 64 bytes in UTF-8.
            not_before, not_after: with a time zone; to whole seconds.

        Raises:
            ValueError: the name or the times make no sense.
        """
        key = Ed25519PrivateKey.generate()
        subject = _subject(name)
        certificate = (
            _builder(subject, subject, key.public_key(), not_before, not_after, None)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True), critical=True)
            .sign(key, None)
        )
        return cls(key, certificate.public_bytes(serialization.Encoding.DER))

    @classmethod
    def load(cls, key: bytes, certificate: bytes, passphrase: bytes | None = None) -> Authority:
        """From PEM files' contents.

        Raises:
            ValueError: no Ed25519 key, another passphrase, or they do not belong together.
            BadCertificate: the certificate is not an authority's.
        """
        try:
            private = serialization.load_pem_private_key(key, passphrase)
        except TypeError as error:
            if passphrase is None:
                raise ValueError("the authority's key needs its passphrase") from error
            raise ValueError("the authority's key has no passphrase; give none") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            wrong = "" if passphrase is None else ", or the passphrase is another"
            raise ValueError(f"no private key in PEM{wrong}") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError("the authority's key is of another kind than Ed25519")
        return cls(private, from_pem(certificate))

    def private_pem(self, passphrase: bytes | None = None) -> bytes:
        """The private key as PKCS #8 in PEM; encrypted if there is a passphrase."""
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase is not None:
            encryption = serialization.BestAvailableEncryption(passphrase)
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )

    def sign(
        self,
        public_key: bytes,
        name: str,
        not_before: datetime,
        not_after: datetime,
        serial: int | None = None,
    ) -> bytes:
        """A certificate for an identity key, DER.

        Args:
            public_key: Ed25519, 32 bytes.
            name: for people, 1 to 64 bytes in UTF-8.
            not_before, not_after: with a time zone; to whole seconds, and not longer than the
                authority's own.
            serial: 1 to `MAX_SERIAL`, never used before; left out: a random one.

        Raises:
            ValueError: an argument makes no sense.
        """
        own = self.certified
        if _whole(not_before) < own.not_before or _whole(not_after) > own.not_after:
            raise ValueError(
                f"the authority's own certificate is valid from {_shown(own.not_before)} to "
                f"{_shown(own.not_after)}; none that it signs may be for longer"
            )
        key = Ed25519PublicKey.from_public_bytes(public_key)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            _builder(_subject(name), self._subject, key, not_before, not_after, serial)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(issuer, critical=False)
            .sign(self._key, None)
        )
        return certificate.public_bytes(serialization.Encoding.DER)


def to_pem(certificate: bytes) -> bytes:
    """A DER certificate as people pass it on."""
    return _parsed(certificate).public_bytes(serialization.Encoding.PEM)


def from_pem(pem: bytes) -> bytes:
    """The DER of the one certificate in a PEM file. Raises BadCertificate."""
    try:
        (certificate,) = x509.load_pem_x509_certificates(pem)
    except _PARSER_ERRORS as error:
        raise BadCertificate(Reason.MALFORMED, "it is not one certificate in PEM") from error
    return certificate.public_bytes(serialization.Encoding.DER)


def _parsed(der: bytes) -> x509.Certificate:
    """With its extensions read."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        _ = certificate.extensions
    except _PARSER_ERRORS as error:
        raise malformed() from error
    return certificate


def _certified(certificate: x509.Certificate) -> Certified:
    try:
        key = certificate.public_key()
    except _PARSER_ERRORS as error:
        raise _wrong_key() from error
    if not isinstance(key, Ed25519PublicKey):
        raise _wrong_key()
    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return Certified(
            key.public_bytes_raw(),
            " ".join(str(name.value) for name in names),
            certificate.serial_number,
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
        )
    except _PARSER_ERRORS as error:
        raise malformed() from error


def _refuse_unprocessed(certificate: x509.Certificate) -> None:
    """RFC 5280, 4.2: what is critical and not understood makes the certificate invalid."""
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _PROCESSED:
            raise BadCertificate(
                Reason.UNKNOWN_EXTENSION,
                f"its critical extension {extension.oid.dotted_string} is not known here",
            )


def _extension(certificate: x509.Certificate, kind: type[Any]) -> Any:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: Ed25519PublicKey,
    not_before: datetime,
    not_after: datetime,
    serial: int | None,
) -> x509.CertificateBuilder:
    if serial is None:
        serial = x509.random_serial_number()
    if not 0 < serial <= MAX_SERIAL:
        raise ValueError("a certificate's serial number has to be from 1 to 2^159 - 1")
    begin, end = _whole(not_before), _whole(not_after)
    if begin >= end:
        raise ValueError("a certificate has to end after it begins")
    identifier = x509.SubjectKeyIdentifier.from_public_key(key)
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(identifier, critical=False)
    )


def _subject(name: str) -> x509.Name:
    if not name.isprintable() or not 1 <= len(name.encode()) <= 64:
        raise ValueError("a certificate's name takes 1 to 64 bytes of printable characters")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _whole(moment: datetime) -> datetime:
    """To whole seconds, in UTC."""
    if moment.tzinfo is None:
        raise ValueError("a time without a time zone means another one elsewhere")
    return moment.astimezone(UTC).replace(microsecond=0)


def _seconds(moment: datetime | float) -> float:
    return _whole(moment).timestamp() if isinstance(moment, datetime) else moment


def _window(certified: Certified) -> tuple[float, float]:
    return certified.not_before.timestamp(), certified.not_after.timestamp()


def _check_window(whose: str, window: list[float] | tuple[float, float], moment: float) -> None:
    begin, end = window
    # asked this way round, a time that is no number is refused too
    if not moment >= begin:
        raise BadCertificate(Reason.NOT_YET_VALID, f"{whose} is not valid before {_shown(begin)}")
    if not moment < end + 1:
        raise BadCertificate(Reason.EXPIRED, f"{whose} expired at {_shown(end)}")


def _shown(moment: datetime | float) -> str:
    if not isinstance(moment, datetime):
        moment = datetime.fromtimestamp(moment, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _wrong_key() -> BadCertificate:
    return BadCertificate(Reason.WRONG_KEY, "its key is of another kind than Ed25519")
