"""Compiled models against PyTorch: training steps per second, share of the machine's roofline.

Every model of the zoo is compiled and trained in the engine as a client has it, and in the same
process PyTorch trains the same model eagerly on one thread, in turns, so that both see the same
weather; ratios are those of the medians. Modules use the 128-bit instructions that WebAssembly
has, PyTorch the widest of the machine, hence a second comparison with a PyTorch whose
convolutions are held to 128 bits. It is no even match either: that setting is SSE4.1, which has no
fused multiply-add as our modules do, while its matrix products, MKL's, do not let themselves be
held and stay wide. PyTorch's embeddings have dense gradients, as they do by default.
The roofline is a loop of multiply-adds on registers, hand-written in WebAssembly.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeAlias

import numpy as np
import torch
import wasmtime
from torch import nn
from torch.nn import functional

from cloister_protos import Role
from cloister_sandbox.engine import settings
from cloister_tasks.compiler import compile as compile_model
from cloister_tasks.compiler.zoo import ZOO
from report import Report, arguments

PROMISED = {
    # model: steps per second over PyTorch's, at least
    "logistic_regression": 1.2,
    "mlp": 1.2,
    "lora": 1.2,
    "matrix_factorisation": 1.2,
    "lenet5": 0.6,
    "gn_cnn": 0.6,
    "transformer": 0.6,
    "gru": 0.6,
    "lstm": 0.6,
    "mcmahan_cnn": 0.45,
    "resnet18_gn": 0.45,
}
NARROW = {"mcmahan_cnn": "mcmahan_cnn", "resnet18": "resnet18_gn"}
"""What is compared with a PyTorch of 128 bits: figure's name, model."""
NARROW_SETTINGS = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "DNNL_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
}
MEMORY = {
    # figure: model, options, most MB
    "transformer": ("transformer", {}, 4),
    "mobilenetv2_8": ("mobilenetv2", {"batch": 8}, 32),
    "lstm_20": ("lstm", {"time": 20}, 10),
}
COMPILE = {"resnet18_gn": 6, "resnet18_bn": 6, "lstm": 6, "gru": 6}
SMALL_COMPILE = 2
"""Seconds that any other model with a promise may take to compile."""
PREDICTED = ("mobilenetv1_224",)
"""Models that predict here and do not train."""
UNIT = {"train": "steps/s", "predict": "batches/s"}
QUICK = ("logistic_regression", "mlp", "matrix_factorisation", "lenet5", "transformer")
ACCUMULATORS, UNROLLED, TURNS = 12, 8, 1_000_000


def engine(*, epochs: bool) -> wasmtime.Engine:
    """An engine as the sandbox has it, with or without the checks behind deadlines."""
    config = wasmtime.Config()
    for name, value in settings(256 * 1024).items():
        setattr(config, name, value)
    config.epoch_interruption = epochs
    return wasmtime.Engine(config)


Contestant: TypeAlias = Callable[[int], float]
"""Does so many steps; returns the seconds of processor time they took."""


def timed(run: Callable[[int], None]) -> Contestant:
    """A contestant in this process."""

    def contestant(steps: int) -> float:
        began = time.process_time()
        run(steps)
        return time.process_time() - began

    return contestant


class Guest:
    """One instance of a compiled task, its rows in place."""

    def __init__(self, task: Any, example: dict[str, Any], *, epochs: bool) -> None:
        host = engine(epochs=epochs)
        self.store = wasmtime.Store(host)
        if epochs:
            self.store.set_epoch_deadline(1 << 60)
        instance = wasmtime.Instance(self.store, wasmtime.Module(host, task.wasm), [])
        self.exports = instance.exports(self.store)
        memory = np.frombuffer(self.exports["memory"].get_buffer_ptr(self.store), np.uint8)
        manifest = task.manifest
        values = {Role.ROLE_PARAMETER: task.parameters, Role.ROLE_FROZEN: task.frozen}
        for role, numbers in values.items():
            block = manifest.block(role)
            if block is not None:
                memory[block.offset : block.offset + block.nbytes].view("<f4")[:] = numbers
        inputs, target = example["example"]
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        self.batch = len(target)
        self.rows = manifest.capacity // self.batch * self.batch
        for buffer, rows in zip(manifest.of(Role.ROLE_INPUT), (*inputs, target), strict=True):
            array = memory[buffer.offset : buffer.end].view(buffer.dtype).reshape(buffer.shape)
            array[: self.rows] = np.resize(rows.numpy(), (self.rows, *array.shape[1:]))
        self.call("reset")

    def predict(self, times: int) -> None:
        """Predict one batch so many times."""
        for _ in range(times):
            self.call("predict", self.batch)

    def call(self, name: str, *numbers: int) -> None:
        """Call an entry point; a status other than 0 ends the benchmark."""
        status = self.exports[name](self.store, *numbers)
        if status:
            raise SystemExit(f"{name} gave the status {status}")

    def train(self, steps: int) -> None:
        """Make so many optimizer steps, rows of at most the capacity a call."""
        while steps > 0:
            now = min(steps, self.rows // self.batch)
            self.call("train", now * self.batch)
            steps -= now


@dataclass
class Eager:
    """PyTorch trains the same model, on the same rows."""

    example: dict[str, Any]

    def train(self, steps: int) -> None:
        """Make so many optimizer steps."""
        model, loss, optimizer = (self.example[name] for name in ("model", "loss", "optimizer"))
        inputs, target = self.example["example"]
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model(*inputs), target).backward()
            optimizer.step()

    def predict(self, times: int) -> None:
        """Predict one batch so many times."""
        model, (inputs, _) = self.example["model"].eval(), self.example["example"]
        with torch.inference_mode():
            for _ in range(times):
                model(inputs)


