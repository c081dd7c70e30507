"""The client as a whole: stays checked in, and works through what it is given, for weeks."""

from __future__ import annotations

import fcntl
import importlib.metadata
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cloister_client.audit import AuditLog
from cloister_client.backoff import pauses
from cloister_client.blob_cache import BlobCache
from cloister_client.certification import Certification
from cloister_client.config import ClientConfig
from cloister_client.credentials import channel_credentials, join_token
from cloister_client.dataset import Dataset, load_dataset
from cloister_client.day_budget import DayBudget
from cloister_client.desk import Desk
from cloister_client.errors import (
    ConfigError,
    Rejected,
    SessionUnknown,
    TransportError,
)
from cloister_client.executor import Executor
from cloister_client.identity import Identity
from cloister_client.link import Link
from cloister_client.local_state import Kept, LocalStore, listed
from cloister_client.transport import Transport
from cloister_client.worker import Worker
from cloister_protos import Assignment, Capabilities, Instruction
from cloister_sandbox import SandboxPool

_log = logging.getLogger(__name__)

STEADY_SECONDS = 10.0
"""A check-in that lasted so long counts as success: the next pause is a short one again."""

WATCH_SECONDS = 1.0
"""How late a call into a task is ended after its round's deadline, at most."""

GRACE_SECONDS = 2.0
"""How long a report on its way may take when the client is told to stop."""

_MIB = 1024 * 1024
_LOCAL = "local"
_STOPPED = "the client is shutting down"


@dataclass(frozen=True)
class Summary:
    """What a configuration amounts to."""

    client_id: str | None
    """None before the first start, which makes the identity."""
    datasets: Mapping[str, Dataset]
    encrypted: bool
    """Whether the connection is."""
    certification: Certification | None
    """For secure aggregation; None: it is not set up."""


def check(config: ClientConfig) -> Summary:
    """Read everything a start would read, without connecting or writing.

    Raises ConfigError, DataError or IdentityError.
    """
    channel_credentials(config.coordinator)
    join_token(config.coordinator)
    key = _key_path(config)
    identity = Identity.load(key) if key.exists() else None
    if identity is None and config.secure_aggregation is not None:
        raise ConfigError(
            "[secure_aggregation] needs a certificate of this device's identity, which is not made "
            "yet; `cloister client --identity` makes it and prints the key to be signed"
        )
    return Summary(
        client_id=identity.client_id if identity else None,
        datasets={name: load_dataset(data) for name, data in config.data.items()},
        encrypted=config.coordinator.tls,
        certification=_certification(config, identity) if identity else None,
    )


def identify(config: ClientConfig) -> Identity:
    """This device's identity, made when missing; also while the client runs.

    Raises ConfigError or IdentityError.
    """
    _make_state_dir(config.state_dir)
    return Identity.load_or_create(_key_path(config))


def kept(config: ClientConfig) -> list[Kept]:
    """What jobs keep on this device between rounds; also while the client runs."""
    return [found for _, found in listed(config.state_dir / _LOCAL)]


def forget(config: ClientConfig, job: str) -> int:
    """Delete what a job (its id or name) keeps on this device; how many states that was.

    Raises ConfigError while the client runs.
    """
    with (
        _state_dir(config.state_dir),
        closing(AuditLog(config.state_dir / "audit.jsonl")) as audit,
    ):
        return sum(
            _store(config, audit, found.coordinator).forget([found.job], "by the owner")
            for found in kept(config)
            if job in (found.job, found.job_name)
        )


