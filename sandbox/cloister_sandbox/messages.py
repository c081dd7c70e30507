"""What parent and child say to each other: small bounded packets, never data of a module.

One request, one answer, in turns. Both are a JSON array whose first item names it:

=============================  ==================================================================
parent to child
=============================  ==================================================================
``["bind", {...}]``            :class:`Binding`; three descriptors come with it
``["fresh", seconds]``         make a new instance
``["run", [s, c, in, out]]``   deadline, calls, regions to copy in before and out after them
=============================  ==================================================================

=============================  ==================================================================
child to parent
=============================  ==================================================================
``["ready", [...]]``           start-up is over; what `Confinement` holds
``["bound", nbytes]``          the module is compiled or loaded; bytes of native code handed over
``["done", null]``             it worked
``["faulted", [...]]``         an entry point, its status and the row it is about, or null
``["failed", [...]]``          kind of error and what it takes to raise it again
=============================  ==================================================================

Data goes through a file in memory that both map (the mirror): it is as large as the module's
memory and every buffer has the same offset in both, so a region needs one offset and a length.

The parent trusts nothing the child says: whatever is not a word of this page is `Crashed`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

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

MAX_BYTES = 64 * 1024
"""Bytes of a packet; a longer one is not sent, and not understood."""

Region: TypeAlias = tuple[int, int]
"""Bytes from the start of memory, and how many."""
CallList: TypeAlias = Sequence[tuple[str, Sequence[int]]]
"""Entry points with their arguments, in order."""


@dataclass(frozen=True)
class Binding:
    """Which module a child is to host, for good. The descriptors are, in this order: its bytes,
    the mirror, and room for the native code."""

    native: bool
    """Whether the bytes are native code, or the module to be compiled."""
    input_bytes: int
    memory_bytes: int
    output_bytes: int
    """Room for the native code."""
    entry_points: Mapping[str, Sequence[str]]
    fault_offset: int | None
    """Where the module leaves the row a status is about, an i64."""

    def fields(self) -> dict[str, Any]:
        """As it travels."""
        return asdict(self)


def pack(word: str, content: object) -> bytes:
    """Write a packet.

    Raises:
        ValueError: it is too long.
    """
    packet = json.dumps([word, content], separators=(",", ":")).encode()
    if len(packet) > MAX_BYTES:
        raise ValueError(f"a request of {len(packet)} bytes; at most {MAX_BYTES} can be sent")
    return packet


def unpack(packet: bytes) -> tuple[str, Any]:
    """Read a packet.

    Raises:
        ValueError: it is none.
    """
    try:
        message = json.loads(packet)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not (isinstance(message, list) and len(message) == 2 and isinstance(message[0], str)):
        raise ValueError("no message")
    return message[0], message[1]


def pack_error(error: SandboxError) -> bytes:
    """Write an error of the child; :func:`read_error` makes it again."""
    match error:
        case Trapped():
            content: list[object] = [error.trap.value, error.where]
        case OutOfTime():
            content = [error.seconds]
        case Refused():
            content = [error.reason, error.message]
        case _:
            content = [error.message]
    return pack("failed", [error.kind, *content])


def read_error(content: Any) -> SandboxError:
    """Make the error a child told of.

    Raises:
        ValueError, TypeError: it is none of those a child may tell of.
    """
    kind, *rest = content
    match kind, rest:
        case "trapped", [str(trap), str(where)]:
            return Trapped(Trap(trap), one_line(where))
        case "out_of_time", [float() | int() as seconds]:
            return OutOfTime("run", "wall", seconds)
        case "refused", [("malformed" | "memory" | "export") as reason, str(message)]:
            return Refused(reason, one_line(message))
        case "out_of_memory", [str(message)]:
            return OutOfMemory(one_line(message))
        case "crashed", [str(message)]:
            return Crashed(one_line(message))
    raise ValueError("no error")
