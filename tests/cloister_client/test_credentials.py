from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloister_client.config import CoordinatorConfig
from cloister_client.credentials import channel_credentials, join_token
from cloister_client.errors import ConfigError, Unreachable
from cloister_client.identity import Identity
from cloister_client.transport import Transport
from cloister_protos.services import add_ClientServiceServicer_to_server


class Authority:
    """Issues certificates for 127.0.0.1 and writes them as PEM files."""

    def __init__(self, folder: Path, name: str):
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.ca = self._write(f"{name}-ca.pem", self._certify(self._key, name, ca=True))

    def issue(self, name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        certificate = self._certify(key, name, ca=False)
        return self._write(f"{name}.pem", certificate), self._write(f"{name}.key", pem)

    def _certify(self, key: ec.EllipticCurvePrivateKey, name: str, *, ca: bool) -> bytes:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False
            )
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _write(self, name: str, content: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(content)
        return path


def test_mutual_tls_lets_in_only_certified_clients(coordinator: Any, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.issue("coordinator")
    server = grpc.server(ThreadPoolExecutor(2))
    add_ClientServiceServicer_to_server(coordinator, server)
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), certificate.read_bytes())],
        root_certificates=authority.ca.read_bytes(),
        require_client_auth=True,
    )
    address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    server.start()
    identity = Identity.load_or_create(tmp_path / "identity.pem")
    certificate, key = authority.issue("client")
    mutual = CoordinatorConfig(address, ca=authority.ca, certificate=certificate, key=key)
    stranger = CoordinatorConfig(address, ca=authority.ca)
    deceived = CoordinatorConfig(address, ca=Authority(tmp_path, "other").ca)
    try:
        for config in (stranger, deceived):
            transport = Transport(config)
            with pytest.raises(Unreachable):
                transport.enrol(identity, "")
            transport.close()
        transport = Transport(mutual)
        transport.enrol(identity, "")
        assert transport.enrolled
        transport.close()
    finally:
        server.stop(None).wait()


def test_wrong_files_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    certificate, key = authority.issue("client")
    _, other_key = authority.issue("other")
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")

    def config(ca: Path, certificate: Path, key: Path) -> CoordinatorConfig:
        return CoordinatorConfig("example.org:1", ca=ca, certificate=certificate, key=key)

    assert channel_credentials(config(authority.ca, certificate, key)) is not None
    assert channel_credentials(CoordinatorConfig("localhost:1")) is None
    for wrong, message in (
        (config(empty, certificate, key), "ca: .* holds no PEM certificate"),
        (config(tmp_path / "absent", certificate, key), "ca: cannot read"),
        (config(authority.ca, key, key), "certificate: .* holds no PEM certificate"),
        (config(authority.ca, certificate, certificate), "key: .* holds no unencrypted"),
        (config(authority.ca, certificate, other_key), "is not the key of"),
    ):
        with pytest.raises(ConfigError, match=message):
            channel_credentials(wrong)


def test_join_token_is_stripped_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "token"
    config = CoordinatorConfig("localhost:1", join_token_file=path)
    with pytest.raises(ConfigError, match="cannot read"):
        join_token(config)
    path.write_text("  sesame\n")
    assert join_token(config) == "sesame"
    assert join_token(CoordinatorConfig("localhost:1")) == ""
    for content in (b"\n", b"x" * 257, b"\xff"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="1 to 256 characters"):
            join_token(config)
