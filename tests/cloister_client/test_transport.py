from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from cloister_client.config import CoordinatorConfig
from cloister_client.errors import (
    DigestMismatch,
    NotWanted,
    Rejected,
    SessionUnknown,
    TransportError,
    Unreachable,
)
from cloister_client.identity import Identity
from cloister_client.transfer import Download, Upload
from cloister_client.transport import Transport
from cloister_protos import (
    Blob,
    Capabilities,
    DeclineRequest,
    ExchangeRequest,
    ExchangeResponse,
    Ready,
    ReportRequest,
    Result,
)

CONTENT = bytes(range(256)) * 20
NOTHING = Capabilities()


@pytest.fixture
def transport(coordinator: Any, tmp_path: Path) -> Iterator[Transport]:
    transport = Transport(CoordinatorConfig(f"127.0.0.1:{coordinator.port}"))
    transport.enrol(Identity.load_or_create(tmp_path / "key.pem"), "test")
    yield transport
    transport.close()


def download_of(blob: Blob) -> tuple[bytearray, Download]:
    into = bytearray(blob.size)
    return into, Download(blob, memoryview(into), "model")


def test_enrolling_sends_the_join_token(coordinator: Any, tmp_path: Path) -> None:
    coordinator.join_token = "sesame"
    identity = Identity.load_or_create(tmp_path / "key.pem")
    address = f"127.0.0.1:{coordinator.port}"
    stranger = Transport(CoordinatorConfig(address))
    with pytest.raises(Rejected, match="wrong join token"):
        stranger.enrol(identity, "")
    stranger.close()
    (tmp_path / "token").write_text("sesame\n")
    friend = Transport(CoordinatorConfig(address, join_token_file=tmp_path / "token"))
    friend.enrol(identity, "")
    assert friend.enrolled
    friend.close()


def test_instructions_arrive_until_the_stream_ends(coordinator: Any, transport: Transport) -> None:
    stream = transport.check_in(Capabilities(datasets=["d"]), ["a/1/c"])
    assert next(stream).WhichOneof("kind") == "welcome"
    request = coordinator.checked_in()
    assert list(request.open_assignments) == ["a/1/c"]
    assert list(request.capabilities.datasets) == ["d"]
    coordinator.cancel("a/1/c")
    assert next(stream).cancellation.assignment_id == "a/1/c"
    coordinator.end_check_in()
    assert list(stream) == []


def test_breaking_the_check_in_from_outside(coordinator: Any, transport: Transport) -> None:
    stream = transport.check_in(NOTHING, [])
    next(stream)
    transport.break_check_in()
    with pytest.raises(Unreachable, match="cancelled"):
        next(stream)


def test_a_broken_download_goes_on_where_it_stopped(coordinator: Any, transport: Transport) -> None:
    blob = coordinator.put(CONTENT)
    coordinator.break_downloads_after = [2500, 0]
    into, download = download_of(blob)
    for _ in range(2):
        with pytest.raises(Unreachable):
            transport.download("a", download)
    transport.download("a", download)
    download.verify()
    assert into == CONTENT
    assert coordinator.downloads == [0, 2500, 2500]


def test_other_bytes_than_named_are_found(coordinator: Any, transport: Transport) -> None:
    blob = coordinator.put(CONTENT)
    coordinator.blobs[blob.digest] = CONTENT[:-1] + b"x"
    _, download = download_of(blob)
    transport.download("a", download)
    with pytest.raises(DigestMismatch, match="model"):
        download.verify()
    coordinator.blobs[blob.digest] = CONTENT + b"x"
    with pytest.raises(DigestMismatch, match="more bytes"):
        transport.download("a", download_of(blob)[1])
    coordinator.blobs[blob.digest] = CONTENT[:-1]
    with pytest.raises(Unreachable, match="1 bytes early"):
        transport.download("a", download_of(blob)[1])


def test_an_upload_follows_what_the_coordinator_holds(
    coordinator: Any, transport: Transport
) -> None:
    content = bytes(5 * 2**20)
    upload = Upload.of(memoryview(content))
    coordinator.faults = [grpc.StatusCode.UNAVAILABLE]
    with pytest.raises(Unreachable):
        transport.upload("a", upload)
    coordinator.uploads["a"] = bytearray(content[: 3 * 2**20])  # as if an answer had been lost
    transport.upload("a", upload)
    assert coordinator.uploads["a"] == content


def test_answers(coordinator: Any, transport: Transport) -> None:
    transport.report(ReportRequest(assignment_id="a", result=Result(examples=3)))
    assert coordinator.answer().result.examples == 3
    transport.decline(DeclineRequest(assignment_id="a", reason="no"))
    assert coordinator.answer().reason == "no"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, SessionUnknown),
        (grpc.StatusCode.NOT_FOUND, NotWanted),
        (grpc.StatusCode.FAILED_PRECONDITION, NotWanted),
        (grpc.StatusCode.INVALID_ARGUMENT, Rejected),
        (grpc.StatusCode.PERMISSION_DENIED, Rejected),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Unreachable),
        (grpc.StatusCode.INTERNAL, Unreachable),
    ],
)
def test_statuses_become_errors_of_this_package(
    coordinator: Any,
    transport: Transport,
    status: grpc.StatusCode,
    expected: type[TransportError],
) -> None:
    coordinator.faults = [status]
    with pytest.raises(expected, match="as the test told me"):
        transport.report(ReportRequest(assignment_id="a"))


def test_no_coordinator_is_unreachable_and_a_restart_is_found(
    coordinator: Any, transport: Transport
) -> None:
    coordinator.stop()
    with pytest.raises(Unreachable):
        transport.report(ReportRequest(assignment_id="a"))
    coordinator.start()
    transport.connect()
    transport.report(ReportRequest(assignment_id="a"))


def test_a_closed_transport_is_unreachable(transport: Transport) -> None:
    transport.close()
    with pytest.raises(Unreachable):
        transport.report(ReportRequest(assignment_id="a"))


def test_uploads_are_hashed_as_a_whole() -> None:
    upload = Upload.of(memoryview(CONTENT))
    assert upload.blob == Blob(digest=hashlib.sha256(CONTENT).digest(), size=len(CONTENT))


def test_a_step_waits_until_it_is_broken_off(coordinator: Any, transport: Transport) -> None:
    """A round under way holds the call; it ends with whoever may end it, or is over."""

    class Holding:
        assignment_id = "a/1/c"

        def exchange(self, request: ExchangeRequest, context: Any) -> ExchangeResponse:
            context.add_callback(ended.set)
            assert entered.wait(20)
            cancel.pop()()
            assert ended.wait(20)
            return ExchangeResponse()

    @contextmanager
    def interruptible(interrupt: Callable[[], None]) -> Iterator[None]:
        cancel.append(interrupt)
        entered.set()
        yield

    cancel: list[Callable[[], None]] = []
    entered, ended = threading.Event(), threading.Event()
    request = ExchangeRequest(assignment_id="a/1/c", ready=Ready())
    with pytest.raises(NotWanted, match="no such round"):
        transport.exchange(request, interruptible)
    cancel.clear()
    entered.clear()
    coordinator.masked = Holding()
    with pytest.raises(Unreachable):
        transport.exchange(request, interruptible)
    assert ended.wait(20)
    transport.close()
    with pytest.raises(Unreachable):
        transport.exchange(request, interruptible)
