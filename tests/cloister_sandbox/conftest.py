from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cloister_sandbox import Limits, SandboxPool
from cloister_tasks import Module

from .modules import task


@pytest.fixture(scope="session")
def good() -> Module:
    return Module.parse(task())


MakePool = Callable[..., SandboxPool]


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    """Makes pools and closes them after the test."""
    made: list[SandboxPool] = []

    def make(limits: Limits | None = None, **options: object) -> SandboxPool:
        pool = SandboxPool(limits, **options)  # type: ignore[arg-type]
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.close()
