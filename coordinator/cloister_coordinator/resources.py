"""What all jobs of a coordinator share."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Engine

from cloister_coordinator.blobs import Blobs
from cloister_coordinator.config import CoordinatorConfig
from cloister_coordinator.journal import Journal
from cloister_coordinator.roster import Roster
from cloister_coordinator.spool import Spool
from cloister_privacy.certificate import Trust
from cloister_sandbox import SandboxPool

_T = TypeVar("_T")


@dataclass(frozen=True)
class Resources:
    """Storage, sandboxes and clients; made by the server and closed by it."""

    config: CoordinatorConfig
    engine: Engine
    journal: Journal
    blobs: Blobs
    spool: Spool
    roster: Roster
    pool: SandboxPool
    folds: ThreadPoolExecutor
    trust: Trust | None
    """In the authority behind clients' identities; None: no secure aggregation."""

    def read(self, query: Callable[..., _T], *arguments: object) -> _T:
        """Run one of the ledger's reads on a connection of its own; blocks."""
        with self.engine.connect() as connection:
            return query(connection, *arguments)


def now_ms() -> int:
    """Milliseconds since the epoch: deadlines outlive a restart, so they are wall clock."""
    return time.time_ns() // 1_000_000
