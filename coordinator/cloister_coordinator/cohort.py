"""Who takes part in a round, and with which seed: functions of the job's seed alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable


def size(target: int, over_selection: float) -> int:
    """Clients to select so that `target` may report despite drop-outs."""
    # Rounded first: 10 x 1.1 is 11, not 12.
    return math.ceil(round(target * over_selection, 6))


def select(
    available: Iterable[str], target: int, over_selection: float, seed: int, round_number: int
) -> tuple[str, ...]:
    """The cohort: a uniform draw without replacement, the same whoever asks.

    The clients with the smallest SHA-256 of seed, round and id are taken, so a client that is
    away changes nothing in the order of the others.

    Args:
        available: ids of the clients that could take part.
        target: updates wanted.
        over_selection: clients for each one wanted, >= 1.
        seed: of the job, uint64.
        round_number: from 1.

    Returns:
        Ids in ascending order; fewer than asked for if fewer are available.
    """
    candidates = sorted(set(available))
    wanted = size(target, over_selection)
    if len(candidates) <= wanted:
        return tuple(candidates)
    candidates.sort(key=lambda client_id: _digest(b"cohort", seed, round_number, client_id))
    return tuple(sorted(candidates[:wanted]))


def client_seed(seed: int, round_number: int, client_id: str) -> int:
    """Seed of one client in one round, uint64."""
    return int.from_bytes(_digest(b"client", seed, round_number, client_id)[:8], "little")


def _digest(purpose: bytes, seed: int, round_number: int, client_id: str) -> bytes:
    head = b"cloister %s v1\0%d\0%d\0" % (purpose, seed, round_number)
    return hashlib.sha256(head + client_id.encode()).digest()
