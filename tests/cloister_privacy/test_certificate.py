from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from cloister_privacy.certificate import (
    MAX_BYTES,
    MAX_SERIAL,
    Authority,
    BadCertificate,
    Reason,
    Trust,
    from_pem,
    to_pem,
)

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 6, 1, tzinfo=UTC)
END = datetime(2036, 1, 1, tzinfo=UTC)
DER = serialization.Encoding.DER

AUTHORITY = Authority.create("the hospitals", BEGIN, END)
AUTHORITY_KEY = serialization.load_pem_private_key(AUTHORITY.private_pem(), None)
assert isinstance(AUTHORITY_KEY, Ed25519PrivateKey)
MEMBER = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
VALID = AUTHORITY.sign(MEMBER, "ward-7", BEGIN, END, serial=7)
ONE_BIT = tuple(range(8 * len(VALID)))


def usage(*names: str) -> x509.KeyUsage:
    kinds = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{kind: kind in names for kind in kinds})


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def issued(
    *extensions: tuple[x509.ExtensionType, bool],
    key: Any = None,
    issuer: str = "the hospitals",
    signer: Any = None,
) -> bytes:
    """What somebody could sign with other software; the authority's key unless told otherwise."""
    member = Ed25519PrivateKey.generate()
    builder = (
        x509.CertificateBuilder()
        .issuer_name(named(issuer))
        .subject_name(named("ward-7"))
        .public_key((key or member).public_key())
        .serial_number(8)
        .not_valid_before(BEGIN)
        .not_valid_after(END)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    signer = signer or AUTHORITY_KEY
    digest = hashes.SHA256() if isinstance(signer, ec.EllipticCurvePrivateKey) else None
    return builder.sign(signer, digest).public_bytes(DER)


MEMBERS = (usage("digital_signature"), True)
NO_AUTHORITY = (x509.BasicConstraints(ca=False, path_length=None), True)


def element(tag: int, content: bytes) -> bytes:
    """DER, written anew."""
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    digits = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 128 + len(digits)]) + digits + content


def sealed(signed: bytes) -> bytes:
    """A certificate around anything, with the authority's signature."""
    signature = AUTHORITY_KEY.sign(signed)
    algorithm = element(0x30, element(0x06, bytes.fromhex("2b6570")))
    return element(0x30, signed + algorithm + element(0x03, b"\0" + signature))


def refused(certificate: bytes, now: datetime | float = NOW) -> BadCertificate:
    with pytest.raises(BadCertificate) as caught:
        Trust(AUTHORITY.certificate).identity(certificate, now)
    return caught.value


# What the authority signs


def test_a_certificate_gives_the_key_and_all_that_is_said_about_it() -> None:
    trust = Trust(AUTHORITY.certificate)
    assert trust.identity(VALID, NOW) == MEMBER
    found = trust.certified(VALID)
    assert (found.key, found.name, found.serial) == (MEMBER, "ward-7", 7)
    assert (found.not_before, found.not_after) == (BEGIN, END)
    assert found.client_id == hashlib.sha256(MEMBER).hexdigest()[:32]
    assert trust.authority.name == "the hospitals"


def test_the_parts_of_a_certificate_are_those_of_the_standard() -> None:
    certificate = x509.load_der_x509_certificate(VALID)
    assert certificate.version is x509.Version.v3
    assert certificate.subject == named("ward-7")
    assert certificate.issuer == named("the hospitals")
    parts = {type(part.value): part for part in certificate.extensions}
    assert parts[x509.BasicConstraints].critical
    assert parts[x509.BasicConstraints].value == NO_AUTHORITY[0]
    assert parts[x509.KeyUsage].critical
    assert parts[x509.KeyUsage].value == usage("digital_signature")
    identifier = parts[x509.SubjectKeyIdentifier]
    assert identifier.value.digest == hashlib.sha1(MEMBER).digest()  # RFC 5280, 4.2.1.2 (1)
    authority = x509.load_der_x509_certificate(AUTHORITY.certificate)
    authority.verify_directly_issued_by(authority)
    certificate.verify_directly_issued_by(authority)
    parts = {type(part.value): part for part in authority.extensions}
    assert parts[x509.BasicConstraints].value == x509.BasicConstraints(ca=True, path_length=0)
    assert parts[x509.KeyUsage].value == usage("key_cert_sign")
    assert all(parts[kind].critical for kind in (x509.BasicConstraints, x509.KeyUsage))


