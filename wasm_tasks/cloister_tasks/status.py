"""What an entry point returns."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """Status codes of ABI 1; ``include/cloister.h`` has the same list for C.

    Codes from :data:`OWN` on are the task's own; 6 to 63 are reserved.
    """

    OK = 0
    """Done."""
    TOO_MANY = 1
    """More rows or columns than the buffers hold (or fewer than none); nothing was done."""
    INDEX = 2
    """A label or index outside its range; the fault buffer holds its row; nothing was done."""
    NOT_FINITE = 3
    """A loss, update or result is infinite or no number; the fault buffer may hold its row."""
    TOO_MANY_UPDATES = 4
    """More updates than this aggregation can hold in one round."""
    VALUE = 5
    """A hyperparameter, weight or total weight outside its range; nothing was done."""


OWN = 64
"""First status code a task may give a meaning of its own."""


def describe(status: int) -> str:
    """Say in a few words what a status code means."""
    return _WORDS.get(
        status, f"the task's own status {status}" if status >= OWN else f"reserved status {status}"
    )


_WORDS: dict[int, str] = {
    Status.OK: "done",
    Status.TOO_MANY: "more rows or columns than the buffers hold",
    Status.INDEX: "a label or index is out of range",
    Status.NOT_FINITE: "a value is not finite",
    Status.TOO_MANY_UPDATES: "more updates than this aggregation can hold",
    Status.VALUE: "a hyperparameter, weight or total is out of range",
}
