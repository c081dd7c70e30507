"""Training and prediction beside TensorFlow.js on its WASM backend, one thread each, in turns.

The same simd128 module runs in Node and, as its relaxed-simd twin, in wasmtime's sandbox.
TensorFlow.js is measured in every form worth trying, and its fastest one counts. Needs Node 20 or
later; the first run installs what package-lock.json beside this file names.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from cloister_sandbox.engine import Engine
from cloister_sandbox.limits import Limits
from cloister_sandbox.local import LocalSandbox
from cloister_tasks import Module
from cloister_tasks.compiler import compile as compile_task
from cloister_tasks.compiler import zoo

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where every benchmark's report lies
from report import Report, arguments

HERE = Path(__file__).resolve().parent
CLASSES, PIXELS = 10, 784
LIMITS = Limits(memory_bytes=1 << 30)

Result: TypeAlias = dict[str, Any]
"""What measure.mjs prints of one form: ms, first and last; or error."""


@dataclass(frozen=True)
class Work:
    """What both sides do: a task in two variants, and what to write into it beforehand."""

    name: str
    entry: str
    """The entry point that is called."""
    rows: int
    """Rows of one call."""
    batch: int
    """Rows of one step."""
    modules: dict[str, bytes]
    """By variant."""
    buffers: dict[str, NDArray[Any]]
    """Parameters and inputs."""

    def write(self, parent: Path) -> Path:
        """Make the folder that task.mjs reads."""
        folder = parent / self.name
        folder.mkdir()
        (folder / "task.wasm").write_bytes(self.modules["simd128"])
        for name, array in self.buffers.items():
            (folder / name).write_bytes(array.tobytes())
        return folder

    @cached_property
    def sandbox(self) -> LocalSandbox:
        """The relaxed-simd module in wasmtime, warmed up."""
        engine = Engine(LIMITS.stack_bytes)
        data = self.modules["relaxed-simd"]
        sandbox = LocalSandbox(engine, engine.compile(data), Module.parse(data), LIMITS)
        sandbox.fresh()
        for name, array in self.buffers.items():
            sandbox.view(name)[...] = array
        sandbox.run(("reset",), (self.entry, self.rows))
        return sandbox

    def in_wasmtime(self, seconds: float) -> float:
        """Milliseconds of a step, the median of those made in so many seconds."""
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < 3 or time.perf_counter() - began < seconds:
            start = time.perf_counter()
            self.sandbox.run((self.entry, self.rows))
            times.append(time.perf_counter() - start)
        return 1000 * median(times) * self.batch / self.rows


def work(name: str, entry: str, example: dict[str, Any], rows: int) -> Work:
    """Compile a model; training gets rows like digits, prediction gets noise."""
    tasks = {
        variant: compile_task(**example, name=name, variant=variant, capacity=rows)
        for variant in ("simd128", "relaxed-simd")
    }
    features = example["example"][0]
    shape = (rows, *features.shape[1:])
    return Work(
        name,
        entry,
        rows,
        len(features),
        {variant: task.wasm for variant, task in tasks.items()},
        tasks["simd128"].tensors() | (digits(shape) if entry == "train" else noise(shape)),
    )


def digits(shape: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """Features in [0, 1], four in five of them 0 as in images of digits, and their labels."""
    random = np.random.default_rng(0)
    ink = random.random((CLASSES, PIXELS)) * (random.random((CLASSES, PIXELS)) < 0.2)
    labels = random.integers(CLASSES, size=shape[0])
    features = ink[labels] * random.uniform(0.5, 1, (shape[0], PIXELS))
    return {"features": features.reshape(shape).astype("<f4"), "label": labels.astype("<i4")}


def noise(shape: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    """Standard normal features."""
    return {"features": np.random.default_rng(0).standard_normal(shape, "<f4")}


def convolutional(batch: int) -> dict[str, Any]:
    """Convolution 3x3x16, pooling, convolution 3x3x32, pooling, one dense layer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, CLASSES)),
    )
    return {
        "model": model,
        "loss": functional.cross_entropy,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "example": (torch.randn(batch, 1, 28, 28), torch.randint(CLASSES, (batch,))),
    }


