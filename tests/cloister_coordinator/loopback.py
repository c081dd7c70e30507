"""A client and an operator over real gRPC on loopback, as small as they can be."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from cloister_coordinator.config import CoordinatorConfig
from cloister_coordinator.server import serve
from cloister_protos import (
    MAX_INLINE_BYTES,
    Assignment,
    Blob,
    Capabilities,
    ChallengeRequest,
    CheckInRequest,
    Cohort,
    DownloadRequest,
    EnrolRequest,
    GetBlobRequest,
    GetJobRequest,
    Instruction,
    JobEvent,
    JobSpec,
    JobState,
    JobStatus,
    ListModelVersionsRequest,
    Module,
    PutBlobRequest,
    ReportRequest,
    Result,
    SubmitJobRequest,
    UploadRequest,
    WatchJobRequest,
)
from cloister_protos.services import ClientServiceStub, OperatorServiceStub
from cloister_tasks import aggregation, build

SECONDS = 30.0
"""How long a test waits for what must happen."""
CHUNK = 1 << 20

F32 = NDArray[np.float32]


def blob_of(content: bytes) -> Blob:
    return Blob(digest=hashlib.sha256(content).digest(), size=len(content))


def module_of(content: bytes) -> Module:
    return Module(blob=blob_of(content))


def noop_spec(parameters: int, clients: int, **fields: Any) -> JobSpec:
    """A job that trains nothing; `clients` of them make a round."""
    given: dict[str, Any] = {
        "name": "test",
        "task": module_of(build("noop", parameters=parameters)),
        "aggregation": module_of(aggregation("fedavg")),
        "initial_model": blob_of(bytes(4 * parameters)),
        "rounds": 3,
        "cohort": Cohort(target=clients, minimum=clients),
        "round_deadline_seconds": 60.0,
    }
    return JobSpec(**(given | fields))


class Operator:
    """The operator's side."""

    def __init__(self, address: str, data_dir: Path) -> None:
        self.channel = grpc.aio.insecure_channel(address)
        self.stub = OperatorServiceStub(self.channel)
        token = (data_dir / "operator.token").read_text().strip()
        self.metadata = (("authorization", f"Bearer {token}"),)

    async def call(self, name: str, request: Any) -> Any:
        return await getattr(self.stub, name)(request, metadata=self.metadata, timeout=SECONDS)

    async def put(self, content: bytes) -> Blob:
        blob, offset = blob_of(content), 0
        while offset < len(content):
            piece = PutBlobRequest(blob=blob, offset=offset, data=content[offset : offset + CHUNK])
            offset = (await self.call("PutBlob", piece)).received
        return blob

    async def submit(self, spec: JobSpec, *blobs: bytes, key: str = "") -> JobStatus:
        for blob in blobs:
            await self.put(blob)
        request = SubmitJobRequest(spec=spec, idempotency_key=key)
        status: JobStatus = await self.call("SubmitJob", request)
        return status

    async def submit_noop(self, parameters: int, clients: int, **fields: Any) -> JobStatus:
        return await self.submit(
            noop_spec(parameters, clients, **fields),
            build("noop", parameters=parameters),
            aggregation("fedavg"),
            bytes(4 * parameters),
        )

    async def watch(self, job_id: str, from_round: int = 0) -> AsyncIterator[JobEvent]:
        request = WatchJobRequest(job_id=job_id, from_round=from_round)
        async for event in self.stub.WatchJob(request, metadata=self.metadata):
            yield event

    async def rounds(self, job_id: str) -> list[Any]:
        """All rounds of a job, once it has ended."""
        async with asyncio.timeout(SECONDS):
            return [e.round async for e in self.watch(job_id) if e.HasField("round")]

    async def end(self, job_id: str) -> JobStatus:
        """The job once it has ended."""
        await self.rounds(job_id)
        status: JobStatus = await self.call("GetJob", GetJobRequest(job_id=job_id))
        assert status.state != JobState.JOB_STATE_RUNNING
        return status

    async def model(self, job_id: str) -> F32:
        """The newest model version."""
        request = ListModelVersionsRequest(job_id=job_id, limit=1000)
        versions = (await self.call("ListModelVersions", request)).versions
        content = bytearray()
        async for chunk in self.stub.GetBlob(
            GetBlobRequest(digest=versions[-1].blob.digest), metadata=self.metadata
        ):
            content += chunk.data
        assert blob_of(bytes(content)) == versions[-1].blob
        return np.frombuffer(bytes(content), "<f4")

    async def close(self) -> None:
        await self.channel.close()


