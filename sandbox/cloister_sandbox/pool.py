"""Sandboxes at hand: leased fresh, kept warm, replaced when they misbehave."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from cloister_sandbox.code_cache import CodeCache
from cloister_sandbox.engine import Engine, settings
from cloister_sandbox.errors import Crashed, Refused
from cloister_sandbox.isolated import ChildSandbox
from cloister_sandbox.limits import Limits
from cloister_sandbox.local import LocalSandbox
from cloister_sandbox.nursery import Nursery
from cloister_sandbox.sandbox import Sandbox
from cloister_tasks import InvalidModule, Module

log = logging.getLogger(__name__)


class SandboxPool:
    """Leases sandboxes to any number of threads; to be closed.

    Args:
        limits: for every module.
        isolated: in child processes, as for modules of strangers; or in this process.
        cache_dir: where native code is kept over restarts; None: not at all.
        capacity: idle sandboxes kept warm, each with its child; beyond it the least recently
            used is ended. Leases are never refused or delayed for it. An idle child keeps
            what was written to its views in memory, so that the next lease need not fault it in.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        isolated: bool = True,
        cache_dir: Path | None = None,
        capacity: int = 4,
    ) -> None:
        self.limits = limits or Limits()
        self._capacity = capacity
        self._cache = CodeCache(
            cache_dir, settings(self.limits.stack_bytes) | {"isolated": isolated}
        )
        self._lock = threading.Lock()
        self._idle: OrderedDict[Sandbox, None] = OrderedDict()
        self._closed = False
        self._maker: _Local | _Isolated = (_Isolated if isolated else _Local)(
            self.limits, self._cache
        )

    @contextmanager
    def lease(self, module: bytes | Module) -> Iterator[Sandbox]:
        """A fresh sandbox of a module, for as long as the body lasts.

        Raises:
            Refused: the module breaks the contract, or wants more than the limits allow.
            Trapped, OutOfTime, OutOfMemory, Crashed: while compiling or instantiating.
        """
        sandbox = self._take(self._admit(module))
        try:
            yield sandbox
        finally:
            self._put_back(sandbox)

    def report(self) -> str:
        """One line that says which walls are in force, for logs and people."""
        return self._maker.report()

    def close(self) -> None:
        """End all sandboxes, leased ones too."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, OrderedDict()
        for sandbox in idle:
            sandbox.close()
        self._maker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _admit(self, module: bytes | Module) -> Module:
        limits = self.limits
        if not isinstance(module, Module):
            try:
                module = Module.parse(module, limits.module_bytes)
            except InvalidModule as e:
                raise Refused(e.reason, e.message) from e
        if len(module.data) > limits.module_bytes:
            raise Refused(
                "too_large",
                f"the module has {len(module.data)} bytes; at most {limits.module_bytes}"
                " are allowed here",
            )
        if module.memory.max_bytes > limits.memory_bytes:
            raise Refused(
                "memory",
                f"the module wants {module.memory.max_bytes} bytes of memory; at most"
                f" {limits.memory_bytes} are allowed here",
            )
        return module

    def _take(self, module: Module) -> Sandbox:
        while sandbox := self._take_idle(module.digest):
            with suppress(Crashed):  # it ended while idle; that says nothing about the module
                sandbox.fresh()
                return sandbox
        if self._closed:
            raise Crashed("the pool was closed")
        sandbox = self._make(module)
        sandbox.fresh()
        return sandbox

    def _take_idle(self, digest: bytes) -> Sandbox | None:
        with self._lock:
            for sandbox in reversed(self._idle):
                if sandbox.module.digest == digest:
                    del self._idle[sandbox]
                    return sandbox
        return None

    def _make(self, module: Module) -> Sandbox:
        name = f"{module.manifest.name} {module.digest.hex()[:12]}"
        code = self._cache.get(module.digest)
        if code is not None:
            try:
                sandbox = self._maker.make(module, code)
            except Refused:  # made by another build of the engine
                self._cache.forget(module.digest)
            else:
                log.debug("native code of %s is from the cache", name)
                return sandbox
        began = time.monotonic()
        sandbox = self._maker.make(module, None)
        log.debug("%s was compiled in %.3f s", name, time.monotonic() - began)
        return sandbox

    def _put_back(self, sandbox: Sandbox) -> None:
        if not sandbox.alive:
            return
        sandbox.rest()
        with self._lock:
            if not self._closed:
                self._idle[sandbox] = None
                surplus = list(self._idle)[: max(0, len(self._idle) - self._capacity)]
            else:
                surplus = [sandbox]
            for old in surplus:
                self._idle.pop(old, None)
        for old in surplus:
            old.close()


class _Isolated:
    """Makes sandboxes in children."""

    def __init__(self, limits: Limits, cache: CodeCache) -> None:
        self._limits = limits
        self._cache = cache
        self._nursery = Nursery(limits)

    def make(self, module: Module, code: bytes | None) -> Sandbox:
        """A sandbox without an instance; ``code`` is from the cache, None to compile."""
        sandbox = ChildSandbox(self._nursery.take(), module, self._limits, code)
        if code is None:
            self._cache.put(module.digest, sandbox.code)
        return sandbox

    def report(self) -> str:
        """The walls around the children."""
        found = self._nursery.confinement()
        return found.report() if found else "no sandbox process could be started"

    def close(self) -> None:
        """End all children."""
        self._nursery.close()


class _Local:
    """Makes sandboxes in this process, on one engine."""

    def __init__(self, limits: Limits, cache: CodeCache) -> None:
        self._limits = limits
        self._cache = cache
        self._engine = Engine(limits.stack_bytes)

    def make(self, module: Module, code: bytes | None) -> Sandbox:
        """A sandbox without an instance; ``code`` is from the cache, None to compile."""
        if code is None:
            compiled = self._engine.compile(module.data)
            self._cache.put(module.digest, bytes(compiled.serialize()))
        else:
            compiled = self._engine.load(code)
        return LocalSandbox(self._engine, compiled, module, self._limits)

    def report(self) -> str:
        """There is one wall."""
        return "in-process: the engine's own wall only"

    def close(self) -> None:
        """End the engine's ticker."""
        self._engine.close()
