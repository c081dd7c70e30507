"""Folding updates into the next model: chunk by chunk, the aggregation module does the work.

The model is cut into chunks of as many coordinates as the module has columns. For each chunk
the module gets all updates in the order given, as many rows a call as it has room for, then
finishes it. Chunks are independent, so several sandboxes work at once, and neither their number
nor the arrival of updates changes a bit of the result. Memory is O(chunk), whatever the size of
the model or the number of updates.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from cloister_coordinator.blocks import F32, ArrayBlocks, Blocks, Sink, State
from cloister_protos import Role
from cloister_sandbox import Faulted, Sandbox, SandboxPool
from cloister_tasks import Module, Status, describe

__all__ = ["Aggregator", "ArrayBlocks"]


@dataclass(frozen=True)
class _Inputs:
    """What one aggregation reads."""

    size: int
    model: Blocks
    updates: Sequence[Blocks]
    weights: NDArray[np.float64]
    total: float
    state: Blocks


@dataclass(frozen=True)
class _Piece:
    """What one chunk came to."""

    start: int
    model: F32
    state: F32 | None


class Aggregator:
    """Runs one aggregation module, any number of times, one at a time.

    Args:
        pool: where sandboxes come from.
        module: of KIND_AGGREGATION.
        workers: sandboxes at once.
    """

    def __init__(self, pool: SandboxPool, module: Module, workers: int = 2) -> None:
        manifest = module.manifest
        self._pool = pool
        self._module = module
        self._workers = workers
        (self._model,) = manifest.of(Role.ROLE_MODEL)
        (self._update,) = manifest.of(Role.ROLE_UPDATE)
        (self._weight,) = manifest.of(Role.ROLE_WEIGHT)
        (self._total,) = manifest.of(Role.ROLE_TOTAL)
        self._states = [buffer.name for buffer in manifest.of(Role.ROLE_SERVER_STATE)]
        assert len(self._states) <= 1, "the contract allows one"

    def state_size(self, parameters: int) -> int:
        """Elements of the server state for a model of so many parameters; 0: there is none."""
        return len(self._states) * parameters

    def aggregate(
        self,
        size: int,
        model: Blocks,
        updates: Sequence[Blocks],
        weights: NDArray[np.float64],
        out: Sink,
        state: State,
    ) -> None:
        """Write the next model to ``out``; blocks until it is done.

        Args:
            size: elements of the model.
            model: the model as it is, f32 (size,).
            updates: each f32 (size,), in canonical order: ascending client id.
            weights: f64 (updates,), what each counts for.
            out: takes f32 (size,).
            state: f32 (state_size(size),); replaced. Zeros before the first round.

        Raises:
            SandboxError: the module failed; what was written is of no use.
            OSError: an input could not be read or an output not written.
        """
        inputs = _Inputs(size, model, updates, weights, math.fsum(weights), state)
        starts = range(0, size, self._model.size)
        workers = min(self._workers, len(starts))
        with ExitStack() as stack:
            idle: SimpleQueue[Sandbox] = SimpleQueue()
            for _ in range(workers):
                idle.put(stack.enter_context(self._pool.lease(self._module)))
            if len(starts) == 1:
                sandbox = idle.get()
                for start in starts:
                    _store(self._fold(sandbox, start, inputs), out, state)
                return
            # Entered after the leases, so that no thread outlives its sandbox.
            executor = stack.enter_context(ThreadPoolExecutor(workers, "fold"))
            pending: deque[Future[_Piece]] = deque()
            try:
                for start in starts:
                    if len(pending) > workers:
                        _store(pending.popleft().result(), out, state)
                    pending.append(executor.submit(self._borrow, idle, start, inputs))
                while pending:
                    _store(pending.popleft().result(), out, state)
            finally:
                executor.shutdown(cancel_futures=True)

    def _borrow(self, idle: SimpleQueue[Sandbox], start: int, inputs: _Inputs) -> _Piece:
        sandbox = idle.get()
        try:
            return self._fold(sandbox, start, inputs)
        finally:
            idle.put(sandbox)

    def _fold(self, sandbox: Sandbox, start: int, inputs: _Inputs) -> _Piece:
        columns = min(self._model.size, inputs.size - start)
        at_once = min(self._weight.size, self._update.size // columns)
        update = sandbox.view(self._update.name)
        weight = sandbox.view(self._weight.name)
        calls: list[tuple[str, *tuple[int, ...]]] = [("reset", columns)]
        send: list[str | tuple[str, int]] = []
        count = len(inputs.updates)
        for first in range(0, count, at_once):
            rows = min(at_once, count - first)
            for row, source in enumerate(inputs.updates[first : first + rows]):
                source.read_into(start, update[row * columns : (row + 1) * columns])
            weight[:rows] = inputs.weights[first : first + rows]
            calls.append(("fold", rows, columns))
            send += [(self._update.name, rows * columns), (self._weight.name, rows)]
            if first + rows < count:
                sandbox.run(*calls, send=send)
                calls, send = [], []
        # The last rows and the finish share a round trip.
        chunk = [(name, columns) for name in (self._model.name, *self._states)]
        views = [sandbox.view(name)[:columns] for name, _ in chunk]
        inputs.model.read_into(start, views[0])
        for view in views[1:]:
            inputs.state.read_into(start, view)
        sandbox.view(self._total.name)[...] = inputs.total
        sandbox.run(
            *calls, ("finish", columns), send=[*send, *chunk, self._total.name], receive=chunk
        )
        model, state = views[0].copy(), views[1].copy() if self._states else None
        if not np.isfinite(model).all():
            raise Faulted(Status.NOT_FINITE, describe(Status.NOT_FINITE), where="finish")
        return _Piece(start, model, state)


def _store(piece: _Piece, out: Sink, state: State) -> None:
    out.write_from(piece.start, piece.model)
    if piece.state is not None:
        state.write_from(piece.start, piece.state)
