"""A coordinator from start to end."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from importlib import metadata
from pathlib import Path

from cloister_coordinator.allocator import keep_freed_memory
from cloister_coordinator.blobs import Blobs
from cloister_coordinator.client_service import ClientService
from cloister_coordinator.config import CoordinatorConfig
from cloister_coordinator.coordinator import Coordinator
from cloister_coordinator.database import open_database
from cloister_coordinator.download import Downloads
from cloister_coordinator.endpoint import Endpoint
from cloister_coordinator.errors import ConfigurationError, StorageFailed
from cloister_coordinator.journal import Journal
from cloister_coordinator.operator_service import OperatorService
from cloister_coordinator.operator_token import OperatorToken
from cloister_coordinator.resources import Resources
from cloister_coordinator.roster import Roster
from cloister_coordinator.sessions import Sessions
from cloister_coordinator.spool import Spool
from cloister_privacy.certificate import BadCertificate, Trust, from_pem
from cloister_sandbox import SandboxPool

_FOLDS_AT_ONCE = 2
"""Rounds of different jobs folded at the same time; each has `fold_workers` sandboxes."""
_LAST_CALLS_SECONDS = 5.0

_log = logging.getLogger(__name__)


async def serve(
    config: CoordinatorConfig,
    *,
    ready: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Run a coordinator until SIGTERM or SIGINT, `stop` is set, or the task is cancelled.

    It then selects no more clients, lets running folds commit and closes the streams; rounds
    that collect go on at the next start.

    Args:
        ready: called with the bound address once calls are answered.

    Raises:
        ConfigurationError: it cannot start as configured.
        StorageFailed: state could not be made durable, so it ended.
    """
    keep_freed_memory()
    ending = stop or asyncio.Event()
    async with _resources(config) as resources:
        token = OperatorToken(config.data_dir / "operator.token")
        coordinator = Coordinator(resources)
        downloads = Downloads(resources.blobs)
        endpoint = Endpoint(
            config,
            ClientService(
                coordinator,
                Sessions(config.join_token, config.max_clients),
                downloads,
                _software(),
            ),
            OperatorService(coordinator, token, downloads),
        )
        await coordinator.start()
        with _signals(ending):
            try:
                address = await endpoint.start()
                _log.info("serving", extra={"address": address, "data_dir": str(config.data_dir)})
                if ready is not None:
                    ready(address)
                await _first(ending, coordinator.failed, resources.journal.failed)
            finally:
                _log.info("shutting down")
                await endpoint.drain()
                await coordinator.stop()
                for connection in resources.roster:
                    connection.end()
                await endpoint.stop(_LAST_CALLS_SECONDS)
        if coordinator.failed.is_set() or resources.journal.failed.is_set():
            raise StorageFailed(
                "the coordinator ended because it could not go on; its log says why."
                " Mend that and start it again: it resumes where it was"
            )


@asynccontextmanager
async def _resources(config: CoordinatorConfig) -> AsyncIterator[Resources]:
    """Open the data folder, and close it in the end."""
    folder = config.data_dir
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            stack.enter_context(_locked(folder / "lock"))
            url = config.database_url or f"sqlite:///{folder / 'coordinator.db'}"
            engine = await asyncio.to_thread(open_database, url)
            stack.callback(engine.dispose)
            pool = stack.enter_context(
                SandboxPool(config.sandbox, cache_dir=folder / "native", capacity=8)
            )
            folds = stack.enter_context(ThreadPoolExecutor(_FOLDS_AT_ONCE, "round"))
            resources = Resources(
                config=config,
                engine=engine,
                journal=Journal(engine),
                blobs=Blobs(folder / "blobs", engine),
                spool=Spool(folder / "spool"),
                roster=Roster(),
                pool=pool,
                folds=folds,
                trust=_trust(config.identity_authority),
            )
        except OSError as e:
            raise ConfigurationError(f"the data folder {folder} cannot be used: {e}") from e
        try:
            yield resources
        finally:
            await resources.journal.close()


def _trust(path: Path | None) -> Trust | None:
    if path is None:
        return None
    try:
        return Trust(from_pem(path.read_bytes()))
    except OSError as e:
        raise ConfigurationError(f"cannot read {path}: {e.strerror}") from e
    except BadCertificate as e:
        raise ConfigurationError(f"{path} is no certificate of an authority: {e}") from e


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep a second coordinator out of the folder; the kernel unlocks it, come what may."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"another coordinator runs on {path.parent}: end it, or name another folder"
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _signals(ending: asyncio.Event) -> Iterator[None]:
    """Have SIGTERM and SIGINT end the service, where this is the main thread's business."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, ending.set)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _first(*events: asyncio.Event) -> None:
    """Wait for any of these."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _software() -> str:
    try:
        return f"cloister {metadata.version('cloister')}"
    except metadata.PackageNotFoundError:  # run from a source tree
        return "cloister"
