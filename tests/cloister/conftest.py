"""A coordinator's operator service in memory, with faults on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from cloister.operator import Coordinator
from cloister_protos import (
    Blob,
    Capabilities,
    Chunk,
    ClientStatus,
    JobEvent,
    JobState,
    JobStatus,
    ListClientsResponse,
    ListJobsResponse,
    ListModelVersionsResponse,
    Member,
    MemberState,
    Metrics,
    ModelVersion,
    RoundRecord,
    RoundState,
    UploadResponse,
)
from cloister_protos.services import (
    OperatorServiceServicer,
    add_OperatorServiceServicer_to_server,
)
from cloister_tasks import Module, build, compile_c

TOKEN = "t" * 64


class Peer(OperatorServiceServicer):
    """Keeps blobs and jobs in memory. A job submitted has done all its rounds at once."""

    def __init__(self) -> None:
        self.blobs: dict[bytes, bytearray] = {}
        self.jobs: dict[str, JobStatus] = {}
        self.versions: dict[str, list[ModelVersion]] = {}
        self.keys: dict[str, str] = {}
        self.clients = [
            ClientStatus(
                client_id=f"{number:032x}",
                name=f"ward-{number}",
                connected=number % 2 == 0,
                capabilities=Capabilities(memory_bytes=1 << 28, datasets=["local"]),
            )
            for number in range(205)
        ]
        self.put_sizes: list[int] = []
        self.breaks: list[str] = []
        """Names of calls that fail as if the network did, each once."""
        self.events: list[list[JobEvent | grpc.StatusCode]] = []
        """What each further watch sends; a status ends it."""

    def _admit(self, call: str, context: grpc.ServicerContext) -> None:
        if ("authorization", f"Bearer {TOKEN}") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "this is not the operator token")
        if call in self.breaks:
            self.breaks.remove(call)
            context.abort(grpc.StatusCode.UNAVAILABLE, "broken on purpose")

    def PutBlob(self, request: Any, context: Any) -> UploadResponse:  # noqa: N802
        held = self.blobs.setdefault(request.blob.digest, bytearray())
        self._admit("PutBlob", context)
        self.put_sizes.append(len(request.data))
        if request.offset == len(held):
            held += request.data
        if len(held) == request.blob.size:
            assert hashlib.sha256(held).digest() == request.blob.digest
        return UploadResponse(received=len(held))

    def GetBlob(self, request: Any, context: Any) -> Iterator[Chunk]:  # noqa: N802
        self._admit("GetBlob", context)
        data = self.blobs.get(request.digest)
        if data is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such blob")
            return
        half = max(1, len(data) // 2)
        for start in range(request.offset, len(data), half):
            yield Chunk(data=bytes(data[start : start + half]))
            self._admit("GetBlob.rest", context)

    def SubmitJob(self, request: Any, context: Any) -> JobStatus:  # noqa: N802
        if request.spec.rounds == 13:
            detail = any_pb2.Any()
            detail.Pack(
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(
                            field="spec.rounds", description="thirteen is unlucky"
                        )
                    ]
                )
            )
            status = status_pb2.Status(code=3, message="the job is refused", details=[detail])
            context.abort_with_status(rpc_status.to_status(status))
        if request.idempotency_key not in self.keys:
            job_id = f"{len(self.jobs):08x}"
            self.keys[request.idempotency_key] = job_id
            rounds = request.spec.rounds
            state = JobState.JOB_STATE_SUCCEEDED
            self.jobs[job_id] = JobStatus(
                job_id=job_id, spec=request.spec, state=state, version=rounds
            )
            model = self._keep(bytes(2600))
            self.versions[job_id] = [ModelVersion(version=v, blob=model) for v in range(rounds + 1)]
        # the answer is lost after the job was made
        self._admit("SubmitJob", context)
        return self.jobs[self.keys[request.idempotency_key]]

    def GetJob(self, request: Any, context: Any) -> JobStatus:  # noqa: N802
        self._admit("GetJob", context)
        if request.job_id not in self.jobs:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such job")
        return self.jobs[request.job_id]

    def ListJobs(self, request: Any, context: Any) -> ListJobsResponse:  # noqa: N802
        self._admit("ListJobs", context)
        newest_first = sorted(self.jobs, reverse=True)
        after = [j for j in newest_first if not request.after or j < request.after]
        return ListJobsResponse(jobs=[self.jobs[j] for j in after[: request.limit]])

    def ListClients(self, request: Any, context: Any) -> ListClientsResponse:  # noqa: N802
        self._admit("ListClients", context)
        after = [c for c in self.clients if c.client_id > request.after]
        return ListClientsResponse(clients=after[: request.limit])

    def ListModelVersions(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._admit("ListModelVersions", context)
        found = self.versions[request.job_id]
        if request.HasField("after"):
            found = [v for v in found if v.version > request.after]
        return ListModelVersionsResponse(versions=found[: request.limit or 100])

    def WatchJob(self, request: Any, context: Any) -> Iterator[JobEvent]:  # noqa: N802
        self._admit("WatchJob", context)
        job = self.jobs[request.job_id]
        if not self.events:
            for number in range(max(1, request.from_round), job.spec.rounds + 1):
                yield JobEvent(job=job, round=round_record(number))
            yield JobEvent(job=job)
            return
        for event in self.events.pop(0):
            if isinstance(event, JobEvent):
                yield event
            else:
                context.abort(event, "broken on purpose")

    def CancelJob(self, request: Any, context: Any) -> JobStatus:  # noqa: N802
        self._admit("CancelJob", context)
        job = self.jobs[request.job_id]
        job.state, job.reason = JobState.JOB_STATE_CANCELLED, request.reason
        return job

    def _keep(self, data: bytes) -> Blob:
        digest = hashlib.sha256(data).digest()
        self.blobs[digest] = bytearray(data)
        return Blob(digest=digest, size=len(data))


def round_record(number: int) -> RoundRecord:
    """A committed round of two members."""
    return RoundRecord(
        number=number,
        base_version=number - 1,
        state=RoundState.ROUND_STATE_COMMITTED,
        members=[
            Member(client_id=f"{n:032x}", state=MemberState.MEMBER_STATE_REPORTED) for n in range(2)
        ],
        training=Metrics(examples=20, means={"loss": 1.0 / number, "accuracy": 0.5}),
        started_at_ms=1_000,
        ended_at_ms=1_250,
    )


@pytest.fixture
def peer() -> Peer:
    return Peer()


@pytest.fixture
def address(peer: Peer) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    add_OperatorServiceServicer_to_server(peer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait(10)


@pytest.fixture
def coordinator(address: str) -> Iterator[Coordinator]:
    with Coordinator(address, token=TOKEN) as found:
        yield found


@pytest.fixture(scope="session")
def task() -> bytes:
    """Softmax regression of 64 features and 10 classes: 650 parameters."""
    return build("softmax-regression", features=64, classes=10)


@pytest.fixture(scope="session")
def personal() -> Module:
    """A task with frozen parameters, local state, a seed, and inputs of its own names."""
    return Module.parse(compile_c(Path(__file__).parents[1] / "personal_task.c"))


@pytest.fixture
def personal_file(personal: Module, tmp_path: Path) -> Path:
    path = tmp_path / "net.wasm"
    path.write_bytes(personal.data)
    return path


@pytest.fixture
def task_file(task: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "digits.wasm"
    path.write_bytes(task)
    return path


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "operator.token"
    path.write_text(TOKEN + "\n")
    return path
