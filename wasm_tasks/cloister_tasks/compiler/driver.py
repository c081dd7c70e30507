"""The C file of a task: its buffers, its kernels, its programs, and the entry points around them.

The entry points are the task contract's: a loop over mini-batches, checks before anything is
computed, a mask for the rows of a batch that hold nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cloister_tasks.compiler import entry_points
from cloister_tasks.compiler.emit import Functions, check, number
from cloister_tasks.compiler.expression import count
from cloister_tasks.compiler.ir import Program
from cloister_tasks.compiler.optimizers import Setting
from cloister_tasks.compiler.passes.roll import Step, roll
from cloister_tasks.compiler.plan import Plan


@dataclass(frozen=True)
class Tensor:
    """A buffer the host knows: its name in the manifest, its role and shape."""

    name: str
    role: str
    """PARAMETER, FROZEN, LOCAL, OPTIMIZER, INPUT or OUTPUT."""
    ctype: str
    shape: tuple[int, ...]
    about: str
    identifier: str
    """Its name in C."""


@dataclass(frozen=True)
class Initial:
    """How ``init(seed)`` fills a tensor: a constant, or numbers around a mean."""

    identifier: str
    size: int
    kind: str
    """constant, uniform (in ``+- spread``) or normal (deviation ``spread``)."""
    value: float
    spread: float


@dataclass
class Source:
    """Everything that is said in C."""

    name: str
    about: str
    capacity: int
    batch: int
    maskable: bool
    mean: bool
    tensors: list[Tensor]
    settings: Mapping[str, Setting]
    scalars: Mapping[str, str]
    metrics: Sequence[str]
    initial: Sequence[Initial]
    constants: Mapping[str, NDArray[np.generic]]
    """Data that is part of the code, by C name."""
    anchored: bool
    """Whether ``reset`` keeps a copy of the parameters."""
    trained: Sequence[tuple[str, int]] = ()
    """C name and size of each trained tensor, in the order of its optimizer state."""
    defaults: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)
    """Initial content of local tensors, by C name."""
    noise: float | None = None
    """Deviation of the noise on a sum of single rows' gradients; None: whole batches train."""

    def write(self, programs: Mapping[str, Program], plans: Mapping[str, Plan]) -> str:
        """The whole file, of the programs ``train``, ``evaluate`` and ``predict``."""
        functions = Functions()
        bodies = [body(name, p, plans[name], functions) for name, p in programs.items()]
        arena = max(plan.nbytes for plan in plans.values())
        inputs = [t for t in self.tensors if t.role == "INPUT"]
        by_row = self.noise is not None
        parts = [
            '#include <cloister.h>\n#include "guest.h"',
            '#include "gaussian_noise.h"' if self.noise else "",
            f"#define CAPACITY {self.capacity}\n#define BATCH {self.batch}",
            f'CLOISTER_TASK("{_quoted(self.name)}", "{_quoted(self.about)}");',
            *(self._declare(t) for t in self.tensors),
            *(
                f'CLOISTER_HYPERPARAMETER({s.ctype}, {name}, {_default(s)}, "{_quoted(s.about)}");'
                for name, s in self.settings.items()
            ),
            *(
                f'CLOISTER_NAMED_METRIC(metric_{name}, "{name}", "{_metric_about(name)}");'
                for name in self.metrics
            ),
            "CLOISTER_FAULT;",
            f"static uint8_t arena[{max(arena, 16)}] __attribute__((aligned(64)));",
            "static uint32_t step_key;\nstatic int32_t steps;\nstatic int32_t counted;",
            "static float row_weight[BATCH];",
            *(f"static float scalar_{name};" for name in self.scalars),
            *(f"static const {t.ctype} *now_{t.identifier};" for t in inputs),
            *(f"static {t.ctype} padded_{t.identifier}[BATCH * {_row(t)}];" for t in inputs),
            *(constant(name, data) for name, data in self.constants.items()),
            functions.definitions(),
            *bodies,
            *(
                checks(name, p, 1 if by_row and name == "train" else self.batch)
                for name, p in programs.items()
                if name != "update"
            ),
            self._stage(inputs),
            self._stage_row(inputs) if by_row else "",
            self._metrics(programs["train"]),
            self._metrics(programs["evaluate"]),
            self._outputs(programs["predict"]),
            self._entry_points(),
        ]
        return "\n".join(p for p in parts if p) + "\n"

    def _declare(self, t: Tensor) -> str:
        dims = "".join(f", {n}" for n in t.shape)
        place = {
            "PARAMETER": 'CLOISTER_BLOCK_("parameter")',
            "FROZEN": 'CLOISTER_BLOCK_("frozen")',
        }.get(t.role, "aligned(64)")
        content = ""
        if t.identifier in self.defaults:
            values = self.defaults[t.identifier].ravel()
            content = " = {" + ", ".join(number(v.item(), t.ctype) for v in values) + "}"
        return (
            f"__attribute__((used, {place})) {t.ctype} {t.identifier}[{count(t.shape)}]{content};\n"
            f'CLOISTER_DESCRIBE_({t.identifier}, "{_quoted(t.name)}", CLOISTER_ROLE_{t.role},'
            f' {t.ctype}, "{_quoted(t.about)}"{dims});'
        )

    def _stage(self, inputs: Sequence[Tensor]) -> str:
        """Point the programs at the rows of one batch, padded with copies of its first row."""
        direct = "\n".join(
            f"        now_{t.identifier} = {t.identifier} + at * {_row(t)};" for t in inputs
        )
        copies = "\n".join(
            f"    for (int r = 0; r < BATCH; r++)\n"
            f"        __builtin_memcpy(padded_{t.identifier} + r * {_row(t)},"
            f" {t.identifier} + (at + (r < rows ? r : 0)) * {_row(t)},"
            f" {_row(t)} * sizeof({t.ctype}));\n"
            f"    now_{t.identifier} = padded_{t.identifier};"
            for t in inputs
        )
        return (
            "static void stage(int32_t at, int32_t rows) {\n"
            f"    if (rows == BATCH) {{\n{direct}\n    }} else {{\n{copies}\n    }}\n"
            "    if (counted != rows)\n"
            "        for (int r = 0; r < BATCH; r++)"
            f" row_weight[r] = r < rows ? {'1 / (float)rows' if self.mean else '1'} : 0;\n"
            "    counted = rows;\n}"
        )

    def _stage_row(self, inputs: Sequence[Tensor]) -> str:
        """Point the programs at one row."""
        direct = "\n".join(
            f"    now_{t.identifier} = {t.identifier} + at * {_row(t)};" for t in inputs
        )
        return f"static void stage_row(int32_t at) {{\n{direct}\n}}"

    def _metrics(self, program: Program) -> str:
        lines = []
        for metric in self.metrics:
            rows = program.results[f"metric {metric}"]
            lines.append(
                f"    for (int r = 0; r < rows; r++) metric_{metric} += "
                f"((const float *)(arena + {rows.offset}))[r];"
            )
        return f"static void add_{program.name}(int32_t rows) {{\n" + "\n".join(lines) + "\n}"

    def _outputs(self, program: Program) -> str:
        lines = []
        for t in self.tensors:
            if t.role == "OUTPUT":
                source = program.results[t.name]
                lines.append(
                    f"    __builtin_memcpy({t.identifier} + at * {_row(t)},"
                    f" arena + {source.offset}, rows * {_row(t)} * sizeof({t.ctype}));"
                )
        return "static void put_outputs(int32_t at, int32_t rows) {\n" + "\n".join(lines) + "\n}"

    def _entry_points(self) -> str:
        reset = [f"    metric_{m} = 0;" for m in self.metrics]
        reset += [
            f"    CLOISTER_ZERO({t.identifier});" for t in self.tensors if t.role == "OPTIMIZER"
        ]
        if self.anchored:
            at = 0
            for identifier, size in self.trained:
                reset.append(
                    f"    __builtin_memcpy(state_anchor + {at}, {identifier},"
                    f" {size} * sizeof(float));"
                )
                at += size
        scalars = "\n".join(
            f"    scalar_{name} = (float)({text});" for name, text in self.scalars.items()
        )
        init = [
            f"    for (int i = 0; i < {t.size}; i++) {t.identifier}[i] = {_drawn(t, n)};"
            for n, t in enumerate(self.initial)
        ]
        batch_rule = (
            "batch_size < 1 || batch_size > BATCH" if self.maskable else "batch_size != BATCH"
        )
        for name, setting in self.settings.items():
            if setting.ctype in ("float", "double"):
                batch_rule += f" || !({name} >= 0 && {name} < __builtin_inff())"
        leftover = (
            ""
            if self.maskable
            else """
        if (n < BATCH) { /* rows that influence each other: too few of them are not trained on */
            stage(at, n);
            run_evaluate();
            add_evaluate(n);
            continue;
        }"""
        )
        if self.noise is None:
            train = entry_points.TRAIN.format(
                batch_rule=batch_rule, leftover=leftover, scalars=scalars
            )
        else:
            noise = entry_points.NOISE.format(deviation=number(self.noise, "float"))
            train = entry_points.TRAIN_BY_ROW.format(
                batch_rule=batch_rule, noise=noise if self.noise else "", scalars=scalars
            )
        return entry_points.ENTRY_POINTS.format(
            reset="\n".join(reset), init="\n".join(init), train=train
        )