@settings(suppress_health_check=[HealthCheck.filter_too_much])  # names that cannot be printed
@given(
    name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=64),
    serial=st.integers(1, MAX_SERIAL),
    begins=st.integers(0, 10**8),
    lasts=st.integers(1, 10**8),
)
def test_whatever_is_signed_is_trusted(name: str, serial: int, begins: int, lasts: int) -> None:
    assume(name.isprintable() and len(name.encode()) <= 64)
    begin = BEGIN + timedelta(seconds=begins)
    end = begin + timedelta(seconds=lasts)
    certificate = AUTHORITY.sign(MEMBER, name, begin, end, serial)
    trust = Trust(AUTHORITY.certificate)
    assert trust.identity(certificate, begin) == MEMBER
    assert (trust.certified(certificate).name, trust.certified(certificate).serial) == (
        name,
        serial,
    )


def test_the_longest_names_leave_room() -> None:
    authority = Authority.create("h" * 64, BEGIN, END)
    certificate = authority.sign(MEMBER, "w" * 64, BEGIN, END, MAX_SERIAL)
    assert len(certificate) < 500
    assert Trust(authority.certificate).identity(certificate, NOW) == MEMBER


def test_serial_numbers_are_random_unless_given() -> None:
    trust = Trust(AUTHORITY.certificate)
    serials = {trust.certified(AUTHORITY.sign(MEMBER, "a", BEGIN, END)).serial for _ in range(5)}
    assert len(serials) == 5
    assert all(0 < serial <= MAX_SERIAL for serial in serials)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"public_key": b"k" * 31}, "32 bytes"),
        ({"name": ""}, "1 to 64 bytes"),
        ({"name": "w" * 65}, "1 to 64 bytes"),
        ({"name": "ü" * 33}, "1 to 64 bytes"),
        ({"name": "a\nb"}, "printable"),
        ({"serial": 0}, "serial number"),
        ({"serial": -1}, "serial number"),
        ({"serial": MAX_SERIAL + 1}, "serial number"),
        ({"not_after": BEGIN}, "end after"),
        ({"not_before": BEGIN - timedelta(seconds=1)}, "may be for longer"),
        ({"not_after": END + timedelta(seconds=1)}, "may be for longer"),
        ({"not_after": datetime(2030, 1, 1)}, "time zone"),
    ],
)
def test_what_makes_no_sense_is_not_signed(changed: dict[str, Any], words: str) -> None:
    usual = {"public_key": MEMBER, "name": "w", "not_before": BEGIN, "not_after": END}
    with pytest.raises(ValueError, match=words):
        AUTHORITY.sign(**(usual | changed))


def test_times_of_other_zones_and_with_fractions_are_the_same_times() -> None:
    from zoneinfo import ZoneInfo

    berlin = datetime(2026, 6, 1, 2, 0, 0, 999_999, tzinfo=ZoneInfo("Europe/Berlin"))
    certificate = AUTHORITY.sign(MEMBER, "w", berlin, END)
    assert Trust(AUTHORITY.certificate).certified(certificate).not_before == NOW


# The authority's files


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_an_authority_survives_its_files(passphrase: bytes | None) -> None:
    pem = AUTHORITY.private_pem(passphrase)
    assert (b"ENCRYPTED" in pem) == (passphrase is not None)
    again = Authority.load(pem, to_pem(AUTHORITY.certificate), passphrase)
    assert again.certificate == AUTHORITY.certificate
    certificate = again.sign(MEMBER, "w", BEGIN, END)
    assert Trust(AUTHORITY.certificate).identity(certificate, NOW) == MEMBER


