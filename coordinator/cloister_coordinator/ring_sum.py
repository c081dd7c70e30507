"""Adding masked vectors: what secure aggregation hides one by one, and reveals as a sum.

Each vector holds integers modulo 2^bits, packed; the masks on them do not cancel by themselves,
but their sum is known. The module `ring_sum` does the arithmetic, chunk by chunk and in parallel
like any aggregation: memory is O(chunk), whatever the number and length of the vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister_coordinator.blocks import F32, PackedReader, Sink
from cloister_coordinator.chunks import Chunks, fold_rows
from cloister_protos import Role
from cloister_sandbox import Sandbox, SandboxPool, Transfer
from cloister_tasks import Module
from cloister_tasks.builtin import ring_sum

MIN_BITS, MAX_BITS = 2, 62
"""Bits of a value."""
WORD_BITS = 32
"""Bits of a value up to which masks are uint32, and beyond which they are uint64."""

Masks: TypeAlias = NDArray[np.uint32] | NDArray[np.uint64]


@dataclass(frozen=True)
class _Inputs:
    """What one sum reads."""

    vectors: Sequence[PackedReader]
    masks: Masks
    bits: int
    step: float


class RingSum:
    """Adds packed vectors and takes their masks off, any number of times, one sum at a time.

    Args:
        pool: where sandboxes come from.
        workers: sandboxes at once.

    Raises:
        BuildError: the module was not built at installation.
    """

    def __init__(self, pool: SandboxPool, workers: int = 2) -> None:
        module = Module.parse(ring_sum())
        self._chunks = Chunks(pool, module, workers)
        (self._model,) = module.manifest.of(Role.ROLE_MODEL)
        (self._update,) = module.manifest.of(Role.ROLE_UPDATE)
        (self._mask,) = module.manifest.of(Role.ROLE_MASK)

    def sum(
        self,
        size: int,
        vectors: Sequence[PackedReader],
        masks: Masks,
        bits: int,
        step: float,
        out: Sink,
    ) -> None:
        """Write ``step`` times the sum of the vectors without the masks; blocks until it is done.

        The sum is taken modulo 2^bits and read as a signed integer; it is multiplied in float64
        and rounded to float32 once.

        Args:
            size: values of a vector.
            vectors: each ceil(size * bits / 8) bytes. Value k is bits k * bits up to
                (k + 1) * bits, the first bit being the lowest of the first byte.
            masks: uint32 (size,) for up to 32 bits, and uint64 (size,) for more: what the masks
                of all vectors come to, modulo the word.
            bits: bits of a value, MIN_BITS to MAX_BITS.
            step: what an integer is multiplied by, positive.
            out: takes f32 (size,).

        Raises:
            ValueError: bits, step or the masks are none of that; nothing was written.
            SandboxError: a result is past float32, or the sandbox failed; what was written is of
                no use.
            OSError: a vector could not be read, or is too short, or the result not written.
        """
        if not MIN_BITS <= bits <= MAX_BITS:
            raise ValueError(f"{bits} bits a value; they are {MIN_BITS} to {MAX_BITS}")
        if not (math.isfinite(step) and step > 0):
            raise ValueError(f"the step is {step}; it must be positive")
        word = np.dtype(np.uint32 if bits <= WORD_BITS else np.uint64)
        if masks.dtype != word or masks.shape != (size,):
            raise ValueError(
                f"masks are {masks.dtype.name} {masks.shape}; for {bits} bits and this size they"
                f" must be {word.name} {(size,)}"
            )
        inputs = _Inputs(vectors, masks, bits, step)
        self._chunks.each(size, partial(self._fold, inputs), lambda piece: out.write_from(*piece))

    def _fold(self, inputs: _Inputs, sandbox: Sandbox, start: int, columns: int) -> tuple[int, F32]:
        # A chunk begins with a whole byte: its number of columns is a multiple of 8.
        first_byte = start * inputs.bits // 8
        width = (columns * inputs.bits + 7) // 8
        update = sandbox.view(self._update.name)
        sandbox.view("bits")[...] = inputs.bits
        sandbox.view("step")[...] = inputs.step

        def place(first: int, rows: int) -> list[Transfer]:
            for row, vector in enumerate(inputs.vectors[first : first + rows]):
                vector.read_into(first_byte, update[row * width : (row + 1) * width])
            return [(self._update.name, rows * width), "bits"]

        at_once = self._update.size // width
        calls, send = fold_rows(sandbox, columns, len(inputs.vectors), at_once, place)
        masks = np.ascontiguousarray(inputs.masks[start : start + columns]).view(np.uint8)
        sandbox.view(self._mask.name)[: masks.size] = masks
        model = sandbox.view(self._model.name)[:columns]
        sandbox.run(
            *calls,
            ("finish", columns),
            send=[*send, (self._mask.name, masks.size), "bits", "step"],
            receive=[(self._model.name, columns)],
        )
        return start, model.copy()
