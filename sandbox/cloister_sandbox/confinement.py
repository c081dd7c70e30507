"""The outer wall: what a sandbox's process gives up before it sees anything of a module.

=====================  ==========================================================================
memory                 RLIMIT_DATA: its memory limit and as much for the engine; past it an
                       allocation fails (RLIMIT_AS would count the engine's address reservations)
CPU                    RLIMIT_CPU, moved by the parent before each request; past it SIGXCPU ends it
files                  RLIMIT_FSIZE 0, RLIMIT_NOFILE, no core dumps; Landlock: none can be opened
processes, threads     RLIMIT_NPROC 0, seccomp: none can be started
network                seccomp: no socket can be made; Landlock: no TCP
privileges             no capabilities and no new privileges; not dumpable, so that no process of
                       the same user may look in
its parent's death     SIGKILL
=====================  ==========================================================================

Resource limits and privileges are always there on Linux. seccomp needs x86_64 or aarch64,
Landlock a kernel from 5.13 on; :class:`Confinement` says what is in force.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
from dataclasses import dataclass
from pathlib import Path

from cloister_sandbox import landlock, seccomp

OVERHEAD_BYTES = 96 * 1024 * 1024
"""Bytes of private memory the process may have beside the module's: interpreter, engine, code."""
_MAX_DESCRIPTORS = 32

_CAPABILITY_VERSION = 0x20080522
_SET_DEATH_SIGNAL, _SET_DUMPABLE, _SET_NO_NEW_PRIVILEGES = 1, 4, 38


@dataclass(frozen=True)
class Confinement:
    """Which walls around a process are in force."""

    limits: tuple[str, ...] = ()
    """Resource limits by name, as in "data"."""
    landlock: tuple[str, ...] = ()
    """What Landlock forbids, of "files", "tcp" and "signals"; empty: the kernel has none."""
    seccomp: bool = False
    """Whether the system call filter is in force."""

    def report(self) -> str:
        """One line for logs and people."""
        names = ", ".join(self.limits) or "none"
        forbidden = ", ".join(self.landlock) or "not available on this kernel"
        filtered = "on" if self.seccomp else "not available on this kernel or machine"
        return f"limits: {names}; landlock: {forbidden}; seccomp: {filtered}"


def libc() -> ctypes.CDLL:
    """The C library, loaded before files are out of reach."""
    return ctypes.CDLL(None, use_errno=True)


def die_with_parent(lib: ctypes.CDLL, parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # what was inherited could keep it alive
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    lib.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we could ask
        os._exit(1)


def give_up_files(lib: ctypes.CDLL, memory_bytes: int) -> Confinement:
    """First part, while this process has one thread: everything but the system call filter."""
    with contextlib.suppress(OSError):  # if memory runs out, we go first
        Path("/proc/self/oom_score_adj").write_text("1000")
    used = _private_bytes()
    wanted = {
        "data": (resource.RLIMIT_DATA, used + memory_bytes + OVERHEAD_BYTES),
        "fsize": (resource.RLIMIT_FSIZE, 0),
        "core": (resource.RLIMIT_CORE, 0),
        "nofile": (resource.RLIMIT_NOFILE, _MAX_DESCRIPTORS),
        "memlock": (resource.RLIMIT_MEMLOCK, 0),
        "msgqueue": (resource.RLIMIT_MSGQUEUE, 0),
    }
    for limit, value in wanted.values():
        _, hard = resource.getrlimit(limit)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    lib.capset(struct.pack("=Ii", _CAPABILITY_VERSION, 0), bytes(24))
    lib.prctl(_SET_DUMPABLE, 0, 0, 0, 0)
    lib.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return Confinement(tuple(wanted), tuple(landlock.restrict(lib)))


def give_up_calls(lib: ctypes.CDLL, so_far: Confinement) -> Confinement:
    """Second part, when all threads run: no more of them, and the system call filter."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    filtered = seccomp.install(lib, seccomp.allow_list(platform.machine()))
    return Confinement((*so_far.limits, "nproc"), so_far.landlock, filtered)


def give_up_code(lib: ctypes.CDLL, so_far: Confinement) -> None:
    """Last part, when the module's code is loaded: nothing else becomes executable."""
    if so_far.seccomp:
        seccomp.install(lib, seccomp.no_new_code(platform.machine()))


def _private_bytes() -> int:
    """What the kernel counts against RLIMIT_DATA now."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
    return pages * resource.getpagesize()
