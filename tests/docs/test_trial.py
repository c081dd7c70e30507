"""The trial of docker-compose.yml, with processes in place of containers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .pages import ROOT

CLOISTER = [sys.executable, "-m", "cloister"]
CLIENTS = ("north", "south", "west")


@contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is asked to end, and does."""
    with subprocess.Popen([*CLOISTER, *words], stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate()


def wait_for(process: subprocess.Popen[str], word: str) -> str:
    """The first line of its log with this word; what follows is short and waits in the pipe."""
    assert process.stderr is not None
    for line in process.stderr:
        if word in line:
            return line
    raise AssertionError(f"the process ended without saying {word!r}")


def healthy(program: str, *arguments: str) -> bool:
    path = ROOT / "deploy" / "health" / program
    return (
        subprocess.run([sys.executable, path, *arguments], stderr=subprocess.DEVNULL).returncode
        == 0
    )


def make_device(name: str, folder: Path, address: str) -> Path:
    """A device of the trial, with paths of this machine."""
    shutil.copytree(ROOT / "deploy" / "clients" / name, folder / name)
    path = folder / name / "device.toml"
    text = path.read_text()
    for there, here in (
        ("coordinator:8470", address),
        ("/run/authority", str(folder / "authority")),
        ("/var/lib/cloister", str(folder / name / "state")),
    ):
        assert there in text
        text = text.replace(there, here)
    path.write_text(text)
    return path


@pytest.mark.slow
def test_three_devices_train_iris_over_tls(tmp_path: Path) -> None:
    server, authority, state = (tmp_path / name for name in ("server", "authority", "state"))
    server.mkdir()
    authority.mkdir()
    script = ROOT / "deploy" / "certificates.sh"
    subprocess.run(["sh", script, server, authority, "coordinator"], check=True)
    ca, task = str(authority / "ca.pem"), str(tmp_path / "iris.wasm")
    build = ["task", "build", "softmax-regression", "--features", "4", "--classes", "3"]
    subprocess.run([*CLOISTER, *build, "-o", task], check=True)

    serve = ["coordinator", "--data-dir", str(state), "--listen", "127.0.0.1:0"]
    tls = ["--tls-cert", str(server / "server.pem"), "--tls-key", str(server / "server-key.pem")]
    with running(*serve, *tls) as coordinator:
        port = wait_for(coordinator, "serving at").split(";")[0].rpartition(":")[2]
        address = f"localhost:{port}"
        assert healthy("coordinator.py", address, ca)
        devices = [make_device(name, tmp_path, address) for name in CLIENTS]
        with (
            running("client", str(devices[0])) as north,
            running("client", str(devices[1])) as south,
            running("client", str(devices[2])) as west,
        ):
            for client in (north, south, west):
                wait_for(client, "checked in")
            assert all(healthy("client.py", str(tmp_path / name / "state")) for name in CLIENTS)
            submit = ["job", "submit", task, "--cohort", "3", "--minimum", "3", "--rounds", "20"]
            training = ["--learning-rate", "0.05", "--epochs", "10", "--evaluate-every", "20"]
            where = ["--coordinator", address, "--ca", ca]
            token = ["--token-file", str(state / "operator.token")]
            done = subprocess.run(
                [*CLOISTER, *submit, *training, *where, *token, "--watch", "--json"],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
        assert not any(healthy("client.py", str(tmp_path / name / "state")) for name in CLIENTS)
    assert not healthy("coordinator.py", address, ca)

    *rounds, job = (json.loads(line) for line in done.stdout.splitlines())
    assert job["state"] == "succeeded"
    assert rounds[-1]["evaluation"]["accuracy"] > rounds[0]["evaluation"]["accuracy"]
    assert rounds[-1]["evaluation"]["accuracy"] > 0.7
