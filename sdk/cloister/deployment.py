"""A coordinator and clients as real processes on this machine.

For trying a job end to end before it meets real devices; the system tests and the latency
benchmark run on it too. Everything it writes lies below one folder.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from cloister.operator import Coordinator
from cloister_client.identity import Identity
from cloister_privacy.certificate import Authority, to_pem

_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)]

START_SECONDS = 30.0
"""Longest a process may take to serve, or to end when asked to; past it that is an error."""


class Deployment:
    """One coordinator and any number of clients, started and stopped by hand.

    Leaving the context ends every process.

    :param directory: an existing folder; state, configuration and logs go below it.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.address = f"127.0.0.1:{_free_port()}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = ExitStack()

    def start_coordinator(self, *options: str) -> Coordinator:
        """Start (or, after it ended, restart) the coordinator and wait until it serves."""
        data = self.directory / "coordinator"
        self._start(
            "coordinator",
            ["coordinator", "--data-dir", str(data), "--listen", self.address, *options],
        )
        self._await_coordinator()
        token = (data / "operator.token").read_text().strip()
        return self._stack.enter_context(Coordinator(self.address, token=token))

    def write_client(
        self,
        name: str,
        data: Path,
        *,
        settings: Mapping[str, object] | None = None,
        policy: Mapping[str, object] | None = None,
        secure: Mapping[str, object] | None = None,
    ) -> Path:
        """Write a client's TOML that offers `data` as its only dataset and return its path.

        :param secure: what its owner insists on, as in `[secure_aggregation]`; may be empty. The
            client's identity is made then, and certified by this deployment's authority. None: it
            takes no part in secure aggregation.
        """
        if secure is not None:
            secure = {**self._certify(name), **secure}
        lines = [
            "[client]",
            f"name = {json.dumps(name)}",
            f"state_dir = {json.dumps(str(self.directory / name))}",
            "[coordinator]",
            f"address = {json.dumps(self.address)}",
            "max_reconnect_seconds = 1",
            "[data.local]",
            f"path = {json.dumps(str(data))}",
            *(f"{key} = {json.dumps(value)}" for key, value in (settings or {}).items()),
            "[policy]",
            *(
                f"{key} = {json.dumps(value)}"
                for key, value in (policy or {"any_task": True}).items()
            ),
            *(["[secure_aggregation]"] if secure is not None else []),
            *(f"{key} = {json.dumps(value)}" for key, value in (secure or {}).items()),
        ]
        path = self.directory / f"{name}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    @cached_property
    def authority(self) -> Path:
        """Certificate of the authority that says who is a member, made when first asked for."""
        path = self.directory / "authority.pem"
        path.write_bytes(to_pem(self._authority.certificate))
        return path

    @cached_property
    def _authority(self) -> Authority:
        return Authority.create("a trial", *_validity(timedelta(days=2)))

    def _certify(self, name: str) -> dict[str, object]:
        """Files for a client's `[secure_aggregation]`."""
        state = self.directory / name
        state.mkdir(mode=0o700, exist_ok=True)
        identity = Identity.load_or_create(state / "identity.pem")
        certificate = self._authority.sign(identity.public_key, name, *_validity(timedelta(days=1)))
        path = self.directory / f"{name}.crt"
        path.write_bytes(to_pem(certificate))
        return {"authority": str(self.authority), "certificate": str(path)}

    def start_client(self, config: Path) -> subprocess.Popen[bytes]:
        """Start the client that a TOML describes; it connects when it can."""
        return self._start(config.stem, ["client", str(config)])

    def log(self, name: str) -> str:
        """What the process has printed so far."""
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def _await_coordinator(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        with grpc.insecure_channel(self.address, _OPTIONS) as channel:
            ready = grpc.channel_ready_future(channel)
            while self.processes["coordinator"].poll() is None:
                try:
                    ready.result(timeout=0.2)
                except grpc.FutureTimeoutError:
                    if time.monotonic() < deadline:
                        continue
                else:
                    return
                break
        raise RuntimeError(f"the coordinator does not serve; its log:\n{self.log('coordinator')}")

    def _start(self, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        if (former := self.processes.get(name)) is not None:
            former.kill()
            former.wait()
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "cloister", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes[name] = process
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _validity(half: timedelta) -> tuple[datetime, datetime]:
    """From before now to after it, so long either way."""
    now = datetime.now(UTC)
    return now - half, now + half


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
