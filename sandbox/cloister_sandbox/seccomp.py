"""seccomp: which system calls a sandboxed process may make, as classic BPF.

An allow-list of what CPython and wasmtime need to compile, run and talk over one socket. Any
other call returns EPERM instead of killing: a C library of another version that probes for
something newer then falls back, so the list holds across distributions; nothing is gained by the
attacker. What is missing says the most: open, socket, clone, fork, execve, kill, ptrace,
io_uring, bpf, mount, prctl, setrlimit.

Kernel documentation: userspace-api/seccomp_filter.
"""

from __future__ import annotations

import ctypes
import platform
import signal
import struct

_ARCHITECTURES = {"x86_64": (0xC000003E, 317), "aarch64": (0xC00000B7, 277)}
"""AUDIT_ARCH, and the number of seccomp itself."""

ALLOWED: dict[str, tuple[int, int]] = {
    # talk over the socket, complain on stderr
    "read": (0, 63),
    "write": (1, 64),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "poll": (7, -1),
    "ppoll": (271, 73),
    # descriptors it has already
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "fcntl": (72, 25),
    "dup": (32, 23),
    # memory; RLIMIT_DATA bounds it
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "madvise": (28, 233),
    # threads it has already, and traps
    "futex": (202, 98),
    "sched_yield": (24, 124),
    "membarrier": (324, 283),
    "rseq": (334, 293),
    "gettid": (186, 178),
    "getpid": (39, 172),
    "tgkill": (234, 131),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "sched_getaffinity": (204, 123),
    # clocks and randomness
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "getrandom": (318, 278),
    "restart_syscall": (219, 128),
    # the end
    "exit": (60, 93),
    "exit_group": (231, 94),
}
"""Numbers on x86_64 and aarch64; -1 where the architecture has no such call."""
_SIGACTION = (13, 134)
"""Allowed but for SIGXCPU: the engine restores the default for a fault that is not its own."""

_EXECUTABLE = 0x4  # PROT_EXEC
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _KILL, _EPERM = 0x7FFF0000, 0x80000000, 0x00050001
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _THIRD_ARGUMENT = 0, 4, 16, 32
_SET_MODE_FILTER, _ALL_THREADS = 1, 1


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def allow_list(machine: str) -> bytes:
    """The filter for a process's whole life, after start-up."""
    architecture, seccomp = _ARCHITECTURES[machine]
    column = list(_ARCHITECTURES).index(machine)
    numbers = [n[column] for n in ALLOWED.values() if n[column] >= 0] + [seccomp]
    count = len(numbers)
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 2, _SIGACTION[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, count, count + 1, signal.SIGXCPU),
    ]
    # A match jumps over the remaining comparisons and the refusal to the permission.
    program += [(_EQUAL, count - i, 0, number) for i, number in enumerate(numbers)]
    program += [(_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]
    return _assemble(program)


def no_new_code(machine: str) -> bytes:
    """The filter on top of it once the module's code is loaded: nothing becomes executable."""
    column = list(_ARCHITECTURES).index(machine)
    _, seccomp = _ARCHITECTURES[machine]
    mmap, mprotect = ALLOWED["mmap"][column], ALLOWED["mprotect"][column]
    return _assemble(
        [
            (_LOAD, 0, 0, _NUMBER),
            (_EQUAL, 5, 0, seccomp),
            (_EQUAL, 1, 0, mmap),
            (_EQUAL, 0, 2, mprotect),
            (_LOAD, 0, 0, _THIRD_ARGUMENT),
            (_ANY_BIT, 1, 0, _EXECUTABLE),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _EPERM),
        ]
    )


def install(libc: ctypes.CDLL, program: bytes) -> bool:
    """Put all threads of this process under a filter, for good; False if the kernel has none.

    The process must have given up new privileges (PR_SET_NO_NEW_PRIVS) before.
    """
    machine = _ARCHITECTURES.get(platform.machine())
    if machine is None:
        return False
    wanted = _Program(len(program) // 8, program)
    result = libc.syscall(machine[1], _SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(wanted))
    return int(result) == 0


def _assemble(program: list[tuple[int, int, int, int]]) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