def body(name: str, program: Program, plan: Plan, functions: Functions) -> str:
    """The calls of a program, repetitions as loops over tables of addresses."""
    calls = [
        functions.invoke(kernel, plan.scratch.get(at)) for at, kernel in enumerate(program.kernels)
    ]
    tables: list[str] = []
    lines = [_step(step, name, tables) for step in roll(calls)]
    return "\n".join([*tables, f"static void run_{name}(void) {{", *lines, "}"])


def _step(step: Step, name: str, tables: list[str]) -> str:
    if step.times == 1:
        return "\n".join(
            f"    k{call.function}({', '.join(a.c() for a in call.arguments)});"
            for call in step.calls[0]
        )
    lines = [f"    for (int t = 0; t < {step.times}; t++) {{"]
    for position, call in enumerate(step.calls[0]):
        arguments = []
        for slot, address in enumerate(call.arguments):
            row = [turn[position].arguments[slot] for turn in step.calls]
            if all(a == address for a in row):
                arguments.append(address.c())
                continue
            table = f"{name}_{len(tables)}"
            if address.moves:
                values = ", ".join(str(a.offset) for a in row)
                tables.append(f"static const int32_t {table}[] = {{{values}}};")
                arguments.append(f"{address.buffer.place} + {table}[t]")
            else:
                values = ", ".join(a.c() for a in row)
                tables.append(f"static {address.buffer.ctype} *const {table}[] = {{{values}}};")
                arguments.append(f"{table}[t]")
        lines.append(f"        k{call.function}({', '.join(arguments)});")
    return "\n".join([*lines, "    }"])


