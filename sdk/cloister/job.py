"""One job on a coordinator: follow it, stop it, fetch its models."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cloister import blobs, tensors
from cloister.connection import STREAM_SECONDS, Connection
from cloister.errors import CoordinatorFault, JobFailed, NotFound, Unreachable
from cloister_protos import (
    CancelJobRequest,
    GetJobRequest,
    JobEvent,
    JobState,
    JobStatus,
    ListModelVersionsRequest,
    ModelVersion,
    WatchJobRequest,
)
from cloister_tasks import InvalidModule, Manifest, Module

PATIENCE_SECONDS = 60.0
"""How long `watch` goes on asking a coordinator that does not answer, such as one restarting."""

_PAUSE_SECONDS = 1.0
_PAGE = 1000


class Job:
    """A job as the coordinator knows it. Every method raises OperatorError."""

    def __init__(self, connection: Connection, status: JobStatus) -> None:
        self._connection = connection
        self.status = status
        """As of the last call or event."""

    @property
    def id(self) -> str:
        """What the coordinator calls it."""
        return self.status.job_id

    @property
    def name(self) -> str:
        """What its operator called it; need not be unique."""
        return self.status.spec.name

    @property
    def over(self) -> bool:
        """Whether it succeeded, failed or was cancelled."""
        return self.status.state not in (
            JobState.JOB_STATE_UNSPECIFIED,
            JobState.JOB_STATE_RUNNING,
        )

    def refresh(self) -> JobStatus:
        """Ask where it stands now."""
        stub = self._connection.stub
        self.status = self._connection.call(stub.GetJob, GetJobRequest(job_id=self.id))
        return self.status

    def watch(
        self,
        from_round: int = 0,
        *,
        timeout: float | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> Iterator[JobEvent]:
        """Follow the job until it ends: each round as it changes, from the given one on.

        A broken connection is taken up again; the round it broke in may then come twice.

        :param timeout: seconds in all; past it TimeoutError.
        :param patience: seconds without an answer; past it Unreachable.
        """
        end = None if timeout is None else time.monotonic() + timeout
        heard = time.monotonic()
        while True:
            left = STREAM_SECONDS if end is None else max(0.0, end - time.monotonic())
            request = WatchJobRequest(job_id=self.id, from_round=from_round)
            opened = time.monotonic()
            try:
                stub = self._connection.stub
                for event in self._connection.stream(
                    stub.WatchJob, request, min(left, STREAM_SECONDS)
                ):
                    heard = time.monotonic()
                    self.status = event.job
                    if event.HasField("round"):
                        from_round = event.round.number
                    yield event
            except Unreachable:
                now = time.monotonic()
                if end is not None and now >= end:
                    raise TimeoutError(f"job {self.id} still runs after {timeout:g} s") from None
                if now - opened > patience:
                    heard = now  # the stream lived: what ended it was its own deadline, or a break
                if now - heard >= patience:
                    raise
            if self.over:
                return
            # paces repeated attempts; a wait for the network, not for a state
            time.sleep(_PAUSE_SECONDS)

    def wait(self, *, timeout: float | None = None) -> JobStatus:
        """Return once every round is committed.

        Raises JobFailed if the job ends otherwise, TimeoutError past `timeout` seconds.
        """
        for _ in self.watch(timeout=timeout):
            pass
        self.raise_if_failed()
        return self.status

    def raise_if_failed(self) -> None:
        """Raises JobFailed if it failed or was cancelled, as of `status`."""
        if self.over and self.status.state != JobState.JOB_STATE_SUCCEEDED:
            cancelled = self.status.state == JobState.JOB_STATE_CANCELLED
            reason = f": {self.status.reason}" if self.status.reason else ""
            verb = "was cancelled" if cancelled else "failed"
            raise JobFailed(f"job {self.name} ({self.id}) {verb}{reason}", self.status)

    def cancel(self, reason: str = "") -> JobStatus:
        """Stop it; its model versions stay."""
        request = CancelJobRequest(job_id=self.id, reason=reason)
        self.status = self._connection.call(self._connection.stub.CancelJob, request)
        return self.status

    def versions(self) -> list[ModelVersion]:
        """The committed model versions, oldest first; 0 is the initial model."""
        found: list[ModelVersion] = []
        stub = self._connection.stub
        while True:
            after = found[-1].version if found else None
            request = ListModelVersionsRequest(job_id=self.id, limit=_PAGE, after=after)
            page = self._connection.call(stub.ListModelVersions, request).versions
            found += page
            if len(page) < _PAGE:
                return found

    @cached_property
    def manifest(self) -> Manifest:
        """The task's description of itself."""
        data = blobs.get(self._connection, self.status.spec.task.blob)
        try:
            return Module.parse(bytes(data)).manifest
        except InvalidModule as error:
            raise CoordinatorFault(f"the job's task is none: {error}") from error

    def block(self, version: int | None = None) -> NDArray[np.float32]:
        """A model version as one block, f32 (parameters,) in manifest order; None: the newest.

        Raises NotFound if there is no such version (yet).
        """
        blob = self._version(version).blob
        return np.frombuffer(blobs.get(self._connection, blob), np.dtype("<f4"))

    def frozen(self) -> NDArray[np.float32] | None:
        """The frozen block, f32 in manifest order; None: the job has none."""
        spec = self.status.spec
        if not spec.HasField("frozen"):
            return None
        return np.frombuffer(blobs.get(self._connection, spec.frozen), np.dtype("<f4"))

    def model(self, version: int | None = None) -> dict[str, NDArray[np.float32]]:
        """A model version as tensors by name; None: the newest. Raises NotFound as `block`."""
        return tensors.split(self.manifest, self.block(version))

    def _version(self, number: int | None) -> ModelVersion:
        if number is None:
            number = self.refresh().version
        after = number - 1 if number else None
        request = ListModelVersionsRequest(job_id=self.id, limit=1, after=after)
        stub = self._connection.stub
        for version in self._connection.call(stub.ListModelVersions, request).versions:
            if version.version == number:
                return version
        newest = self.refresh().version
        raise NotFound(f"job {self.id} has no model version {number}; its newest is {newest}")

    def __repr__(self) -> str:
        state = JobState.Name(self.status.state).removeprefix("JOB_STATE_").lower()
        return f"<Job {self.id} {self.name!r} {state}, version {self.status.version}>"
