"""Landlock: a process gives up the file system, TCP and signals to others, for good.

Needs no privilege. Kernel documentation: userspace-api/landlock. The system call numbers are the
same on every architecture.
"""

from __future__ import annotations

import ctypes
import os

_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_VERSION = 1

_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""Rights over files that each version knows, as a count of low bits; from 5 on there are 16."""


class _Ruleset(ctypes.Structure):
    _fields_ = [
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    ]


def version(libc: ctypes.CDLL) -> int:
    """The kernel's Landlock version; 0 when it has none."""
    return max(0, int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)))


def restrict(libc: ctypes.CDLL) -> list[str]:
    """Forbid the calling thread, and threads it starts, everything Landlock can forbid.

    Returns:
        What was forbidden; empty when the kernel has no Landlock.
    """
    known = version(libc)
    if known < 1:
        return []
    rules = _Ruleset(
        handled_access_fs=(1 << _FILE_RIGHTS.get(known, 16)) - 1,
        handled_access_net=0b11 if known >= 4 else 0,  # bind and connect TCP
        scoped=0b11 if known >= 6 else 0,  # abstract sockets, signals
    )
    # Older kernels know a shorter struct and refuse a longer one only if its tail is not zero.
    ruleset = libc.syscall(
        _CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(ctypes.sizeof(rules)), 0
    )
    if ruleset < 0:
        return []
    refused = libc.syscall(_RESTRICT_SELF, ruleset, 0) != 0
    os.close(ruleset)
    if refused:
        return []
    forbidden = ["files"]
    if rules.handled_access_net:
        forbidden.append("tcp")
    if rules.scoped:
        forbidden.append("signals")
    return forbidden
