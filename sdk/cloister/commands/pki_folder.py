"""The folder of an authority: its key, its certificate, and all that it issued.

::

    authority-key.pem       PKCS #8, for its owner's eyes only
    authority.pem           what every device pins
    issued/<serial>.pem     one file for each certificate, by its serial number in hexadecimal
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cloister.commands.failure import Mistake
from cloister_privacy.certificate import (
    Authority,
    BadCertificate,
    Certified,
    Trust,
    from_pem,
    to_pem,
)

BACKDATED = timedelta(hours=1)
"""A certificate begins this long before it is issued, because devices' clocks differ."""
MAX_FILE_BYTES = 64 * 1024
"""Of a PEM file; what comes behind it is not read."""
MAX_PASSPHRASE_BYTES = 1000


@dataclass(frozen=True)
class Issued:
    """One certificate on record."""

    path: Path
    certified: Certified

    @property
    def serial(self) -> str:
        """In hexadecimal, as `openssl` shows it."""
        return f"{self.certified.serial:x}"

    def state(self, now: datetime) -> str:
        """One word."""
        return "valid" if now <= self.certified.not_after else "expired"


class Folder:
    """Of one authority; nothing is read before it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.key = path / "authority-key.pem"
        self.certificate = path / "authority.pem"
        self._record = path / "issued"

    def create(self, name: str, days: int, passphrase: bytes | None, now: datetime) -> Authority:
        """Make an authority.

        Raises:
            Mistake: there is one.
            ValueError: the name is none for a certificate.
        """
        authority = Authority.create(name, now - BACKDATED, now + timedelta(days=days))
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._alone():
            for path in (self.key, self.certificate):
                if path.exists():
                    raise Mistake(
                        f"{path} exists: an authority is never overwritten, for devices may pin "
                        "it; choose another folder"
                    )
            # The key first: a certificate whose key was lost must never reach a device.
            _write(self.key, authority.private_pem(passphrase), 0o600)
            _write(self.certificate, to_pem(authority.certificate), 0o644)
        return authority

    def open(self, passphrase: bytes | None) -> Authority:
        """With the private key. Raises Mistake, saying what is amiss."""
        certificate = self._read_certificate()
        if not self.key.exists():
            raise Mistake(f"{self.key} is not there; only what has the key can sign")
        if self.key.stat().st_mode & 0o077:
            raise Mistake(f"others may read {self.key}; run `chmod 600 {self.key}`")
        try:
            return Authority.load(_read(self.key), to_pem(certificate), passphrase)
        except ValueError as error:
            raise Mistake(f"{self.key}: {error}") from error

    def issue(
        self, signer: Authority, key: bytes, name: str, days: int, now: datetime, *, again: bool
    ) -> Issued:
        """Certify a public key, and put it on record.

        Raises:
            Mistake: the key has a valid certificate (unless `again`), or the authority ends before
                this one would.
            ValueError: the name is none for a certificate.
        """
        own = signer.certified
        if now > own.not_after:
            raise Mistake(
                f"the authority {own.name} expired at {date(own.not_after)}; "
                "make a new one with `cloister pki init`, for every device to pin"
            )
        end = now + timedelta(days=days)
        if end > own.not_after:
            left = (own.not_after - now).days
            raise Mistake(
                f"the authority {own.name} itself is valid until {date(own.not_after)} only; "
                f"give --days {left} or less"
                if left
                else f"the authority {own.name} ends today; make a new one with `cloister pki init`"
            )
        with self._alone():
            for other in self.issued():
                if other.certified.key == key and other.state(now) == "valid" and not again:
                    raise Mistake(
                        f"client {other.certified.client_id} has a certificate, valid until "
                        f"{date(other.certified.not_after)}: {other.path}; "
                        "--again issues another"
                    )
            begin = max(now - BACKDATED, own.not_before)
            certificate = signer.sign(key, name, begin, end)
            issued = self._of(certificate)
            self._record.mkdir(exist_ok=True)
            _write(issued.path, to_pem(certificate), 0o644)
        return issued

    def issued(self) -> list[Issued]:
        """All on record, the oldest first. Raises Mistake for a file that is no such record."""
        trust = Trust(self._read_certificate())
        found = []
        for path in self._record.glob("*.pem"):
            try:
                found.append(Issued(path, trust.certified(from_pem(_read(path)))))
            except BadCertificate as error:
                raise Mistake(
                    f"{path} is no record of this authority's: {error}; "
                    "restore it from a copy, or take it out of the folder"
                ) from error
        return sorted(found, key=lambda one: (one.certified.not_before, one.serial))

    def _of(self, certificate: bytes) -> Issued:
        certified = Trust(self._read_certificate()).certified(certificate)
        return Issued(self._record / f"{certified.serial:x}.pem", certified)

    def _read_certificate(self) -> bytes:
        if not self.certificate.exists():
            raise Mistake(
                f"there is no authority in {self.path}; `cloister pki init {self.path}` makes one"
            )
        try:
            return from_pem(_read(self.certificate))
        except BadCertificate as error:
            raise Mistake(f"{self.certificate}: {error}; restore it from a device") from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other command writes here meanwhile."""
        handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def read_passphrase(path: Path | None) -> bytes | None:
    """What a file holds, but for the end of its line. Raises Mistake if that is nothing."""
    if path is None:
        return None
    passphrase = _read(path).rstrip(b"\r\n")
    if not 1 <= len(passphrase) <= MAX_PASSPHRASE_BYTES:
        raise Mistake(f"{path} should hold a passphrase of 1 to {MAX_PASSPHRASE_BYTES} bytes")
    return passphrase


def now() -> datetime:
    """UTC."""
    return datetime.now(UTC)


def date(moment: datetime) -> str:
    """For people."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def milliseconds(moment: datetime) -> int:
    """For programs: since the Unix epoch."""
    return int(moment.timestamp()) * 1000


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE_BYTES)


def _write(path: Path, data: bytes, mode: int) -> None:
    """A new file, whole or not at all. Raises FileExistsError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)
