"""The assignments this client has open: what waits, what is being worked on, what was withdrawn.

The check-in thread puts and withdraws, the worker thread takes and drops.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cloister_client.errors import Withdrawn
from cloister_protos import Assignment

MAX_OPEN = 64
"""Assignments open at once; one more is declined."""


_LATE = "the round's deadline passed"


class Work:
    """One assignment on its way through the client."""

    def __init__(self, assignment: Assignment):
        self.assignment = assignment
        self.deadline = time.monotonic() + assignment.deadline_seconds
        """On the monotonic clock; results are no longer accepted after it."""
        self._changed = threading.Condition()
        self._reason: str | None = None
        self._interrupt: Callable[[], None] | None = None

    def withdraw(self, reason: str) -> None:
        """Stop the work, from any thread, in the midst of a call into the task if need be."""
        with self._changed:
            if self._reason is None:
                self._reason = reason
            if self._interrupt is not None:
                self._interrupt()
            self._changed.notify_all()

    @property
    def withdrawn(self) -> bool:
        """Whether nobody wants it any more."""
        return self._reason is not None

    def check(self) -> None:
        """Raises Withdrawn, with the reason, if it was withdrawn or its deadline passed."""
        if self._reason is not None:
            raise Withdrawn(self._reason)
        if time.monotonic() >= self.deadline:
            raise Withdrawn(_LATE)

    def pause(self, seconds: float) -> None:
        """Wait, but not past the deadline or a withdrawal; raises Withdrawn then."""
        with self._changed:
            left = self.deadline - time.monotonic()
            self._changed.wait_for(lambda: self.withdrawn, timeout=min(seconds, left))
        self.check()

    @contextmanager
    def interruptible(self, interrupt: Callable[[], None]) -> Iterator[None]:
        """While inside, a withdrawal also calls `interrupt` (from the withdrawing thread)."""
        with self._changed:
            self.check()
            self._interrupt = interrupt
        try:
            yield
        finally:
            with self._changed:
                self._interrupt = None


class Desk:
    """Open assignments in the order they came; thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: dict[str, Work] = {}
        self._waiting: list[Work] = []
        self._closed = False

    def put(self, assignment: Assignment) -> bool:
        """Queue an assignment; one that is open already is not queued twice. False: full."""
        with self._changed:
            if assignment.assignment_id in self._open:
                return True
            if len(self._open) >= MAX_OPEN:
                return False
            work = Work(assignment)
            self._open[assignment.assignment_id] = work
            self._waiting.append(work)
            self._changed.notify()
            return True

    def take(self) -> Work | None:
        """The next work, waiting for it; None once the desk is closed. It stays open."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return None if self._closed else self._waiting.pop(0)

    def drop(self, work: Work) -> None:
        """Forget work that is finished, one way or the other."""
        with self._changed:
            self._open.pop(work.assignment.assignment_id, None)

    def withdraw(self, assignment_id: str, reason: str) -> None:
        """Stop one open assignment; unknown ones are ignored."""
        with self._changed:
            work = self._open.get(assignment_id)
        if work is not None:
            work.withdraw(reason)

    def expire(self) -> None:
        """Stop all work whose deadline passed."""
        now = time.monotonic()
        with self._changed:
            late = [work for work in self._open.values() if now >= work.deadline]
        for work in late:
            work.withdraw(_LATE)

    def open_ids(self) -> list[str]:
        """Ids of all open assignments."""
        with self._changed:
            return [key for key, work in self._open.items() if not work.withdrawn]

    def close(self, reason: str) -> None:
        """Withdraw everything and end the worker's waiting."""
        with self._changed:
            self._closed = True
            open_now = list(self._open.values())
            self._changed.notify_all()
        for work in open_now:
            work.withdraw(reason)
