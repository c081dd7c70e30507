"""Folding updates into the next model: chunk by chunk, the aggregation module does the work.

The model is cut into chunks of as many coordinates as the module has columns. For each chunk
the module gets all updates in the order given, as many rows a call as it has room for, then
finishes it. Chunks are independent, so several sandboxes work at once, and neither their number
nor the arrival of updates changes a bit of the result. Memory is O(chunk), whatever the size of
the model or the number of updates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cloister_coordinator.blocks import F32, ArrayBlocks, Blocks, Sink, State
from cloister_coordinator.chunks import Chunks, fold_rows
from cloister_protos import Role
from cloister_sandbox import Faulted, Sandbox, SandboxPool, Transfer
from cloister_tasks import Module, Status, describe

__all__ = ["Aggregator", "ArrayBlocks"]


@dataclass(frozen=True)
class _Inputs:
    """What one aggregation reads."""

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
        module: of KIND_AGGREGATION, for updates without masks.
        workers: sandboxes at once.
    """

    def __init__(self, pool: SandboxPool, module: Module, workers: int = 2) -> None:
        manifest = module.manifest
        self._chunks = Chunks(pool, module, workers)
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
        total: float | None = None,
    ) -> None:
        """Write the next model to ``out``; blocks until it is done.

        A round with secure aggregation knows nothing but the sum of its updates. To a linear
        aggregation it is given as one update of weight 1, beside the total of the weights.

        Args:
            size: elements of the model.
            model: the model as it is, f32 (size,).
            updates: each f32 (size,), in canonical order: ascending client id.
            weights: f64 (updates,), what each counts for.
            out: takes f32 (size,).
            state: f32 (state_size(size),); replaced. Zeros before the first round.
            total: weight of all updates; None: the sum of the weights.

        Raises:
            SandboxError: the module failed; what was written is of no use.
            OSError: an input could not be read or an output not written.
        """
        total = math.fsum(weights) if total is None else total
        inputs = _Inputs(model, updates, weights, total, state)

        def store(piece: _Piece) -> None:
            out.write_from(piece.start, piece.model)
            if piece.state is not None:
                state.write_from(piece.start, piece.state)

        self._chunks.each(size, partial(self._fold, inputs), store)

    def _fold(self, inputs: _Inputs, sandbox: Sandbox, start: int, columns: int) -> _Piece:
        update = sandbox.view(self._update.name)
        weight = sandbox.view(self._weight.name)

        def place(first: int, rows: int) -> list[Transfer]:
            for row, source in enumerate(inputs.updates[first : first + rows]):
                source.read_into(start, update[row * columns : (row + 1) * columns])
            weight[:rows] = inputs.weights[first : first + rows]
            return [(self._update.name, rows * columns), (self._weight.name, rows)]

        at_once = min(self._weight.size, self._update.size // columns)
        calls, send = fold_rows(sandbox, columns, len(inputs.updates), at_once, place)
        # The last rows and the finish share a round trip.
        chunk: list[Transfer] = [(name, columns) for name in (self._model.name, *self._states)]
        model, *states = (sandbox.view(n)[:columns] for n in (self._model.name, *self._states))
        inputs.model.read_into(start, model)
        for state in states:
            inputs.state.read_into(start, state)
        sandbox.view(self._total.name)[...] = inputs.total
        sandbox.run(
            *calls, ("finish", columns), send=[*send, *chunk, self._total.name], receive=chunk
        )
        if not np.isfinite(model).all():
            raise Faulted(Status.NOT_FINITE, describe(Status.NOT_FINITE), where="finish")
        return _Piece(start, model.copy(), states[0].copy() if states else None)
