from __future__ import annotations

import threading

from cloister_sandbox.ticker import Ticker


def test_it_ticks_only_while_something_runs() -> None:
    ticked = threading.Event()
    ticker = Ticker(ticked.set)
    try:
        assert not ticked.wait(5 * Ticker.PERIOD)
        with ticker.running():
            assert ticked.wait(20)
            ticked.clear()
            assert ticked.wait(20)
    finally:
        ticker.close()


def test_it_wakes_again_after_a_rest() -> None:
    ticked = threading.Event()
    ticker = Ticker(ticked.set)
    try:
        for _ in range(2):
            with ticker.running():
                assert ticked.wait(20)
            while ticker._awake.is_set():
                threading.Event().wait(Ticker.PERIOD)
            ticked.clear()
    finally:
        ticker.close()
    ticker.close()


def test_deadlines_are_never_early() -> None:
    for seconds in (0.001, Ticker.PERIOD, 0.3, 60.0):
        assert (Ticker.ticks(seconds) - 1) * Ticker.PERIOD >= seconds
