"""How a coordinator is set up."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field
from pathlib import Path

from cloister_coordinator.errors import ConfigurationError
from cloister_sandbox import Limits

MAX_JOIN_TOKEN = 256


@dataclass(frozen=True)
class CoordinatorConfig:
    """Everything a coordinator is told at its start.

    Raises:
        ConfigurationError: a setting is out of bounds, or plaintext would leave this machine.
    """

    data_dir: Path
    """Folder of all state, made if missing: database, blobs, spool, operator token."""
    address: str = "127.0.0.1:8470"
    """Host and port to listen on; port 0 takes any free one."""
    database_url: str = ""
    """SQLAlchemy URL; empty: SQLite in ``data_dir/coordinator.db``."""
    tls_certificate: Path | None = None
    """PEM file of the server's certificate chain; None: plaintext."""
    tls_key: Path | None = None
    """PEM file of its private key."""
    tls_client_ca: Path | None = None
    """PEM file of the authorities that sign clients' certificates; None: clients show none."""
    identity_authority: Path | None = None
    """PEM file of the authority that certifies clients' identities for secure aggregation; None:
    jobs with secure aggregation are refused."""
    insecure: bool = False
    """Allow plaintext beyond loopback. Everybody on the way can then read and alter all."""
    join_token: str = ""
    """Secret a client must know to enrol; at most 256 characters. Empty: anybody may."""
    reconnect_grace_seconds: float = 10.0
    """Seconds after the end of its stream until a member of a round counts as lost."""
    restart_grace_seconds: float = 60.0
    """The same after a restart of the coordinator, when all clients have to come back."""
    settle_seconds: float = 1.0
    """Seconds without a new client after which a round starts with fewer clients than wanted
    (but the minimum): clients that are coming get their chance, a small fleet does not wait."""
    retry_seconds: float = 1.0
    """Seconds to wait after an abandoned round; doubled for each in a row, at most 60."""
    fold_workers: int = 2
    """Sandboxes that fold a round's updates at once; 1 to 64."""
    max_clients: int = 100_000
    """Clients with a session; past it an enrolment is refused with RESOURCE_EXHAUSTED."""
    shutdown_seconds: float = 30.0
    """Seconds a shutdown waits for running folds before it leaves them to the next start."""
    sandbox: Limits = field(default_factory=lambda: Limits(memory_bytes=1 << 30))
    """For aggregations, and for tasks while their first model is made."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("reconnect_grace_seconds", 0.0, 86400.0),
            ("restart_grace_seconds", 0.0, 86400.0),
            ("settle_seconds", 0.0, 86400.0),
            ("retry_seconds", 0.0, 60.0),
            ("shutdown_seconds", 0.0, 86400.0),
            ("fold_workers", 1, 64),
            ("max_clients", 1, 10_000_000),
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and least <= value <= most):
                raise ConfigurationError(f"{name} is {value}; it must be from {least} to {most}")
        if len(self.join_token) > MAX_JOIN_TOKEN:
            raise ConfigurationError(f"the join token is longer than {MAX_JOIN_TOKEN} characters")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigurationError("TLS takes both a certificate and its key")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ConfigurationError("clients' certificates are only checked under TLS")
        if self.plaintext and not self.loopback and not self.insecure:
            raise ConfigurationError(
                f"{self.address} is reachable from other machines and there is no TLS:"
                " name a certificate and a key, listen on 127.0.0.1,"
                " or allow plaintext explicitly (insecure)"
            )

    @property
    def plaintext(self) -> bool:
        """Whether connections are not encrypted."""
        return self.tls_certificate is None

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        host, colon, port = self.address.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            raise ConfigurationError(f"the address {self.address!r} is not HOST:PORT")
        if host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host.strip("[]")).is_loopback
        except ValueError:
            return False