def test_an_authority_is_not_loaded_from_anything_else() -> None:
    certificate = to_pem(AUTHORITY.certificate)
    plain, locked = AUTHORITY.private_pem(), AUTHORITY.private_pem(b"right")
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    other = ec.generate_private_key(ec.SECP256R1())
    bare = other.private_bytes(pem, form, serialization.NoEncryption())
    for key, passphrase, words in (
        (locked, None, "needs its passphrase"),
        (locked, b"wrong", "passphrase is another"),
        (plain, b"right", "no passphrase"),
        (b"nonsense", None, "no private key in PEM"),
        (bare, None, "another kind"),
        (Authority.create("x", BEGIN, END).private_pem(), None, "belong together"),
    ):
        with pytest.raises(ValueError, match=words):
            Authority.load(key, certificate, passphrase)
    with pytest.raises(BadCertificate, match="not an authority's"):
        Authority.load(plain, to_pem(VALID))
    with pytest.raises(BadCertificate, match="in PEM"):
        Authority.load(plain, b"nonsense")


def test_pem_is_read_and_written() -> None:
    assert from_pem(to_pem(VALID)) == VALID
    with pytest.raises(BadCertificate, match="one certificate"):
        from_pem(to_pem(VALID) + to_pem(AUTHORITY.certificate))
    with pytest.raises(BadCertificate):
        to_pem(b"nonsense")


@given(st.binary(max_size=200) | st.binary(max_size=99).map(lambda x: to_pem(VALID)[:-99] + x))
def test_whatever_a_pem_file_holds(data: bytes) -> None:
    try:
        from_pem(data)
    except BadCertificate:
        return
    assert b"BEGIN CERTIFICATE" in data


@pytest.mark.parametrize("years", [1949, 9999])
def test_the_ends_of_time(years: int) -> None:
    moment = datetime(years, 12, 31, tzinfo=UTC)
    if years < 1950:
        with pytest.raises(ValueError, match="1950"):
            Authority.create("a", moment, END)
    else:
        authority = Authority.create("a", BEGIN, moment)
        certificate = authority.sign(MEMBER, "w", BEGIN, moment)
        assert Trust(authority.certificate).identity(certificate, moment) == MEMBER


# Whom to trust

ROOT = ((x509.BasicConstraints(ca=True, path_length=None), True), (usage("key_cert_sign"), True))


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        (VALID, Reason.NO_AUTHORITY),
        (issued(), Reason.NO_AUTHORITY),
        (issued(ROOT[0]), Reason.NO_AUTHORITY),
        (issued(ROOT[1]), Reason.NO_AUTHORITY),
        (issued(*ROOT), Reason.NO_AUTHORITY),  # an authority below another
        (issued(*ROOT, issuer="ward-7"), Reason.BAD_SIGNATURE),
        (
            issued(
                *ROOT,
                *[(x509.InhibitAnyPolicy(0), True)],
                issuer="ward-7",
                key=AUTHORITY_KEY,
            ),
            Reason.UNKNOWN_EXTENSION,
        ),
        (AUTHORITY.certificate[:-1], Reason.MALFORMED),
        (AUTHORITY.certificate + b"\0", Reason.TRAILING_BYTES),
        (b"\0" * (MAX_BYTES + 1), Reason.TOO_LONG),
        (b"", Reason.MALFORMED),
    ],
)
def test_only_an_authority_is_pinned(certificate: bytes, reason: Reason) -> None:
    with pytest.raises(BadCertificate) as caught:
        Trust(certificate)
    assert caught.value.reason is reason


