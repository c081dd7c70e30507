"""The operator's side of the coordinator, on gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from cloister_coordinator import ledger, register
from cloister_coordinator.answers import answered
from cloister_coordinator.client_service import authorization
from cloister_coordinator.coordinator import OPERATOR_GROUP, Coordinator
from cloister_coordinator.download import Downloads
from cloister_coordinator.errors import Invalid
from cloister_coordinator.ledger import Spent
from cloister_coordinator.operator_token import OperatorToken
from cloister_coordinator.outcome import one_line
from cloister_coordinator.records import client_status, job_status, model_version, round_record
from cloister_coordinator.spool import DIGEST_BYTES, check_blob
from cloister_protos import (
    CancelJobRequest,
    GetBlobRequest,
    GetJobRequest,
    JobEvent,
    JobSpec,
    JobState,
    JobStatus,
    ListClientsRequest,
    ListClientsResponse,
    ListJobsRequest,
    ListJobsResponse,
    ListModelVersionsRequest,
    ListModelVersionsResponse,
    PutBlobRequest,
    RoundRecord,
    SubmitJobRequest,
    UploadResponse,
    WatchJobRequest,
)
from cloister_protos.services import OperatorServiceServicer

MAX_LIMIT = 1000
"""Entries of one list; more are refused."""
DEFAULT_LIMIT = 100
MAX_LIST_BYTES = 3 * 1024 * 1024
"""Bytes of one list; it ends earlier instead, and the caller goes on from there."""
WATCH_SECONDS = 0.1
"""Between two looks at a watched job: rounds faster than that are told several at once."""

_WATCH_ROUNDS = 64
_Context = grpc.aio.ServicerContext[Any, Any]


class OperatorService(OperatorServiceServicer):
    """Answers operators; see operator.proto."""

    def __init__(
        self, coordinator: Coordinator, token: OperatorToken, downloads: Downloads
    ) -> None:
        self._coordinator = coordinator
        self._resources = coordinator.resources
        self._token = token
        self._downloads = downloads

    @answered
    async def PutBlob(self, request: PutBlobRequest, context: _Context) -> UploadResponse:  # noqa: N802
        """See operator.proto."""
        self._admit(context)
        blob, blobs, spool = request.blob, self._resources.blobs, self._resources.spool
        check_blob(blob, "the upload")
        if await asyncio.to_thread(blobs.size, blob.digest) == blob.size:
            return UploadResponse(received=blob.size)
        name = blob.digest.hex()
        part = spool.part(OPERATOR_GROUP, name, blob)
        received = await part.take(request.offset, request.data)
        if part.complete:
            spool.forget(OPERATOR_GROUP, name)
            if part.path.exists():
                await asyncio.to_thread(blobs.adopt, part.path, blob.digest)
        return UploadResponse(received=received)

    @answered
    async def SubmitJob(self, request: SubmitJobRequest, context: _Context) -> JobStatus:  # noqa: N802
        """See operator.proto."""
        self._admit(context)
        return await self._coordinator.submit(request.spec, request.idempotency_key)

    @answered
    async def GetJob(self, request: GetJobRequest, context: _Context) -> JobStatus:  # noqa: N802
        """See operator.proto."""
        self._admit(context)
        return await self._coordinator.status(request.job_id)

    @answered
    async def ListJobs(self, request: ListJobsRequest, context: _Context) -> ListJobsResponse:  # noqa: N802
        """See operator.proto."""
        self._admit(context)
        limit = _limit(request.limit)
        response = ListJobsResponse()
        for status in await asyncio.to_thread(self._jobs, limit, request.after):
            response.jobs.append(status)
            if response.ByteSize() > MAX_LIST_BYTES:
                break
        return response

    @answered
    async def WatchJob(self, request: WatchJobRequest, context: _Context) -> None:  # type: ignore[override] # noqa: N802
        """See operator.proto."""
        self._admit(context)
        following = request.from_round
        told: JobStatus | None = None
        changed = asyncio.Event()
        runner = self._coordinator.runner(request.job_id)
        if runner is not None:
            runner.watchers.add(changed)
        try:
            while True:
                changed.clear()
                # The job first: what it says is then never ahead of the rounds.
                job = await self._coordinator.status(request.job_id)
                rounds = await asyncio.to_thread(self._rounds, request.job_id, following)
                for record in rounds:
                    await context.write(JobEvent(job=job, round=record))
                    following, told = record.number + 1, job
                if len(rounds) == _WATCH_ROUNDS:
                    continue
                if told != job:
                    await context.write(JobEvent(job=job))
                    told = job
                if job.state != JobState.JOB_STATE_RUNNING or runner is None:
                    return
                await changed.wait()
                await asyncio.sleep(WATCH_SECONDS)
        finally:
            if runner is not None:
                runner.watchers.discard(changed)

    @answered
    async def CancelJob(self, request: CancelJobRequest, context: _Context) -> JobStatus:  # noqa: N802
        """See operator.proto."""
        self._admit(context)
        return await self._coordinator.cancel(request.job_id, one_line(request.reason))

    @answered
    async def ListClients(  # noqa: N802
        self, request: ListClientsRequest, context: _Context
    ) -> ListClientsResponse:
        """See operator.proto."""
        self._admit(context)
        rows = await asyncio.to_thread(
            self._resources.read, register.clients, _limit(request.limit), request.after
        )
        response = ListClientsResponse()
        for row in rows:
            response.clients.append(client_status(row, row.id in self._resources.roster))
            if response.ByteSize() > MAX_LIST_BYTES:
                break
        return response

    @answered
    async def ListModelVersions(  # noqa: N802
        self, request: ListModelVersionsRequest, context: _Context
    ) -> ListModelVersionsResponse:
        """See operator.proto."""
        self._admit(context)
        await self._coordinator.status(request.job_id)  # or there is no such job
        after = request.after if request.HasField("after") else -1
        rows = await asyncio.to_thread(
            self._resources.read, ledger.versions, request.job_id, _limit(request.limit), after
        )
        return ListModelVersionsResponse(versions=map(model_version, rows))

    @answered
    async def GetBlob(self, request: GetBlobRequest, context: _Context) -> None:  # type: ignore[override] # noqa: N802
        """See operator.proto."""
        self._admit(context)
        if len(request.digest) != DIGEST_BYTES:
            raise Invalid("BAD_BLOB", f"a digest has {DIGEST_BYTES} bytes")
        await self._downloads.send(request.digest, request.offset, context)

    def _admit(self, context: _Context) -> None:
        self._token.check(authorization(context))

    def _jobs(self, limit: int, after: str) -> list[JobStatus]:
        with self._resources.engine.connect() as c:
            rows = ledger.jobs(c, limit, after)
            ids = [row.id for row in rows]
            versions, spent = ledger.version_numbers(c, ids), ledger.spent(c, ids)
        waiting = self._coordinator.waiting
        return [
            job_status(row, versions.get(row.id, 0), spent.get(row.id, Spent()), waiting(row.id))
            for row in rows
        ]

    def _rounds(self, job_id: str, first: int) -> list[RoundRecord]:
        with self._resources.engine.connect() as c:
            rows = ledger.ended_rounds(c, job_id, first, _WATCH_ROUNDS)
            if not rows:
                return []
            job = ledger.job(c, job_id)
            assert job is not None
            spec = JobSpec.FromString(job.spec)
            return [round_record(spec, row, ledger.members(c, job_id, row.number)) for row in rows]


def _limit(asked: int) -> int:
    if asked > MAX_LIMIT:
        raise Invalid("BAD_LIMIT", f"a limit of {asked}; at most {MAX_LIMIT} entries at once")
    return asked or DEFAULT_LIMIT
