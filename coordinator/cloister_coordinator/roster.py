"""The clients that are checked in: who could be selected, and the way to reach them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from cloister_protos import Capabilities, Instruction

Message: TypeAlias = Callable[[], Instruction]
"""Makes an instruction when it is sent, so that what waits costs no copy of the model."""


@dataclass(frozen=True)
class Need:
    """What a job asks of a client."""

    dataset: str
    """Name of a dataset; empty: it has exactly one."""
    tags: frozenset[str]
    memory_bytes: int

    def met_by(self, offer: Capabilities) -> bool:
        """Whether a client with these capabilities can be selected."""
        if offer.memory_bytes < self.memory_bytes or not self.tags.issubset(offer.tags):
            return False
        if self.dataset:
            return self.dataset in offer.datasets
        return len(offer.datasets) == 1


class Connection:
    """One check-in stream."""

    def __init__(self, client_id: str, capabilities: Capabilities) -> None:
        self.client_id = client_id
        self.capabilities = capabilities
        self._outbox: asyncio.Queue[Message | None] = asyncio.Queue()

    def send(self, message: Message) -> None:
        """Queue an instruction."""
        self._outbox.put_nowait(message)

    def end(self) -> None:
        """Have the stream end after what is queued."""
        self._outbox.put_nowait(None)

    async def next(self) -> Message | None:
        """The next instruction; None: the stream ends."""
        return await self._outbox.get()


class Roster:
    """All check-in streams, at most one a client; belongs to one event loop."""

    def __init__(self) -> None:
        self._connections: dict[str, Connection] = {}
        self.last_arrival = 0.0
        """When a client last checked in, on the event loop's clock."""

    def __contains__(self, client_id: str) -> bool:
        return client_id in self._connections

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._connections.values()))

    def arrive(self, connection: Connection) -> None:
        """A stream began; an older one of the same client ends."""
        older = self._connections.get(connection.client_id)
        self._connections[connection.client_id] = connection
        self.last_arrival = asyncio.get_running_loop().time()
        if older is not None:
            older.end()

    def leave(self, connection: Connection) -> bool:
        """A stream ended; whether its client is gone with it."""
        if self._connections.get(connection.client_id) is not connection:
            return False
        del self._connections[connection.client_id]
        return True

    def eligible(self, need: Need) -> list[str]:
        """Clients that are here and could be selected."""
        return [i for i, c in self._connections.items() if need.met_by(c.capabilities)]

    def send(self, client_id: str, message: Message) -> None:
        """Queue an instruction, if the client is here."""
        if connection := self._connections.get(client_id):
            connection.send(message)
