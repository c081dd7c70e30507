"""What can be known of the containers without an engine that runs them."""

from __future__ import annotations

import json
import runpy
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cloister_client import load_config, load_dataset

from .pages import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CLIENTS = sorted(path.name for path in (ROOT / "deploy" / "clients").iterdir())
RUNNING = ["coordinator", *CLIENTS]


def program(name: str) -> Callable[..., int]:
    main: Callable[..., int] = runpy.run_path(str(ROOT / "deploy" / "health" / name))["main"]
    return main


def test_there_are_a_coordinator_and_three_clients() -> None:
    assert len(CLIENTS) == 3
    assert set(RUNNING) <= SERVICES.keys()


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].partition(":")[0] not in ("", "0", "root")
    assert not {"privileged", "cap_add", "pid", "ipc", "devices"} & service.keys()
    assert service["pids_limit"] > 0
    assert service["mem_limit"]


@pytest.mark.parametrize("name", RUNNING)
def test_every_service_has_a_health_check_and_a_volume_of_its_own(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    assert f"{name}:/var/lib/cloister" in SERVICES[name]["volumes"]
    assert name in COMPOSE["volumes"]


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_can_write_its_own_volume_alone_and_reach_the_coordinator_alone(name: str) -> None:
    writable = [v for v in SERVICES[name]["volumes"] if not v.endswith(":ro")]
    assert writable == [f"{name}:/var/lib/cloister"]
    assert SERVICES[name]["networks"] == ["rounds"]
    assert COMPOSE["networks"]["rounds"] == {"internal": True}
    assert "ports" not in SERVICES[name]


def test_the_operators_port_is_open_to_this_machine_alone() -> None:
    assert SERVICES["coordinator"]["ports"] == ["127.0.0.1:8470:8470"]


@pytest.mark.parametrize("name", CLIENTS)
def test_a_devices_settings_and_data_are_good(name: str) -> None:
    config = load_config(ROOT / "deploy" / "clients" / name / "device.toml")
    assert config.name == name
    assert config.coordinator.tls
    assert str(config.state_dir) == "/var/lib/cloister"
    (data,) = config.data.values()
    dataset = load_dataset(data)
    assert dataset.train["features"].shape[1] == 4
    assert set(dataset.train["label"].tolist()) == {0, 1, 2}
    assert dataset.evaluation_rows > 0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders as `certificates.sh` fills them: the coordinator's, and everybody's."""
    folder = tmp_path_factory.mktemp("certificates")
    server, authority = folder / "server", folder / "authority"
    server.mkdir()
    authority.mkdir()
    script = ROOT / "deploy" / "certificates.sh"
    for _ in range(2):  # the second time it leaves everything as it is
        subprocess.run(["sh", script, server, authority, "coordinator"], check=True)
    assert sorted(path.name for path in authority.iterdir()) == ["ca.pem"]
    assert (server / "server-key.pem").stat().st_mode & 0o077 == 0
    return server, authority


@pytest.mark.parametrize("encrypted", [False, True])
def test_the_coordinators_health_check_says_whether_it_serves(
    encrypted: bool, certificates: tuple[Path, Path]
) -> None:
    servicer = health.HealthServicer()
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        folder, authority = certificates
        pair = [(folder / name).read_bytes() for name in ("server-key.pem", "server.pem")]
        port = (
            server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([tuple(pair)]))
            if encrypted
            else server.add_insecure_port("127.0.0.1:0")
        )
        server.start()
        arguments = [f"localhost:{port}", *([str(authority / "ca.pem")] if encrypted else [])]
        check = program("coordinator.py")
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        assert check(*arguments) == 0
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert check(*arguments) == 1
        server.stop(None).wait()
        assert check(*arguments) == 1


@pytest.mark.parametrize(
    ("older", "events", "code"),
    [
        (None, None, 1),
        (None, ["started", "enrolled", "connected"], 0),
        (None, ["connected", "assignment", "reported"], 0),
        (None, ["connected", "disconnected"], 1),
        (None, ["connected", "disconnected", "connected"], 0),
        (None, ["connected", "stopped", "started"], 1),
        (["connected"], ["assignment", "reported"], 0),
        (["connected", "disconnected"], [], 1),
    ],
)
def test_the_clients_health_check_reads_its_audit_log(
    older: list[str] | None, events: list[str] | None, code: int, tmp_path: Path
) -> None:
    for name, lines in (("audit.jsonl.1", older), ("audit.jsonl", events)):
        if lines is not None:
            text = "".join(json.dumps({"event": event}) + "\n" for event in lines)
            (tmp_path / name).write_text(text)
    assert program("client.py")(str(tmp_path)) == code
