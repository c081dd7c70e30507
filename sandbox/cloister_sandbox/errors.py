"""What can go wrong while a module is compiled or run.

::

    SandboxError
    ├── Refused        the module breaks the contract or the device's limits; nothing ran
    ├── Trapped        the module did something WASM forbids; `trap` says what
    ├── OutOfTime      a deadline passed while compiling or running
    ├── OutOfMemory    a memory cap was reached
    ├── Faulted        the module itself returned a non-zero status
    └── Crashed        the sandbox's process ended or broke its protocol

All but the last two are the module's fault, or limits too small for it; `Faulted` may be the
data's fault too; `Crashed` is an engine fault, an attack, or somebody's signal. After any of
them the sandbox is dead: lease a new one. Messages hold no data and can be shown and sent.
"""

from __future__ import annotations

from enum import StrEnum
from signal import Signals
from typing import ClassVar, Literal, TypeAlias

Phase: TypeAlias = Literal["compile", "run"]
Clock: TypeAlias = Literal["wall", "cpu"]


class Trap(StrEnum):
    """What a module did that WASM forbids."""

    STACK_OVERFLOW = "stack_overflow"
    """Recursion past `Limits.stack_bytes`."""
    MEMORY_OUT_OF_BOUNDS = "memory_out_of_bounds"
    """A load or store outside the module's memory."""
    TABLE_OUT_OF_BOUNDS = "table_out_of_bounds"
    """An access outside a table, as of function pointers."""
    INDIRECT_CALL_TO_NULL = "indirect_call_to_null"
    """A call through an empty table entry."""
    BAD_SIGNATURE = "bad_signature"
    """A call through a table entry of another type."""
    INTEGER_OVERFLOW = "integer_overflow"
    """The smallest integer divided by -1, or a float too large for an integer."""
    INTEGER_DIVISION_BY_ZERO = "integer_division_by_zero"
    """An integer divided by zero."""
    BAD_CONVERSION_TO_INTEGER = "bad_conversion_to_integer"
    """No number converted to an integer."""
    UNREACHABLE = "unreachable"
    """Code reached that the module declares unreachable, as after abort()."""
    OTHER = "other"
    """Any trap of a feature that tasks cannot use."""


class SandboxError(Exception):
    """Base of everything a sandbox raises on purpose."""

    kind: ClassVar[str]
    """One word for records and the wire (`Failure.kind`)."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Refused(SandboxError):
    """The module was not run: its author has to mend it, or the owner to raise a limit."""

    kind = "refused"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """A `cloister_tasks.Reason`: "malformed", "import", "memory", "manifest" ..."""


class Trapped(SandboxError):
    """The module trapped: its author has to mend it."""

    kind = "trapped"

    def __init__(self, trap: Trap, where: str) -> None:
        super().__init__(f"the module trapped in {where}: {trap.value.replace('_', ' ')}")
        self.trap = trap
        self.where = where
        """The entry point, or "its start function"."""


class OutOfTime(SandboxError):
    """A deadline passed: the module hangs, or the device's limit is too small for it."""

    kind = "out_of_time"

    def __init__(self, phase: Phase, clock: Clock, seconds: float) -> None:
        doing = {"compile": "compiling", "run": "running"}[phase]
        kind = {"wall": "", "cpu": " of CPU time"}[clock]
        super().__init__(f"{doing} the module took more than {seconds:g} seconds{kind}")
        self.phase: Phase = phase
        self.clock: Clock = clock
        self.seconds = seconds


class OutOfMemory(SandboxError):
    """The memory cap was reached while compiling or running."""

    kind = "out_of_memory"


class Faulted(SandboxError):
    """An entry point returned a non-zero status (`cloister_tasks.Status`)."""

    kind = "faulted"

    def __init__(
        self,
        status: int,
        meaning: str,
        *,
        where: str,
        row: int | None = None,
        client: int | None = None,
    ) -> None:
        at = "" if row is None else f" at row {row}"
        whose = "" if client is None else f" of client {client}"
        super().__init__(f"{where} returned status {status} ({meaning}){at}{whose}")
        self.status = status
        self.row = row
        """Row of the inputs the status is about; None when the module names none."""
        self.client = client
        """Slot of the virtual client, in a `Conductor`; None elsewhere."""


class Crashed(SandboxError):
    """The sandbox's process is gone, or said something that is no word of the protocol."""

    kind = "crashed"

    def __init__(self, message: str, signal: int | None = None) -> None:
        super().__init__(message if signal is None else f"{message} ({_signal_name(signal)})")
        self.signal = signal
        """Number of the signal that ended the process; None when none did."""


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def one_line(words: object) -> str:
    """Foreign words made fit for a message: one printable line of at most 300 characters."""
    text = " ".join(str(words).split())
    return "".join(c if c.isprintable() else "?" for c in text)[:300]
