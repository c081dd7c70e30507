from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloister_coordinator.config import CoordinatorConfig
from cloister_coordinator.errors import ConfigurationError


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:7300", "[::1]:1", "127.9.9.9:1"])
def test_plaintext_on_loopback_is_fine(address: str, tmp_path: Path) -> None:
    assert CoordinatorConfig(tmp_path, address=address).loopback


@pytest.mark.parametrize("address", ["0.0.0.0:7300", "[::]:7300", "10.0.0.1:1", "example.org:1"])
def test_plaintext_beyond_it_has_to_be_asked_for(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no TLS"):
        CoordinatorConfig(tmp_path, address=address)
    assert not CoordinatorConfig(tmp_path, address=address, insecure=True).loopback
    pem = tmp_path / "x.pem"
    CoordinatorConfig(tmp_path, address=address, tls_certificate=pem, tls_key=pem)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"address": "nowhere"}, "HOST:PORT"),
        ({"address": "127.0.0.1:99999"}, "HOST:PORT"),
        ({"tls_key": Path("x")}, "both"),
        ({"tls_client_ca": Path("x")}, "only checked under TLS"),
        ({"join_token": "x" * 257}, "join token"),
        ({"fold_workers": 0}, "fold_workers is 0"),
        ({"settle_seconds": float("nan")}, "settle_seconds is nan"),
        ({"max_clients": -1}, "max_clients"),
    ],
)
def test_settings_are_bounded(changed: dict[str, Any], fault: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=fault):
        CoordinatorConfig(tmp_path, **changed)