def rates(contestants: Mapping[str, Contestant], rounds: int, seconds: float) -> dict[str, float]:
    """Median steps per second of each, measured in turns of about so many seconds.

    Seconds are those of the processor, which neighbours on the machine cannot take away; each
    contestant says how many it spent.
    """
    steps = {}
    for name, run in contestants.items():
        run(1)
        steps[name] = max(1, round(seconds / run(1)))
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            found[name].append(steps[name] / run(steps[name]))
    return {name: median(values) for name, values in found.items()}


class Narrow:
    """PyTorch in a child process whose convolutions use 128 bits; context manager."""

    def __init__(self, model: str) -> None:
        self.child = subprocess.Popen(
            [sys.executable, __file__, "eager", model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **NARROW_SETTINGS},
        )

    def __enter__(self) -> Narrow:
        return self

    def __exit__(self, *exception: object) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        self.child.wait()

    def train(self, steps: int) -> float:
        """Make so many optimizer steps over there; returns the seconds they took."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        print(steps, file=self.child.stdin, flush=True)
        answer = self.child.stdout.readline()
        if not answer:
            raise SystemExit("PyTorch in the child process failed")
        return float(answer)


def eager(model: str) -> None:
    """The child's own program: train as many steps as each line says."""
    train = timed(Eager(ZOO[model]()).train)
    for line in sys.stdin:
        print(train(int(line)), flush=True)


def roofline(seconds: float) -> Callable[[], float]:
    """GFLOP/s of multiply-adds on registers, 128 bits wide; a function that measures once."""
    sums = range(ACCUMULATORS)
    step = "\n".join(
        f"(local.set $s{i} (f32x4.relaxed_madd (local.get $s{i}) (local.get $x) (local.get $y)))"
        for i in sums
    )
    total = "(local.get $s0)"
    for i in sums[1:]:
        total = f"(f32x4.add {total} (local.get $s{i}))"
    source = f"""(module (func (export "run") (param $turns i32) (result f32)
        (local $x v128) (local $y v128) {" ".join(f"(local $s{i} v128)" for i in sums)}
        (local.set $x (f32x4.splat (f32.const 0.5)))
        (local.set $y (f32x4.splat (f32.convert_i32_s (local.get $turns))))
        (loop $again
            {step * UNROLLED}
            (br_if $again (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))
        (f32x4.extract_lane 0 {total})))"""
    host = engine(epochs=False)
    store = wasmtime.Store(host)
    instance = wasmtime.Instance(store, wasmtime.Module(host, source), [])
    run = instance.exports(store)["run"]

    def measure() -> float:
        best, until = 0.0, time.process_time() + seconds
        while time.process_time() < until:
            began = time.process_time()
            run(store, TURNS)
            spent = time.process_time() - began
            best = max(best, TURNS * UNROLLED * ACCUMULATORS * 4 * 2 / spent / 1e9)
        return best

    return measure