class Client:
    """A client whose update for an assignment is whatever `train` says."""

    def __init__(self, address: str, number: int, **capabilities: Any) -> None:
        self.key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"%d" % number).digest())
        self.channel = grpc.aio.insecure_channel(
            address, [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 200)]
        )
        self.stub = ClientServiceStub(self.channel)
        offer: dict[str, Any] = {"memory_bytes": 1 << 32, "datasets": ["local"]}
        self.capabilities = Capabilities(**(offer | capabilities))
        self.metadata: tuple[tuple[str, str], ...] = ()
        self.id = ""
        self.stream: Any = None

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    async def call(self, name: str, request: Any) -> Any:
        return await getattr(self.stub, name)(request, metadata=self.metadata, timeout=SECONDS)

    async def enrol(self, join_token: str = "") -> None:
        key = self.public_key
        nonce = (await self.call("Challenge", ChallengeRequest(public_key=key))).nonce
        signature = self.key.sign(b"cloister enrol v1\0" + nonce + join_token.encode())
        request = EnrolRequest(
            public_key=key, nonce=nonce, signature=signature, join_token=join_token, name="test"
        )
        response = await self.call("Enrol", request)
        self.id = response.client_id
        self.metadata = (("authorization", f"Bearer {response.session_token}"),)

    async def check_in(self, *open_assignments: str) -> None:
        if not self.metadata:
            await self.enrol()
        request = CheckInRequest(
            capabilities=self.capabilities, open_assignments=list(open_assignments)
        )
        self.stream = self.stub.CheckIn(request, metadata=self.metadata)
        assert (await self.next()).HasField("welcome")

    async def next(self) -> Instruction:
        async with asyncio.timeout(SECONDS):
            instruction = await self.stream.read()
        assert instruction is not grpc.aio.EOF, "the stream ended"
        return instruction

    async def assignment(self) -> Assignment:
        """The next assignment; what is cancelled in between is not for this client."""
        while True:
            instruction = await self.next()
            if instruction.HasField("assignment"):
                return instruction.assignment

    async def download(self, assignment: Assignment, digest: bytes, offset: int = 0) -> bytes:
        request = DownloadRequest(
            assignment_id=assignment.assignment_id, digest=digest, offset=offset
        )
        content = bytearray()
        async for chunk in self.stub.Download(request, metadata=self.metadata):
            content += chunk.data
        return bytes(content)

    async def model(self, assignment: Assignment) -> F32:
        content = assignment.inline_model or await self.download(
            assignment, assignment.model.digest
        )
        assert blob_of(content) == assignment.model
        return np.frombuffer(content, "<f4")

    async def upload(self, assignment: Assignment, content: bytes) -> Blob:
        blob, offset = blob_of(content), 0
        while offset < len(content):
            piece = content[offset : offset + CHUNK]
            request = UploadRequest(
                assignment_id=assignment.assignment_id, blob=blob, offset=offset, data=piece
            )
            offset = (await self.call("Upload", request)).received
        return blob

    async def result(self, assignment: Assignment, update: F32 | None, **fields: Any) -> Result:
        """A result with an update, uploaded first when it is large."""
        rows = fields.pop("examples", 10)
        result = Result(**fields)
        if assignment.HasField("training"):
            result.examples = rows
            result.trained_rows = rows * assignment.training.epochs
        if update is not None:
            content = update.astype("<f4").tobytes()
            if len(content) <= MAX_INLINE_BYTES:
                result.inline_update = content
            else:
                result.update.CopyFrom(await self.upload(assignment, content))
        return result

    async def report(self, assignment: Assignment, result: Result) -> None:
        request = ReportRequest(assignment_id=assignment.assignment_id, result=result)
        await self.call("Report", request)

    async def work(self, train: Callable[[Assignment, F32], F32], rounds: int) -> None:
        """Do so many assignments."""
        for _ in range(rounds):
            assignment = await self.assignment()
            update = None
            if assignment.HasField("training"):
                update = train(assignment, await self.model(assignment))
            await self.report(assignment, await self.result(assignment, update))

    async def close(self) -> None:
        if self.stream is not None:
            self.stream.cancel()
        await self.channel.close()


@asynccontextmanager
async def served(config: CoordinatorConfig) -> AsyncIterator[str]:
    """A coordinator in this process; its address."""
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(config, ready=ready.set_result, stop=stop))
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not ready.done():
            task.result()
        yield ready.result()
    finally:
        stop.set()
        await task
