"""A coordinator killed with SIGKILL in every phase of a round takes its jobs up again.

The oracle: each update is a function of the client and of the model it starts from, so the final
model says whether every round counted exactly once.
"""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import pytest

from cloister_protos import Assignment, JobState, RoundState, UploadRequest

from .loopback import CHUNK, F32, SECONDS, Client, Operator, blob_of

CLIENTS = 2
FAULTS = (grpc.aio.AioRpcError, grpc.aio.UsageError, AssertionError, asyncio.InvalidStateError)


class Process:
    """A coordinator that can be killed and started again on the same data and port."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.address = "127.0.0.1:0"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        program = Path(__file__).with_name("coordinator_process.py")
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(program),
            str(self.data_dir),
            self.address,
            "60",
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(SECONDS):
            line = await self._process.stdout.readline()
        assert line, "the coordinator did not start"
        self.address = line.decode().strip()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def end(self, number: signal.Signals) -> int:
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(number)
        code = await self._process.wait()
        self._process._transport.close()  # type: ignore[attr-defined]
        return code

    async def operator(self) -> Operator:
        return Operator(self.address, self.data_dir)


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    made = Process(tmp_path / "data")
    await made.start()
    yield made
    await made.end(signal.SIGKILL)


def update_of(number: int, model: F32) -> F32:
    return (np.float32(number + 1) + np.float32(0.25) * model).astype(np.float32)


def oracle(parameters: int, rounds: int, ids: list[str]) -> F32:
    model = np.zeros(parameters, np.float32)
    order = np.argsort(ids)
    for _ in range(rounds):
        total = np.zeros(parameters)
        for number in order:
            total += (number + 1) * update_of(int(number), model).astype(np.float64)
        model = (model + total / sum(range(1, CLIENTS + 1))).astype(np.float32)
    return model


async def answer(client: Client, number: int, assignment: Assignment) -> None:
    update = update_of(number, await client.model(assignment))
    await client.report(assignment, await client.result(assignment, update, examples=number + 1))


async def keep_working(process: Process, number: int) -> None:
    """A client that comes back whatever happens, and starts its work anew."""
    while True:
        client = Client(process.address, number)
        with suppress(*FAULTS):
            await client.check_in()
            while True:
                await answer(client, number, await client.assignment())
        await client.close()


async def finish(process: Process, job_id: str, parameters: int, rounds: int) -> None:
    """Let clients finish the job, and compare."""
    workers = [asyncio.create_task(keep_working(process, number)) for number in range(CLIENTS)]
    operator = await process.operator()
    ended = await operator.end(job_id)
    assert ended.state == JobState.JOB_STATE_SUCCEEDED, ended.reason
    assert ended.version == rounds
    records = await operator.rounds(job_id)
    committed = [r for r in records if r.state == RoundState.ROUND_STATE_COMMITTED]
    assert [r.base_version for r in committed] == list(range(rounds))
    ids = [Client(process.address, number) for number in range(CLIENTS)]
    names = [blob_of(client.public_key).digest.hex()[:32] for client in ids]
    model = await operator.model(job_id)
    assert model.tobytes() == oracle(parameters, rounds, names).tobytes()
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    for client in ids:
        await client.close()
    await operator.close()


def state_of_round(data_dir: Path, number: int) -> int:
    connection = sqlite3.connect(f"file:{data_dir / 'coordinator.db'}?mode=ro", uri=True)
    try:
        row = connection.execute("SELECT state FROM round WHERE number = ?", (number,)).fetchone()
        return int(row[0]) if row else 0
    finally:
        connection.close()


@pytest.mark.parametrize("parameters", [6, 100_000], ids=["inline", "uploaded"])
async def test_killed_after_one_of_two_reports(process: Process, parameters: int) -> None:
    operator = await process.operator()
    job_id = (await operator.submit_noop(parameters, CLIENTS, rounds=3)).job_id
    clients = [Client(process.address, number) for number in range(CLIENTS)]
    for client in clients:
        await client.check_in()
    work = [await client.assignment() for client in clients]
    await answer(clients[1], 1, work[1])
    await process.end(signal.SIGKILL)
    await process.start()
    # The one report was acknowledged: its client is not asked again.
    await clients[0].enrol()
    await clients[0].check_in()
    again = await clients[0].assignment()
    assert again.assignment_id == work[0].assignment_id
    assert again.seed == work[0].seed
    await answer(clients[0], 0, again)
    for client in clients:
        await client.close()
    await operator.close()
    await finish(process, job_id, parameters, 3)


async def test_killed_in_the_middle_of_an_upload(process: Process) -> None:
    parameters = 600_000
    operator = await process.operator()
    job_id = (await operator.submit_noop(parameters, CLIENTS, rounds=1)).job_id
    clients = [Client(process.address, number) for number in range(CLIENTS)]
    for client in clients:
        await client.check_in()
    work = [await client.assignment() for client in clients]
    content = update_of(0, np.zeros(parameters, np.float32)).tobytes()
    request = UploadRequest(
        assignment_id=work[0].assignment_id, blob=blob_of(content), data=content[:CHUNK]
    )
    assert (await clients[0].call("Upload", request)).received == CHUNK
    await process.end(signal.SIGKILL)
    await process.start()
    await clients[0].enrol()
    request.data = b""
    assert (await clients[0].call("Upload", request)).received == CHUNK
    for client in clients:
        await client.close()
    await operator.close()
    await finish(process, job_id, parameters, 1)


async def test_killed_between_upload_and_report(process: Process) -> None:
    parameters = 600_000
    operator = await process.operator()
    job_id = (await operator.submit_noop(parameters, CLIENTS, rounds=1)).job_id
    clients = [Client(process.address, number) for number in range(CLIENTS)]
    for client in clients:
        await client.check_in()
    work = [await client.assignment() for client in clients]
    update = update_of(0, np.zeros(parameters, np.float32))
    result = await clients[0].result(work[0], update, examples=1)
    await process.end(signal.SIGKILL)
    await process.start()
    await clients[0].enrol()
    await clients[0].report(work[0], result)  # what was acknowledged is not sent again
    for client in clients:
        await client.close()
    await operator.close()
    await finish(process, job_id, parameters, 1)


async def test_killed_while_folding(process: Process) -> None:
    parameters = 4_000_000
    operator = await process.operator()
    job_id = (await operator.submit_noop(parameters, CLIENTS, rounds=2)).job_id
    clients = [Client(process.address, number) for number in range(CLIENTS)]
    for client in clients:
        await client.check_in()
    work = [await client.assignment() for client in clients]
    await asyncio.gather(*(answer(c, n, work[n]) for n, c in enumerate(clients)))
    async with asyncio.timeout(SECONDS):
        while state_of_round(process.data_dir, 1) == RoundState.ROUND_STATE_COLLECTING:
            await asyncio.sleep(0)
    await process.end(signal.SIGKILL)
    assert state_of_round(process.data_dir, 1) == RoundState.ROUND_STATE_FOLDING
    await process.start()
    for client in clients:
        await client.close()
    await operator.close()
    await finish(process, job_id, parameters, 2)


async def test_killed_again_and_again(process: Process) -> None:
    rounds = 60
    operator = await process.operator()
    job_id = (await operator.submit_noop(50, CLIENTS, rounds=rounds)).job_id
    workers = [asyncio.create_task(keep_working(process, number)) for number in range(CLIENTS)]
    for goal in (7, 23, 41):
        async with asyncio.timeout(SECONDS):
            while not state_of_round(process.data_dir, goal):
                await asyncio.sleep(0)
        await process.end(signal.SIGKILL)
        await process.start()
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    await operator.close()
    await finish(process, job_id, 50, rounds)


async def test_sigterm_ends_it_in_good_order(process: Process) -> None:
    operator = await process.operator()
    job_id = (await operator.submit_noop(50, CLIENTS, rounds=5)).job_id
    client = Client(process.address, 0)
    await client.check_in()
    stream = client.stream
    assert await process.end(signal.SIGTERM) == 0
    assert await stream.read() is grpc.aio.EOF
    await client.close()
    await operator.close()
    await process.start()
    await finish(process, job_id, 50, 5)
