"""The coordinator's memory is O(model): more clients at once cost chunks, not models."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cloister_protos import DownloadRequest, ReportRequest, Result, UploadRequest

from .loopback import CHUNK, Client, blob_of
from .test_resume import Process

PARAMETERS = 5_000_000
CLIENTS = 32
ROUNDS = 2
LIMIT_MB = 600


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    made = Process(tmp_path / "data")
    await made.start()
    yield made
    await made.end(signal.SIGKILL)


async def work(client: Client, content: bytes) -> None:
    """Rounds that keep nothing of the model, as 32 clients live in this process."""
    blob = blob_of(content)
    for _ in range(ROUNDS):
        assignment = await client.assignment()
        name = assignment.assignment_id
        request = DownloadRequest(assignment_id=name, digest=assignment.model.digest)
        received = 0
        async for chunk in client.stub.Download(request, metadata=client.metadata):
            received += len(chunk.data)
        assert received == len(content)
        offset = 0
        while offset < len(content):
            piece = UploadRequest(
                assignment_id=name, blob=blob, offset=offset, data=content[offset : offset + CHUNK]
            )
            offset = (await client.call("Upload", piece)).received
        result = Result(examples=1, trained_rows=1, update=blob)
        await client.call("Report", ReportRequest(assignment_id=name, result=result))


async def peak_of(pid: int, ended: asyncio.Event) -> float:
    """Megabytes of a process and its children, at most."""
    peak = 0.0
    while not ended.is_set():
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            tree = [parent, *parent.children(recursive=True)]
            peak = max(peak, sum(member.memory_info().rss for member in tree) / 1e6)
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), 0.02)
    return peak


@pytest.mark.slow
async def test_many_clients_at_once(process: Process) -> None:
    operator = await process.operator()
    clients = [Client(process.address, number) for number in range(CLIENTS)]
    await asyncio.gather(*(client.check_in() for client in clients))
    ended = asyncio.Event()
    peak = asyncio.create_task(peak_of(process.pid, ended))
    job = await operator.submit_noop(
        PARAMETERS, CLIENTS, rounds=ROUNDS, round_deadline_seconds=600.0
    )
    await asyncio.gather(*(work(client, bytes(4 * PARAMETERS)) for client in clients))
    assert (await operator.end(job.job_id)).version == ROUNDS
    ended.set()
    assert await peak < LIMIT_MB
    for client in clients:
        await client.close()
    await operator.close()
