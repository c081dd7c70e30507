"""All writes to the database, in one order, several to a transaction.

The coordinator's memory leads and the database follows: an event changes the state in memory at
once, its record is queued here, and whoever has to answer for it waits until it is durable.
Records become durable in the order they were queued, and everything that queued up during one
transaction shares the next one and its one fsync.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TypeAlias

from sqlalchemy import Connection, Engine

from cloister_coordinator.errors import StorageFailed

Write: TypeAlias = Callable[[Connection], None]
_Entry: TypeAlias = "tuple[Write, asyncio.Future[None]]"

_MAX_BATCH = 256
"""Writes in one transaction."""

_log = logging.getLogger(__name__)


class Journal:
    """The one writer of a database; belongs to the event loop that made it.

    A write that fails cannot be taken back in memory, so it ends the journal: every later write
    fails too, and ``failed`` is set for the coordinator to end and start again from what is
    durable.
    """

    def __init__(self, engine: Engine) -> None:
        self.failed = asyncio.Event()
        self._connection = engine.connect()
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Entry | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def write(self, write: Write) -> asyncio.Future[None]:
        """Queue statements; the future is done once they are durable.

        Raises (through the future):
            StorageFailed: they are not, and nothing will be any more.
        """
        future = self._loop.create_future()
        # Nobody has to wait: what later writes wait for includes this one.
        future.add_done_callback(lambda f: f.cancelled() or f.exception())
        self._queue.put((write, future))
        return future

    async def flush(self) -> None:
        """Wait until everything queued so far is durable."""
        await self.write(lambda _: None)

    async def close(self) -> None:
        """Finish what is queued and end."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        broken: StorageFailed | None = None
        open_ = True
        while open_:
            batch, open_ = self._take()
            broken = broken or _commit(self._connection, batch)
            self._loop.call_soon_threadsafe(self._resolve, batch, broken)
        self._connection.close()

    def _take(self) -> tuple[list[_Entry], bool]:
        batch: list[_Entry] = []
        entry = self._queue.get()
        while entry is not None:
            batch.append(entry)
            if len(batch) == _MAX_BATCH:
                return batch, True
            try:
                entry = self._queue.get_nowait()
            except Empty:
                return batch, True
        return batch, False

    def _resolve(self, batch: Sequence[_Entry], failure: StorageFailed | None) -> None:
        if failure is not None:
            self.failed.set()
        for _, future in batch:
            if future.done():  # whoever waited was cancelled
                continue
            if failure is None:
                future.set_result(None)
            else:
                future.set_exception(failure)


def _commit(connection: Connection, batch: Sequence[_Entry]) -> StorageFailed | None:
    """Make a batch durable; or why not."""
    try:
        with connection.begin():
            for write, _ in batch:
                write(connection)
    except Exception as e:  # whatever it is, it must reach those who wait
        _log.critical("state could not be written; the coordinator ends", exc_info=True)
        return StorageFailed(f"state could not be written: {e}")
    return None
