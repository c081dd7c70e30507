"""The clock behind deadlines inside the engine."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Ticker:
    """Advances an engine's epoch while somebody waits for a deadline.

    A thread that sleeps when nothing has run for a while, so that an idle process stays idle;
    it lingers for a second after the last run, so that a burst of runs does not wake it anew.

    Args:
        tick: advances the epoch by one; called from the ticker's thread.
    """

    PERIOD = 0.02
    """Seconds between ticks; deadlines are kept to within two of them."""
    _LINGER = 50
    """Ticks without a run before the thread goes to sleep."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._lock = threading.Lock()
        self._active = 0
        self._closed = False
        self._awake = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="sandbox-ticker", daemon=True)
        self._thread.start()

    @classmethod
    def ticks(cls, seconds: float) -> int:
        """Ticks that take at least so many seconds."""
        return math.ceil(seconds / cls.PERIOD) + 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """Tick for as long as the body lasts."""
        with self._lock:
            self._active += 1
            if not self._awake.is_set():
                self._awake.set()
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._awake.set()
        self._thread.join()

    def _loop(self) -> None:
        idle = 0
        while not self._closed:
            self._awake.wait()
            time.sleep(self.PERIOD)
            self._tick()
            with self._lock:
                idle = 0 if self._active else idle + 1
                if idle > self._LINGER and not self._closed:
                    self._awake.clear()
                    idle = 0
