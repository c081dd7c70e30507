"""One instance of a module inside this process: its memory and its entry points.

The only place that touches the engine's C interface. It needs neither numpy nor protobuf, since
the child process runs it too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TypeAlias

import wasmtime
from wasmtime import _ffi as ffi
from wasmtime._exportable import AsExtern
from wasmtime._extern import wrap_extern

from cloister_sandbox.engine import Engine
from cloister_sandbox.errors import (
    Crashed,
    OutOfMemory,
    OutOfTime,
    Refused,
    SandboxError,
    Trap,
    Trapped,
    one_line,
)
from cloister_sandbox.ticker import Ticker

Signature: TypeAlias = Sequence[str]
"""Parameter types, each "i32" or "i64"; the result is one i32."""

MAX_TABLE_ELEMENTS = 1 << 20
"""Entries of one table, 8 bytes each; a module with more is refused."""
_MAX_TABLES = 16
_NO_MEMORY = ("out of memory", "os error 12", "Cannot allocate memory")

_TRAPS: Mapping[wasmtime.TrapCode, Trap] = {
    wasmtime.TrapCode.STACK_OVERFLOW: Trap.STACK_OVERFLOW,
    wasmtime.TrapCode.MEMORY_OUT_OF_BOUNDS: Trap.MEMORY_OUT_OF_BOUNDS,
    wasmtime.TrapCode.TABLE_OUT_OF_BOUNDS: Trap.TABLE_OUT_OF_BOUNDS,
    wasmtime.TrapCode.INDIRECT_CALL_TO_NULL: Trap.INDIRECT_CALL_TO_NULL,
    wasmtime.TrapCode.BAD_SIGNATURE: Trap.BAD_SIGNATURE,
    wasmtime.TrapCode.INTEGER_OVERFLOW: Trap.INTEGER_OVERFLOW,
    wasmtime.TrapCode.INTEGER_DIVISION_BY_ZERO: Trap.INTEGER_DIVISION_BY_ZERO,
    wasmtime.TrapCode.BAD_CONVERSION_TO_INTEGER: Trap.BAD_CONVERSION_TO_INTEGER,
    wasmtime.TrapCode.UNREACHABLE: Trap.UNREACHABLE,
}


class Guest:
    """An instance in a store of its own, with deadlines. For one thread at a time.

    Args:
        entry_points: parameter types of each function that may be called.
        seconds: wall clock for the module's start function.
        room: bytes of memory that one more instance in the store may have (the conductor).

    Raises:
        Trapped, OutOfTime: the start function did.
        Refused: the module wants more memory or table than it may have.
        OutOfMemory: the process may not have that much.
    """

    def __init__(
        self,
        engine: Engine,
        module: wasmtime.Module,
        entry_points: Mapping[str, Signature],
        *,
        memory_bytes: int,
        seconds: float,
        room: int = 0,
    ) -> None:
        self._engine = engine
        self.store = wasmtime.Store(engine.raw)
        instances = 2 if room else 1
        self.store.set_limits(
            max(memory_bytes, room), MAX_TABLE_ELEMENTS, instances, _MAX_TABLES, instances
        )
        self.instance = self.instantiate(module, (), seconds)
        self.base = self.memory_address(self.instance)
        """Address of the memory; it never moves while the guest lives."""
        self._calls = {
            name: self.prepare(self.instance, name, parameters)
            for name, parameters in entry_points.items()
        }

    def instantiate(
        self, module: wasmtime.Module, imports: Sequence[AsExtern], seconds: float
    ) -> wasmtime.Instance:
        """Add an instance to the store and run its start function, under a deadline."""
        try:
            with self.deadline(seconds):
                return wasmtime.Instance(self.store, module, imports)
        except wasmtime.Trap as trap:
            raise _trapped(trap, "its start function", seconds) from None
        except wasmtime.WasmtimeError as e:
            raise _failed(e) from None

    def export(self, instance: wasmtime.Instance, name: str) -> AsExtern:
        """One export. (Listing them all would take as long as a module has many.)"""
        found = ffi.wasmtime_extern_t()
        encoded = name.encode()
        known = ffi.wasmtime_instance_export_get(
            self.store._context(),
            ctypes.byref(instance._instance),
            ctypes.create_string_buffer(encoded),
            len(encoded),
            ctypes.byref(found),
        )
        if not known:
            raise Refused("export", f"the module exports no {name!r}")
        return wrap_extern(found)

    def memory_address(self, instance: wasmtime.Instance) -> int:
        """Where the exported memory of an instance begins."""
        memory = self.export(instance, "memory")
        if not isinstance(memory, wasmtime.Memory):
            raise Refused("export", "the module exports no memory")
        return ctypes.addressof(memory.data_ptr(self.store).contents)

    def prepare(self, instance: wasmtime.Instance, name: str, parameters: Signature) -> Call:
        """A call of an exported function of these parameters."""
        function = self.export(instance, name)
        if not isinstance(function, wasmtime.Func):
            raise Refused("export", f"the module exports no function {name!r}")
        return Call(self.store, function, parameters, name)

    def deadline(self, seconds: float) -> AbstractContextManager[None]:
        """From now on, code in this store is interrupted after so long; use as `with`."""
        self.store.set_epoch_deadline(Ticker.ticks(seconds))
        return self._engine.ticker.running()

    def calls(self, calls: Iterable[tuple[str, Sequence[int]]], seconds: float) -> tuple[str, int]:
        """Make calls in order under one deadline, up to the first non-zero status.

        Returns:
            The name of the last call made, and its status.
        """
        name, status = "", 0
        with self.deadline(seconds):
            for name, arguments in calls:
                status = self._calls[name](arguments, seconds)
                if status:
                    break
        return name, status

    def row(self, fault_offset: int | None) -> int | None:
        """The row a non-zero status is about, if the module keeps one and names one."""
        if fault_offset is None:
            return None
        row = ctypes.c_int64.from_address(self.base + fault_offset).value
        return row if row >= 0 else None


class Call:
    """A call with everything built beforehand: a tenth of the time of calling a wasmtime.Func.

    Raises:
        Trapped, OutOfTime: when called.
    """

    def __init__(
        self, store: wasmtime.Store, function: wasmtime.Func, parameters: Signature, name: str
    ) -> None:
        self._name = name
        self._values = (ffi.wasmtime_val_t * len(parameters))()
        self._fields = list(zip((value.of for value in self._values), parameters, strict=True))
        for value, kind in zip(self._values, parameters, strict=True):
            value.kind = {"i32": ffi.WASMTIME_I32, "i64": ffi.WASMTIME_I64}[kind].value
        self._result = ffi.wasmtime_val_t()
        self._trap = ctypes.POINTER(ffi.wasm_trap_t)()
        self._function = function._func  # borrowed below, so it has to live as long
        self._arguments = (
            store._context(),
            ctypes.byref(self._function),
            self._values,
            len(parameters),
            ctypes.byref(self._result),
            1,
            ctypes.byref(self._trap),
        )

    def __call__(self, arguments: Sequence[int], seconds: float) -> int:
        """Call it; ``seconds`` is only for the message."""
        for (field, kind), number in zip(self._fields, arguments, strict=True):
            setattr(field, kind, number)
        error = ffi.wasmtime_func_call(*self._arguments)
        if error:  # type: ignore[truthy-bool]  # a null pointer is false
            raise _failed(wasmtime.WasmtimeError._from_ptr(error))
        if self._trap:  # type: ignore[truthy-bool]
            taken = type(self._trap).from_buffer_copy(self._trap)
            ctypes.memset(ctypes.byref(self._trap), 0, ctypes.sizeof(self._trap))
            raise _trapped(wasmtime.Trap._from_ptr(taken), self._name, seconds)
        return int(self._result.of.i32)


def _trapped(trap: wasmtime.Trap, where: str, seconds: float) -> SandboxError:
    code = trap.trap_code
    if code is wasmtime.TrapCode.INTERRUPT:
        return OutOfTime("run", "wall", seconds)
    return Trapped(_TRAPS.get(code, Trap.OTHER) if code else Trap.OTHER, where)


def _failed(error: wasmtime.WasmtimeError) -> SandboxError:
    """The engine's own words; its C interface has no codes for what is not a trap."""
    words = one_line(error)
    if any(sign in words for sign in _NO_MEMORY):
        return OutOfMemory("the process may not have as much memory as the module declares")
    if "exceeds" in words:
        return Refused("memory", f"the module was not instantiated: {words}")
    return Crashed(f"the engine failed: {words}")
