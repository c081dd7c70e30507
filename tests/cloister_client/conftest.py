"""A coordinator that says what a test tells it to, over real gRPC."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloister_protos import (
    Assignment,
    Blob,
    Cancellation,
    ChallengeRequest,
    ChallengeResponse,
    CheckInRequest,
    Chunk,
    DeclineRequest,
    DeclineResponse,
    DownloadRequest,
    EnrolRequest,
    EnrolResponse,
    ExchangeRequest,
    ExchangeResponse,
    Instruction,
    ReportRequest,
    ReportResponse,
    UploadRequest,
    UploadResponse,
    Welcome,
)
from cloister_protos.services import ClientServiceServicer, add_ClientServiceServicer_to_server

from .masked_round import MaskedRound

SECONDS = 20.0
"""How long a test waits for what must happen."""


class ScriptedCoordinator(ClientServiceServicer):
    """Queues in, queues out; faults are consumed one by one."""

    def __init__(self) -> None:
        self.join_token = ""
        self.sessions: set[str] = set()
        self.enrolments = 0
        self.check_ins: queue.Queue[CheckInRequest] = queue.Queue()
        self.instructions: queue.Queue[Instruction | None] = queue.Queue()
        self.answers: queue.Queue[ReportRequest | DeclineRequest] = queue.Queue()
        self.blobs: dict[bytes, bytes] = {}
        self.uploads: dict[str, bytearray] = {}
        self.downloads: list[int] = []
        self.break_downloads_after: list[int] = []
        self.faults: list[grpc.StatusCode] = []
        self.ended_jobs: list[str] = []
        self.masked: MaskedRound | None = None
        """The round of secure aggregation that is under way."""
        self.received: list[bytes] = []
        """All messages about assignments, as they came."""
        self.port = 0
        self._server: grpc.Server | None = None
        self._taking = threading.Lock()
        self._stream: Any = None
        """The last client to check in: what is put for it goes to no stream before."""

    def start(self) -> None:
        self._stopping = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        add_ClientServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._server is not None:
            self._server.stop(grace=None).wait(SECONDS)

    def put(self, content: bytes) -> Blob:
        blob = Blob(digest=hashlib.sha256(content).digest(), size=len(content))
        self.blobs[blob.digest] = content
        return blob

    def assign(self, assignment: Assignment) -> None:
        self.instructions.put(Instruction(assignment=assignment))

    def cancel(self, assignment_id: str) -> None:
        cancellation = Cancellation(assignment_id=assignment_id, reason="enough")
        self.instructions.put(Instruction(cancellation=cancellation))

    def end_check_in(self) -> None:
        self.instructions.put(None)

    def answer(self) -> Any:
        return self.answers.get(timeout=SECONDS)

    def checked_in(self) -> CheckInRequest:
        return self.check_ins.get(timeout=SECONDS)

    def Challenge(self, request: ChallengeRequest, context: Any) -> ChallengeResponse:  # noqa: N802
        return ChallengeResponse(nonce=hashlib.sha256(request.public_key).digest())

    def Enrol(self, request: EnrolRequest, context: Any) -> EnrolResponse:  # noqa: N802
        if request.join_token != self.join_token:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "wrong join token")
        message = b"cloister enrol v1\0" + request.nonce + request.join_token.encode()
        Ed25519PublicKey.from_public_bytes(request.public_key).verify(request.signature, message)
        self.enrolments += 1
        token = f"session-{self.enrolments}"
        self.sessions.add(token)
        client_id = hashlib.sha256(request.public_key).hexdigest()[:32]
        return EnrolResponse(client_id=client_id, session_token=token)

    def CheckIn(self, request: CheckInRequest, context: Any) -> Iterator[Instruction]:  # noqa: N802
        stopping = self._stopping
        self._admit(context)
        with self._taking:
            self._stream = context
        yield Instruction(welcome=Welcome(software="scripted", ended_jobs=self.ended_jobs))
        self.check_ins.put(request)
        while context.is_active() and not stopping.is_set():
            with self._taking:
                if self._stream is not context:
                    return
                try:
                    instruction = self.instructions.get(timeout=0.05)
                except queue.Empty:
                    continue
            if stopping.is_set() or not context.is_active():
                self.instructions.put(instruction)  # for the stream that follows this one
            elif instruction is None:
                return
            else:
                yield instruction

    def Download(self, request: DownloadRequest, context: Any) -> Iterator[Chunk]:  # noqa: N802
        self._admit(context)
        self.downloads.append(request.offset)
        content = self.blobs[request.digest][request.offset :]
        broken = self.break_downloads_after.pop(0) if self.break_downloads_after else None
        for start in range(0, len(content[:broken]), 1000):
            yield Chunk(data=content[:broken][start : start + 1000])
        if broken is not None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "broken")

    def Upload(self, request: UploadRequest, context: Any) -> UploadResponse:  # noqa: N802
        self._admit(context)
        self.received.append(request.SerializeToString())
        held = self.uploads.setdefault(request.assignment_id, bytearray())
        if request.offset == len(held):
            held += request.data
        if len(held) == request.blob.size:
            assert hashlib.sha256(held).digest() == request.blob.digest
        return UploadResponse(received=len(held))

    def Report(self, request: ReportRequest, context: Any) -> ReportResponse:  # noqa: N802
        self._admit(context)
        self.received.append(request.SerializeToString())
        if self.masked is not None and request.HasField("result"):
            result = request.result
            uploaded = bytes(self.uploads.get(request.assignment_id, b""))
            self.masked.take_vector(result.inline_update or uploaded, result.accused)
        self.answers.put(request)
        return ReportResponse()

    def Exchange(  # noqa: N802
        self, request: ExchangeRequest, context: Any
    ) -> ExchangeResponse:
        self._admit(context)
        self.received.append(request.SerializeToString())
        if self.masked is None or self.masked.assignment_id != request.assignment_id:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such round")
        return self.masked.exchange(request, context)

    def Decline(self, request: DeclineRequest, context: Any) -> DeclineResponse:  # noqa: N802
        self._admit(context)
        self.answers.put(request)
        return DeclineResponse()

    def _admit(self, context: Any) -> None:
        token = dict(context.invocation_metadata()).get("authorization", "")
        if token.removeprefix("Bearer ") not in self.sessions:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown session")
        if self.faults:
            context.abort(self.faults.pop(0), "as the test told me")


@pytest.fixture
def coordinator() -> Iterator[ScriptedCoordinator]:
    scripted = ScriptedCoordinator()
    scripted.start()
    yield scripted
    scripted.stop()
