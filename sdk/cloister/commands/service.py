"""What a long-running command needs: a log for people, and an end when it is told to."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType


def log_to_stderr(*, verbose: bool) -> None:
    """Send the log of this process to standard error."""
    formatter = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])


def run_until_stopped(run: Callable[[threading.Event], None]) -> None:
    """Run a service until it ends, or SIGTERM or SIGINT asks it to; a second one is not gentle."""
    from concurrent.futures import ThreadPoolExecutor

    stop = threading.Event()

    def ask(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    # The handler sets an event that the main thread never waits on, so it cannot meet its lock.
    before = {n: signal.signal(n, ask) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        with ThreadPoolExecutor(1, "service") as threads:
            threads.submit(run, stop).result()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
