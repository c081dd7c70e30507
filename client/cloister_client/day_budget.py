"""How many seconds rounds took on this UTC day, across restarts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

_log = logging.getLogger(__name__)


def utc_today() -> date:
    """The current UTC day."""
    return datetime.now(UTC).date()


class DayBudget:
    """A sum of seconds that begins anew each UTC day, kept in the small file `path`.

    Used by one thread. A file that cannot be read counts as a day without work.
    """

    def __init__(self, path: Path, today: Callable[[], date] = utc_today):
        self._path, self._today = path, today
        self._day, self._seconds = today(), 0.0
        try:
            saved = json.loads(path.read_bytes())
            if saved["day"] == self._day.isoformat():
                self._seconds = float(saved["seconds"])
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s is unreadable (%s); today's seconds count from 0", path, error)

    @property
    def seconds(self) -> float:
        """Seconds spent today."""
        return self._seconds if self._day == self._today() else 0.0

    def spend(self, seconds: float) -> None:
        """Add to today's sum and save it."""
        self._seconds = self.seconds + seconds
        self._day = self._today()
        draft = self._path.with_name(f"{self._path.name}.draft")
        try:
            draft.write_text(json.dumps({"day": self._day.isoformat(), "seconds": self._seconds}))
            draft.replace(self._path)
        except OSError as error:
            _log.error("cannot save %s: %s", self._path, error.strerror)
