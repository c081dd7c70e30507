"""All jobs and all clients of one coordinator."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Collection

from cloister_coordinator import ledger, register
from cloister_coordinator.desk import Desk
from cloister_coordinator.errors import Closed, Conflict, Invalid, NotFound, StorageFailed
from cloister_coordinator.first_model import first_version
from cloister_coordinator.ledger import Spent
from cloister_coordinator.records import job_status
from cloister_coordinator.resources import Resources, now_ms
from cloister_coordinator.resume import Resumed, job_of, resume, with_content
from cloister_coordinator.roster import Connection
from cloister_coordinator.runner import Runner
from cloister_coordinator.submission import MAX_IDEMPOTENCY_KEY, check
from cloister_protos import JobSpec, JobState, JobStatus

_log = logging.getLogger(__name__)


class Coordinator:
    """Runs jobs over the clients that are checked in; belongs to one event loop."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.failed = asyncio.Event()
        """Set when a job cannot go on because of the coordinator: it has to end."""
        self._runners: dict[str, Runner] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._absences: dict[str, asyncio.TimerHandle] = {}
        self._submitting = asyncio.Lock()
        self._stopping = False

    async def start(self) -> None:
        """Take up the jobs an earlier process left."""
        found = await asyncio.to_thread(self._resume)
        self.resources.spool.sweep(
            [OPERATOR_GROUP, *(r.round.group for r in found.values() if r.round is not None)]
        )
        for job_id, resumed in found.items():
            self._run(job_id, resumed)
            _log.info("job resumed", extra={"job": job_id, "version": resumed.job.version})
        asyncio.get_running_loop().call_later(
            self.resources.config.restart_grace_seconds, self._miss_absent
        )

    async def stop(self) -> None:
        """Select nobody any more, and let running folds commit."""
        self._stopping = True
        for absence in self._absences.values():
            absence.cancel()
        for runner in self._runners.values():
            runner.stop()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=self.resources.config.shutdown_seconds)

    # Clients

    def arrive(self, connection: Connection, at_work: Collection[str]) -> None:
        """A client checked in; `at_work` names the assignments it still works on."""
        client_id = connection.client_id
        if absence := self._absences.pop(client_id, None):
            absence.cancel()
        self.resources.roster.arrive(connection)
        offer = connection.capabilities.SerializeToString()
        self.resources.journal.write(lambda c: register.check_in(c, client_id, offer, now_ms()))
        for runner in self._runners.values():
            runner.desk.check_in(connection, frozenset(at_work))
            runner.wake()

    def leave(self, connection: Connection) -> None:
        """A client's stream ended; it is missed if it does not come back soon."""
        if not self.resources.roster.leave(connection) or self._stopping:
            return
        client_id = connection.client_id
        self.resources.journal.write(lambda c: register.seen(c, client_id, now_ms()))
        self._absences[client_id] = asyncio.get_running_loop().call_later(
            self.resources.config.reconnect_grace_seconds, self._miss, client_id
        )

    def _miss(self, client_id: str) -> None:
        self._absences.pop(client_id, None)
        for runner in self._runners.values():
            runner.desk.lost(client_id, "its connection was lost")

    def _miss_absent(self) -> None:
        """Give up members that have not come back after a restart."""
        for runner in self._runners.values():
            for client_id in runner.desk.outstanding:
                if client_id not in self.resources.roster and client_id not in self._absences:
                    runner.desk.lost(client_id, "it did not come back after a restart")

    # Jobs

    def runner(self, job_id: str) -> Runner | None:
        """The runner of a running job."""
        return self._runners.get(job_id)

    def desk(self, job_id: str) -> Desk:
        """Where the work of a job is handed in; of an ended one, too."""
        runner = self._runners.get(job_id)
        return runner.desk if runner is not None else Desk(job_id, self.resources, lambda: None)

    async def submit(self, spec: JobSpec, key: str) -> JobStatus:
        """Check a job, record it and start it.

        Raises:
            Invalid, NotFound: the job cannot run as it is.
            Conflict: another job was submitted under this key.
        """
        if len(key) > MAX_IDEMPOTENCY_KEY or not key.isprintable():
            raise Invalid(
                "BAD_KEY",
                f"the idempotency key is not {MAX_IDEMPOTENCY_KEY} printable characters or fewer",
            )
        resources = self.resources
        submission = await asyncio.to_thread(check, spec, resources.blobs, resources.config.sandbox)
        if spec.HasField("secure_aggregation") and resources.trust is None:
            raise Invalid(
                "NO_AUTHORITY",
                "this coordinator knows no authority of clients' identities",
                "Start it with --identity-authority; see `cloister pki`.",
            )
        content = submission.spec.SerializeToString(deterministic=True)
        async with self._submitting:
            if key:
                known = await asyncio.to_thread(resources.read, ledger.job_by_key, key)
                if known is not None:
                    if known.spec != content:
                        raise Conflict(
                            "KEY_USED", f"another job, {known.id}, was submitted under this key"
                        )
                    return await self.status(known.id)
            if self._stopping:
                raise Closed("STOPPING", "the coordinator is shutting down", "Try again later.")
            first = await asyncio.to_thread(
                first_version, submission, resources.blobs, resources.config.sandbox
            )
            job_id = f"{now_ms():012x}{secrets.token_hex(4)}"
            await resources.journal.write(
                lambda c: ledger.add_job(c, job_id, content, key, first, now_ms())
            )
            base = await asyncio.to_thread(with_content, first, resources)
        self._run(job_id, Resumed(submission, base, job_of(submission.spec), None))
        _log.info("job submitted", extra={"job": job_id, "job_name": spec.name})
        return await self.status(job_id)

    async def cancel(self, job_id: str, reason: str) -> JobStatus:
        """End a running job.

        Raises:
            NotFound: there is no such job.
            Closed: it has ended already.
        """
        runner = self._runners.get(job_id)
        if runner is None or runner.job.state != JobState.JOB_STATE_RUNNING:
            status = await self.status(job_id)
            raise Closed("JOB_ENDED", f"the job has ended: {JobState.Name(status.state)}")
        await runner.cancel(reason)
        _log.info("job cancelled", extra={"job": job_id, "reason": reason})
        return await self.status(job_id)

    async def status(self, job_id: str) -> JobStatus:
        """One job as it is recorded.

        Raises:
            NotFound: there is no such job.
        """
        row, versions, spent = await asyncio.to_thread(self._read_job, job_id)
        if row is None:
            raise NotFound("NO_JOB", f"there is no job {job_id[:64]!r}", "List the jobs.")
        return job_status(
            row, versions.get(job_id, 0), spent.get(job_id, Spent()), self.waiting(job_id)
        )

    async def ended(self, job_ids: Collection[str]) -> list[str]:
        """Which of these jobs do not run and never will again; unknown ones are among them."""
        if not job_ids:
            return []
        running = set(await asyncio.to_thread(self.resources.read, ledger.running_jobs))
        return [job_id for job_id in job_ids if job_id not in running]

    def waiting(self, job_id: str) -> str:
        """What a running job waits for; empty: nothing, or it does not run."""
        runner = self._runners.get(job_id)
        return runner.waiting if runner is not None else ""

    def _read_job(
        self, job_id: str
    ) -> tuple[ledger.Record | None, dict[str, int], dict[str, Spent]]:
        with self.resources.engine.connect() as c:
            return (
                ledger.job(c, job_id),
                ledger.version_numbers(c, [job_id]),
                ledger.spent(c, [job_id]),
            )

    def _resume(self) -> dict[str, Resumed]:
        job_ids = self.resources.read(ledger.running_jobs)
        return {job_id: resume(job_id, self.resources) for job_id in job_ids}

    def _run(self, job_id: str, resumed: Resumed) -> None:
        runner = Runner(
            job_id,
            resumed.submission,
            self.resources,
            resumed.base,
            resumed.job,
            resumed.spent,
        )
        if resumed.round is not None:
            runner.resume(resumed.round)
        self._runners[job_id] = runner
        task = asyncio.create_task(runner.run(), name=f"job {job_id}")
        self._tasks[job_id] = task
        task.add_done_callback(lambda t: self._ended(job_id, t))

    def _ended(self, job_id: str, task: asyncio.Task[None]) -> None:
        del self._runners[job_id], self._tasks[job_id]
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not isinstance(error, StorageFailed):  # the journal has told already
            _log.critical("job %s cannot go on; the coordinator ends", job_id, exc_info=error)
        self.failed.set()


OPERATOR_GROUP = "operator"
"""Group of operators' blobs in the spool."""
