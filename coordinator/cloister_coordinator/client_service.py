"""The client's side of the coordinator, on gRPC."""

from __future__ import annotations

from typing import Any

import grpc

from cloister_coordinator import register
from cloister_coordinator.answers import answered
from cloister_coordinator.assignments import parse_assignment_id
from cloister_coordinator.config import MAX_JOIN_TOKEN
from cloister_coordinator.coordinator import Coordinator
from cloister_coordinator.desk import Desk
from cloister_coordinator.download import Downloads
from cloister_coordinator.errors import Forbidden, Invalid
from cloister_coordinator.resources import now_ms
from cloister_coordinator.roster import Connection
from cloister_coordinator.sessions import Sessions
from cloister_coordinator.spool import check_blob
from cloister_protos import (
    Capabilities,
    ChallengeRequest,
    ChallengeResponse,
    CheckInRequest,
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
from cloister_protos.services import ClientServiceServicer

MAX_NAMES = 64
"""Datasets or tags a client may have; more are refused."""
MAX_NAME = 64
"""Characters of a name; a longer one is refused."""
MAX_OPEN_ASSIGNMENTS = 1000
MAX_KEPT_JOBS = 1000
"""Jobs a client may ask about when it checks in; more are refused."""

_Context = grpc.aio.ServicerContext[Any, Any]


class ClientService(ClientServiceServicer):
    """Answers clients; see client.proto."""

    def __init__(
        self, coordinator: Coordinator, sessions: Sessions, downloads: Downloads, software: str
    ) -> None:
        self._coordinator = coordinator
        self._sessions = sessions
        self._downloads = downloads
        self._software = software

    @answered
    async def Challenge(  # noqa: N802
        self, request: ChallengeRequest, _context: _Context
    ) -> ChallengeResponse:
        """See client.proto."""
        return ChallengeResponse(nonce=self._sessions.challenge(request.public_key))

    @answered
    async def Enrol(self, request: EnrolRequest, _context: _Context) -> EnrolResponse:  # noqa: N802
        """See client.proto."""
        _check_name("name", request.name)
        if len(request.join_token) > MAX_JOIN_TOKEN:
            raise Invalid("BAD_JOIN_TOKEN", f"a join token of over {MAX_JOIN_TOKEN} characters")
        client_id, token = self._sessions.enrol(
            request.public_key, request.nonce, request.signature, request.join_token
        )
        key, name = request.public_key, request.name
        await self._coordinator.resources.journal.write(
            lambda c: register.enrol(c, client_id, key, name, now_ms())
        )
        return EnrolResponse(client_id=client_id, session_token=token)

    @answered
    async def CheckIn(self, request: CheckInRequest, context: _Context) -> None:  # type: ignore[override] # noqa: N802
        """See client.proto."""
        client_id = self._caller(context)
        _check_capabilities(request.capabilities)
        if len(request.open_assignments) > MAX_OPEN_ASSIGNMENTS:
            raise Invalid("TOO_MANY", f"over {MAX_OPEN_ASSIGNMENTS} open assignments")
        if len(request.kept_jobs) > MAX_KEPT_JOBS:
            raise Invalid("TOO_MANY", f"over {MAX_KEPT_JOBS} kept jobs")
        connection = Connection(client_id, request.capabilities)
        ended = await self._coordinator.ended(request.kept_jobs)
        welcome = Welcome(software=self._software, ended_jobs=ended)
        await context.write(Instruction(welcome=welcome))
        self._coordinator.arrive(connection, request.open_assignments)
        try:
            while (message := await connection.next()) is not None:
                await context.write(message())
        finally:
            self._coordinator.leave(connection)

    @answered
    async def Download(self, request: DownloadRequest, context: _Context) -> None:  # type: ignore[override] # noqa: N802
        """See client.proto."""
        client_id, desk, number = self._assignment(request.assignment_id, context)
        if not desk.offers(client_id, number, request.digest):
            raise Forbidden("NOT_YOURS", "this blob is part of no open assignment of yours")
        await self._downloads.send(request.digest, request.offset, context)

    @answered
    async def Upload(self, request: UploadRequest, context: _Context) -> UploadResponse:  # noqa: N802
        """See client.proto."""
        client_id, desk, number = self._assignment(request.assignment_id, context)
        check_blob(request.blob, "the upload")
        received = await desk.upload(client_id, number, request.blob, request.offset, request.data)
        return UploadResponse(received=received)

    @answered
    async def Report(self, request: ReportRequest, context: _Context) -> ReportResponse:  # noqa: N802
        """See client.proto."""
        client_id, desk, number = self._assignment(request.assignment_id, context)
        if request.WhichOneof("outcome") is None:
            raise Invalid("NO_OUTCOME", "the report has neither a result nor a failure")
        await desk.report(client_id, number, request)
        return ReportResponse()

    @answered
    async def Exchange(  # noqa: N802
        self, request: ExchangeRequest, context: _Context
    ) -> ExchangeResponse:
        """See client.proto."""
        client_id, desk, number = self._assignment(request.assignment_id, context)
        return await desk.exchange(client_id, number, request)

    @answered
    async def Decline(self, request: DeclineRequest, context: _Context) -> DeclineResponse:  # noqa: N802
        """See client.proto."""
        client_id, desk, number = self._assignment(request.assignment_id, context)
        await desk.decline(client_id, number, request.reason)
        return DeclineResponse()

    def _caller(self, context: _Context) -> str:
        return self._sessions.client(authorization(context))

    def _assignment(self, name: str, context: _Context) -> tuple[str, Desk, int]:
        """The caller, the desk of the job, and the round of one of the caller's assignments."""
        caller = self._caller(context)
        job_id, number, client_id = parse_assignment_id(name)
        if client_id != caller:
            raise Forbidden("NOT_YOURS", "this assignment is another client's")
        return caller, self._coordinator.desk(job_id), number


def authorization(context: _Context) -> str:
    """The caller's ``authorization`` metadata; empty: none."""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return value if isinstance(value, str) else ""
    return ""


def _check_capabilities(offer: Capabilities) -> None:
    for what, names in (("datasets", offer.datasets), ("tags", offer.tags)):
        if len(names) > MAX_NAMES:
            raise Invalid("TOO_MANY", f"{len(names)} {what}; at most {MAX_NAMES} are allowed")
        for name in names:
            _check_name(f"one of the {what}", name)
    _check_name("the software's version", offer.software)


def _check_name(what: str, name: str) -> None:
    if len(name) > MAX_NAME or not name.isprintable():
        raise Invalid("BAD_NAME", f"{what} is not {MAX_NAME} printable characters or fewer")