def test_an_authority_of_another_algorithm_is_not_pinned() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(BadCertificate) as caught:
        Trust(issued(*ROOT, issuer="ward-7", key=key, signer=key))
    assert caught.value.reason is Reason.WRONG_KEY


def test_an_authority_made_by_other_software_is_pinned() -> None:
    trust = Trust(issued(*ROOT, issuer="ward-7", key=AUTHORITY_KEY))
    assert trust.identity(issued(MEMBERS, issuer="ward-7"), NOW)


# What is refused, and why


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        (VALID + bytes(MAX_BYTES), Reason.TOO_LONG),
        (VALID + b"\0", Reason.TRAILING_BYTES),
        (VALID[:-1], Reason.MALFORMED),
        (to_pem(VALID), Reason.MALFORMED),
        (b"", Reason.MALFORMED),
        (b"\x30\x80", Reason.MALFORMED),
        (b"\x30\x00", Reason.MALFORMED),
        (AUTHORITY.certificate, Reason.IS_AUTHORITY),
        (issued(MEMBERS, issuer="another"), Reason.WRONG_ISSUER),
        (issued(MEMBERS, issuer="The hospitals"), Reason.WRONG_ISSUER),
        (issued(MEMBERS, signer=Ed25519PrivateKey.generate()), Reason.BAD_SIGNATURE),
        (issued(MEMBERS, signer=ec.generate_private_key(ec.SECP256R1())), Reason.BAD_SIGNATURE),
        (issued(MEMBERS, key=ec.generate_private_key(ec.SECP256R1())), Reason.WRONG_KEY),
        (issued(MEMBERS, key=x25519.X25519PrivateKey.generate()), Reason.WRONG_KEY),
        (issued(MEMBERS, (ROOT[0][0], True)), Reason.IS_AUTHORITY),
        (issued(MEMBERS, (ROOT[0][0], False)), Reason.IS_AUTHORITY),
        (issued(NO_AUTHORITY), Reason.WRONG_USAGE),
        (issued((usage("key_agreement"), True)), Reason.WRONG_USAGE),
        (issued((usage("digital_signature", "key_cert_sign"), True)), Reason.WRONG_USAGE),
        (issued((usage("digital_signature", "crl_sign"), True)), Reason.WRONG_USAGE),
        (
            issued(MEMBERS, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)),
            Reason.WRONG_USAGE,
        ),
        (
            issued(MEMBERS, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), True)),
            Reason.UNKNOWN_EXTENSION,
        ),
        (issued(MEMBERS, (x509.InhibitAnyPolicy(0), True)), Reason.UNKNOWN_EXTENSION),
        (
            issued(
                MEMBERS,
                (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"x"), True),
            ),
            Reason.UNKNOWN_EXTENSION,
        ),
    ],
)
def test_what_is_no_identity_is_refused_with_its_reason(certificate: bytes, reason: Reason) -> None:
    assert refused(certificate).reason is reason


@pytest.mark.parametrize(
    "extensions",
    [
        (MEMBERS,),
        (MEMBERS, (NO_AUTHORITY[0], False)),
        ((MEMBERS[0], False), NO_AUTHORITY),
        (MEMBERS, (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"x"), False)),
        (
            MEMBERS,
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), False),
        ),
    ],
)
def test_what_other_software_signs_is_trusted(
    extensions: tuple[tuple[x509.ExtensionType, bool], ...],
) -> None:
    key = Ed25519PrivateKey.generate()
    certificate = issued(*extensions, key=key)
    found = Trust(AUTHORITY.certificate).identity(certificate, NOW)
    assert found == key.public_key().public_bytes_raw()


def test_a_name_shared_by_two_authorities_is_no_help() -> None:
    other = Authority.create("the hospitals", BEGIN, END)
    assert refused(other.sign(MEMBER, "w", BEGIN, END)).reason is Reason.BAD_SIGNATURE


# The time


