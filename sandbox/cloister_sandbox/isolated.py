"""A sandbox in a child process: both walls."""

from __future__ import annotations

import mmap
import os
import threading
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister_sandbox import memory_file, messages
from cloister_sandbox.errors import Crashed
from cloister_sandbox.limits import MIB, Limits
from cloister_sandbox.local import fault_offset
from cloister_sandbox.messages import Binding, CallList, Region
from cloister_sandbox.process import COMPILE_WALL, Process
from cloister_sandbox.sandbox import Place, Sandbox
from cloister_tasks import Module


class ChildSandbox(Sandbox):
    """A child process bound to one module for good, so that a module that breaks out of the
    engine finds nobody else's code or data.

    Views lie in a file in memory that both processes map; the child copies between it and the
    module's memory. :meth:`close` may be called from any thread: a run in progress then ends
    with Crashed.

    Args:
        process: a child fresh from the start; the sandbox owns it from now on.
        code: native code of the module from the cache; None: the child compiles it.

    Raises:
        Refused, OutOfTime, OutOfMemory, Crashed: while compiling.
    """

    isolated = True

    def __init__(
        self, process: Process, module: Module, limits: Limits, code: bytes | None = None
    ) -> None:
        super().__init__(module, limits)
        self._process = process
        self._busy = threading.Lock()
        self._renewing = False
        self.code = code if code is not None else b""
        """The module's native code, for the cache."""
        try:
            self._mirror = self._bind(code)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def rest(self) -> None:
        """Have the child make the next instance while nobody waits for it.

        An instance that was not used takes no memory but its data.
        """
        with self._busy:
            self._process.send(self._fresh_request(), cpu=self._limits.cpu_seconds)
        self._renewing = True

    def close(self) -> None:
        """Kill the child."""
        self._dead = True
        self._process.kill()
        with self._busy:
            self._process.close()

    def _bind(self, code: bytes | None) -> mmap.mmap:
        """Give the child its module; what it maps with us."""
        memory_bytes = self.module.manifest.memory_bytes
        data = self.module.data if code is None else code
        room = 16 * MIB + 16 * len(data) if code is None else 1
        binding = Binding(
            native=code is not None,
            input_bytes=len(data),
            memory_bytes=memory_bytes,
            output_bytes=room,
            entry_points=self._signatures,
            fault_offset=fault_offset(self.module),
        )
        seconds = self._limits.compile_seconds
        with ExitStack() as files:
            given = memory_file.create_from("cloister-module", data)
            files.callback(os.close, given)
            mirror = memory_file.create("cloister-mirror", memory_bytes)
            files.callback(os.close, mirror)
            output = memory_file.create("cloister-code", room)
            files.callback(os.close, output)
            answer = self._process.ask(
                messages.pack("bind", binding.fields()),
                "compile",
                wall=COMPILE_WALL * seconds,
                cpu=seconds,
                descriptors=(given, mirror, output),
            )
            match answer:
                case "bound", int(nbytes) if 0 <= nbytes <= room:
                    if code is None:
                        self.code = os.pread(output, nbytes, 0)
                    return mmap.mmap(mirror, memory_bytes)
        raise Crashed("the sandbox broke its protocol")

    def _fresh(self) -> None:
        renewing, self._renewing = self._renewing, False
        self._ask(None if renewing else self._fresh_request())
        if renewing and not self._process.running:  # it answered, and ended while it was idle
            raise Crashed("the sandbox ended while it was idle")

    def _fresh_request(self) -> bytes:
        return messages.pack("fresh", self._limits.run_seconds)

    def _run(self, calls: CallList, send: list[Region], receive: list[Region]) -> None:
        self._ask(messages.pack("run", [self._limits.run_seconds, calls, send, receive]))

    def _ask(self, request: bytes | None) -> None:
        """Send a request, unless it was sent before (None), and wait for its answer."""
        wall, cpu = self._limits.run_seconds, self._limits.cpu_seconds
        with self._busy:
            if request is not None:
                self._process.send(request, cpu=cpu)
            answer = self._process.receive("run", wall=wall, cpu=cpu)
        match answer:
            case "done", None:
                return
            case "faulted", [str(name), int(status), (int() | None) as row] if (
                name in self._signatures
                and -(1 << 31) <= status < 1 << 31
                and (row is None or 0 <= row < 1 << 63)
            ):
                raise self._faulted(name, status, row)
        raise Crashed("the sandbox broke its protocol")

    def _array(self, place: Place) -> NDArray[Any]:
        array = np.frombuffer(self._mirror, place.dtype, place.size, place.offset)
        return array.reshape(place.shape)
