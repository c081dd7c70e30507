"""Many virtual clients in one call: what simulation needs to spend its time in the task.

A small module of ours is instantiated beside the task. It shares the task's memory and calls its
functions, and walks a table of segments, each a run of one client's rows::

    for (client, first, rows, flags) in segments:
        if flags & FIRST: the task's parameters = the model; reset()
        the task's inputs = rows first .. first + rows of all inputs
        train(rows)
        if flags & LAST: parameters[client], metrics[client] = the task's

So a client costs some copies and two calls inside the engine instead of a host call each, and
its result has the same bits as in a sandbox of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import wasmtime
from numpy.typing import NDArray

from cloister_protos import Kind, Role
from cloister_sandbox.engine import Engine
from cloister_sandbox.errors import Faulted, Refused
from cloister_sandbox.guest import Guest
from cloister_sandbox.limits import Limits
from cloister_sandbox.local import array_at, fault_offset
from cloister_sandbox.sandbox import Place
from cloister_tasks import ENTRY_POINTS, PAGE_BYTES, Buffer, Manifest, Module, describe

FIRST = 1
"""Flag: the segment is a client's first; it starts from the model."""
LAST = 2
"""Flag: the segment is a client's last; its outcome is kept."""

_TABLE_ROWS = 4096  # segments per call into the engine; more are done in several calls
_SEGMENT_BYTES = 16
_ALIGNMENT = 64
_MAX_BYTES = 1 << 32