def test_both_ends_of_a_validity_count_at_every_use() -> None:
    begin, end = NOW, NOW + timedelta(days=1)
    certificate = AUTHORITY.sign(MEMBER, "w", begin, end)
    trust = Trust(AUTHORITY.certificate)
    second = timedelta(seconds=1)
    for _ in range(2):  # the second time from memory
        assert trust.identity(certificate, begin) == MEMBER
        assert trust.identity(certificate, end) == MEMBER
        assert trust.identity(certificate, end.timestamp() + 0.9) == MEMBER
        with pytest.raises(BadCertificate, match="not valid before 2026-06-01 00:00:00 UTC"):
            trust.identity(certificate, begin - second)
        with pytest.raises(BadCertificate, match="expired at 2026-06-02 00:00:00 UTC") as caught:
            trust.identity(certificate, end + second)
        assert caught.value.reason is Reason.EXPIRED


def test_nobody_is_certified_once_the_authority_has_expired() -> None:
    trust = Trust(AUTHORITY.certificate)
    assert trust.identity(VALID, END) == MEMBER
    assert refused(VALID, END + timedelta(days=1)).reason is Reason.EXPIRED
    longer = issued_until(END + timedelta(days=900))
    with pytest.raises(BadCertificate, match="authority's certificate expired"):
        trust.identity(longer, END + timedelta(days=1))


def issued_until(end: datetime) -> bytes:
    """Past the authority's own end, as other software might."""
    builder = x509.CertificateBuilder(
        named("the hospitals"),
        named("w"),
        Ed25519PrivateKey.generate().public_key(),
        9,
        BEGIN.replace(tzinfo=None),
        end.replace(tzinfo=None),
    ).add_extension(*MEMBERS)
    return builder.sign(AUTHORITY_KEY, None).public_bytes(DER)


def test_a_time_that_is_none_is_refused() -> None:
    assert refused(VALID, float("nan")).reason is Reason.NOT_YET_VALID
    assert refused(VALID, float("inf")).reason is Reason.EXPIRED
    with pytest.raises(ValueError, match="time zone"):
        Trust(AUTHORITY.certificate).identity(VALID, datetime(2026, 6, 1))


# What is remembered


class Counting(Trust):
    """Counts full verifications."""

    verified = 0

    def certified(self, certificate: bytes) -> Any:
        self.verified += 1
        return super().certified(certificate)


def test_a_certificate_is_verified_once_while_it_is_remembered() -> None:
    certificates = [AUTHORITY.sign(MEMBER, f"w{n}", BEGIN, END) for n in range(4)]
    trust = Counting(AUTHORITY.certificate, cached=3)
    for certificate in certificates[:3] * 2:
        trust.identity(certificate, NOW)
    assert trust.verified == 3
    trust.identity(certificates[0], NOW)
    trust.identity(certificates[3], NOW)  # in the place of 1, used longest ago
    trust.identity(certificates[0], NOW)
    assert trust.verified == 4
    trust.identity(certificates[1], NOW)
    assert trust.verified == 5


def test_what_is_refused_is_never_remembered() -> None:
    trust = Counting(AUTHORITY.certificate)
    for _ in range(2):
        with pytest.raises(BadCertificate):
            trust.identity(VALID[:-1] + bytes([VALID[-1] ^ 1]), NOW)
    assert trust.verified == 2


def test_threads_share_one_trust() -> None:
    keys = [Ed25519PrivateKey.generate().public_key().public_bytes_raw() for _ in range(12)]
    certificates = [AUTHORITY.sign(key, "w", BEGIN, END) for key in keys]
    trust = Trust(AUTHORITY.certificate, cached=5)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda c: trust.identity(c, NOW), certificates * 20))
    assert found == keys * 20


# Whatever comes


@pytest.mark.parametrize("remembered", [False, True])
def test_no_bit_of_a_certificate_can_change(remembered: bool) -> None:
    trust = Trust(AUTHORITY.certificate)
    if remembered:
        trust.identity(VALID, NOW)
    for bit in ONE_BIT:
        changed = bytearray(VALID)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadCertificate):
            trust.identity(bytes(changed), NOW)


