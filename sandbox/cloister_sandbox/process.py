"""A child process, seen from its parent: start it, ask it, limit it, end it."""

from __future__ import annotations

import math
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import wasmtime

from cloister_sandbox import messages
from cloister_sandbox.confinement import Confinement
from cloister_sandbox.errors import (
    Crashed,
    OutOfMemory,
    OutOfTime,
    Phase,
    SandboxError,
    one_line,
)
from cloister_sandbox.limits import Limits

START_SECONDS = 30.0
"""Wall clock for a child to start; past it the machine is out of order."""
COMPILE_WALL = 6.0
"""Wall clock for compiling, as a multiple of its CPU limit; past it the child is killed."""

_LAST_WORDS_BYTES = 4096
_PACKAGE = Path(__file__).parent
# The child imports the files of this package without its __init__, hence neither numpy nor
# protobuf: it starts in a third of the time and memory.
_BOOT = """
import sys, types
package = types.ModuleType("cloister_sandbox")
package.__path__ = [sys.argv[5]]
sys.modules["cloister_sandbox"] = package
sys.path.append(sys.argv[6])
from cloister_sandbox.child import main
main()
"""


class Process:
    """One child: an interpreter of its own without environment, site packages or descriptors.

    It is killed by the kernel when the thread that made it ends. One thread at a time may use
    it; :meth:`kill` is for any thread, and makes a request in progress raise Crashed.

    Raises:
        OSError: the system has no process or descriptor left.
    """

    def __init__(self, limits: Limits) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        numbers = [theirs.fileno(), os.getpid(), limits.memory_bytes, limits.stack_bytes]
        paths = [_PACKAGE, Path(wasmtime.__file__).parents[1]]
        command = [sys.executable, "-I", "-S", "-B", "-c", _BOOT, *map(str, [*numbers, *paths])]
        try:
            self._popen = subprocess.Popen(
                command,
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the parent
            )
        except BaseException:
            self._channel.close()
            raise
        finally:
            theirs.close()
        self.pid = self._popen.pid
        self._cpu_clock = ~self.pid << 3 | 2  # as clock_getcpuclockid(3) makes it
        self._cpu_limit = 0
        self._killed = False

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    def confinement(self) -> Confinement:
        """Wait until the child is ready; the walls it reports. To be called once, first."""
        match self._answer("run", START_SECONDS, START_SECONDS):
            case "ready", [list(limits), list(forbidden), bool(filtered)]:
                return Confinement(tuple(limits), tuple(forbidden), filtered)
        raise self._nonsense()

    def ask(
        self,
        request: bytes,
        phase: Phase,
        *,
        wall: float,
        cpu: float,
        descriptors: Sequence[int] = (),
    ) -> tuple[str, Any]:
        """Send a request and wait for its answer; after an error the child is dead.

        Args:
            wall: seconds the child should keep to itself; it is killed a little later.
            cpu: seconds of CPU time, rounded up.

        Raises:
            SandboxError: the child told of it, or how it ended says so.
        """
        self.send(request, cpu=cpu, descriptors=descriptors)
        return self.receive(phase, wall=wall, cpu=cpu)

    def send(self, request: bytes, *, cpu: float, descriptors: Sequence[int] = ()) -> None:
        """The first half of `ask`: the child is at work when it returns."""
        self._limit_cpu(cpu)
        with suppress(OSError):  # a dead child is found out when its answer is awaited
            if descriptors:
                socket.send_fds(self._channel, [request], descriptors)
            else:
                self._channel.send(request)

    def receive(self, phase: Phase, *, wall: float, cpu: float) -> tuple[str, Any]:
        """The second half of `ask`: the answer to what was sent. Raises as it does."""
        word, content = self._answer(phase, wall, cpu)
        if word != "failed":
            return word, content
        try:
            raise messages.read_error(content)
        except (ValueError, TypeError):
            raise self._nonsense() from None

    @property
    def running(self) -> bool:
        """Whether the child has not ended."""
        return self._popen.poll() is None

    def kill(self) -> None:
        """End the child now."""
        self._killed = True
        self._popen.kill()
        self._popen.wait()

    def close(self) -> None:
        """End the child and let go of everything."""
        self.kill()
        self._channel.close()
        assert self._popen.stderr is not None
        self._popen.stderr.close()

    def _answer(self, phase: Phase, wall: float, cpu: float) -> tuple[str, Any]:
        self._channel.settimeout(wall * 1.1 + 0.5)
        try:
            packet = self._channel.recv(messages.MAX_BYTES)
        except TimeoutError:
            self.kill()
            raise OutOfTime(phase, "wall", wall) from None
        except OSError:
            packet = b""
        if not packet:
            raise self._epitaph(phase, cpu)
        try:
            return messages.unpack(packet)
        except ValueError:
            raise self._nonsense() from None

    def _limit_cpu(self, seconds: float) -> None:
        """Move the CPU limit to the child's time so far plus some."""
        if self._popen.returncode is not None:  # its number may be another process's by now
            return
        with suppress(OSError):  # a dead child is found out when asked
            limit = math.ceil(time.clock_gettime(self._cpu_clock) + seconds)
            if limit != self._cpu_limit:
                _, hard = resource.prlimit(self.pid, resource.RLIMIT_CPU)
                resource.prlimit(self.pid, resource.RLIMIT_CPU, (limit, hard))
                self._cpu_limit = limit

    def _epitaph(self, phase: Phase, cpu: float) -> SandboxError:
        """Why the child is gone."""
        try:
            code = self._popen.wait(1.0)
        except subprocess.TimeoutExpired:  # it hung up but lives
            self.kill()
            return Crashed("the sandbox hung up")
        words = self._last_words()
        if -code == signal.SIGXCPU:
            return OutOfTime(phase, "cpu", cpu)
        if "memory allocation of" in words or "MemoryError" in words:
            doing = {"compile": "compiling", "run": "running"}[phase]
            return OutOfMemory(f"{doing} the module took more memory than the sandbox may have")
        if self._killed:
            return Crashed("the sandbox was closed while it ran")
        if code < 0:
            return Crashed("the sandbox was killed", -code)
        return Crashed(f"the sandbox ended with status {code}: {words or 'no last words'}")

    def _last_words(self) -> str:
        """What the child left on stderr; it may be anything."""
        assert self._popen.stderr is not None
        descriptor = self._popen.stderr.fileno()
        os.set_blocking(descriptor, False)
        try:
            return one_line(os.read(descriptor, _LAST_WORDS_BYTES).decode(errors="replace")[-300:])
        except BlockingIOError:
            return ""

    def _nonsense(self) -> Crashed:
        self.kill()
        return Crashed("the sandbox broke its protocol")