def checks(name: str, program: Program, batch: int) -> str:
    """The function that looks at a batch's indices before a program runs."""
    found = dict.fromkeys(check(c, batch) for c in program.checks)
    lines = "\n    ".join(found)
    return (
        f"static int32_t check_{name}(int32_t at) {{\n    {lines}\n"
        "    (void)at;\n    return CLOISTER_OK;\n}"
    )


def _drawn(t: Initial, stream: int) -> str:
    if t.kind == "constant":
        return number(t.value, "float")
    if t.kind == "uniform":
        return f"(2 * philox_uniform(key, {stream}, (uint32_t)i) - 1) * {number(t.spread, 'float')}"
    return (
        f"{number(t.value, 'float')} + philox_normal(key, {stream}, (uint32_t)i) *"
        f" {number(t.spread, 'float')}"
    )


def constant(name: str, data: NDArray[np.generic]) -> str:
    """An array that is part of the code."""
    ctype = {"f": "float", "i": "int32_t", "u": "int32_t", "b": "uint8_t"}[data.dtype.kind]
    values = ", ".join(number(v, ctype) for v in data.ravel().tolist()) or "0"
    return f"static const {ctype} {name}[] = {{{values}}};"


def _default(setting: Setting) -> str:
    if setting.ctype in ("float", "double"):
        return repr(float(setting.default))
    return str(int(setting.default))


def _metric_about(name: str) -> str:
    known = {
        "loss": "Loss, summed over rows",
        "correct": "Rows whose largest output is at the label, or the part of a row's positions",
    }
    return known.get(name, "Summed over rows")


def _row(t: Tensor) -> int:
    """Elements of one row."""
    return count(t.shape[1:])


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
