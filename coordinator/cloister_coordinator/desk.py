"""Where the members of a job's round hand in their work.

What they say changes the round in memory at once and is answered once it is durable.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress

from cloister_coordinator import ledger
from cloister_coordinator.assignments import assignment_id, cancel
from cloister_coordinator.errors import Closed, Invalid, NotFound
from cloister_coordinator.ledger import Record, Report
from cloister_coordinator.open_round import OpenRound
from cloister_coordinator.outcome import check_failure, check_result, one_line
from cloister_coordinator.resources import Resources
from cloister_coordinator.roster import Connection
from cloister_coordinator.spool import Part, check_blob, check_finite
from cloister_privacy.errors import Misbehaved
from cloister_protos import (
    Blob,
    Done,
    ExchangeRequest,
    ExchangeResponse,
    MemberState,
    ReportRequest,
    Result,
)

_log = logging.getLogger(__name__)


class Desk:
    """Takes what clients say about the round under way of one job.

    Args:
        changed: called after whatever may have closed the round.
    """

    def __init__(self, job_id: str, resources: Resources, changed: Callable[[], None]) -> None:
        self.round: OpenRound | None = None
        self._job_id = job_id
        self._resources = resources
        self._changed = changed

    @property
    def outstanding(self) -> tuple[str, ...]:
        """Members from whom nothing has come, while the round collects."""
        r = self.round
        return r.core.outstanding if r is not None and r.collecting else ()

    def check_in(self, connection: Connection, at_work: frozenset[str]) -> None:
        """Tell a client that is back of its work, unless it is `at_work` on it."""
        r = self.round
        mine = ""
        if r is not None and r.announced and r.open_for(connection.client_id):
            mine = assignment_id(self._job_id, r.plan.number, connection.client_id)
            if mine not in at_work:
                connection.send(r.message(connection.client_id))
        elif r is not None and r.needs(connection.client_id):
            mine = assignment_id(self._job_id, r.plan.number, connection.client_id)
        for name in at_work:
            if name != mine and name.startswith(f"{self._job_id}/"):
                connection.send(cancel(name, "the round is over"))

    async def report(self, client_id: str, number: int, request: ReportRequest) -> None:
        """Take a result or failure; returns once it is durable.

        Raises:
            Invalid: it cannot be right; the member has failed by its own fault.
            Closed: the round takes nothing from this client any more.
            NotFound: it is no member of such a round.
        """
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        await self._recover(client_id, number, request.result)
        r = self._open(client_id, number)
        if r is None:
            row = await self._recorded(client_id, number)
            if row.report_digest != digest:
                raise _closed(number)
            return
        fault: Invalid | None = None
        report = Report(digest)
        if request.HasField("failure"):
            r.core.failed(client_id, check_failure(request.failure))
        else:
            try:
                report = self._take(r, client_id, request.result, digest)
            except Invalid as e:
                fault = e
                r.core.failed(client_id, f"its report was refused: {e.message}")
        state, reason = r.core.members[client_id], r.core.reasons[client_id]
        durable = self._resources.journal.write(
            lambda c: ledger.take_report(c, self._job_id, number, client_id, state, reason, report)
        )
        self._stepped(r)
        await durable
        if fault is not None:
            raise fault

    async def exchange(
        self, client_id: str, number: int, request: ExchangeRequest
    ) -> ExchangeResponse:
        """Take a step of secure aggregation; returns when all members have, or after a while.

        Raises:
            Invalid: the step cannot be right; while the round collects, the member has failed.
            Closed: the round takes nothing from this client any more.
            NotFound: it is no member of such a round.
        """
        r = self.round
        if r is None or r.plan.number != number or client_id not in r.core.members:
            row = await self._recorded(client_id, number)
            if row.state == MemberState.MEMBER_STATE_REPORTED:
                return ExchangeResponse(done=Done())
            raise _closed(number)
        if r.secure is None:
            raise Invalid("NOT_SECURE", "this round has no secure aggregation")
        if not (r.announced and (r.open_for(client_id) or r.needs(client_id))):
            raise _closed(number)
        try:
            return await r.secure.exchange(client_id, request)
        except Misbehaved as error:
            self.fail(r, client_id, error.fault)
            raise Invalid("BAD_STEP", error.fault) from error
        except Closed:
            # a member that began anew, without its keys, has nothing more to give
            if request.WhichOneof("step") in ("keys", "dealing"):
                self.fail(r, client_id, "it came back without the keys of this round")
            raise

    def fail(self, r: OpenRound, client_id: str, reason: str) -> None:
        """A member of a round is at fault; nothing more is taken from it."""
        _log.warning(
            "a member is at fault",
            extra={
                "job": self._job_id,
                "round": r.plan.number,
                "client": client_id,
                "reason": reason,
            },
        )
        if r.open_for(client_id):
            r.core.failed(client_id, reason)
            self._step(r, client_id)
            self._stepped(r)

    async def decline(self, client_id: str, number: int, reason: str) -> None:
        """Take a no; returns once it is durable.

        Raises:
            Closed, NotFound: as for `report`.
        """
        r = self._open(client_id, number)
        if r is None:
            row = await self._recorded(client_id, number)
            if row.state != MemberState.MEMBER_STATE_DECLINED:
                raise _closed(number)
            return
        r.core.declined(client_id, one_line(reason))
        durable = self._step(r, client_id)
        self._stepped(r)
        await durable

    def lost(self, client_id: str, reason: str) -> None:
        """A client's stream ended and it did not come back in time."""
        r = self.round
        if r is not None and client_id in self.outstanding:
            r.core.lost(client_id, reason)
            self._step(r, client_id)
            self._changed()
        if r is not None and r.secure is not None:
            r.secure.gone(client_id)

    def offers(self, client_id: str, number: int, digest: bytes) -> bool:
        """Whether a blob belongs to an open assignment of the client."""
        r = self._open(client_id, number)
        if r is None:
            raise _closed(number)
        told = r.shared
        return digest in (
            told.task.blob.digest,
            told.aggregation.blob.digest,
            told.model.digest,
            told.frozen.digest,
        )

    async def upload(
        self, client_id: str, number: int, blob: Blob, offset: int, data: bytes
    ) -> int:
        """Take a chunk of an update; bytes held.

        Raises:
            Closed: the round takes nothing from this client any more.
            Invalid: the update has another size, or values that are not finite.
        """
        r = self._open(client_id, number)
        if r is None:
            raise _closed(number)
        wanted = r.expectation.update_bytes
        if blob.size != wanted:
            raise Invalid("BAD_UPDATE", f"an update of {blob.size} bytes; {wanted} were expected")
        part = self._part(r, client_id, blob)
        try:
            held = await part.take(offset, data)
        except Invalid as e:
            if e.reason == "UPDATE_NOT_FINITE" and r.open_for(client_id):
                r.core.failed(client_id, f"its update was refused: {e.message}")
                self._step(r, client_id)
                self._stepped(r)
            raise
        if not r.open_for(client_id) and client_id not in r.results:
            part.path.unlink(missing_ok=True)
            raise _closed(number)
        return held

    async def _recover(self, client_id: str, number: int, result: Result) -> None:
        """Take up an update that was uploaded to an earlier process."""
        r = self._open(client_id, number)
        if r is None or result.update.size != r.expectation.update_bytes:
            return
        with suppress(Invalid):  # what is wrong is found out when the result is taken
            check_blob(result.update, "the result")
            part = self._part(r, client_id, result.update)
            if not part.complete:
                await part.take(0, b"")

    def _take(self, r: OpenRound, client_id: str, result: Result, digest: bytes) -> Report:
        check_result(result, r.expectation, r.metric_names)
        if result.HasField("update") and not self._part(r, client_id, result.update).complete:
            raise Invalid("NO_UPLOAD", "the update the result names was not uploaded completely")
        if r.secure is not None:
            try:
                r.secure.vector(client_id, result.accused)
            except Misbehaved as error:
                raise Invalid("BAD_RESULT", error.fault) from error
        update = r.keep(client_id, result)
        r.core.reported(client_id)
        return Report(digest, result.SerializeToString(), update or None)

    def _part(self, r: OpenRound, client_id: str, blob: Blob) -> Part:
        check = check_finite if r.secure is None else None
        return self._resources.spool.part(r.group, client_id, blob, check)

    def _open(self, client_id: str, number: int) -> OpenRound | None:
        r = self.round
        if r is None or r.plan.number != number or not r.open_for(client_id):
            return None
        return r

    def _stepped(self, r: OpenRound) -> None:
        """A member has reported or left."""
        self._changed()
        if r.secure is not None:
            r.secure.review()

    def _step(self, r: OpenRound, client_id: str) -> asyncio.Future[None]:
        number, state = r.plan.number, r.core.members[client_id]
        reason = r.core.reasons[client_id]
        return self._resources.journal.write(
            lambda c: ledger.step_member(c, self._job_id, number, client_id, state, reason)
        )

    async def _recorded(self, client_id: str, number: int) -> Record:
        """What is durable of a member whose round takes nothing more."""
        await self._resources.journal.flush()
        row = await asyncio.to_thread(
            self._resources.read, ledger.member, self._job_id, number, client_id
        )
        if row is None:
            raise NotFound("NO_ASSIGNMENT", "there is no such assignment", "Drop the work.")
        return row


def _closed(number: int) -> Closed:
    return Closed(
        "ROUND_CLOSED",
        f"round {number} takes nothing more from this client",
        "Drop the work; the next assignment comes by itself.",
    )
