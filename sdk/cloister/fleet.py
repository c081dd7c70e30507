"""Many virtual clients on a few sandboxes.

A deployed client calls `cloister_client.training.train` for its own rows. A simulation with a
thousand clients would spend its time in Python doing that a thousand times, so the fleet lays
the rows of many clients side by side and lets a conductor train them all in one call. What each
virtual client computes is the same to the last bit: same seed, same row order, same batches.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister.local_states import Bytes, LocalStates, room
from cloister_client.dataset import Dataset
from cloister_client.errors import UnfitAssignment
from cloister_client.gate import Gate
from cloister_client.shuffle import row_orders
from cloister_client.training import chunk_rows, settings
from cloister_protos import Kind, Role, Training
from cloister_sandbox import FIRST, LAST, Conductor, Faulted, Limits
from cloister_tasks import Module, Status, describe
from cloister_tasks.contract import SEED

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Index = NDArray[np.int64]

CLIENTS_PER_CONDUCTOR = 128
"""Virtual clients whose outcomes a conductor holds; more take turns."""

ROWS_PER_CALL = 4096
"""Rows laid side by side for one call into a sandbox; more take several calls."""

BYTES_PER_CALL = 32 * 1024 * 1024
"""Bytes of rows, and of outcomes, that a conductor holds; past it fewer rows or clients."""


@dataclass(frozen=True)
class Client:
    """A virtual client: its id and its rows.

    Ids decide cohorts, seeds and the order of folding; give those of real clients to replay
    what they did.
    """

    id: str
    dataset: Dataset


@dataclass(frozen=True)
class _Trained:
    """What the last `Fleet.train` was about, as far as clients may keep something of it."""

    places: Index
    version: int
    before: Bytes | None
    """u8 (places, local bytes), what each began with; None: the task keeps nothing."""
    after: Bytes | None
    """The same shape, what each ended with."""


class Fleet:
    """The virtual clients' rows, and the conductors that train on them. To be closed.

    :param clients: each has rows; a client's place here is how calls name it.
    :param batch_size: rows of a mini-batch, which no call may cut in two; None: no batches.
    :param threads: conductors run at once; a call into a sandbox releases the GIL.
    :param frozen: f32, the frozen block of a task that has one.
    :raises DataError: a client's rows do not fit the task.
    :raises UnfitAssignment: the task cannot be trained as asked.
    """

    def __init__(
        self,
        module: Module,
        clients: Sequence[Client],
        training: Training,
        *,
        batch_size: int | None,
        threads: int,
        limits: Limits | None = None,
        frozen: F32 | None = None,
    ) -> None:
        manifest = module.manifest
        if manifest.kind == Kind.KIND_SUMMARY and training.epochs != 1:
            raise UnfitAssignment("statistics take 1 epoch; more would count rows twice")
        self.module, self.training, self.frozen = module, training, frozen
        self.configure(training)
        self._ids = [client.id for client in clients]
        self._limits, self._threads = limits or Limits(), threads
        rows = [client.dataset.fit(manifest.of(Role.ROLE_INPUT)).train for client in clients]
        # all rows in one array per column, so that a group's rows are one gather
        self._columns: dict[str, NDArray[Any]] = {
            name: np.concatenate([columns[name] for columns in rows]) for name in rows[0]
        }
        self.counts: Index = np.array([client.dataset.train_rows for client in clients], np.int64)
        """Training rows of each virtual client."""
        self._base = np.cumsum(self.counts) - self.counts
        largest = int(self.counts.max())
        self._chunk = chunk_rows(largest, manifest.capacity, batch_size)
        row_bytes = sum(column[:1].nbytes for column in self._columns.values())
        longest = min(largest, manifest.capacity)
        self._rows = max(longest, min(ROWS_PER_CALL, BYTES_PER_CALL // row_bytes))
        outcome_bytes = 4 * manifest.parameter_count + manifest.local_bytes
        fitting = BYTES_PER_CALL // max(1, outcome_bytes)
        self._slots = max(1, min(CLIENTS_PER_CONDUCTOR, len(clients), fitting))
        self._idle: list[Conductor] = []
        self._lock = threading.Lock()
        self._executor = ThreadPoolExecutor(threads, "fleet")
        self._states: LocalStates | None = None
        if manifest.local_bytes:
            with self._conductor() as conductor:
                self._states = LocalStates(len(clients), conductor.local[0])

    def configure(self, training: Training, clip_norm: float = 0.0) -> None:
        """Use other hyperparameters from now on; epochs and the order of rows stay as they are.

        :param clip_norm: largest L2 norm of an update, to which longer ones are scaled down; 0:
            none.
        """
        self._settings = settings(self.module.manifest, training)
        self._gate = Gate(clip_norm or None)

    def train(
        self,
        model: F32,
        places: Index,
        seeds: NDArray[np.uint64],
        updates: F32,
        version: int = 0,
    ) -> tuple[F64, F64]:
        """Train the virtual clients at `places` from `model`, filling `updates` row by row.

        What they keep on their devices changes only by `keep`.

        :param model: f32 (parameters,); `version`: which model version it is.
        :param places: which virtual clients, and `seeds`: the seed of each in this round.
        :param updates: f32 (len(places), parameters), filled with trained minus received, clipped.
        :returns: f64 (len(places), metrics), sums over all rows trained on; and the L2 norm of
            each update before it was clipped, f64 (len(places),), which is not finite where the
            training diverged: update and sums mean nothing there.
        :raises SandboxError: the task failed in another way for one of them.
        """
        size = min(self._slots, -(-len(places) // self._threads))
        before = after = None
        if self._states is not None:
            before = self._states.begin(places, version)
            after = room(*before.shape)
        self._trained = _Trained(places, version, before, after)
        work = []
        for first in range(0, len(places), size):
            group = slice(first, first + size)
            work.append(
                self._executor.submit(
                    self._train_group, model, places[group], seeds[group], updates[group], group
                )
            )
        sums, norms = zip(*(done.result() for done in work), strict=True)
        return np.concatenate(sums), np.concatenate(norms)

    def keep(self, taken: NDArray[np.bool_]) -> None:
        """Let clients keep what they ended the last `train` with.

        :param taken: bool (places,), whose reports were taken.
        """
        done = self._trained
        if self._states is not None and done.before is not None and done.after is not None:
            for row in np.flatnonzero(taken):
                one = slice(row, row + 1)
                self._states.keep(done.places[one], done.version, done.before[one], done.after[one])

    def close(self) -> None:
        """End the threads and free the sandboxes."""
        self._executor.shutdown(cancel_futures=True)
        for conductor in self._idle:
            conductor.close()

    def _train_group(
        self,
        model: F32,
        places: Index,
        seeds: NDArray[np.uint64],
        updates: F32,
        group: slice,
    ) -> tuple[F64, F64]:
        """`train` for as many clients as one conductor holds; `group` is where they stand in it."""
        trained = self._trained
        visits = self._visits(places, seeds)
        segments = self._segments(self.counts[places])
        ends = segments[:, 1] + segments[:, 2]
        diverged = []
        with self._conductor() as conductor:
            conductor.configure(self._settings)
            conductor.model[:] = model
            own = self._settings.get(SEED)
            conductor.seeds[: len(places)] = seeds.view(np.int64) if own is None else int(own)
            if trained.before is not None:
                conductor.local[: len(places)] = trained.before[group]
            at = 0
            while at < len(segments):
                start = int(segments[at, 1])
                end = int(np.searchsorted(ends, start + self._rows, "right"))
                rows = visits[start : int(ends[end - 1])]
                for name, column in self._columns.items():
                    # mode="clip" skips numpy's intermediate buffer; the indices are our own
                    out = conductor.inputs[name][: len(rows)]
                    np.take(column, rows, axis=0, out=out, mode="clip")
                try:
                    conductor.run((segments[at:end] - [0, start, 0, 0]).astype(np.int32))
                except Faulted as fault:
                    if fault.status != Status.NOT_FINITE or fault.client is None:
                        raise self._named(fault, places, rows) from fault
                    diverged.append(fault.client)
                    end = int(np.searchsorted(segments[:, 0], fault.client, "right"))
                at = end
            np.subtract(conductor.parameters[: len(places)], model, out=updates)
            sums = conductor.metrics[: len(places)].copy()
            if trained.after is not None:
                trained.after[group] = conductor.local[: len(places)]
        norms = self._gate.clip(updates)
        norms[diverged] = np.nan
        return sums, norms

    def _visits(self, places: Index, seeds: NDArray[np.uint64]) -> Index:
        """Indices into the columns in the order of visits: client by client, epoch by epoch."""
        counts, epochs = self.counts[places], self.training.epochs
        starts = np.cumsum(counts) - counts
        within = np.arange(int(counts.sum())) - np.repeat(starts, counts)
        base = np.repeat(self._base[places], counts)
        begin = np.repeat(starts * epochs, counts) + within
        step = np.repeat(counts, counts)
        visits = np.empty(len(base) * epochs, np.int64)
        for epoch in range(epochs):
            order = within if self.training.keep_order else row_orders(seeds, counts, epoch)
            visits[begin + epoch * step] = base + order
        return visits

    def _segments(self, counts: Index) -> Index:
        """One line for each stretch of rows in one call of `train`, (n, 4).

        Columns: client slot, first of the group's visits, rows, flags; as `Conductor.run` takes
        them, but for all calls.
        """
        epochs = np.repeat(counts, self.training.epochs)
        chunk = np.where(epochs <= self.module.manifest.capacity, epochs, self._chunk)
        pieces = -(-epochs // chunk)
        slot = np.repeat(np.repeat(np.arange(len(counts)), self.training.epochs), pieces)
        piece = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        chunk = np.repeat(chunk, pieces)
        rows = np.minimum(chunk, np.repeat(epochs, pieces) - piece * chunk)
        flags = np.zeros(len(slot), np.int64)
        change = np.flatnonzero(np.diff(slot)) + 1
        flags[np.concatenate([[0], change])] |= FIRST
        flags[np.concatenate([change - 1, [len(slot) - 1]])] |= LAST
        return np.stack([slot, np.cumsum(rows) - rows, rows, flags], axis=1)

    def _named(self, fault: Faulted, places: Index, rows: Index) -> Faulted:
        """The same fault in the words of the client it befell: its id, its own row."""
        if fault.client is None:
            return fault
        place = int(places[fault.client])
        row = None if fault.row is None else int(rows[fault.row] - self._base[place])
        return Faulted(
            fault.status, describe(fault.status), where=f"training {self._ids[place]}", row=row
        )

    @contextmanager
    def _conductor(self) -> Iterator[Conductor]:
        """An idle conductor, or a new one."""
        with self._lock:
            conductor = self._idle.pop() if self._idle else None
        if conductor is None:
            conductor = Conductor(
                self.module, clients=self._slots, rows=self._rows, limits=self._limits
            )
            conductor.configure({}, self.frozen)
        try:
            yield conductor
        finally:
            with self._lock:
                self._idle.append(conductor)
