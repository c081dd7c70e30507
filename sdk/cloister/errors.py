"""What can go wrong between an operator and a coordinator.

::

    OperatorError
    ├── InvalidJob         the description of a job; its author corrects it, nothing was sent
    ├── Unreachable        no answer in time; the same call may succeed later
    ├── NotPermitted       the operator token is missing or wrong
    ├── InvalidRequest     the coordinator refuses what was asked; the message says why
    ├── NotFound           it knows no such job, model version or blob
    ├── JobFailed          the job ended without success; its last status is attached
    └── CoordinatorFault   the coordinator's own fault, to be found in its log
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloister_protos import JobStatus


class OperatorError(Exception):
    """Base of all errors of the operator's side; the message says what to do next."""


class InvalidJob(OperatorError):
    """The job as described makes no sense; nothing was sent."""


class Unreachable(OperatorError):
    """No answer in time; the same call may succeed later."""


class NotPermitted(OperatorError):
    """The coordinator does not accept the operator token."""


class InvalidRequest(OperatorError):
    """The coordinator refuses what was asked for."""


class NotFound(OperatorError):
    """The coordinator knows no such job, model version or blob."""


class JobFailed(OperatorError):
    """The job failed or was cancelled."""

    def __init__(self, message: str, status: JobStatus) -> None:
        super().__init__(message)
        self.status = status


class CoordinatorFault(OperatorError):
    """The coordinator failed in a way that is no fault of the request."""