def test_a_signature_has_one_form() -> None:
    """RFC 8032, 5.1.7: S below the order of the group, else another S would do as well."""
    order = (1 << 252) + 27742317777372353535851937790883648493
    scalar = int.from_bytes(VALID[-32:], "little") + order
    changed = VALID[:-32] + scalar.to_bytes(32, "little")
    assert refused(changed).reason is Reason.BAD_SIGNATURE


@given(st.lists(st.sampled_from(ONE_BIT), min_size=1, max_size=8, unique=True))
def test_changed_bits_never_pass(bits: list[int]) -> None:
    changed = bytearray(VALID)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    refused(bytes(changed))


@given(st.data())
def test_parts_cut_out_put_in_or_moved_never_pass(data: st.DataObject) -> None:
    at, end, to = (data.draw(st.integers(0, len(VALID))) for _ in range(3))
    part = data.draw(st.binary(max_size=8) | st.just(VALID[at:end]))
    changed = VALID[:to] + part + VALID[to + data.draw(st.integers(0, 8)) :]
    assume(changed != VALID)
    refused(changed)


@given(st.binary(max_size=MAX_BYTES + 10))
@example(b"\x30\x82\xff\xff")
@example(b"\x30\x81\x7f")
@example(b"\x30\x84\x00\x00\x00\x00")
@example(b"\x30\xff" + b"\xff" * 126)
def test_arbitrary_bytes_never_pass(data: bytes) -> None:
    refused(data)
    with pytest.raises(BadCertificate):
        Trust(data)


def statement(certificate: bytes) -> bytes:
    """The signed part."""
    return x509.load_der_x509_certificate(certificate).tbs_certificate_bytes


SIGNED = statement(VALID)


def resealed(change: Callable[[bytearray], None]) -> bytes:
    changed = bytearray(SIGNED)
    change(changed)
    return sealed(bytes(changed))


@given(st.lists(st.tuples(st.integers(0, len(SIGNED) - 1), st.integers(0, 255)), max_size=6))
def test_even_what_the_authority_signs_is_a_key_or_the_typed_error(
    changes: list[tuple[int, int]],
) -> None:
    def change(signed: bytearray) -> None:
        for at, value in changes:
            signed[at] = value

    try:
        found = Trust(AUTHORITY.certificate).identity(resealed(change), NOW)
    except BadCertificate:
        return
    assert len(found) == 32


@pytest.mark.parametrize("bit", range(8))
def test_even_with_any_one_bit_changed_before_it_is_signed(bit: int) -> None:
    trust = Trust(AUTHORITY.certificate)
    for at in range(len(SIGNED)):
        changed = bytearray(SIGNED)
        changed[at] ^= 1 << bit
        with suppress(BadCertificate):
            assert len(trust.identity(sealed(bytes(changed)), NOW)) == 32


def test_what_the_parser_only_warns_of_is_the_typed_error_where_warnings_are_errors() -> None:
    """A serial number below zero in the authority key identifier."""
    oid = x509.ObjectIdentifier("2.5.29.35")
    odd = x509.UnrecognizedExtension(oid, bytes.fromhex("3003820180"))
    assert refused(issued(MEMBERS, (odd, False))).reason is Reason.MALFORMED


def test_the_algorithm_named_inside_has_to_be_the_one_outside() -> None:
    """RFC 5280, 4.1.1.2."""
    ed448 = SIGNED.replace(bytes.fromhex("300506032b6570"), bytes.fromhex("300506032b6571"), 1)
    assert refused(sealed(ed448)).reason is Reason.MALFORMED


def test_the_tests_own_seal_is_the_real_one() -> None:
    assert sealed(SIGNED) == VALID  # Ed25519 is deterministic
