"""The worker thread: one assignment after the other, each to a report, a no, or a good reason.

Under secure aggregation an assignment is worked on until its sum is unmasked: while a member waits
for the others, the assignment of another job waits with it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from cloister_client.assignment import validate
from cloister_client.audit import AuditLog
from cloister_client.desk import Desk, Work
from cloister_client.errors import (
    AssignmentFailure,
    DigestMismatch,
    NotWanted,
    Rejected,
    UnfitAssignment,
    Withdrawn,
)
from cloister_client.executor import Done, Executor
from cloister_client.link import Link
from cloister_client.membership import Membership
from cloister_privacy.errors import Aborted
from cloister_protos import Assignment, DeclineRequest, Failure, ReportRequest
from cloister_sandbox import Refused, SandboxError
from cloister_tasks import InvalidModule

_log = logging.getLogger(__name__)
_MAX_MESSAGE = 1024
_BEFORE_DATA = (UnfitAssignment, DigestMismatch, Refused, InvalidModule, Aborted)
"""What goes wrong without a task having a say in it."""
_WITHHELD = "under secure aggregation only the kind is told; the device's own log tells more"


class Worker:
    """Takes work from the desk until the desk closes."""

    def __init__(self, desk: Desk, executor: Executor, link: Link, audit: AuditLog):
        self._desk, self._executor, self._link, self._audit = desk, executor, link, audit

    def run(self) -> None:
        """The thread's body. Nothing an assignment does ends it."""
        while (work := self._desk.take()) is not None:
            try:
                self._handle(work)
            except (Withdrawn, NotWanted, Rejected) as error:
                _log.info("%s: dropped: %s", _title(work.assignment), error)
                self._record(work, "dropped", reason=str(error))
            except Exception:
                _log.exception("%s: dropped after an internal error", _title(work.assignment))
                self._record(work, "dropped", reason="internal error")
            finally:
                self._desk.drop(work)

    def _handle(self, work: Work) -> None:
        work.check()
        started = time.monotonic()
        try:
            validate(work.assignment)
            reason = self._executor.weigh(work.assignment)
            self._record(work, "assignment", decision=reason or "allowed", **_facts(work))
            if reason is not None:
                self._decline(work, reason)
                return
            done = self._executor.run(work)
        except (AssignmentFailure, Aborted, SandboxError) as error:
            self._fail(work, error.kind, str(error), _told(work, error))
        except InvalidModule as error:
            self._fail(work, "refused", str(error), _told(work, error))
        except (Withdrawn, NotWanted, Rejected):
            raise
        except Exception:
            _log.exception("%s: internal error", _title(work.assignment))
            message = "internal error; the client's own log tells more"
            self._fail(work, "internal", message, message)
        else:
            membership = done.membership
            try:
                self._deliver(work, done, started)
                if membership is not None:
                    self._finish(work, membership)
            finally:
                if membership is not None:
                    membership.close()

    def _deliver(self, work: Work, done: Done, started: float) -> None:
        transport, assignment_id = self._link.transport, work.assignment.assignment_id
        request = ReportRequest(assignment_id=assignment_id, result=done.result)
        bytes_out = len(done.result.inline_update)
        if (upload := done.upload) is not None:
            self._link.persist(work, lambda: transport.upload(assignment_id, upload))
            bytes_out = upload.blob.size
        self._link.persist(work, lambda: transport.report(request))
        self._executor.keep(work, done)
        seconds = time.monotonic() - started
        outcome, masked = done.outcome, {}
        if (membership := done.membership) is not None:
            masked = {"members": membership.members, "threshold": membership.threshold}
        _log.info(
            "%s: %s%s, %.3f s, %s in, %s out",
            _title(work.assignment),
            ", ".join(
                _rows(verb, rows, sums)
                for verb, rows, sums in (
                    ("trained", outcome.trained_rows, outcome.training_sums),
                    ("evaluated", outcome.evaluated_rows, outcome.evaluation_sums),
                )
                if rows
            ),
            f", masked among {masked['members']} members" if masked else "",
            seconds,
            _size(done.bytes_in),
            _size(bytes_out),
        )
        self._record(
            work,
            "reported",
            examples=outcome.examples,
            trained_rows=outcome.trained_rows,
            evaluated_rows=outcome.evaluated_rows,
            norm=done.norm,
            seconds=round(seconds, 6),
            bytes_in=done.bytes_in,
            bytes_out=bytes_out,
            masked=bool(masked),
            **masked,
        )

    def _finish(self, work: Work, membership: Membership) -> None:
        """Help to unmask the sum; what goes wrong now is told to nobody but the owner."""
        try:
            membership.finish()
        except Aborted as error:
            _log.warning("%s: left the round: %s", _title(work.assignment), error)
            self._record(work, "aborted", kind=error.kind, reason=str(error))
        else:
            self._record(work, "summed", survivors=membership.survivors)

    def _fail(self, work: Work, kind: str, message: str, told: str) -> None:
        """Report a failure: the owner's logs get the message, the coordinator what may be told."""
        _log.warning("%s: failed (%s): %s", _title(work.assignment), kind, message)
        self._record(work, "failed", kind=kind, reason=message)
        request = ReportRequest(
            assignment_id=work.assignment.assignment_id,
            failure=Failure(kind=kind, message=told[:_MAX_MESSAGE]),
        )
        self._link.persist(work, lambda: self._link.transport.report(request))

    def _decline(self, work: Work, reason: str) -> None:
        _log.warning("%s: declined: %s", _title(work.assignment), reason)
        request = DeclineRequest(
            assignment_id=work.assignment.assignment_id, reason=reason[:_MAX_MESSAGE]
        )
        self._link.persist(work, lambda: self._link.transport.decline(request))

    def _record(self, work: Work, event: str, **fields: Any) -> None:
        self._audit.write(event, assignment=work.assignment.assignment_id[:256], **fields)


def _told(work: Work, error: Exception) -> str:
    """What the coordinator is told of an error.

    A task that has seen data could say in its failure what the masks hide: by the status and row
    that it fails with, or the metric that it spoils.
    """
    if work.assignment.HasField("secure") and not isinstance(error, _BEFORE_DATA):
        return _WITHHELD
    return str(error)


def _facts(work: Work) -> dict[str, Any]:
    assignment = work.assignment
    return {
        "job": assignment.job_name,
        "task": assignment.task.blob.digest.hex(),
        "publisher": assignment.task.publisher.hex(),
        "aggregation": assignment.aggregation.blob.digest.hex(),
        "model": assignment.model.digest.hex(),
        "dataset": assignment.dataset,
        "train": assignment.HasField("training"),
        "evaluate": assignment.evaluate,
        "secure": assignment.HasField("secure"),
    }


def _title(assignment: Assignment) -> str:
    return f"{assignment.job_name[:64]!r} round {assignment.round}"


def _rows(verb: str, rows: int, sums: Mapping[str, float]) -> str:
    loss = f" with loss {sums['loss'] / rows:.4f}" if "loss" in sums else ""
    return f"{verb} {rows} rows{loss}"


def _size(count: int) -> str:
    """Bytes for people."""
    for unit, bytes_each in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= bytes_each:
            return f"{count / bytes_each:.1f} {unit}"
    return f"{count} B"
