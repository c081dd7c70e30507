"""Client updates per second of `cloister.simulate`, time to the first round, peak memory.

Workload: digits, 14 rows a client, every client in every round, one local epoch, batch size 10.
The peer measured in the same run is a bare numpy loop that trains the same clients one after
another on one thread and keeps no books: no sandbox, no cohort, no aggregation module. Figures of
other frameworks were recorded on a machine of the same kind in November 2026.
"""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
import time
from contextlib import suppress

import psutil

from report import Report, arguments

ROWS, BATCH = 14, 10

PEERS = {
    # name: (softmax updates/s, first round s, peak MB), as recorded
    "flower": (304, 13.6, 896),
    "pfl_research": (2_000, 3.0, 370),
    "fedjax": (27_000, 1.2, 210),
}


def measure(clients: int, rounds: int, hidden: int, started: float) -> None:
    """Run one simulation in this process and print its figures.

    :param started: the monotonic clock, one for all processes, when this one was started.
    """
    from cloister import Client, Dataset, build, datasets, simulate

    if hidden:
        task = build("perceptron", features=64, hidden=hidden, classes=10)
    else:
        task = build("softmax-regression", features=64, classes=10)
    train = datasets.load("digits").train

    def rows(client: int) -> Dataset:
        part = range(client * ROWS, (client + 1) * ROWS)
        return Dataset({name: c.take(part, axis=0, mode="wrap") for name, c in train.items()}, {})

    ends: list[float] = []
    simulate(
        task,
        [Client(f"client-{i:04}", rows(i)) for i in range(clients)],
        rounds=rounds,
        hyperparameters={"batch_size": BATCH, "learning_rate": 0.1},
        on_round=lambda _: ends.append(time.monotonic()),
    )
    figures = {
        "updates_per_s": clients * (rounds - 1) / (ends[-1] - ends[0]),
        "first_round_s": ends[0] - started,
        "own_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    print(json.dumps(figures))


def numpy_loop(clients: int, rounds: int, hidden: int) -> float:
    """Updates per second of a bare numpy loop over the same work, one thread."""
    import numpy as np
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    onehot = np.eye(10, dtype=np.float32)[y]
    sizes = [64, *([hidden] if hidden else []), 10]
    random = np.random.default_rng(0)
    model = [
        (random.normal(0, 0.1, (a, b)).astype(np.float32), np.zeros(b, np.float32))
        for a, b in itertools.pairwise(sizes)
    ]
    parts = [np.arange(i * ROWS, (i + 1) * ROWS) % len(x) for i in range(clients)]
    data = [(x[part], onehot[part]) for part in parts]
    began = time.perf_counter()
    for _ in range(rounds):
        total = [(np.zeros_like(w), np.zeros_like(b)) for w, b in model]
        for rows, targets in data:
            layers = [(w.copy(), b.copy()) for w, b in model]
            order = random.permutation(ROWS)
            for start in range(0, ROWS, BATCH):
                batch = order[start : start + BATCH]
                inputs = [rows[batch]]
                for w, b in layers[:-1]:
                    inputs.append(np.maximum(inputs[-1] @ w + b, 0))
                w, b = layers[-1]
                logits = inputs[-1] @ w + b
                logits = np.exp(logits - logits.max(1, keepdims=True))
                gradient = (logits / logits.sum(1, keepdims=True) - targets[batch]) / len(batch)
                for i in reversed(range(len(layers))):
                    w, b = layers[i]
                    back = (gradient @ w.T) * (inputs[i] > 0) if i else gradient
                    w -= np.float32(0.1) * (inputs[i].T @ gradient)
                    b -= np.float32(0.1) * gradient.sum(0)
                    gradient = back
            for (tw, tb), (w, b) in zip(total, layers, strict=True):
                tw += w
                tb += b
        model = [(w / clients, b / clients) for w, b in total]
    return clients * rounds / (time.perf_counter() - began)


def watched(clients: int, rounds: int, hidden: int = 0) -> dict[str, float]:
    """Run `measure` in a fresh process and add the peak memory of its process tree, in MB."""
    arguments = [clients, rounds, hidden, time.monotonic()]
    command = [sys.executable, __file__, "measure", *map(str, arguments)]
    # A pipe of one small line cannot fill, so the child never waits for us to read it.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        peak, process = 0, psutil.Process(child.pid)
        while child.poll() is None:
            with suppress(psutil.NoSuchProcess):
                tree = [process, *process.children(recursive=True)]
                peak = max(peak, sum(member.memory_info().rss for member in tree))
            time.sleep(0.01)
        assert child.stdout is not None
        output = child.stdout.read()
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    figures: dict[str, float] = json.loads(output)
    # what the samples missed of the process itself
    peak = max(peak, figures.pop("own_peak"))
    return {**figures, "peak_memory_mb": peak / 1e6}


def main() -> None:
    """Measure and report."""
    options = arguments(__doc__.splitlines()[0])
    rounds = 40 if options.quick else 200
    report = Report("Simulation: digits, 14 rows a client, batch 10, one epoch, two cores")
    watched(10, 2)  # builds the task once, so that no figure contains the C compiler
    runs = {clients: watched(clients, rounds * 100 // clients) for clients in (100, 1000)}
    slower = min(run["updates_per_s"] for run in runs.values())
    report.add(
        "updates_per_s",
        slower,
        "softmax regression, the slower of 100 and 1,000 clients",
        at_least=10_000,
    )
    for clients, run in runs.items():
        report.add(f"updates_per_s_{clients}", run["updates_per_s"], f"{clients:,} clients")
    first = max(run["first_round_s"] for run in runs.values())
    report.add("first_round_s", first, "process start to the end of round 1, the slower", at_most=2)
    peak = max(run["peak_memory_mb"] for run in runs.values())
    report.add("peak_memory_mb", peak, "peak RSS of the process tree, the larger", at_most=250)
    bare = numpy_loop(100, rounds // 2, 0)
    report.add("numpy_loop_updates_per_s", bare, "peer: bare numpy loop, this run")
    report.add("updates_vs_numpy_loop", slower / bare, "ratio in this run")
    watched(10, 2, 128)  # builds that task too
    perceptron = watched(100, rounds // 2, 128)["updates_per_s"]
    report.add("perceptron_updates_per_s", perceptron, "perceptron 64-128-10, 100 clients")
    bare = numpy_loop(100, rounds // 10, 128)
    report.add("perceptron_numpy_loop_updates_per_s", bare, "peer: bare numpy loop, this run")
    for name, (updates, seconds, memory) in PEERS.items():
        report.add(f"{name}_updates_per_s", updates, "peer, recorded November 2026")
        report.add(f"{name}_first_round_s", seconds, "peer, recorded November 2026")
        report.add(f"{name}_peak_memory_mb", memory, "peer, recorded November 2026")
    report.show(only_json=options.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(*map(int, sys.argv[2:5]), started=float(sys.argv[5]))
    else:
        main()
