"""The WASM engine and its settings: the inner wall.

The settings were chosen by measurement. Everything that a task does not need is off.
"""

from __future__ import annotations

from typing import Self

import wasmtime

from cloister_sandbox.errors import Refused, one_line
from cloister_sandbox.ticker import Ticker

SETTINGS: dict[str, object] = {
    # Results are bit-identical on every host, which makes an update auditable by re-running it.
    "wasm_relaxed_simd": True,
    "wasm_relaxed_simd_deterministic": True,
    # What C compiles to, and nothing else. (Reference types belong to that: tables.)
    "wasm_threads": False,
    "wasm_memory64": False,
    "wasm_tail_call": False,
    "wasm_exceptions": False,
    "wasm_function_references": False,
    "wasm_gc": False,
    "wasm_wide_arithmetic": False,
    "wasm_custom_page_sizes": False,
    "wasm_stack_switching": False,
    "wasm_component_model": False,
    "shared_memory": False,
    "epoch_interruption": True,
    "cranelift_opt_level": "speed",
    # One thread compiles: CPU limits stay meaningful, and a confined child may start no thread.
    "parallel_compilation": False,
    # Memory never moves, so a view of it stays true. Reservation and guards stay at their
    # defaults, with which bounds checks cost nothing.
    "memory_may_move": False,
    # Copy-on-write images are files in memory, and a confined child may write no file.
    "memory_init_cow": False,
}


def settings(stack_bytes: int, *, multi_memory: bool = False) -> dict[str, object]:
    """The settings of an :class:`Engine` with these arguments."""
    return SETTINGS | {"max_wasm_stack": stack_bytes, "wasm_multi_memory": multi_memory}


class Engine:
    """One engine with the ticker that drives its deadlines; thread-safe, to be closed.

    Args:
        stack_bytes: bytes of stack for WASM frames.
        multi_memory: allow modules with several memories (the conductor is one).
    """

    def __init__(self, stack_bytes: int, *, multi_memory: bool = False) -> None:
        config = wasmtime.Config()
        for name, value in settings(stack_bytes, multi_memory=multi_memory).items():
            setattr(config, name, value)
        self.raw = wasmtime.Engine(config)
        self.ticker = Ticker(self.raw.increment_epoch)

    def compile(self, data: bytes) -> wasmtime.Module:
        """Validate and compile a module.

        Raises:
            Refused: (``malformed``) it is not valid WASM, or uses a feature that is off.
        """
        try:
            return wasmtime.Module(self.raw, data)
        except wasmtime.WasmtimeError as e:
            raise Refused("malformed", f"the module does not compile: {one_line(e)}") from None

    def load(self, code: bytes) -> wasmtime.Module:
        """Load native code that :meth:`compile` made, on this machine, of a module.

        Whoever made the code runs as we do: give it nothing but what we made ourselves.

        Raises:
            Refused: (``malformed``) another version or other settings made it.
        """
        try:
            return wasmtime.Module.deserialize(self.raw, code)
        except wasmtime.WasmtimeError as e:
            raise Refused("malformed", f"the native code does not load: {one_line(e)}") from None

    def close(self) -> None:
        """End the ticker; the engine itself lives as long as its instances."""
        self.ticker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
