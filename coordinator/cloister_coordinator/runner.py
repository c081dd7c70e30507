"""One running job: gathers cohorts, opens rounds, commits their outcomes.

The pure cores (`job`, `round`) decide; here their decisions meet clients, clock and storage.
Everything runs on one event loop. Memory leads and the journal follows in the same order, so
whatever is durable is a state this job was in, and a restart goes on from it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from cloister_coordinator import cohort, ledger
from cloister_coordinator.aggregation import Aggregator
from cloister_coordinator.assignments import assignment_id, cancel, template
from cloister_coordinator.desk import Desk
from cloister_coordinator.fold import fold, fold_secure
from cloister_coordinator.job import Job
from cloister_coordinator.ledger import NewVersion, Spent
from cloister_coordinator.open_round import OpenRound
from cloister_coordinator.protection import counters, release
from cloister_coordinator.resources import Resources, now_ms
from cloister_coordinator.resume import UNDER_WAY
from cloister_coordinator.roster import Need
from cloister_coordinator.round import Round
from cloister_coordinator.secure_round import SecureRound
from cloister_coordinator.submission import Submission
from cloister_privacy.errors import Unrecoverable
from cloister_privacy.server import Server
from cloister_privacy.terms import Terms
from cloister_protos import Blob, JobState, RoundState
from cloister_sandbox import SandboxError

_MAX_RETRY_SECONDS = 60.0

_log = logging.getLogger(__name__)


class Runner:
    """Drives one job until it ends or the coordinator does.

    Args:
        base: the newest model version, with its content if that is small.
        job: the progress so far.
        spent: of the job's privacy budget so far.
    """

    def __init__(
        self,
        job_id: str,
        submission: Submission,
        resources: Resources,
        base: NewVersion,
        job: Job,
        spent: Spent,
    ) -> None:
        self.job_id = job_id
        self.spec = submission.spec
        self.job = job
        self.waiting = ""
        """What the job waits for, for people."""
        self.watchers: set[asyncio.Event] = set()
        """Set whenever something is recorded."""
        self._manifest = submission.task.manifest
        self._resources = resources
        self._aggregator = Aggregator(
            resources.pool, submission.aggregation, resources.config.fold_workers
        )
        self._need = Need(
            dataset=self.spec.eligibility.dataset,
            tags=frozenset(self.spec.eligibility.tags),
            memory_bytes=self._manifest.memory_bytes,
        )
        self._base = base
        self._spent = spent
        self._release = release(self.spec, self._manifest)
        self._stopping = False
        self._ending = asyncio.Event()
        self._wake = asyncio.Event()
        self._patience: float | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._fixed: asyncio.Future[None]
        self.desk = Desk(job_id, resources, self._wake.set)

    def resume(self, round_: OpenRound) -> None:
        """Take up a round where an earlier process left it; before `run`."""
        round_.announced = True
        self.desk.round = round_
        self._watch_deadline(round_)

    def wake(self) -> None:
        """The clients at hand have changed."""
        self._wake.set()

    def stop(self) -> None:
        """Open no more rounds; `run` returns, once a running fold is committed."""
        self._stopping = True
        self._ending.set()
        self._wake.set()

    async def cancel(self, reason: str) -> None:
        """End the job by the operator's will; returns once that is durable.

        Raises:
            IllegalTransition: it has ended already.
        """
        self.job.cancel(reason)
        r, self.desk.round = self.desk.round, None
        ended = r if r is not None and r.core.state in UNDER_WAY else None
        if ended is not None:
            if ended.secure is not None:
                ended.secure.end("the job was cancelled")
            self._dismiss(ended, "the job was cancelled")
            ended.core.abandon("the job was cancelled")

        def write(c: Connection) -> None:
            if ended is not None:
                ledger.end_round(c, self.job_id, ended.core, now_ms())
            ledger.end_job(c, self.job_id, self.job.state, self.job.reason)

        self._ending.set()
        self._wake.set()
        await self._resources.journal.write(write)
        if ended is not None:
            self._clear(ended)
        self._tell()

    async def run(self) -> None:
        """Run rounds until the job ends or `stop` is called.

        Raises:
            StorageFailed: state could not be made durable.
            OSError: a fold could not read or write its files.
        """
        while self.job.state == JobState.JOB_STATE_RUNNING:
            r = self.desk.round
            if r is not None and not r.collecting:
                await self._conclude(r)
            elif self._stopping:
                return
            elif r is None:
                await self._assemble()
            else:
                self._wake.clear()
                await self._wake.wait()

    # Opening

    async def _assemble(self) -> None:
        """Wait for a cohort, and open the next round with it."""
        if tries := self.job.abandoned_in_a_row:
            self.waiting = "pausing after an abandoned round"
            seconds = self._resources.config.retry_seconds * 2.0 ** min(tries - 1, 10)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), min(seconds, _MAX_RETRY_SECONDS))
        while not self._ending.is_set():
            if (r := self._prepare()) is not None:
                await self._open(r)
                return
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._patience)

    def _prepare(self) -> OpenRound | None:
        """The next round, if its cohort is there."""
        roster, wanted = self._resources.roster, self.spec.cohort
        available = roster.eligible(self._need)
        if len(available) < cohort.size(wanted.target, wanted.over_selection):
            quiet = asyncio.get_running_loop().time() - roster.last_arrival
            left = self._resources.config.settle_seconds - quiet
            if len(available) < wanted.minimum or left > 0:
                self._patience = left if len(available) >= wanted.minimum else None
                self.waiting = (
                    f"waiting for clients: {len(available)} of at least {wanted.minimum}"
                    " eligible ones are connected"
                )
                return None
        self.waiting = ""
        plan = self.job.plan()
        self.job.opened(plan)
        members = cohort.select(
            available, wanted.target, wanted.over_selection, self.spec.seed, plan.number
        )
        core = Round(
            plan.number,
            plan.base_version,
            members,
            wanted.target,
            wanted.minimum,
            plan.evaluation_only,
        )
        began = now_ms()
        model = Blob(digest=self._base.digest, size=self._base.size)
        shared = template(
            self.job_id, self.spec, plan, model, self._base.content or b"", self._base.clip_norm
        )
        r = OpenRound(
            job_id=self.job_id,
            spec=self.spec,
            manifest=self._manifest,
            plan=plan,
            core=core,
            shared=shared,
            started_ms=began,
            deadline_ms=began + round(self.spec.round_deadline_seconds * 1000),
        )
        if self.spec.HasField("secure_aggregation"):
            r.secure = self._secure(r)
        return r

    def _secure(self, r: OpenRound) -> SecureRound:
        """The secure aggregation of a round that opens."""
        assert self._resources.trust is not None, "checked when the job was submitted"
        counted = counters(r.shared.secure, self._manifest)
        terms = Terms.of(r.shared, self._manifest.parameter_count, len(counted))
        server = Server(terms, self._resources.trust)

        def over(reason: str) -> None:
            if r.core.state in UNDER_WAY:
                r.core.abandon(reason)
                self._wake.set()

        return SecureRound(
            server,
            terms,
            counted,
            outstanding=lambda: r.core.outstanding,
            failed=partial(self.desk.fail, r),
            over=over,
        )

    async def _open(self, r: OpenRound) -> None:
        self.desk.round = r
        await self._resources.journal.write(lambda c: self._record_opening(c, r))
        self._announce(r)

    def _record_opening(self, c: Connection, r: OpenRound) -> None:
        ledger.open_round(
            c,
            self.job_id,
            r.plan,
            r.core.members,
            r.started_ms,
            r.deadline_ms,
            r.shared.clip_norm,
            self._spent,
        )

    def _announce(self, r: OpenRound) -> None:
        """Tell the members of a round that is durable now."""
        if self.desk.round is not r:  # cancelled meanwhile
            return
        r.announced = True
        for client_id in r.core.members:
            self._resources.roster.send(client_id, r.message(client_id))
        if r.secure is not None:
            r.secure.begin()
        self._watch_deadline(r)

    def _watch_deadline(self, r: OpenRound) -> None:
        left = max(0.0, r.deadline_ms / 1000 - time.time())
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(left, self._expire, r)

    def _expire(self, r: OpenRound) -> None:
        if self.desk.round is not r or not r.collecting:
            return
        late = r.core.outstanding
        r.core.deadline()
        lost = [(i, r.core.members[i], r.core.reasons[i]) for i in late]

        def write(c: Connection) -> None:
            for client_id, state, reason in lost:
                ledger.step_member(c, self.job_id, r.plan.number, client_id, state, reason)

        self._resources.journal.write(write)
        self._dismiss(r, "the deadline passed", late)
        self._wake.set()

    # Concluding

    async def _conclude(self, r: OpenRound) -> None:
        """Fold a closed round and record its outcome, along with the opening of the next."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._dismiss(r, "the round is over", r.core.outstanding)
        new: NewVersion | None = None
        if r.core.state == RoundState.ROUND_STATE_FOLDING:
            new = await self._fold(r)
            if self.desk.round is not r:  # cancelled meanwhile
                return
        training = evaluation = None
        if r.core.state == RoundState.ROUND_STATE_FOLDING:
            r.core.folded()
            training, evaluation = (m.SerializeToString() for m in r.metrics())
            self.job.committed(r.plan.evaluation_only)
            self._base = new or self._base
        else:
            self.job.abandoned(r.core.reason)
        if r.secure is not None:
            r.secure.end("")
        self._stop_at_budget()
        running = self.job.state == JobState.JOB_STATE_RUNNING
        going_on = running and not self._stopping and not self.job.abandoned_in_a_row
        following = self._prepare() if going_on else None
        ended_ms = now_ms()

        def write(c: Connection) -> None:
            if new is not None:
                ledger.add_version(c, self.job_id, new, ended_ms)
            ledger.end_round(c, self.job_id, r.core, ended_ms, training, evaluation)
            if following is not None:
                self._record_opening(c, following)
            if not running:
                ledger.end_job(c, self.job_id, self.job.state, self.job.reason)

        self.desk.round = following
        recorded = self._resources.journal.write(write)
        if following is not None:
            # The reports and who survived are durable, and folding them again would give the
            # same bytes, so members may begin before this very commit is on the disk. What they
            # hand in is acknowledged after it: the journal keeps its order.
            await self._fixed
            self._announce(following)
        await recorded
        self._clear(r)
        self._tell()
        self._log(r, ended_ms)

    async def _fold(self, r: OpenRound) -> NewVersion | None:
        """The next version; None after an evaluation, and when the round had to be abandoned."""
        self._fixed = self._resources.journal.write(
            lambda c: ledger.fold_round(c, self.job_id, r.plan.number)
        )
        if r.plan.evaluation_only and r.secure is None:
            return None
        if not r.in_memory():
            await self._fixed  # the updates are read back from the database
        loop = asyncio.get_running_loop()
        end = self._base, self._aggregator, self._resources
        try:
            if r.secure is None:
                return await loop.run_in_executor(self._resources.folds, fold, r, *end)
            server = await self._reveal(r, r.secure)
            return await loop.run_in_executor(self._resources.folds, fold_secure, r, server, *end)
        except Unrecoverable as e:
            if self.desk.round is r:
                named = "".join(f"; {member} {fault}" for member, fault in e.named.items())
                r.core.abandon(f"secure aggregation came to nothing: {e}{named}")
            return None
        except SandboxError as e:
            _log.warning(
                "the aggregation failed",
                extra={"job": self.job_id, "round": r.plan.number, "kind": e.kind},
            )
            if self.desk.round is r:
                r.core.abandon(f"the aggregation failed ({e.kind}): {e.message}")
            return None

    async def _reveal(self, r: OpenRound, secure: SecureRound) -> Server:
        """Have the survivors agree on each other, then reveal what masks their sum.

        What the sum costs is durable before anybody is asked for a share: a coordinator that is
        killed in between has spent it all the same.
        """
        await secure.confirmed()
        if self._release is not None and not r.plan.evaluation_only:
            count, delta = self._spent.releases + 1, self.spec.differential_privacy.delta
            self._spent = spent = Spent(count, self._release.epsilon(count, delta))
            await self._resources.journal.write(
                lambda c: ledger.spend(c, self.job_id, r.plan.number, spent)
            )
        return await secure.revealed()

    def _stop_at_budget(self) -> None:
        """End the job if one more sum would cost more than it may."""
        privacy = self.spec.differential_privacy
        if self._release is None or not privacy.epsilon:
            return
        following = self._release.epsilon(self._spent.releases + 1, privacy.delta)
        if following > privacy.epsilon and self.job.state == JobState.JOB_STATE_RUNNING:
            self.job.finish(
                f"stopped at its privacy budget: epsilon {self._spent.epsilon:.4g} of"
                f" {privacy.epsilon:.4g} after {self._spent.releases} sums;"
                f" another would take it to {following:.4g}"
            )

    def _dismiss(
        self, r: OpenRound, reason: str, client_ids: tuple[str, ...] | None = None
    ) -> None:
        """Tell members that their work is no longer wanted."""
        for client_id in r.core.open_members if client_ids is None else client_ids:
            name = assignment_id(self.job_id, r.plan.number, client_id)
            self._resources.roster.send(client_id, cancel(name, reason))

    def _clear(self, r: OpenRound) -> None:
        """Delete a round's uploads, in a thread as it may take its time."""
        files = self._resources.spool.discard(r.group)
        if files:
            loop = asyncio.get_running_loop()
            loop.run_in_executor(None, _delete, files)

    def _tell(self) -> None:
        for watcher in self.watchers:
            watcher.set()

    def _log(self, r: OpenRound, ended_ms: int) -> None:
        _log.info(
            "round recorded",
            extra={
                "job": self.job_id,
                "round": r.plan.number,
                "state": RoundState.Name(r.core.state),
                "version": self.job.version,
                "cohort": len(r.core.members),
                "survivors": len(r.core.survivors),
                "milliseconds": ended_ms - r.started_ms,
                "reason": r.core.reason,
            },
        )
        if self.job.state != JobState.JOB_STATE_RUNNING:
            extra = {"job": self.job_id, "state": JobState.Name(self.job.state)}
            _log.info("job ended", extra=extra | {"reason": self.job.reason})


def _delete(files: list[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
