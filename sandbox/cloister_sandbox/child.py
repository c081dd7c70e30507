"""The process a module runs in: start, give everything up, serve one module until told no more.

Started by `cloister_sandbox.process` with arguments: the socket's descriptor, the parent's
process id, bytes of memory and bytes of stack. A request that cannot be served ends the process:
the parent sees to the rest.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import sys
import threading

from cloister_sandbox import confinement, messages
from cloister_sandbox.engine import Engine
from cloister_sandbox.errors import OutOfMemory, SandboxError
from cloister_sandbox.guest import Guest
from cloister_sandbox.messages import Binding

_THREAD_STACK_BYTES = 256 * 1024
"""Of the ticker; the default would count 8 MiB against the memory limit."""


def main() -> None:
    """Run until the parent hangs up."""
    descriptor, parent, memory_bytes, stack_bytes = map(int, sys.argv[1:5])
    libc = confinement.libc()
    confinement.die_with_parent(libc, parent)
    channel = socket.socket(fileno=descriptor)
    threading.stack_size(_THREAD_STACK_BYTES)
    # Landlock binds the calling thread and those it starts: so it comes before the ticker.
    walls = confinement.give_up_files(libc, memory_bytes)
    engine = Engine(stack_bytes)
    walls = confinement.give_up_calls(libc, walls)
    channel.send(messages.pack("ready", [walls.limits, walls.landlock, walls.seccomp]))
    packet, descriptors, _, _ = socket.recv_fds(channel, messages.MAX_BYTES, 3)
    if not packet:
        os._exit(0)
    try:
        _, fields = messages.unpack(packet)
        host = Host(engine, Binding(**fields), descriptors)
    except SandboxError as e:
        channel.send(messages.pack_error(e))
        os._exit(0)
    confinement.give_up_code(libc, walls)
    channel.send(messages.pack("bound", host.code_bytes))
    while packet := channel.recv(messages.MAX_BYTES):
        channel.send(host.serve(packet))
    os._exit(0)  # nothing to tidy up, and no reason to let a guest see the interpreter end


class Host:
    """One module, and its instance of the moment."""

    def __init__(self, engine: Engine, binding: Binding, descriptors: list[int]) -> None:
        self._engine = engine
        self._binding = binding
        self._guest: Guest | None = None
        given, mirror, output = descriptors
        with mmap.mmap(given, binding.input_bytes, prot=mmap.PROT_READ) as source:
            data = source[: binding.input_bytes]
        if binding.native:
            self._module = engine.load(data)
            self.code_bytes = 0
        else:
            self._module = engine.compile(data)
            code = self._module.serialize()
            self.code_bytes = len(code)
            if len(code) > binding.output_bytes:
                raise OutOfMemory(f"the module compiles to {len(code)} bytes of native code")
            with mmap.mmap(output, binding.output_bytes) as target:
                target[: len(code)] = code
        self._mirror = mmap.mmap(mirror, binding.memory_bytes)
        self._mirror_base = ctypes.addressof(ctypes.c_char.from_buffer(self._mirror))
        for descriptor in descriptors:
            os.close(descriptor)

    def serve(self, packet: bytes) -> bytes:
        """Do what a packet asks for; the answer."""
        try:
            match messages.unpack(packet):
                case "run", [seconds, calls, send, receive]:
                    return self._run(seconds, calls, send, receive)
                case "fresh", seconds:
                    self._guest = None  # before the next one: there is memory for one only
                    self._guest = Guest(
                        self._engine,
                        self._module,
                        self._binding.entry_points,
                        memory_bytes=self._binding.memory_bytes,
                        seconds=seconds,
                    )
                    return _DONE
                case word, _:
                    raise ValueError(word)
        except SandboxError as e:
            return messages.pack_error(e)

    def _run(
        self,
        seconds: float,
        calls: messages.CallList,
        send: list[messages.Region],
        receive: list[messages.Region],
    ) -> bytes:
        guest = self._guest
        assert guest is not None
        for offset, nbytes in send:
            ctypes.memmove(guest.base + offset, self._mirror_base + offset, nbytes)
        name, status = guest.calls(calls, seconds)
        if status:
            return messages.pack("faulted", [name, status, guest.row(self._binding.fault_offset)])
        for offset, nbytes in receive:
            ctypes.memmove(self._mirror_base + offset, guest.base + offset, nbytes)
        return _DONE


_DONE = messages.pack("done", None)