def in_node(side: str, task: Work, folder: Path, seconds: float) -> dict[str, Result]:
    """Measure one side of a work in a fresh Node; by form."""
    command = ["node", str(HERE / "measure.mjs"), side, task.name, str(folder)]
    command += map(str, (task.rows, task.batch, seconds))
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Result] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(works: list[Work], times: int, seconds: float) -> dict[str, list[Result]]:
    """Measure all works on both sides in turns, so often; by "<work> <side> <form>"."""
    results: defaultdict[str, list[Result]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as parent:
        folders = [task.write(Path(parent)) for task in works]
        for task, folder in list(zip(works, folders, strict=True)) * times:
            for side in ("tensorflow", "cloister"):
                for form, result in in_node(side, task, folder, seconds).items():
                    results[f"{task.name} {side} {form}"].append(result)
            result = {"ms": task.in_wasmtime(seconds)}
            results[f"{task.name} wasmtime {task.entry}"].append(result)
    return results


def install() -> None:
    """Install TensorFlow.js, unless it is there."""
    if not (HERE / "node_modules").is_dir():
        command = ["npm", "ci", "--no-audit", "--no-fund"]
        subprocess.run(command, check=True, cwd=HERE, stdout=sys.stderr)


def main() -> None:
    """Measure and report."""
    options = arguments(__doc__.splitlines()[0])
    install()
    works = [
        work("mlp", "train", zoo.mlp(batch=32), 1024),
        work("cnn", "train", convolutional(batch=32), 1024),
        work("mobilenet", "predict", zoo.mobilenetv1_224(batch=1), 1),
    ]
    results = measure(works, *((3, 0.3) if options.quick else (9, 1.0)))
    (refused,) = {result["error"] for result in results.pop("cnn tensorflow trainOnBatch")}
    # each is a median already; whatever else the machine does only adds to it
    ms = {place: min(one["ms"] for one in found) for place, found in results.items()}
    forms = ("trainOnBatch", "minimize")
    # the same start and the same rows: the same losses on the way
    sides = ("cloister train", *(f"tensorflow {form}" for form in forms))
    losses = [one["first"] for side in sides for one in results[f"mlp {side}"]]
    assert max(losses) <= min(losses) * 1.001, f"not the same work: losses {sorted(losses)}"

    report = Report("Beside TensorFlow.js (WASM backend, SIMD), one thread each, in one run")
    fastest = min(ms[f"mlp tensorflow {form}"] for form in forms)
    ratio = fastest / ms["mlp cloister train"]
    report.add("mlp_vs_tfjs", ratio, "steps of 784-128-10, batch 32, both in Node", at_least=5)
    report.add("mlp_steps_per_s", 1000 / ms["mlp cloister train"], "in Node, simd128")
    report.add("mlp_wasmtime_steps_per_s", 1000 / ms["mlp wasmtime train"], "in wasmtime, relaxed")
    for form in forms:
        rate = 1000 / ms[f"mlp tensorflow {form}"]
        report.add(f"tfjs_mlp_{form.lower()}_steps_per_s", rate, f"peer, by {form}")
    layers = "conv 3x3x16, pool, conv 3x3x32, pool, dense"
    trained = results["cnn cloister train"][0]
    fall = trained["last"] / trained["first"]
    report.add("cnn_steps_per_s", 1000 / ms["cnn cloister train"], f"{layers}; peer: {refused}")
    report.add("cnn_wasmtime_steps_per_s", 1000 / ms["cnn wasmtime train"], "in wasmtime, relaxed")
    report.add("cnn_loss_fall", fall, "loss after the run over that before: it trains", at_most=0.5)
    folded = ms["mobilenet tensorflow folded"]
    report.add(
        "mobilenet_224_ms",
        ms["mobilenet cloister predict"],
        "one image, in Node, simd128",
        at_most=min(folded, ms["mobilenet tensorflow layers"]),
    )
    report.add("mobilenet_224_wasmtime_ms", ms["mobilenet wasmtime predict"], "wasmtime, relaxed")
    report.add("tfjs_mobilenet_224_ms", ms["mobilenet tensorflow layers"], "peer, the same layers")
    report.add("tfjs_mobilenet_224_folded_ms", folded, "peer, normalisations folded beforehand")
    report.show(only_json=options.json)


if __name__ == "__main__":
    main()
