"""A sandbox inside this process: the engine's wall only. For simulation and trusted modules."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import wasmtime
from numpy.typing import NDArray

from cloister_protos import Role
from cloister_sandbox.engine import Engine
from cloister_sandbox.guest import Guest
from cloister_sandbox.limits import Limits
from cloister_sandbox.messages import CallList, Region
from cloister_sandbox.sandbox import Place, Sandbox
from cloister_tasks import Module


class LocalSandbox(Sandbox):
    """Views are the module's memory itself, so nothing is copied, and what is sent is moot.

    Args:
        engine: shared by all sandboxes of a pool.
        compiled: ``module``, compiled by that engine.

    Raises:
        Refused, Trapped, OutOfTime, OutOfMemory: while instantiating.
    """

    isolated = False

    def __init__(
        self, engine: Engine, compiled: wasmtime.Module, module: Module, limits: Limits
    ) -> None:
        super().__init__(module, limits)
        self._engine = engine
        self._compiled = compiled
        self._guest: Guest | None = None

    def rest(self) -> None:
        """Give back the instance's memory; views keep theirs alive."""
        self._guest = None

    def close(self) -> None:
        """End it."""
        self._dead = True
        self._guest = None

    def _fresh(self) -> None:
        self._guest = None
        self._guest = Guest(
            self._engine,
            self._compiled,
            self._signatures,
            memory_bytes=self._limits.memory_bytes,
            seconds=self._limits.run_seconds,
        )

    def _run(self, calls: CallList, send: list[Region], receive: list[Region]) -> None:
        del send, receive  # the views are the memory
        guest = self._instance()
        name, status = guest.calls(calls, self._limits.run_seconds)
        if status:
            fault = fault_offset(self.module)
            raise self._faulted(name, status, guest.row(fault))

    def _array(self, place: Place) -> NDArray[Any]:
        guest = self._instance()
        return array_at(guest, guest.base, place)

    def _instance(self) -> Guest:
        if self._guest is None:
            raise ValueError("the sandbox has no instance; call fresh() first")
        return self._guest


def array_at(guest: Guest, base: int, place: Place) -> NDArray[Any]:
    """An array over memory of a guest's store that keeps the guest alive."""
    memory = (ctypes.c_uint8 * place.nbytes).from_address(base + place.offset)
    memory.guest = guest  # type: ignore[attr-defined]
    return np.frombuffer(memoryview(memory), dtype=place.dtype).reshape(place.shape)


def fault_offset(module: Module) -> int | None:
    """Where a module leaves the row that a status is about."""
    buffers = module.manifest.of(Role.ROLE_FAULT)
    return buffers[0].offset if buffers else None
