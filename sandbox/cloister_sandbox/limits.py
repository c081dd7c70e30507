"""How much a module may use."""

from __future__ import annotations

import math
from dataclasses import dataclass

MIB = 1024 * 1024
_MAX_SECONDS = 30 * 24 * 3600.0


@dataclass(frozen=True)
class Limits:
    """What the device's owner grants to each module; no message from outside can raise it.

    Raises:
        ValueError: a limit is outside its range.
    """

    memory_bytes: int = 256 * MIB
    """Bytes of linear memory a module may declare; a module that declares more is refused. A
    child process gets as much again as `confinement.OVERHEAD_BYTES` for the engine: past that
    an allocation fails and the run ends with OutOfMemory. 64 KiB to 4 GiB."""
    run_seconds: float = 60.0
    """Seconds of wall clock for each `run()` and each `fresh()`, however many calls they make;
    past it the run ends with OutOfTime(run, wall). 0.01 to 30 days."""
    cpu_seconds: float = 60.0
    """Seconds of CPU time for the same, rounded up to whole seconds; past it a child process is
    ended and the run raises OutOfTime(run, cpu). Not watched in-process. 0.01 to 30 days."""
    compile_seconds: float = 10.0
    """Seconds of CPU time for compiling, rounded up to whole seconds; past it a child process is
    ended and the lease raises OutOfTime(compile, cpu). Not watched in-process. 0.01 to 30 days."""
    stack_bytes: int = 256 * 1024
    """Bytes of stack for WASM frames; deeper recursion raises Trapped(stack_overflow). It lies
    on the calling thread's own stack, hence at most 4 MiB; at least 16 KiB."""
    module_bytes: int = 64 * MIB
    """Bytes of a module; a larger one is refused before it is looked at. 1 byte to 1 GiB."""

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "memory_bytes": (65536, 1 << 32),
            "run_seconds": (0.01, _MAX_SECONDS),
            "cpu_seconds": (0.01, _MAX_SECONDS),
            "compile_seconds": (0.01, _MAX_SECONDS),
            "stack_bytes": (16 * 1024, 4 * MIB),
            "module_bytes": (1, 1 << 30),
        }
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and least <= value <= most):
                raise ValueError(f"{name} is {value}; it must be from {least:g} to {most:g}")