class Agent:
    """One device's client. `run` it once."""

    def __init__(self, config: ClientConfig):
        """Nothing is read or written before `run`."""
        self._config = config

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set.

        Raises ConfigError, DataError or IdentityError before it connects; afterwards nothing
        ends it but `stop`.
        """
        config = self._config
        with ExitStack() as open_now:
            open_now.enter_context(_state_dir(config.state_dir))
            datasets = {name: load_dataset(data) for name, data in config.data.items()}
            identity = Identity.load_or_create(_key_path(config))
            certification = _certification(config, identity)
            audit = open_now.enter_context(closing(AuditLog(config.state_dir / "audit.jsonl")))
            transport = open_now.enter_context(closing(Transport(config.coordinator)))
            cache = BlobCache(config.state_dir / "blobs", int(config.cache_mb * _MIB))
            budget = DayBudget(config.state_dir / "day.json")
            pool = open_now.enter_context(
                SandboxPool(config.policy.limits(), cache_dir=config.state_dir / "native")
            )
            desk = Desk()
            link = Link(transport, config.coordinator.max_reconnect_seconds)
            store = _store(config, audit)
            executor = Executor(
                config.policy, datasets, pool, cache, budget, link, store, certification
            )
            worker = Worker(desk, executor, link, audit)
            session = _Session(config, identity, certification, transport, link, desk, store, audit)
            audit.write("started", client=identity.client_id, software=_software())
            open_now.callback(audit.write, "stopped")
            _log.info("client %s, data: %s", identity.client_id, _sizes(datasets))
            if config.coordinator.insecure and not config.coordinator.loopback:
                _log.warning(
                    "insecure = true: anyone on the way to %s can read and alter what is sent",
                    config.coordinator.address,
                )
            working = threading.Thread(target=worker.run, name="cloister-worker")
            watching = threading.Thread(
                target=_watch, args=(stop, desk, transport, working), name="cloister-watch"
            )
            for thread in (working, watching):
                thread.start()
                open_now.callback(thread.join)
            open_now.callback(stop.set)
            session.run(stop)


class _Session:
    """Keeps the check-in stream open, and puts what it brings on the desk."""

    def __init__(
        self,
        config: ClientConfig,
        identity: Identity,
        certification: Certification | None,
        transport: Transport,
        link: Link,
        desk: Desk,
        store: LocalStore,
        audit: AuditLog,
    ):
        self._config, self._identity, self._store = config, identity, store
        self._certification = certification
        self._transport, self._link, self._desk, self._audit = transport, link, desk, audit
        self._capabilities = Capabilities(
            memory_bytes=config.policy.limits().memory_bytes,
            datasets=list(config.data),
            tags=config.tags,
            software=_software(),
        )

    def run(self, stop: threading.Event) -> None:
        """Check in again and again until `stop`."""
        attempts = pauses(self._config.coordinator.max_reconnect_seconds)
        while not stop.is_set():
            began = time.monotonic()
            reason, connected = "the coordinator ended the check-in", True
            try:
                if not self._transport.enrolled:
                    self._transport.enrol(self._identity, self._config.name)
                    self._audit.write("enrolled", coordinator=self._config.coordinator.address)
                for instruction in self._transport.check_in(
                    self._capabilities, self._desk.open_ids(), self._store.jobs()
                ):
                    self._follow(instruction)
            except SessionUnknown as error:
                self._transport.forget()
                reason = str(error)
            except TransportError as error:
                reason = str(error)
                if isinstance(error, Rejected):
                    _log.error("the coordinator refuses this client: %s", error)
                connected = False
            finally:
                self._link.went_down()
            if stop.is_set():
                return
            if time.monotonic() - began > STEADY_SECONDS:
                attempts = pauses(self._config.coordinator.max_reconnect_seconds)
            pause = next(attempts)
            _log.info("not connected (%s); next attempt in %.1f s", reason, pause)
            self._audit.write("disconnected", reason=reason)
            if not stop.wait(pause) and not connected:
                self._transport.connect()

    def _follow(self, instruction: Instruction) -> None:
        match instruction.WhichOneof("kind"):
            case "assignment":
                self._accept(instruction.assignment)
            case "cancellation":
                cancelled = instruction.cancellation
                self._desk.withdraw(
                    cancelled.assignment_id, f"cancelled: {cancelled.reason[:256]!r}"
                )
            case "welcome":
                self._link.went_up()
                self._audit.write("connected", software=instruction.welcome.software[:64])
                self._store.forget(instruction.welcome.ended_jobs, "the job has ended")
                _log.info("checked in at %s", self._config.coordinator.address)
                self._warn_of_expiry()
            case _:
                _log.warning("the coordinator sent an instruction this client does not know")

    def _warn_of_expiry(self) -> None:
        """At each check-in, and so once a day or more often."""
        if self._certification is None:
            return
        if (warning := self._certification.ending(datetime.now(UTC))) is not None:
            _log.warning("%s", warning)

    def _accept(self, assignment: Assignment) -> None:
        if not self._desk.put(assignment):
            _log.warning("too many open assignments; ignored %r", assignment.assignment_id[:256])


def _watch(
    stop: threading.Event, desk: Desk, transport: Transport, working: threading.Thread
) -> None:
    """End late work, and after `stop` all waiting; a call on its way may still come to its end."""
    while not stop.wait(WATCH_SECONDS):
        desk.expire()
    desk.close(_STOPPED)
    transport.break_check_in()
    working.join(GRACE_SECONDS)
    transport.close()


def _store(config: ClientConfig, audit: AuditLog, coordinator: str | None = None) -> LocalStore:
    """Local states of the configured coordinator's jobs, or another's."""
    address = config.coordinator.address if coordinator is None else coordinator
    limit = int(config.policy.local_mb * _MIB)
    return LocalStore(config.state_dir / _LOCAL, address, limit, audit)


def _certification(config: ClientConfig, identity: Identity) -> Certification | None:
    """As configured; None: there is no secure aggregation. Raises ConfigError."""
    if config.secure_aggregation is None:
        return None
    return Certification.load(config.secure_aggregation, identity, datetime.now(UTC))


def _key_path(config: ClientConfig) -> Path:
    return config.state_dir / "identity.pem"


def _make_state_dir(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"cannot use state_dir {folder}: {error.strerror}") from error


@contextmanager
def _state_dir(folder: Path) -> Iterator[None]:
    """The folder, made when missing, for this process alone."""
    _make_state_dir(folder)
    try:
        handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot use state_dir {folder}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ConfigError(
            f"another client runs with state_dir {folder}; give each its own"
        ) from error
    finally:
        os.close(handle)


def _sizes(datasets: Mapping[str, Dataset]) -> str:
    return ", ".join(
        f"{name} ({data.train_rows} rows + {data.evaluation_rows} for evaluation)"
        for name, data in datasets.items()
    )


def _software() -> str:
    try:
        return f"cloister {importlib.metadata.version('cloister')}"
    except importlib.metadata.PackageNotFoundError:
        return "cloister"
