"""A real client process against a coordinator that sends it every kind of hostile module.

The coordinator here is a gRPC server of the test's own, because the real one refuses most of
these modules when a job is submitted. After each attack the same client must do honest work.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

from cloister.deployment import Deployment
from cloister_protos import (
    Assignment,
    Blob,
    ChallengeResponse,
    Chunk,
    DeclineRequest,
    DeclineResponse,
    EnrolResponse,
    Instruction,
    Module,
    ReportRequest,
    ReportResponse,
    Training,
    Welcome,
)
from cloister_protos.services import ClientServiceServicer, add_ClientServiceServicer_to_server

from .hostile_modules import GOOD, HOSTILE, Hostile, with_other_digest

MODEL = np.zeros(4, np.float32).tobytes()
PATIENCE = 60.0  # seconds until a missing answer fails the test


class HostileCoordinator(ClientServiceServicer):
    """Hands out whatever the test puts into `work` and keeps every answer."""

    def __init__(self) -> None:
        self.work: queue.Queue[Assignment | None] = queue.Queue()
        self.answers: queue.Queue[ReportRequest | DeclineRequest] = queue.Queue()
        self.blobs: dict[bytes, bytes] = {}
        self._count = 0

    def ask(self, module: bytes, *, sent: bytes | None = None) -> ReportRequest | DeclineRequest:
        """Assign `module` (its download yields `sent` instead) and return the client's answer."""
        self._count += 1
        digest = hashlib.sha256(module).digest()
        self.blobs[digest] = module if sent is None else sent
        blob = Blob(digest=digest, size=len(module))
        self.work.put(
            Assignment(
                assignment_id=f"job/{self._count}/client",
                job_id="job",
                job_name="hostile",
                round=self._count,
                task=Module(blob=blob),
                aggregation=Module(blob=blob),
                model=Blob(digest=hashlib.sha256(MODEL).digest(), size=len(MODEL)),
                inline_model=MODEL,
                training=Training(epochs=1),
                seed=1,
                deadline_seconds=PATIENCE,
            )
        )
        answer = self.answers.get(timeout=PATIENCE)
        assert answer.assignment_id == f"job/{self._count}/client"
        return answer

    def Challenge(self, request, context):  # noqa: N802
        return ChallengeResponse(nonce=bytes(32))

    def Enrol(self, request, context):  # noqa: N802
        digest = hashlib.sha256(request.public_key).hexdigest()
        return EnrolResponse(client_id=digest[:32], session_token="0" * 64)

    def CheckIn(self, request, context):  # noqa: N802
        yield Instruction(welcome=Welcome(software="hostile"))
        while (assignment := self.work.get()) is not None:
            yield Instruction(assignment=assignment)

    def Download(self, request, context):  # noqa: N802
        yield Chunk(data=self.blobs[request.digest][request.offset :])

    def Report(self, request, context):  # noqa: N802
        self.answers.put(request)
        return ReportResponse()

    def Decline(self, request, context):  # noqa: N802
        self.answers.put(request)
        return DeclineResponse()


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileCoordinator]:
    directory: Path = tmp_path_factory.mktemp("hostile")
    data = directory / "rows.csv"
    data.write_text("a,b,c\n" + "1,2,3\n" * 5)
    servicer = HostileCoordinator()
    server = grpc.server(ThreadPoolExecutor(8))
    add_ClientServiceServicer_to_server(servicer, server)
    with Deployment(directory) as deployment:
        server.add_insecure_port(deployment.address)
        server.start()
        policy = {"any_task": True, "memory_mb": 64, "seconds_per_round": 2.0}
        deployment.start_client(deployment.write_client("device", data, policy=policy))
        try:
            yield servicer
        finally:
            servicer.work.put(None)
            ended: threading.Event = server.stop(grace=5)
            ended.wait()


def does_honest_work(coordinator: HostileCoordinator) -> None:
    answer = coordinator.ask(GOOD)
    assert isinstance(answer, ReportRequest)
    assert answer.WhichOneof("outcome") == "result", answer
    update = np.frombuffer(answer.result.inline_update, "<f4")
    assert update.tolist() == [2.0, 0.0, 0.0, 0.0]
    assert answer.result.examples == 5


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_the_client_says_what_was_wrong_and_goes_on(
    coordinator: HostileCoordinator, hostile: Hostile
) -> None:
    answer = coordinator.ask(hostile.build())
    assert isinstance(answer, ReportRequest)
    assert answer.failure.kind in hostile.kinds, answer
    assert hostile.says in answer.failure.message
    does_honest_work(coordinator)


def test_a_module_with_another_digest_is_never_run(coordinator: HostileCoordinator) -> None:
    wanted = GOOD + b"\x00\x05\x04name"  # an empty custom section: another digest, never cached
    answer = coordinator.ask(wanted, sent=with_other_digest(wanted))
    assert isinstance(answer, ReportRequest)
    assert answer.failure.kind == "digest_mismatch", answer
    does_honest_work(coordinator)
