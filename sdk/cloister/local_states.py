"""What each virtual client keeps on its device: the LOCAL buffers of the task, between rounds.

The rule is the deployed client's (`cloister_client.local_state`): a state counts once the client's
report was taken, and a round that begins from the same model version again (the one before was
abandoned) begins from the same state again.
"""

from __future__ import annotations

import tempfile

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]
Bytes = NDArray[np.uint8]

STATES_IN_MEMORY_BYTES = 64 * 1024 * 1024
"""Bytes of one set of states kept in memory; past it they lie in a temporary file."""


class LocalStates:
    """Two states of each client: the newest, and the one its round began from.

    :param clients: how many.
    :param initial: u8 (bytes,), what a device begins with; may be empty.
    """

    def __init__(self, clients: int, initial: Bytes) -> None:
        self._initial = initial.copy()
        self._version: Index = np.full(clients, -1, np.int64)
        self._before = room(clients, len(initial))
        self._newest = room(clients, len(initial))

    def begin(self, places: Index, version: int) -> Bytes:
        """States that the clients at `places` begin a round from model `version` with.

        :returns: u8 (len(places), bytes), of their own.
        """
        states = room(len(places), len(self._initial))
        for row, place in enumerate(places.tolist()):
            if self._version[place] < 0:
                states[row] = self._initial
            else:
                again = self._version[place] >= version
                states[row] = (self._before if again else self._newest)[place]
        return states

    def keep(self, places: Index, version: int, before: Bytes, after: Bytes) -> None:
        """Take over what clients ended with whose reports were taken.

        :param before: u8 (len(places), bytes), as `begin` gave it; `after`: what came of it.
        """
        self._before[places] = before
        self._newest[places] = after
        self._version[places] = version


def room(clients: int, size: int) -> Bytes:
    """Uninitialised u8 (clients, size); in a file when it is large."""
    if clients * size <= STATES_IN_MEMORY_BYTES:
        return np.empty((clients, size), np.uint8)
    with tempfile.TemporaryFile() as spool:  # the mapping outlives it
        spool.truncate(clients * size)
        return np.memmap(spool, np.uint8, "r+", shape=(clients, size))
