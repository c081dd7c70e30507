"""The commands as real processes on loopback: a coordinator, clients, and an operator."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from cloister.commands.exit_code import ExitCode

SECONDS = 60.0
"""Longest any process may take for what a test waits for."""


class Processes:
    """Long-running commands of one test, with what they log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "CLOISTER_DATA_DIR": str(folder / "coordinator"),
            "CLOISTER_COORDINATOR": f"127.0.0.1:{free_port()}",
            "COLUMNS": "200",
        }
        self._running = ExitStack()

    def run(self, *arguments: str, code: ExitCode = ExitCode.OK) -> str:
        """One command to its end; returns its standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "cloister", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def start(self, *arguments: str, until: str) -> subprocess.Popen[str]:
        """A long-running command, once its log says `until`."""
        process = subprocess.Popen(
            [sys.executable, "-m", "cloister", *arguments],
            cwd=self.folder,
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._running.callback(_end, process)
        assert process.stderr is not None
        alarm = threading.Timer(SECONDS, process.kill)
        alarm.start()
        seen = []
        for line in process.stderr:
            seen.append(line)
            if until in line:
                break
        else:
            pytest.fail(f"{arguments} ended: {''.join(seen)}")
        alarm.cancel()
        # a pipe nobody reads would fill up and stop the process
        reader = threading.Thread(target=process.stderr.read)
        reader.start()
        self._running.callback(reader.join, SECONDS)
        self._running.callback(process.kill)
        return process

    def end(self) -> None:
        """End every process that still runs."""
        self._running.close()


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    found = Processes(tmp_path)
    yield found
    found.end()


@pytest.fixture
def coordinator(processes: Processes) -> Callable[[], subprocess.Popen[str]]:
    address = processes.environment["CLOISTER_COORDINATOR"]
    return lambda: processes.start("coordinator", "--listen", address, until="serving at")


def write_device(processes: Processes, name: str) -> Path:
    """A client's TOML from the sample, with 40 rows whose label is a sign."""
    processes.run("client", "--init", f"{name}.toml")
    random = np.random.default_rng(len(name) + ord(name[-1]))
    features = random.normal(size=(40, 2))
    rows = [f"{a:.4f},{b:.4f},{int(a > b)}" for a, b in features]
    (processes.folder / f"{name}.csv").write_text("\n".join(["a,b,label", *rows]) + "\n")
    path = processes.folder / f"{name}.toml"
    text = path.read_text().replace('"data.csv"', f'"{name}.csv"')
    path.write_text(text.replace("127.0.0.1:8470", processes.environment["CLOISTER_COORDINATOR"]))
    return path


def test_from_an_empty_folder_to_a_trained_model(
    processes: Processes, coordinator: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    service = coordinator()
    processes.run("task", "build", "softmax-regression", "--features", "2", "--classes", "2")
    clients = []
    for name in ("ward-a", "ward-b"):
        device = write_device(processes, name)
        assert json.loads(processes.run("client", str(device), "--check", "--json"))["name"] == name
        clients.append(processes.start("client", str(device), until="checked in"))
    shown = [json.loads(x) for x in processes.run("job", "clients", "--json").splitlines()]
    assert {client["name"] for client in shown if client["connected"]} == {"ward-a", "ward-b"}

    out = processes.run(
        *("job", "submit", "softmax-regression.wasm", "--rounds", "3", "--cohort", "2"),
        *("--minimum", "2", "--batch-size", "10", "--evaluate-every", "1", "--watch", "--json"),
    )
    *rounds, job = [json.loads(line) for line in out.splitlines()]
    assert (job["state"], job["version"]) == ("succeeded", 3)
    trained = [r for r in rounds if r["state"] == "committed" and not r["evaluation_only"]]
    assert [r["base_version"] for r in trained] == [0, 1, 2]
    losses = [r["training"]["loss"] for r in trained]
    assert losses == sorted(losses, reverse=True)

    (listed,) = [json.loads(x) for x in processes.run("job", "list", "--json").splitlines()]
    assert listed["job_id"] == job["job_id"]
    assert "succeeded" in processes.run("job", "show", "softmax-regression")
    processes.run("job", "model", job["job_id"], "-o", "model.npz")
    with np.load(tmp_path / "model.npz") as model:
        assert model["weight"].shape == (2, 2)
        assert np.isfinite(model["weight"]).all()

    for process, by in (
        (clients[0], signal.SIGTERM),
        (clients[1], signal.SIGINT),
        (service, signal.SIGINT),
    ):
        process.send_signal(by)
        assert process.wait(SECONDS) == ExitCode.OK
    processes.run("job", "list", code=ExitCode.UNREACHABLE)


def test_a_signed_task_on_a_client_that_trusts_only_its_publisher(
    processes: Processes, coordinator: Callable[[], subprocess.Popen[str]]
) -> None:
    coordinator()
    processes.run("task", "build", "softmax-regression", "--features", "2", "--classes", "2")
    publisher = processes.run("task", "keygen", "publisher.pem").strip()
    device = write_device(processes, "ward")
    device.write_text(
        device.read_text().replace("any_task = true", f'publishers = ["{publisher}"]')
    )
    processes.start("client", str(device), until="checked in")
    submit = ("job", "submit", "softmax-regression.wasm", "--rounds", "1", "--cohort", "1")
    lines = processes.run(
        *submit, "--max-abandoned-rounds", "1", "--watch", "--json", code=ExitCode.JOB
    ).splitlines()
    *rounds, job = [json.loads(line) for line in lines]
    assert job["state"] == "failed"
    assert "unsigned" in rounds[0]["members"][0]["reason"]
    processes.run("task", "sign", "softmax-regression.wasm", "--key", "publisher.pem")
    processes.run(*submit, "--watch")


def test_a_job_waits_and_can_be_cancelled(
    processes: Processes, coordinator: Callable[[], subprocess.Popen[str]]
) -> None:
    coordinator()
    processes.run("task", "build", "noop", "--parameters", "10")
    job = processes.run(
        "job", "submit", "noop.wasm", "--rounds", "1", "--cohort", "1", "--name", "waiting"
    ).strip()
    assert json.loads(processes.run("job", "show", job, "--json"))["state"] == "running"
    processes.run("job", "cancel", "waiting", "--reason", "not now")
    processes.run("job", "watch", job, code=ExitCode.JOB)


def test_a_coordinator_says_what_it_cannot_serve(processes: Processes) -> None:
    processes.run("coordinator", "--listen", "0.0.0.0:0", code=ExitCode.USAGE)
    processes.run("coordinator", "--listen", "nowhere", code=ExitCode.USAGE)
    processes.run("coordinator", "--tls-cert", "no.pem", code=ExitCode.USAGE)
    processes.run("coordinator", "--join-token-file", "no.token", code=ExitCode.USAGE)
