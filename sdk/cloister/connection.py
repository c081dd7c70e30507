"""The calls to a coordinator: deadlines, retries, and foreign errors mapped to ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cloister.errors import (
    CoordinatorFault,
    InvalidRequest,
    NotFound,
    NotPermitted,
    OperatorError,
    Unreachable,
)
from cloister_client.config import CoordinatorConfig
from cloister_client.credentials import channel_credentials
from cloister_protos.services import OperatorServiceStub

CALL_SECONDS = 30.0
"""Deadline of a call with one answer, its retries included; past it: Unreachable."""
STREAM_SECONDS = 3600.0
"""Longest life of one stream of answers; past it the stream is opened anew."""

_Answer = TypeVar("_Answer")
_Answers = TypeVar("_Answers", covariant=True)
_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_RETRIES = {
    "methodConfig": [
        {
            "name": [{}],  # every call: all of them may be repeated
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.service_config", json.dumps(_RETRIES)),
    # A dead peer is noticed within 40 s although a watched job is silent for hours.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Streams are read on the calling thread: one thread hop less per message.
    ("SingleThreadedUnaryStream", 1),
]

_ERRORS: dict[grpc.StatusCode, type[OperatorError]] = {
    grpc.StatusCode.UNAVAILABLE: Unreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unreachable,
    grpc.StatusCode.UNAUTHENTICATED: NotPermitted,
    grpc.StatusCode.PERMISSION_DENIED: NotPermitted,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidRequest,
    grpc.StatusCode.ALREADY_EXISTS: InvalidRequest,
    grpc.StatusCode.RESOURCE_EXHAUSTED: InvalidRequest,
    grpc.StatusCode.UNIMPLEMENTED: InvalidRequest,
}
"""Every other status is the coordinator's own fault."""


class _Streaming(Protocol[_Answers]):
    """A method of the stub with many answers."""

    def __call__(self, request: Any, timeout: float, metadata: Any) -> Iterable[_Answers]: ...


class Connection:
    """One channel to a coordinator; thread-safe.

    Raises ConfigError where the settings contradict each other or a file cannot be used.
    """

    def __init__(self, config: CoordinatorConfig, token: str) -> None:
        self.address = config.address
        credentials = channel_credentials(config)
        if credentials is None:
            self._channel = grpc.insecure_channel(config.address, _OPTIONS)
        else:
            self._channel = grpc.secure_channel(config.address, credentials, _OPTIONS)
        self.stub = OperatorServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()

    def call(
        self, method: Callable[..., _Answer], request: Any, seconds: float = CALL_SECONDS
    ) -> _Answer:
        """Make one call of the stub that has one answer. Raises OperatorError."""
        with self._mapped():
            return method(request, timeout=seconds, metadata=self._metadata)

    def stream(
        self,
        method: _Streaming[_Answers],
        request: Any,
        seconds: float = STREAM_SECONDS,
    ) -> Iterator[_Answers]:
        """Make one call of the stub that has many answers. Raises OperatorError on the way."""
        answers: Any = None
        try:
            with self._mapped():
                answers = method(request, timeout=seconds, metadata=self._metadata)
                yield from answers
        finally:
            if answers is not None:
                answers.cancel()

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            kind = _ERRORS.get(error.code(), CoordinatorFault)
            raise kind(_message(kind, error, self.address)) from error


def _message(kind: type[OperatorError], error: grpc.RpcError, address: str) -> str:
    said = (error.details() or "").strip()
    if kind is Unreachable:
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"the coordinator at {address} did not answer in time"
        cause = said.rpartition("last error: ")[2].removeprefix("UNKNOWN: ")
        return f"no coordinator answers at {address} ({cause})"
    if kind is NotPermitted:
        return f"the coordinator at {address} does not permit it: {said or 'no valid token'}"
    if error.code() == grpc.StatusCode.UNIMPLEMENTED:
        return f"{address} does not offer this call: is it a coordinator of this version?"
    if kind is CoordinatorFault:
        return f"{address}: {said or error.code().name}"
    return "; ".join([said, *_violations(error)])


def _violations(error: grpc.RpcError) -> list[str]:
    """The fields that a rich status names, where it says more than the message."""
    assert isinstance(error, grpc.Call)  # so is every error of a call
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # details at odds with the status: not worth a second error
        return []
    found = []
    for detail in status.details if status else ():
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request):
            found += [
                f"{violation.field}: {violation.description}"
                for violation in request.field_violations
                if violation.description not in status.message
            ]
    return found