def wide(rows: int = 128) -> tuple[dict[str, Any], float]:
    """A perceptron whose time is that of its matrix products, and their GFLOP a step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024))
    example = {
        "model": model,
        "loss": functional.mse_loss,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
        "example": (torch.randn(rows, 512), torch.randn(rows, 1024)),
    }
    # Forward and weight gradient of both layers; the second passes its gradient on as well.
    return example, 2 * rows * (2 * 512 * 1024 + 3 * 1024 * 1024) / 1e9


def compiled(example: dict[str, Any], **options: Any) -> tuple[Any, float]:
    """A task of the relaxed-simd variant, and the processor seconds that it took."""
    began = os.times()
    task = compile_model(**copy.deepcopy(example), variant="relaxed-simd", **options)
    ended = os.times()
    return task, sum(ended[:4]) - sum(began[:4])


def one_model(report: Report, name: str, rounds: int, seconds: float) -> tuple[float, float]:
    """Measure one model of the zoo.

    Returns how much slower deadlines make it, as a fraction, and the size of its arena over that
    of the smallest possible.
    """
    example = ZOO[name]()
    # Millions of steps on the same rows end in numbers so small that processors stumble.
    example["optimizer"].param_groups[0]["lr"] = 1e-6
    task, spent = compiled(example)
    both = {
        "ours": Guest(task, example, epochs=True),
        "no epochs": Guest(task, example, epochs=False),
        "torch": Eager(example),
    }
    verb = "predict" if name in PREDICTED else "train"
    contestants = {who: timed(getattr(it, verb)) for who, it in both.items()}
    with Narrow(name) if name in NARROW.values() else nullcontext() as narrow:
        if narrow is not None:
            contestants["narrow"] = narrow.train
        rate = rates(contestants, rounds, seconds)
    slower = 1 - rate["ours"] / rate["no epochs"]
    report.add(
        f"{name}_vs_torch",
        rate["ours"] / rate["torch"],
        f"{rate['ours']:,.4g} against {rate['torch']:,.4g} {UNIT[verb]}, deadlines {slower:.1%}",
        at_least=PROMISED.get(name),
    )
    for figure, model in NARROW.items():
        if model == name:
            meaning = f"{rate['ours']:,.4g} against {rate['narrow']:,.4g} steps/s (SSE4.1)"
            report.add(
                f"{figure}_vs_torch_128bit", rate["ours"] / rate["narrow"], meaning, at_least=1
            )
    most = COMPILE.get(name, SMALL_COMPILE if name in PROMISED else None)
    report.add(f"{name}_compile_s", spent, "processor seconds to compile", at_most=most)
    report.add(f"{name}_kb", len(task.wasm) / 1e3, "kB of module")
    arena = task.arena_bytes
    meaning = f"MB of memory, {arena / 1e6:.3g} of them intermediate results"
    report.add(f"{name}_mb", task.manifest.memory_bytes / 1e6, meaning)
    return slower, arena / task.lower_bound


def main() -> None:
    """Measure and report."""
    options = arguments(__doc__.splitlines()[0])
    torch.set_num_threads(1)
    rounds, seconds = (3, 0.2) if options.quick else (7, 0.5)
    names = QUICK if options.quick else tuple(ZOO)
    report = Report("Compiled models against PyTorch, one thread")
    compiled(ZOO["logistic_regression"]())  # PyTorch's and the C compiler's own first time
    measured = {name: one_model(report, name, rounds, seconds) for name in names}
    worst = max(measured, key=lambda name: measured[name][0])
    meaning = f"slower by deadlines, the worst ({worst})"
    report.add("epoch_overhead", measured[worst][0], meaning, at_most=0.06)
    worst = max(measured, key=lambda name: measured[name][1])
    meaning = f"planned memory over the least possible, the worst ({worst})"
    report.add("arena_over_bound", measured[worst][1], meaning)
    example, work = wide()
    guest, peak = Guest(compiled(example)[0], example, epochs=True), roofline(seconds / 5)
    shares = []
    for _ in range(rounds):
        top = peak()
        rate = rates({"wide": timed(guest.train)}, 1, seconds)["wide"]
        shares.append((rate * work / max(top, peak()), rate * work, top))
    share, speed, top = sorted(shares)[len(shares) // 2]
    meaning = f"512-1024-1024 perceptron, batch 128: {speed:.1f} of {top:.1f} GFLOP/s"
    report.add("gemm_roofline_fraction", share, meaning, at_least=0.8)
    for figure, (name, shape, bound) in MEMORY.items():
        example = ZOO[name](**shape)
        task, _ = compiled(example, capacity=len(example["example"][1]))
        megabytes = task.manifest.memory_bytes / 1e6
        report.add(
            f"{figure}_batch_mb", megabytes, "MB of memory, rows of one batch", at_most=bound
        )
    report.show(only_json=options.json)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["eager"]:
        eager(sys.argv[2])
    else:
        with tempfile.TemporaryDirectory() as cache:
            # Nothing compiled earlier is found again, so compile times are those of a first time.
            os.environ["ZIG_GLOBAL_CACHE_DIR"] = os.environ["CLOISTER_CACHE"] = cache
            main()
