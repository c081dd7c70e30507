"""Children ready to be bound, started before anybody needs them."""

from __future__ import annotations

import logging
import queue
import threading

from cloister_sandbox.confinement import Confinement
from cloister_sandbox.errors import Crashed, SandboxError
from cloister_sandbox.limits import Limits
from cloister_sandbox.process import START_SECONDS, Process

log = logging.getLogger(__name__)


class Nursery:
    """Keeps one child in reserve.

    One thread starts all children and lives as long as the nursery, because the kernel kills a
    child when the thread that started it ends.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._ready: queue.Queue[Process | SandboxError] = queue.Queue()
        self._wanted = threading.Semaphore(1)
        self._closed = False
        self._confinement: Confinement | None = None
        self._known = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="sandbox-nursery", daemon=True)
        self._thread.start()

    def take(self) -> Process:
        """A child that is ready; the next one is started meanwhile.

        Raises:
            Crashed: no child could be started.
        """
        while True:
            self._wanted.release()
            try:
                child = self._ready.get(timeout=2 * START_SECONDS)
            except queue.Empty:
                raise Crashed("no sandbox process could be started in time") from None
            if isinstance(child, SandboxError):
                if self._closed:  # for whoever else waits
                    self._ready.put(child)
                raise child
            if child.alive:
                return child
            child.close()  # somebody ended it while it waited

    def confinement(self) -> Confinement | None:
        """The walls around the children, once the first is ready; None if none starts."""
        self._known.wait(START_SECONDS)
        return self._confinement

    def close(self) -> None:
        """End the reserve, and every child ever taken."""
        self._closed = True
        self._wanted.release()
        self._thread.join()
        while isinstance(child := self._ready.get(), Process):  # the last one is no process
            child.close()
        self._ready.put(child)

    def _loop(self) -> None:
        while True:
            self._wanted.acquire()
            if self._closed:
                self._ready.put(Crashed("the pool was closed"))
                return
            self._ready.put(self._start())

    def _start(self) -> Process | SandboxError:
        try:
            child = Process(self._limits)
        except OSError as e:
            return Crashed(f"no sandbox process could be started: {e}")
        try:
            found = child.confinement()
        except SandboxError as e:
            child.close()
            return e
        if found != self._confinement:
            self._confinement = found
            self._known.set()
            log.info("sandbox processes are confined; %s", found.report())
        return child
