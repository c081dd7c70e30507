"""The calls to the coordinator: deadlines, credentials, and foreign errors mapped to ours."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import grpc

from cloister_client.config import CoordinatorConfig
from cloister_client.credentials import channel_credentials, join_token
from cloister_client.errors import (
    NotWanted,
    Rejected,
    SessionUnknown,
    TransportError,
    Unreachable,
)
from cloister_client.identity import Identity
from cloister_client.transfer import Download, Upload
from cloister_protos import (
    MAX_CHUNK_BYTES,
    Capabilities,
    ChallengeRequest,
    CheckInRequest,
    DeclineRequest,
    DownloadRequest,
    EnrolRequest,
    ExchangeRequest,
    ExchangeResponse,
    Instruction,
    ReportRequest,
    UploadRequest,
)
from cloister_protos.services import ClientServiceStub

CALL_SECONDS = 30.0
"""Deadline of a small call and of the first answer to a check-in; past it: Unreachable."""
CHUNK_SECONDS = 60.0
"""Deadline of the upload of one chunk; past it: Unreachable."""
SLOWEST_BYTES_PER_SECOND = 128 * 1024
"""A download slower than this is broken off and taken up again where it stopped."""
EXCHANGE_SECONDS = 60.0
"""Deadline of one step of secure aggregation, which the coordinator answers after 20 s with `wait`
if need be; past it: Unreachable."""
CHECK_IN_SECONDS = 24 * 3600.0
"""Longest life of one check-in stream; past it the client checks in anew."""

_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # A dead peer is noticed within 40 s although the stream is silent for hours.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Each attempt to connect is a new channel, paced by our own backoff instead of gRPC's.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    # Streams are read on the calling thread: one thread hop less per message.
    ("SingleThreadedUnaryStream", 1),
]

_ERRORS: dict[grpc.StatusCode, type[TransportError]] = {
    grpc.StatusCode.UNAUTHENTICATED: SessionUnknown,
    grpc.StatusCode.NOT_FOUND: NotWanted,
    grpc.StatusCode.FAILED_PRECONDITION: NotWanted,
    grpc.StatusCode.INVALID_ARGUMENT: Rejected,
    grpc.StatusCode.OUT_OF_RANGE: Rejected,
    grpc.StatusCode.PERMISSION_DENIED: Rejected,
    grpc.StatusCode.UNIMPLEMENTED: Rejected,
}
"""Every other status may pass: Unreachable."""
_CLOSED = ("closed channel", "Channel closed")
"""What gRPC says of a channel that was given up: of a call, and of one that can be broken off."""


class Transport:
    """One connection at a time; thread-safe but for `connect` and `enrol`."""

    def __init__(self, config: CoordinatorConfig):
        """Read the credentials; connects nowhere yet. Raises ConfigError."""
        self._address = config.address
        self._credentials = channel_credentials(config)
        self._join_token = join_token(config)
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._check_in: Any = None
        self._channel: grpc.Channel | None = None
        self._closed = False
        self.connect()

    def connect(self) -> None:
        """Give up the connection, with the calls in flight, for a new one."""
        if self._channel is not None:
            self._channel.close()
        if self._credentials is None:
            self._channel = grpc.insecure_channel(self._address, _OPTIONS)
        else:
            self._channel = grpc.secure_channel(self._address, self._credentials, _OPTIONS)
        self._stub = ClientServiceStub(self._channel)
        if self._closed:  # close() came in between
            self._channel.close()

    @property
    def enrolled(self) -> bool:
        """Whether there is a session to call with."""
        return bool(self._metadata)

    def forget(self) -> None:
        """Give up the session, so that the next thing is to enrol."""
        self._metadata = ()

    def enrol(self, identity: Identity, name: str) -> None:
        """Open a session by proving possession of the identity key. Raises TransportError."""
        with _mapped():
            key = identity.public_key
            challenge = self._stub.Challenge(ChallengeRequest(public_key=key), timeout=CALL_SECONDS)
            request = EnrolRequest(
                public_key=key,
                nonce=challenge.nonce,
                signature=identity.sign_enrolment(challenge.nonce, self._join_token),
                join_token=self._join_token,
                name=name,
            )
            try:
                response = self._stub.Enrol(request, timeout=CALL_SECONDS)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:  # there is no session yet
                    raise Rejected(_describe(error)) from error
                raise
        self._metadata = (("authorization", f"Bearer {response.session_token}"),)

    def check_in(
        self, capabilities: Capabilities, open_ids: Sequence[str], kept_jobs: Sequence[str] = ()
    ) -> Iterator[Instruction]:
        """Instructions until the stream ends, the welcome first. Raises TransportError."""
        request = CheckInRequest(
            capabilities=capabilities, open_assignments=open_ids, kept_jobs=kept_jobs
        )
        with _mapped():
            call: Any = self._stub.CheckIn(
                request, timeout=CHECK_IN_SECONDS, metadata=self._metadata
            )
            self._check_in = call
            late = threading.Timer(CALL_SECONDS, call.cancel)
            late.start()
            try:
                for instruction in call:
                    late.cancel()
                    yield instruction
            finally:
                late.cancel()
                call.cancel()
                self._check_in = None

    def break_check_in(self) -> None:
        """End the check-in stream from another thread: its reader checks in anew."""
        if (call := self._check_in) is not None:
            call.cancel()

    def download(self, assignment_id: str, download: Download) -> None:
        """Take the rest of a blob; after a TransportError, call again to go on.

        Raises TransportError and DigestMismatch.
        """
        request = DownloadRequest(
            assignment_id=assignment_id, digest=download.digest, offset=download.held
        )
        seconds = CALL_SECONDS + download.missing / SLOWEST_BYTES_PER_SECOND
        with _mapped():
            call: Any = self._stub.Download(request, timeout=seconds, metadata=self._metadata)
            try:
                for chunk in call:
                    download.take(chunk.data)
            finally:
                call.cancel()
        if download.missing:
            raise Unreachable(f"the download ended {download.missing} bytes early")

    def upload(self, assignment_id: str, upload: Upload) -> None:
        """Bring the rest of an update; after a TransportError, call again to go on."""
        request = UploadRequest(assignment_id=assignment_id, blob=upload.blob)
        size = upload.blob.size
        while upload.sent < size:
            request.offset = upload.sent
            request.data = bytes(upload.data[upload.sent : upload.sent + MAX_CHUNK_BYTES])
            with _mapped():
                response = self._stub.Upload(
                    request, timeout=CHUNK_SECONDS, metadata=self._metadata
                )
            if response.received > size:
                raise Rejected("the coordinator holds more bytes of the update than there are")
            before, upload.sent = upload.sent, response.received
            if before == upload.sent:
                raise Unreachable("the coordinator did not take the chunk")

    def report(self, request: ReportRequest) -> None:
        """Hand in a result or failure. Raises TransportError."""
        with _mapped():
            self._stub.Report(request, timeout=CALL_SECONDS, metadata=self._metadata)

    def exchange(
        self,
        request: ExchangeRequest,
        interruptible: Callable[[Callable[[], None]], AbstractContextManager[None]],
    ) -> ExchangeResponse:
        """One step of secure aggregation; waits long for others, so it can be broken off.

        Args:
            interruptible: is entered with what ends the call, while it lasts.

        Raises:
            TransportError: Unreachable, too, when the call was broken off.
        """
        with _mapped():
            call: Any = self._stub.Exchange.future(
                request, timeout=EXCHANGE_SECONDS, metadata=self._metadata
            )
            try:
                with interruptible(call.cancel):
                    response: ExchangeResponse = call.result()
                    return response
            except grpc.FutureCancelledError as error:
                raise Unreachable("the step was broken off") from error
            finally:
                call.cancel()

    def decline(self, request: DeclineRequest) -> None:
        """Say no to an assignment. Raises TransportError."""
        with _mapped():
            self._stub.Decline(request, timeout=CALL_SECONDS, metadata=self._metadata)

    def close(self) -> None:
        """End all calls, from any thread; later ones raise Unreachable."""
        self._closed = True
        if self._channel is not None:
            self._channel.close()


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise _ERRORS.get(error.code(), Unreachable)(_describe(error)) from error
    except ValueError as error:
        if not any(words in str(error) for words in _CLOSED):
            raise
        raise Unreachable("the connection was given up") from error


def _describe(error: grpc.RpcError) -> str:
    """Status and details as one printable line of bounded length."""
    details = "".join(c if c.isprintable() else " " for c in error.details() or "")
    return f"{error.code().name.lower().replace('_', ' ')}: {details[:300]}"
