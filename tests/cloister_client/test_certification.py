from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister_client.certification import WARNING_DAYS, Certification
from cloister_client.config import SecureConfig
from cloister_client.errors import ConfigError
from cloister_client.identity import Identity
from cloister_privacy.certificate import Authority, to_pem

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


class Papers:
    """An authority's certificate and one for a device, in files."""

    def __init__(self, folder: Path, days: int = 90, authority_days: int = 900) -> None:
        self.authority = Authority.create("hospitals", NOW, NOW + authority_days * DAY)
        self.identity = Identity(Ed25519PrivateKey.generate())
        self.config = SecureConfig(folder / "authority.pem", folder / "identity.crt")
        self.config.authority.write_bytes(to_pem(self.authority.certificate))
        self.config.certificate.write_bytes(to_pem(self.sign(self.identity, days)))

    def sign(self, identity: Identity, days: int) -> bytes:
        return self.authority.sign(identity.public_key, "ward", NOW, NOW + days * DAY)

    def load(self, now: datetime = NOW) -> Certification:
        return Certification.load(self.config, self.identity, now)


def test_what_is_in_order_is_loaded(tmp_path: Path) -> None:
    papers = Papers(tmp_path)
    loaded = papers.load()
    assert loaded.certified.key == papers.identity.public_key
    assert loaded.trust.authority.name == "hospitals"
    assert loaded.trust.identity(loaded.certificate, NOW) == papers.identity.public_key
    assert loaded.until == NOW + 90 * DAY


def test_its_end_is_announced(tmp_path: Path) -> None:
    loaded = Papers(tmp_path).load()
    end = NOW + 90 * DAY
    assert loaded.ending(NOW) is None
    assert loaded.ending(end - (WARNING_DAYS + 1) * DAY) is None
    assert "2026-08-30" in str(loaded.ending(end - (WARNING_DAYS - 1) * DAY))
    assert loaded.fault(end - DAY) is None
    assert "expired" in str(loaded.fault(end + DAY))


def test_the_authoritys_own_end_counts(tmp_path: Path) -> None:
    loaded = Papers(tmp_path, days=90, authority_days=90).load()
    assert loaded.until == NOW + 90 * DAY


def test_a_certificate_of_another_key(tmp_path: Path) -> None:
    papers = Papers(tmp_path)
    other = Identity(Ed25519PrivateKey.generate())
    papers.config.certificate.write_bytes(to_pem(papers.sign(other, 90)))
    with pytest.raises(ConfigError, match=f"is for client {other.client_id}, but this device"):
        papers.load()


@pytest.mark.parametrize(
    ("now", "message"), [(NOW - DAY, "not valid before"), (NOW + 91 * DAY, "expired at.*--again")]
)
def test_a_certificate_of_another_time(tmp_path: Path, now: datetime, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Papers(tmp_path).load(now)


def test_a_certificate_of_another_authority(tmp_path: Path) -> None:
    papers, other = Papers(tmp_path), Authority.create("others", NOW, NOW + 900 * DAY)
    papers.config.authority.write_bytes(to_pem(other.certificate))
    with pytest.raises(ConfigError, match=r"identity\.crt: another authority than 'others'"):
        papers.load()


@pytest.mark.parametrize("setting", ["authority", "certificate"])
def test_files_that_are_none(tmp_path: Path, setting: str) -> None:
    papers = Papers(tmp_path)
    path = getattr(papers.config, setting)
    where = rf"\[secure_aggregation\] {setting}: "
    path.write_text("junk")
    with pytest.raises(ConfigError, match=where + r".*not one certificate in PEM"):
        papers.load()
    path.unlink()
    with pytest.raises(ConfigError, match=where + "cannot read"):
        papers.load()


def test_a_devices_certificate_is_no_authoritys(tmp_path: Path) -> None:
    papers = Papers(tmp_path)
    papers.config.authority.write_bytes(papers.config.certificate.read_bytes())
    with pytest.raises(ConfigError, match=r"authority: .*may not sign"):
        papers.load()