class Conductor:
    """Runs virtual clients of one task, one after the other, in this process.

    For simulation: hidden state that a task keeps outside its buffers would pass from one client
    to the next. One thread at a time; several conductors run in parallel in several threads. To
    be closed.

    Args:
        module: a training or summary task.
        clients: slots for outcomes.
        rows: rows that `inputs` holds, of all clients together.

    Raises:
        Refused: the module is no task for clients.
        Trapped, OutOfTime, OutOfMemory: while instantiating.
        ValueError: clients and rows take more than 4 GiB.
    """

    def __init__(
        self, module: Module, *, clients: int, rows: int, limits: Limits | None = None
    ) -> None:
        self.module = module
        self._limits = limits or Limits()
        manifest = module.manifest
        if manifest.kind == Kind.KIND_AGGREGATION:
            raise Refused("manifest", f"{manifest.name} is an aggregation, not a task for clients")
        self._train = "train" if manifest.kind == Kind.KIND_TRAINING else "summarize"
        self.metric_names = tuple(b.name for b in manifest.of(Role.ROLE_METRIC))
        """Columns of `metrics`."""
        layout = _Layout(manifest, clients, rows)
        self._engine = Engine(self._limits.stack_bytes, multi_memory=True)
        try:
            seconds = self._limits.run_seconds
            self._guest = guest = Guest(
                self._engine,
                self._engine.compile(module.data),
                ENTRY_POINTS[manifest.kind],
                memory_bytes=self._limits.memory_bytes,
                seconds=seconds,
                room=layout.nbytes,
            )
            shared = ("memory", "reset", self._train)
            conductor = guest.instantiate(
                self._engine.compile(bytes(wasmtime.wat2wasm(_wat(module, layout, self._train)))),
                [guest.export(guest.instance, name) for name in shared],
                seconds,
            )
            self._call = guest.prepare(conductor, "run", ("i32", "i32"))
            base = guest.memory_address(conductor)
        except BaseException:
            self._engine.close()
            raise

        def at(place: Place) -> NDArray[Any]:
            return array_at(guest, base, place)

        self.model: NDArray[np.float32] = at(layout.model)
        """f32[P]; what every client starts from."""
        self.parameters: NDArray[np.float32] = at(layout.parameters)
        """f32[clients, P]; what each client ended with."""
        self.metrics: NDArray[np.float64] = at(layout.metrics)
        """f64[clients, M]; each client's sums over its rows."""
        self.inputs: dict[str, NDArray[Any]] = {n: at(p) for n, p in layout.inputs.items()}
        """By buffer name, [rows, ...] of the buffer's dtype; rows of clients lie together."""
        self.local: NDArray[np.uint8] = at(layout.local)
        """u8[clients, local bytes]; the LOCAL buffers side by side: what each client begins with,
        then what it ends with. At first what the module's own data says."""
        self.seeds: NDArray[np.int64] = at(layout.seeds)
        """i64[clients]; what each client finds in the task's `seed`. At first the default."""
        self._table: NDArray[np.int32] = at(layout.table)
        self._table_offset = layout.table.offset
        self._failed: NDArray[np.int32] = at(layout.failed)
        self._task = {
            b.name: array_at(guest, guest.base, Place(b.offset, b.dtype, b.shape))
            for b in manifest.of(Role.ROLE_HYPERPARAMETER)
        }
        local = b"".join(
            array_at(guest, guest.base, Place(b.offset, b.dtype, b.shape)).tobytes()
            for b in manifest.of(Role.ROLE_LOCAL)
        )
        self.local[:] = np.frombuffer(local, np.uint8) if local else 0
        if manifest.seed is not None:
            self.seeds[:] = self._task[manifest.seed.name].item()
        self._defaults = {name: array.copy() for name, array in self._task.items()}
        block = manifest.block(Role.ROLE_FROZEN)
        self._frozen: NDArray[np.float32] | None = None
        if block is not None:
            place = Place(block.offset, np.dtype("<f4"), (block.size,))
            self._frozen = array_at(guest, guest.base, place)

    def configure(
        self, hyperparameters: Mapping[str, float], frozen: NDArray[np.float32] | None = None
    ) -> None:
        """Set the hyperparameters of all clients; absent ones get the task's default.

        Args:
            hyperparameters: numbers by buffer name.
            frozen: f32, the frozen block; None leaves it as it is.

        Raises:
            ValueError: no such hyperparameter, a number its type cannot hold, or a wrong shape.
        """
        values = {name: array.copy() for name, array in self._defaults.items()}
        for name, number in hyperparameters.items():
            if name not in values:
                raise ValueError(f"{self.module.manifest.name} has no hyperparameter {name!r}")
            values[name][...] = number
            if values[name].dtype.kind in "iu" and values[name].reshape(()) != number:
                raise ValueError(f"{name} is a whole number, not {number}")
        if frozen is not None:
            if self._frozen is None or frozen.shape != self._frozen.shape:
                raise ValueError(f"{self.module.manifest.name} has no frozen block of that shape")
            self._frozen[:] = frozen
        for name, value in values.items():
            self._task[name][...] = value

    def run(self, segments: NDArray[np.int32]) -> None:
        """Train the clients.

        Args:
            segments: int32[n, 4]: client slot, first row, rows (at most the task's capacity),
                flags. A client's segments follow each other from FIRST to LAST.

        Raises:
            Faulted: with the client's slot, and the row in `inputs`.
            Trapped, OutOfTime: the conductor is of no use any more.
            ValueError: a segment lies outside slots, rows or capacity; nothing was done.
        """
        segments = np.ascontiguousarray(segments, np.int32)
        self._check(segments)
        seconds = self._limits.run_seconds
        for start in range(0, len(segments), _TABLE_ROWS):
            part = segments[start : start + _TABLE_ROWS]
            self._table[: len(part)] = part
            first = self._table_offset
            end = first + _SEGMENT_BYTES * len(part)
            with self._guest.deadline(seconds):
                status = self._call((first, end), seconds)
            if status:
                raise self._faulted(status)

    def close(self) -> None:
        """End the engine's ticker; arrays stay valid."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check(self, segments: NDArray[np.int32]) -> None:
        if segments.ndim != 2 or segments.shape[1] != 4:
            raise ValueError(f"segments have the shape {segments.shape}, not [n, 4]")
        client, first, rows, flags = segments.astype(np.int64).T
        held = len(next(iter(self.inputs.values())))
        if (
            ((client < 0) | (client >= len(self.parameters))).any()
            or ((first < 0) | (rows < 0) | (first + rows > held)).any()
            or (rows > self.module.manifest.capacity).any()
            or ((flags < 0) | (flags > FIRST | LAST)).any()
        ):
            raise ValueError("a segment lies outside slots, rows or the task's capacity")

    def _faulted(self, status: int) -> Faulted:
        index = (int(self._failed) - self._table_offset) // _SEGMENT_BYTES
        client, first, _, _ = (int(n) for n in self._table[index])
        row = self._guest.row(fault_offset(self.module))
        return Faulted(
            status,
            describe(status),
            where=self._train,
            row=None if row is None else first + row,
            client=client,
        )


class _Layout:
    """Where things lie in the conductor's own memory."""

    def __init__(self, manifest: Manifest, clients: int, rows: int) -> None:
        if clients < 1 or rows < 1:
            raise ValueError(f"{clients} clients with {rows} rows; there must be some")
        self._end = 0
        parameters = manifest.parameter_count
        metrics = len(manifest.of(Role.ROLE_METRIC))
        f4, f8, i4 = np.dtype("<f4"), np.dtype("<f8"), np.dtype("<i4")
        self.failed = self._place(i4, ())
        self.table = self._place(i4, (_TABLE_ROWS, 4))
        self.model = self._place(f4, (parameters,))
        self.parameters = self._place(f4, (clients, parameters))
        self.metrics = self._place(f8, (clients, metrics))
        self.seeds = self._place(np.dtype("<i8"), (clients,))
        self.local = self._place(np.dtype("u1"), (clients, manifest.local_bytes))
        self.inputs = {
            b.name: self._place(b.dtype, (rows, *b.shape[1:])) for b in manifest.of(Role.ROLE_INPUT)
        }
        self.pages = -(-self._end // PAGE_BYTES)
        self.nbytes = self.pages * PAGE_BYTES
        if self.nbytes >= _MAX_BYTES:
            raise ValueError(
                f"{clients} clients with {rows} rows take {self.nbytes} bytes, more than 4 GiB;"
                " conduct fewer at a time"
            )

    def _place(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Place:
        place = Place(self._end, dtype, shape)
        self._end += -(-place.nbytes // _ALIGNMENT) * _ALIGNMENT
        return place


def _wat(module: Module, layout: _Layout, train: str) -> str:
    """The conductor's module; every number in it is ours or was checked with the manifest."""
    manifest = module.manifest
    block = manifest.block(Role.ROLE_PARAMETER)
    assert block is not None
    inputs = "\n".join(_copy_rows(b, layout.inputs[b.name]) for b in manifest.of(Role.ROLE_INPUT))
    metrics = manifest.of(Role.ROLE_METRIC)
    store_metrics = "\n".join(
        f"(f64.store $own offset={8 * i} (local.get $to) (f64.load $task (i32.const {b.offset})))"
        for i, b in enumerate(metrics)
    )
    pages = manifest.memory_bytes // PAGE_BYTES
    local_in, local_out = (_copy_local(manifest, layout.local, out=out) for out in (False, True))
    seed = "" if manifest.seed is None else _copy_seed(manifest.seed, layout.seeds)
    return f"""
(module
  (import "task" "memory" (memory $task {pages} {pages}))
  (import "task" "reset" (func $reset (result i32)))
  (import "task" "{train}" (func $train (param i32) (result i32)))
  (memory $own (export "memory") {layout.pages} {layout.pages})
  (func (export "run") (param $at i32) (param $end i32) (result i32)
    (local $status i32) (local $client i32) (local $first i32) (local $rows i32)
    (local $flags i32) (local $to i32)
    (loop $next
      (if (i32.eq (local.get $at) (local.get $end)) (then (return (i32.const 0))))
      (i32.store $own (i32.const {layout.failed.offset}) (local.get $at))
      (local.set $client (i32.load $own offset=0 (local.get $at)))
      (local.set $first (i32.load $own offset=4 (local.get $at)))
      (local.set $rows (i32.load $own offset=8 (local.get $at)))
      (local.set $flags (i32.load $own offset=12 (local.get $at)))
      (if (i32.and (local.get $flags) (i32.const {FIRST})) (then
        (memory.copy $task $own (i32.const {block.offset}) (i32.const {layout.model.offset})
          (i32.const {block.nbytes}))
        {local_in}
        {seed}
        (local.set $status (call $reset))
        (if (local.get $status) (then (return (local.get $status))))))
      {inputs}
      (local.set $status (call $train (local.get $rows)))
      (if (local.get $status) (then (return (local.get $status))))
      (if (i32.and (local.get $flags) (i32.const {LAST})) (then
        (memory.copy $own $task
          (i32.add (i32.const {layout.parameters.offset})
            (i32.mul (local.get $client) (i32.const {block.nbytes})))
          (i32.const {block.offset}) (i32.const {block.nbytes}))
        {local_out}
        (local.set $to (i32.add (i32.const {layout.metrics.offset})
          (i32.mul (local.get $client) (i32.const {8 * len(metrics)}))))
        {store_metrics}))
      (local.set $at (i32.add (local.get $at) (i32.const {_SEGMENT_BYTES})))
      (br $next))
    (unreachable)))
"""


def _copy_local(manifest: Manifest, place: Place, *, out: bool) -> str:
    """Copy a client's LOCAL buffers to the task or, `out`, back from it."""
    copies, start = [], place.offset
    for buffer in manifest.of(Role.ROLE_LOCAL):
        row = f"(i32.mul (local.get $client) (i32.const {manifest.local_bytes}))"
        own = f"(i32.add (i32.const {start}) {row})"
        task = f"(i32.const {buffer.offset})"
        to, source = (f"$own $task {own}", task) if out else (f"$task $own {task}", own)
        copies.append(f"(memory.copy {to} {source} (i32.const {buffer.nbytes}))")
        start += buffer.nbytes
    return "\n".join(copies)


def _copy_seed(buffer: Buffer, place: Place) -> str:
    """Store a client's seed in the task."""
    own = f"(i32.add (i32.const {place.offset}) (i32.mul (local.get $client) (i32.const 8)))"
    return f"(i64.store $task (i32.const {buffer.offset}) (i64.load $own {own}))"


def _copy_rows(buffer: Buffer, source: Place) -> str:
    """Copy a segment's rows of one input."""
    row_bytes = buffer.nbytes // buffer.shape[0]
    return f"""
      (memory.copy $task $own (i32.const {buffer.offset})
        (i32.add (i32.const {source.offset}) (i32.mul (local.get $first) (i32.const {row_bytes})))
        (i32.mul (local.get $rows) (i32.const {row_bytes})))"""
