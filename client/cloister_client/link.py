"""Calls that outlive a lost connection."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from cloister_client.backoff import pauses
from cloister_client.desk import Work
from cloister_client.errors import SessionUnknown, Unreachable
from cloister_client.transport import Transport

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Link:
    """The worker's use of the transport: repeated until it succeeds or nobody waits for it."""

    def __init__(self, transport: Transport, max_pause_seconds: float):
        self.transport = transport
        self._max_pause = max_pause_seconds
        self._up = threading.Event()

    def went_up(self) -> None:
        """The coordinator welcomed this client."""
        self._up.set()

    def went_down(self) -> None:
        """The check-in stream ended."""
        self._up.clear()

    def persist(self, work: Work, call: Callable[[], _T]) -> _T:
        """What `call` returns, however often the connection is lost meanwhile.

        Raises Withdrawn when the work is cancelled or its deadline passes, NotWanted and
        Rejected as they come.
        """
        for pause in pauses(self._max_pause):
            work.check()
            try:
                return call()
            except SessionUnknown as error:
                _log.info("%.256r: %s; enrolling again", work.assignment.assignment_id, error)
                self._up.clear()
                self.transport.break_check_in()
            except Unreachable as error:
                _log.info("%.256r: %s; will try again", work.assignment.assignment_id, error)
            work.pause(pause)
            while not self._up.is_set():
                work.pause(_POLL_SECONDS)
        raise AssertionError("pauses never end")


_POLL_SECONDS = 0.2
"""How soon a returned connection is noticed by work that waits for it."""
