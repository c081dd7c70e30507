"""Milliseconds a round takes on loopback, and the memory of the coordinator.

Every process is real: one `cloister coordinator` and 2, 8 or 32 `cloister client` on this
machine, each client with its sandbox child. The task trains nothing, so what is left is the
round itself: selecting, sending the model, an update from every client, each durable before it is
acknowledged, folding them in the sandbox, committing. A round lasts from the commit before it to
its own. Figures of the leading peer were
recorded on a machine of the same kind in November 2026.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

import psutil

from cloister.deployment import Deployment
from cloister_protos import RoundState
from cloister_tasks import template
from report import Report, arguments

WARM_UP = 3  # rounds not counted: the first compiles, downloads and maps
PEER = {
    # name: milliseconds in its current transport, in its deprecated one
    "noop_2_ms": (6060, 3.2),
    "noop_8_ms": (9690, 10.5),
    "m1_2_ms": (6220, 48),
    "m1_8_ms": (11300, 235),
    "m25_2_ms": (12100, 2480),
}


@dataclass
class Memory:
    """Peak resident memory of a process and its children, sampled; shared pages count twice."""

    process: psutil.Process
    peak: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Sample until `ended`."""
        while not self.ended.wait(0.01):
            with suppress(psutil.NoSuchProcess):
                tree = [self.process, *self.process.children(recursive=True)]
                self.peak = max(self.peak, sum(member.memory_info().rss for member in tree))


@contextmanager
def watched(pid: int) -> Iterator[Memory]:
    """Sample a process tree's memory while the body runs."""
    memory = Memory(psutil.Process(pid))
    thread = threading.Thread(target=memory.watch)
    thread.start()
    try:
        yield memory
    finally:
        memory.ended.set()
        thread.join()


def run(parameters: int, clients: int, rounds: int, batch: int = 1) -> tuple[float, float]:
    """Median milliseconds of a round, and the coordinator's peak memory in MB.

    The coordinator's own records give the times, in whole milliseconds; where rounds are short,
    each sample is the mean of `batch` rounds that follow each other.
    """
    task = template.build("noop", parameters=parameters)
    with tempfile.TemporaryDirectory() as name, Deployment(Path(name)) as deployment:
        data = Path(name) / "rows.csv"
        data.write_text("x\n1\n2\n")
        coordinator = deployment.start_coordinator()
        for place in range(clients):
            policy = {"any_task": True, "memory_mb": 512}
            deployment.start_client(deployment.write_client(f"client-{place}", data, policy=policy))
        with watched(deployment.processes["coordinator"].pid) as memory:
            job = coordinator.submit(
                task, rounds=WARM_UP + rounds * batch, cohort=clients, minimum=clients
            )
            job.wait(timeout=600)
        ended = [
            event.round.ended_at_ms
            for event in job.watch()
            if event.round.state == RoundState.ROUND_STATE_COMMITTED
        ]
    marks = ended[WARM_UP - 1 :: batch]
    return median((b - a) / batch for a, b in pairwise(marks)), memory.peak / 1e6


def main() -> None:
    """Measure and report."""
    options = arguments(__doc__.splitlines()[0])
    report = Report(f"Rounds on loopback, real processes, {os.cpu_count()} cores")
    plan = [
        # name, parameters, clients, samples, rounds a sample, promised
        ("noop_2_ms", 16, 2, 20, 10, 3),
        ("noop_8_ms", 16, 8, 20, 10, 10),
        ("m1_2_ms", 1_000_000, 2, 20, 1, 40),
        ("m1_8_ms", 1_000_000, 8, 5 if options.quick else 20, 1, 200),
        ("m25_2_ms", 25_000_000, 2, 3 if options.quick else 20, 1, 1500),
    ]
    for name, parameters, clients, rounds, batch, bound in plan:
        milliseconds, _ = run(parameters, clients, rounds, batch)
        report.add(
            name, milliseconds, f"{parameters:,} parameters, {clients} clients", at_most=bound
        )
        current, deprecated = PEER[name]
        report.add(f"flower_{name}", current, "peer, current transport, recorded")
        report.add(f"flower_grpc_{name}", deprecated, "peer, deprecated gRPC, recorded")
    for clients in (8,) if options.quick else (8, 32):
        rounds = 1 if options.quick else 3
        milliseconds, megabytes = run(25_000_000, clients, rounds)
        meaning = f"coordinator's peak RSS, 25 M parameters, {clients} clients"
        report.add(f"rss_25m_{clients}_mb", megabytes, meaning, at_most=600)
        report.add(f"m25_{clients}_ms", milliseconds, f"25,000,000 parameters, {clients} clients")
    report.show(only_json=options.json)


if __name__ == "__main__":
    main()
