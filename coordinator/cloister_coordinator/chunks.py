"""A long vector folded chunk by chunk, in several sandboxes of one aggregation module at once.

Chunks are independent, and within one the rows come in the order given, a few a call. So neither
the number of sandboxes nor that of rows a call changes a bit of the result. Memory is O(chunk).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from queue import SimpleQueue
from typing import TypeAlias, TypeVar

from cloister_protos import Role
from cloister_sandbox import Sandbox, SandboxPool, Transfer
from cloister_tasks import Module

T = TypeVar("T")

Call: TypeAlias = "tuple[str, *tuple[int, ...]]"


class Chunks:
    """Folds every chunk of a vector, any number of times, one vector at a time.

    Args:
        pool: where sandboxes come from.
        module: of KIND_AGGREGATION.
        workers: sandboxes at once.
    """

    def __init__(self, pool: SandboxPool, module: Module, workers: int) -> None:
        self._pool = pool
        self._module = module
        self._workers = workers
        (model,) = module.manifest.of(Role.ROLE_MODEL)
        self.columns = model.size
        """Of a chunk; the last one has what is left."""

    def each(
        self, size: int, fold: Callable[[Sandbox, int, int], T], store: Callable[[T], None]
    ) -> None:
        """Work through a vector; blocks until it is done.

        Args:
            size: elements of the vector.
            fold: called with a sandbox, a chunk's first column and its number of columns, by any
                thread; returns what became of the chunk.
            store: takes that; called in the caller's thread and in ascending order.

        Raises:
            Whatever the two raise; SandboxError: a sandbox could not be had.
        """
        starts = range(0, size, self.columns)
        workers = min(self._workers, len(starts))
        with ExitStack() as stack:
            idle: SimpleQueue[Sandbox] = SimpleQueue()
            for _ in range(workers):
                idle.put(stack.enter_context(self._pool.lease(self._module)))

            def borrow(start: int) -> T:
                sandbox = idle.get()
                try:
                    return fold(sandbox, start, min(self.columns, size - start))
                finally:
                    idle.put(sandbox)

            if len(starts) == 1:
                store(borrow(0))
                return
            # Entered after the leases, so that no thread outlives its sandbox.
            executor = stack.enter_context(ThreadPoolExecutor(workers, "fold"))
            pending: deque[Future[T]] = deque()
            try:
                for start in starts:
                    if len(pending) > workers:
                        store(pending.popleft().result())
                    pending.append(executor.submit(borrow, start))
                while pending:
                    store(pending.popleft().result())
            finally:
                executor.shutdown(cancel_futures=True)


def fold_rows(
    sandbox: Sandbox,
    columns: int,
    rows: int,
    at_once: int,
    place: Callable[[int, int], Sequence[Transfer]],
) -> tuple[list[Call], list[Transfer]]:
    """Reset a chunk and fold its rows, but for the last run: it can finish the chunk as well.

    Args:
        rows: of the chunk, in all.
        at_once: rows of one call, at most.
        place: called with the first row of a call and the number of its rows; writes them to the
            sandbox's views and says what to send.

    Returns:
        Calls and transfers that the last run begins with.
    """
    calls: list[Call] = [("reset", columns)]
    send: list[Transfer] = []
    for first in range(0, rows, at_once):
        count = min(at_once, rows - first)
        send += place(first, count)
        calls.append(("fold", count, columns))
        if first + count < rows:
            sandbox.run(*calls, send=send)
            calls, send = [], []
    return calls, send
