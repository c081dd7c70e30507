from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from cloister_coordinator.config import CoordinatorConfig

from .loopback import Client, Operator, served


@pytest.fixture
def config(tmp_path: Path) -> CoordinatorConfig:
    return CoordinatorConfig(
        tmp_path / "data",
        address="127.0.0.1:0",
        settle_seconds=0.0,
        retry_seconds=0.0,
        reconnect_grace_seconds=0.0,
    )


class Site:
    """A coordinator in this process, and whoever talks to it."""

    def __init__(self, stack: AsyncExitStack, address: str, data_dir: Path) -> None:
        self.stack = stack
        self.address = address
        self.operator = Operator(address, data_dir)
        stack.push_async_callback(self.operator.close)

    async def client(self, number: int, *, check_in: bool = True, **capabilities: Any) -> Client:
        client = Client(self.address, number, **capabilities)
        self.stack.push_async_callback(client.close)
        if check_in:
            await client.check_in()
        return client


Start = Callable[..., Awaitable[Site]]


@pytest.fixture
async def start(config: CoordinatorConfig) -> AsyncIterator[Start]:
    """Starts a coordinator with changed settings."""
    async with AsyncExitStack() as stack:

        async def begin(**changed: Any) -> Site:
            settings = replace(config, **changed)
            address = await stack.enter_async_context(served(settings))
            return Site(stack, address, settings.data_dir)

        yield begin


@pytest.fixture
async def site(start: Start) -> Site:
    return await start()


async def refused(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """The error a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


__all__ = ["Site", "Start", "refused"]
