"""TLS files and secrets named in the configuration, read and checked before use."""

from __future__ import annotations

from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from cloister_client.config import CoordinatorConfig
from cloister_client.errors import ConfigError

_MAX_FILE_BYTES = 4 * 1024 * 1024
_MAX_JOIN_TOKEN = 256


def channel_credentials(config: CoordinatorConfig) -> grpc.ChannelCredentials | None:
    """What to open a channel with; None: plaintext. Raises ConfigError naming the file."""
    if not config.tls:
        return None
    ca = certificate = key = None
    if config.ca is not None:
        ca = _certificates(config.ca, "ca")
    if config.certificate is not None and config.key is not None:
        certificate = _certificates(config.certificate, "certificate")
        key = read(config.key, "[coordinator] key")
        try:
            private = load_pem_private_key(key, password=None)
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"[coordinator] key: {config.key} holds no unencrypted PEM private key"
            ) from error
        if x509.load_pem_x509_certificate(certificate).public_key() != private.public_key():
            raise ConfigError(f"[coordinator] {config.key} is not the key of {config.certificate}")
    return grpc.ssl_channel_credentials(ca, key, certificate)


def join_token(config: CoordinatorConfig) -> str:
    """The shared secret to enrol with; empty if none is configured. Raises ConfigError."""
    if config.join_token_file is None:
        return ""
    try:
        token = read(config.join_token_file, "[coordinator] join_token_file").decode().strip()
    except UnicodeDecodeError:
        token = ""
    if not 1 <= len(token) <= _MAX_JOIN_TOKEN:
        raise ConfigError(
            f"[coordinator] join_token_file: {config.join_token_file} must hold "
            f"1 to {_MAX_JOIN_TOKEN} characters"
        )
    return token


def _certificates(path: Path, setting: str) -> bytes:
    pem = read(path, f"[coordinator] {setting}")
    try:
        x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise ConfigError(f"[coordinator] {setting}: {path} holds no PEM certificate") from error
    return pem


def read(path: Path, setting: str) -> bytes:
    """A file that a setting names. Raises ConfigError, naming both."""
    try:
        if path.stat().st_size <= _MAX_FILE_BYTES:
            return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting}: cannot read {path}: {error.strerror}") from error
    raise ConfigError(f"{setting}: {path} is too large to be one")
