"""The gate: the only way by which an update leaves the device.

The trusted host, not the task, checks and bounds what leaves. One set of numpy passes serves a
device's single update and the simulator's matrix of updates, with the same bits for each row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloister_client.errors import GateError

_BLOCK = 65536
"""Columns summed at once: bounds the float64 scratch to half a megabyte per update."""


@dataclass(frozen=True)
class Gate:
    """What every update must pass."""

    clip_norm: float | None = None
    """Largest L2 norm of an update that leaves; a longer one is scaled down to it, as in
    McMahan et al., "Learning Differentially Private Recurrent Language Models" (ICLR 2018),
    section 3. None: no limit."""

    def clip(self, updates: NDArray[np.float32]) -> NDArray[np.float64]:
        """Scale updates (f32[..., P]) in place; return their norms from before (f64[...]).

        A norm that is not finite marks an update that must not leave; it is left as it is.
        """
        norms = np.sqrt(_squares(updates))
        if self.clip_norm is not None:
            long = np.isfinite(norms) & (norms > self.clip_norm)
            if long.any():
                scales = np.where(long, self.clip_norm / np.where(long, norms, 1.0), 1.0)
                updates *= scales.astype(np.float32)[..., None]
        return norms

    def admit(self, update: NDArray[np.float32], parameters: int) -> float:
        """Check and clip one update (f32[P]) in place; return its norm from before.

        Raises GateError for another dtype or shape than f32[parameters] and for values that are
        not finite.
        """
        if update.dtype != np.float32 or update.shape != (parameters,):
            raise GateError(
                f"the update is {update.dtype}{list(update.shape)}, not float32[{parameters}]"
            )
        norm = float(self.clip(update))
        if not np.isfinite(norm):
            raise GateError(
                "the update holds values that are not finite; "
                "the task's training diverges on this data (a smaller learning rate may help)"
            )
        return norm


def _squares(updates: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sum of squares along the last axis, in float64 and block by block.

    A float64 sum of squared f32 values cannot overflow, so it is finite exactly when all of
    them are: one pass gives both the norm and the finiteness.
    """
    total = np.zeros(updates.shape[:-1], dtype=np.float64)
    for start in range(0, updates.shape[-1], _BLOCK):
        block = updates[..., start : start + _BLOCK].astype(np.float64)
        with np.errstate(invalid="ignore"):
            np.multiply(block, block, out=block)
            total += np.add.reduce(block, axis=-1)
    return total
