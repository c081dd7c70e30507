"""Run every benchmark in this folder and write docs/benchmarks.md with tables and plots.

`--quick` is handed on. A benchmark that fails leaves the page as it was.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

import secure_aggregation
from report import arguments

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"

PROGRAMS = {
    # name: file below this folder
    "round_latency": "round_latency.py",
    "simulation": "simulation.py",
    "compiler": "compiler.py",
    "tensorflow_js": "tfjs/compare.py",
    "secure_aggregation": "secure_aggregation.py",
    "install": "install.py",
}

PLOTS: dict[str, tuple[str, dict[str, str], bool]] = {
    # program: (axis, {figure name: label}, logarithmic); without figures it draws by itself
    "round_latency": (
        "milliseconds per round",
        {
            "noop_2_ms": "no-op, 2 clients",
            "noop_8_ms": "no-op, 8 clients",
            "m1_2_ms": "1 M parameters, 2 clients",
            "m1_8_ms": "1 M parameters, 8 clients",
            "m25_2_ms": "25 M parameters, 2 clients",
        },
        True,
    ),
    "simulation": (
        "client updates per second",
        {
            "flower_updates_per_s": "Flower (recorded)",
            "pfl_research_updates_per_s": "pfl-research (recorded)",
            "fedjax_updates_per_s": "FedJAX (recorded)",
            "numpy_loop_updates_per_s": "bare numpy loop",
            "updates_per_s": "Cloister",
        },
        True,
    ),
    "tensorflow_js": (
        "training steps per second, perceptron 784-128-10",
        {
            "tfjs_mlp_trainonbatch_steps_per_s": "TensorFlow.js, trainOnBatch",
            "tfjs_mlp_minimize_steps_per_s": "TensorFlow.js, minimize",
            "mlp_steps_per_s": "Cloister in Node",
            "mlp_wasmtime_steps_per_s": "Cloister in wasmtime",
        },
        False,
    ),
    "compiler": (
        "training steps per second over PyTorch's",
        {
            f"{model}_vs_torch": model.replace("_", " ")
            for model in (
                "logistic_regression",
                "mlp",
                "lora",
                "matrix_factorisation",
                "lenet5",
                "mcmahan_cnn",
                "gn_cnn",
                "resnet18_gn",
                "mobilenetv2",
                "unet",
                "gru",
                "lstm",
                "transformer",
                "gpt",
                "dilated_cnn",
            )
        },
        False,
    ),
    "secure_aggregation": ("processor time over members and parameters", {}, True),
    "install": (
        "megabytes installed",
        {"installed_mb": "a client in all", "wasmtime_mb": "wasmtime", "grpc_mb": "grpc"},
        False,
    ),
}

DRAWN = {"secure_aggregation": secure_aggregation.draw}


def run(program: str, *, quick: bool) -> tuple[str, dict[str, float]]:
    """Run one benchmark; returns its printed table and its figures."""
    command = [sys.executable, str(HERE / PROGRAMS[program]), *(["--quick"] if quick else [])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    *table, last = done.stdout.rstrip().splitlines()
    return "\n".join(table), json.loads(last)


def draw(program: str, figures: dict[str, float]) -> str:
    """Draw a program's bar chart, or what it draws itself; returns the path below docs/."""
    axis, names, logarithmic = PLOTS[program]
    path = Path("images") / f"benchmark-{program.replace('_', '-')}.svg"
    (DOCS / path).parent.mkdir(exist_ok=True)
    if not names:
        DRAWN[program](figures, DOCS / path)
        return path.as_posix()
    shown = [name for name in names if name in figures]
    figure = Figure(figsize=(7, 0.45 * len(shown) + 1), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([names[name] for name in shown], [figures[name] for name in shown])
    axes.bar_label(bars, fmt="{:,.4g}", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel(axis)
    axes.margins(x=0.15)
    if logarithmic:
        axes.set_xscale("log")
    # no date and a fixed salt: the same figures give the same file
    with rc_context({"svg.hashsalt": program}):
        figure.savefig(DOCS / path, metadata={"Date": None})
    return path.as_posix()


def main() -> None:
    """Run, draw, write."""
    options = arguments(__doc__.splitlines()[0])
    day = datetime.now(UTC).date()
    parts = [
        "# Benchmarks",
        "Written by `make bench`; run it yourself. Times move by a third from run to run on a"
        " shared machine, so read ratios within one run.",
        f"Last run {day} with Python {platform.python_version()} on {platform.machine()},"
        f" {len(os.sched_getaffinity(0))} cores" + (", `--quick`." if options.quick else "."),
    ]
    everything = {}
    for program in PROGRAMS:
        print(f"benchmarks/{PROGRAMS[program]} ...", file=sys.stderr, flush=True)
        table, figures = run(program, quick=options.quick)
        everything[program] = figures
        parts += [
            f"## {program.replace('_', ' ').capitalize()}",
            f"`python benchmarks/{PROGRAMS[program]}`",
            f"![{PLOTS[program][0]}]({draw(program, figures)})",
            f"```text\n{table}\n```",
        ]
    (DOCS / "benchmarks.md").write_text("\n\n".join(parts) + "\n")
    print(json.dumps(everything))


if __name__ == "__main__":
    main()
