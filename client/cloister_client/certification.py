"""By what this device shows that it is a member, and by what it knows the others."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cloister_client.config import SecureConfig
from cloister_client.credentials import read
from cloister_client.errors import ConfigError
from cloister_client.identity import Identity
from cloister_privacy.certificate import BadCertificate, Certified, Trust, from_pem

WARNING_DAYS = 14
"""So long before a certificate ends, each connection logs a warning."""

_RENEW = "have the authority sign this device's key again (`cloister pki sign --again`)"


@dataclass(frozen=True)
class Certification:
    """Of one device, by one authority."""

    config: SecureConfig
    identity: Identity
    certificate: bytes
    """Of that identity, DER."""
    certified: Certified
    """What it says."""
    trust: Trust

    @classmethod
    def load(cls, config: SecureConfig, identity: Identity, now: datetime) -> Certification:
        """Read what the configuration names, and check it as another member would.

        Raises:
            ConfigError: a file is no certificate, or not of this authority, this device's identity
                or this time.
        """
        try:
            trust = Trust(_pem(config.authority, "authority"))
        except BadCertificate as error:
            raise ConfigError(
                f"[secure_aggregation] authority: {config.authority}: {error}"
            ) from error
        certificate = _pem(config.certificate, "certificate")
        where = f"[secure_aggregation] certificate: {config.certificate}"
        try:
            certified = trust.certified(certificate)
            if certified.key != identity.public_key:
                raise ConfigError(
                    f"{where} is for client {certified.client_id}, but this device is client "
                    f"{identity.client_id}; have the authority sign the key that `cloister client "
                    "--identity` prints"
                )
            trust.identity(certificate, now)
        except BadCertificate as error:
            raise ConfigError(f"{where}: {error}; {_RENEW}") from error
        return cls(config, identity, certificate, certified, trust)

    @property
    def until(self) -> datetime:
        """When it ends: with the certificate or with the authority's own."""
        return min(self.certified.not_after, self.trust.authority.not_after)

    def ending(self, now: datetime) -> str | None:
        """What to warn of, if it ends within WARNING_DAYS or has ended."""
        if self.until - now > timedelta(days=WARNING_DAYS):
            return None
        return f"the certificate for secure aggregation ends at {_shown(self.until)}; {_RENEW}"

    def fault(self, now: datetime) -> str | None:
        """Why it cannot be shown now, if so: it was valid when it was loaded."""
        try:
            self.trust.identity(self.certificate, now)
        except BadCertificate as error:
            return f"this device's certificate cannot be shown: {error}"
        return None


def _pem(path: Path, setting: str) -> bytes:
    where = f"[secure_aggregation] {setting}"
    try:
        return from_pem(read(path, where))
    except BadCertificate as error:
        raise ConfigError(f"{where}: {path}: {error}") from error


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
