"""What can go wrong in the coordinator.

::

    CoordinatorError
    ├── ConfigurationError   the configuration cannot be served (whoever starts the coordinator)
    ├── IllegalTransition    an event where the state machine has no room for it (ours)
    ├── StorageFailed        the database or disk gave out; the coordinator ends (its operator)
    └── Refusal              a call is answered with an error
        ├── Unauthenticated  no session or operator token, or a wrong one (the caller)
        ├── Forbidden        known, but not allowed (the caller)
        ├── Invalid          a field is out of bounds (the caller)
        ├── NotFound         no such job, blob or assignment (the caller)
        ├── Closed           too late, or not now (nobody: drop the work)
        ├── Conflict         it was said before, differently (the caller)
        └── Exhausted        a limit of this coordinator is reached (its operator)

A refusal travels as a ``google.rpc.Status``: `cloister_coordinator.answers` has the table.
"""

from __future__ import annotations


class CoordinatorError(Exception):
    """Base of everything this package raises on purpose."""


class ConfigurationError(CoordinatorError):
    """The coordinator does not start: mend the setting the message names."""


class IllegalTransition(CoordinatorError):
    """An event that the state does not allow; nothing changed."""


class StorageFailed(CoordinatorError):
    """State could not be made durable: mend the disk or database and start again."""


class Refusal(CoordinatorError):
    """A call answered with an error.

    Args:
        reason: one upper-case word for programs, stable over versions.
        message: what is wrong, for people.
        help_text: what to do next.
    """

    def __init__(self, reason: str, message: str, help_text: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.help_text = help_text


class Unauthenticated(Refusal):
    """The caller is nobody we know: enrol (again), or bring the operator token."""


class Forbidden(Refusal):
    """The caller is known, but this is not its own."""


class Invalid(Refusal):
    """The request cannot be right; repeating it is no use."""


class NotFound(Refusal):
    """What the request names does not exist."""


class Closed(Refusal):
    """The request came too late, or the state does not allow it."""


class Conflict(Refusal):
    """The same was said before with another content."""


class Exhausted(Refusal):
    """A limit of this coordinator is reached; try again later."""
