"""What can go wrong on a client, and whose fault it is.

::

    ClientError
    ├── ConfigError         the device's TOML; its owner corrects the named line
    ├── IdentityError       the identity key; its owner restores it or its permissions
    ├── AssignmentFailure   an assignment came to nothing; reported with its `kind`, work goes on
    │   ├── UnfitAssignment   "refused": the job asks for what the task cannot do; its operator's
    │   ├── DigestMismatch    "digest_mismatch": bytes differ from what the assignment names
    │   ├── RoundOutOfTime    "out_of_time": the owner's seconds for one round are used up
    │   ├── DataError         "data": a local file, or one that does not fit the task; its owner's
    │   └── GateError         "gate": the update may not leave the device; the task's
    ├── Withdrawn           the assignment was cancelled, or the client stops; nothing to report
    └── TransportError      the coordinator or the way to it
        ├── Unreachable       no answer; the same call may succeed later
        ├── SessionUnknown    the coordinator forgot this session; enrol again
        ├── NotWanted         the assignment is closed; drop it
        └── Rejected          the coordinator refuses this client; its operator's or owner's

Under secure aggregation a client also leaves a round with one of `cloister_privacy.errors.Aborted`:
the coordinator lies or errs. It is reported with its `kind` while there is something to report.
"""

from __future__ import annotations

from typing import ClassVar


class ClientError(Exception):
    """Base of all errors of this package; the message says what to do next."""


class ConfigError(ClientError):
    """A setting in the device's TOML is missing, unknown or wrong."""


class IdentityError(ClientError):
    """The identity key cannot be used."""


class AssignmentFailure(ClientError):
    """Base of what is reported to the coordinator as a failure of `kind`."""

    kind: ClassVar[str] = "internal"


class UnfitAssignment(AssignmentFailure):
    """The assignment asks for something its own task or model cannot do."""

    kind = "refused"


class DigestMismatch(AssignmentFailure):
    """Received bytes are not those that the assignment names."""

    kind = "digest_mismatch"


class RoundOutOfTime(AssignmentFailure):
    """The owner's `seconds_per_round` are used up."""

    kind = "out_of_time"


class DataError(AssignmentFailure):
    """A data file cannot be read, or does not fit the task's inputs."""

    kind = "data"


class GateError(AssignmentFailure):
    """The update has the wrong shape or is not finite, so it stays here."""

    kind = "gate"


class Withdrawn(ClientError):
    """The work is no longer wanted; nobody waits for a report."""


class TransportError(ClientError):
    """Base of what a call to the coordinator may end in."""


class Unreachable(TransportError):
    """No answer; the same call may succeed later."""


class SessionUnknown(TransportError):
    """The coordinator does not know the session token; enrol again."""


class NotWanted(TransportError):
    """The assignment is closed, or was never this client's."""


class Rejected(TransportError):
    """The coordinator refuses this client or this call; repeating it will not help by itself."""
