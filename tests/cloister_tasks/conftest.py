"""A bare engine around a module: floor 2 is tested without the sandbox of floor 3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import wasmtime

from cloister_protos import Role
from cloister_tasks import Module


class Guest:
    """One instance of a module, its buffers as numpy views of its memory."""

    def __init__(self, data: bytes) -> None:
        self.module = Module.parse(data)
        config = wasmtime.Config()
        config.wasm_relaxed_simd = True
        config.wasm_relaxed_simd_deterministic = True
        engine = wasmtime.Engine(config)
        self._store = wasmtime.Store(engine)
        instance = wasmtime.Instance(self._store, wasmtime.Module(engine, data), [])
        self._exports = instance.exports(self._store)
        memory = self._exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        self.memory = np.frombuffer(memory.get_buffer_ptr(self._store), np.uint8)

    def __getitem__(self, name: str) -> np.ndarray:
        buffer = self.module.manifest.buffers[name]
        return self.memory[buffer.offset : buffer.end].view(buffer.dtype).reshape(buffer.shape)

    def __setitem__(self, name: str, value: object) -> None:
        self[name][...] = value

    @property
    def parameters(self) -> np.ndarray:
        block = self.module.manifest.block(Role.ROLE_PARAMETER)
        assert block is not None
        return self.memory[block.offset : block.offset + block.nbytes].view("<f4")

    def __call__(self, function: str, *arguments: int) -> int:
        called = self._exports[function]
        assert isinstance(called, wasmtime.Func)
        status = called(self._store, *arguments)
        assert isinstance(status, int)
        return status


@pytest.fixture(scope="session")
def guest() -> Callable[[bytes], Guest]:
    return Guest


@pytest.fixture(scope="session", autouse=True)
def build_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Builds are shared by the tests of one run and leave nothing in the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOISTER_CACHE", str(folder))
        yield folder
