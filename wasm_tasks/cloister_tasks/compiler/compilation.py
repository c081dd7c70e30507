"""``compile``: a torch module, a loss, an optimizer and an example become one task."""

from __future__ import annotations

import fnmatch
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cloister_protos import Kind
from cloister_tasks.compiler import driver, operators
from cloister_tasks.compiler import example_privacy as private
from cloister_tasks.compiler.arguments import check_runs, metrics_of, read_example
from cloister_tasks.compiler.capture import (
    Behaviour,
    Captured,
    Example,
    Loss,
    Subject,
    behaviour,
    evaluation,
    training,
)
from cloister_tasks.compiler.example_privacy import ExamplePrivacy
from cloister_tasks.compiler.expression import Buffer
from cloister_tasks.compiler.initial import initial_values
from cloister_tasks.compiler.ir import Program
from cloister_tasks.compiler.lower import CTYPES, Lowering, data_of
from cloister_tasks.compiler.optimizers import Setting, rule
from cloister_tasks.compiler.passes import pipeline
from cloister_tasks.compiler.plan import plan
from cloister_tasks.compiler.task import Task
from cloister_tasks.compiler.unsupported import Unsupported
from cloister_tasks.contract import NOISE_KEYS, VARIANTS, Variant
from cloister_tasks.errors import BuildError
from cloister_tasks.toolchain import compile_c

INPUT_BYTES = 1 << 20
"""Bytes the input rows take by default; more rows go through in several calls."""
OUTPUT_BYTES = 1 << 18
"""Bytes the output rows take by default."""
MOST_ROWS = 1024
"""Rows the inputs hold by default at most."""

del operators  # imported for the table it fills


def compile(  # noqa: A001 - it is what it does
    model: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    example: tuple[Any, Tensor],
    *,
    name: str | None = None,
    description: str = "",
    variant: Variant = "simd128",
    capacity: int | None = None,
    metrics: Mapping[str, Loss] | None = None,
    local: Sequence[str] = (),
    clip_norm: float | None = None,
    proximal: float | None = None,
    example_privacy: ExamplePrivacy | None = None,
    explain: bool = False,
) -> Task:
    """Compile a torch module into a task: training, evaluation and prediction in one WASM file.

    Args:
        model: the module; ``forward`` takes the inputs. Parameters with ``requires_grad=False``
            are frozen: sent with the model, never trained or returned.
        loss: ``loss(output, target) -> scalar``, any torch expression; best a mean over rows.
        optimizer: ``torch.optim.SGD``, ``Adam`` or ``AdamW``; says the rule and its settings.
        example: ``(inputs, target)``, one batch: its size is the compiled batch size. Inputs are a
            tensor, a tuple of tensors, or a mapping by the names of ``forward``'s arguments.
        name: name of the task; by default the class of the model.
        description: one line for people.
        variant: instruction set.
        capacity: rows a call takes, a multiple of the batch size; by default about 1 MiB of them.
        metrics: further numbers to report, ``metric(output, target)`` of a batch of one row, by
            name. ``loss`` is always there, ``correct`` where the target is a class.
        local: patterns (``fnmatch``) of the parameters and buffers that stay on the device.
        clip_norm: largest norm of the gradient of a batch; a hyperparameter of that name.
        proximal: weight of FedProx's pull towards the received parameters (Li et al., MLSys 2020,
            equation 2); a hyperparameter of that name.
        example_privacy: clip each row's gradient and add noise to their sum (DP-SGD).
        explain: keep the text of the programs after each pass.

    Raises:
        Unsupported: the model uses an operator the compiler does not know.
        BuildError: anything else about the arguments that does not go.
    """
    if variant not in VARIANTS:
        raise BuildError(f"unknown variant {variant!r}; there are {', '.join(VARIANTS)}")
    named, target = read_example(model, example)
    try:
        subject = Subject(
            model,
            loss,
            rule(optimizer),
            Example(tuple(named.values()), target),
            {},
            clip_norm,
            proximal,
        )
        subject.metrics = metrics_of(subject, metrics)
        if not subject.trained:
            raise BuildError("the model has no parameter with requires_grad=True: nothing to train")
        how = behaviour(subject)
        if example_privacy is not None:
            private.check(subject, how)
        compilation = Compilation(
            subject,
            how,
            list(named),
            name or type(model).__name__,
            description,
            variant,
            capacity,
            tuple(local),
            explain,
            example_privacy,
        )
        try:
            return compilation.run(traced=False)
        except Unsupported as e:
            if e.place:
                raise
        return compilation.run(traced=True)  # once more, remembering lines of code: slower
    except BuildError:
        raise
    except Exception:
        check_runs(model, loss, list(named.values()), target)
        raise


class Compilation:
    """One call of ``compile``, step by step."""

    def __init__(
        self,
        subject: Subject,
        how: Behaviour,
        inputs: Sequence[str],
        name: str,
        description: str,
        variant: Variant,
        capacity: int | None,
        local: tuple[str, ...],
        explain: bool,
        privacy: ExamplePrivacy | None = None,
    ):
        self.subject, self.how, self.inputs = subject, how, inputs
        self.name, self.variant, self.explain = name, variant, explain
        self.privacy = privacy
        self.description = description or f"{name}, compiled from PyTorch"
        if privacy is not None:
            self.description += f"; {privacy}"
        self.batch = subject.example.batch
        self.capacity = capacity or self._capacity()
        if self.capacity % self.batch:
            raise BuildError(f"capacity {self.capacity} is no multiple of the batch, {self.batch}")
        self.local = local
        self.stages: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.constants: dict[str, NDArray[np.generic]] = {}
        self.tensors = self._tensors()
        self._places = {t.name: t.identifier for t in self.tensors}

    def _capacity(self) -> int:
        """As many rows as the bytes for inputs and outputs allow, in whole batches."""
        example = self.subject.example
        output = self.subject.output()
        given = sum(t[0].numel() for t in (*example.inputs, example.target))
        made = sum(t[0].numel() for t in tree_leaves(output) if isinstance(t, Tensor))
        rows = min(MOST_ROWS, INPUT_BYTES // (4 * given + 1), OUTPUT_BYTES // (4 * made + 1))
        return max(rows // self.batch, 1) * self.batch

    # -- buffers -----------------------------------------------------------------------------------

    def _tensors(self) -> list[driver.Tensor]:
        """Everything in memory that the host may know, in the order of ``state_dict``."""
        s = self.subject
        found: list[driver.Tensor] = []
        for name in dict.fromkeys((*s.model.state_dict(), *s.trained, *s.frozen, *s.running)):
            value = {**s.trained, **s.frozen, **s.running}.get(name)
            fixed = s.fixed.get(name)
            if value is None and fixed is not None and fixed.is_floating_point():
                value = fixed
            if value is None or name not in s.model.state_dict():
                continue
            stays = any(fnmatch.fnmatchcase(name, pattern) for pattern in self.local)
            role = "FROZEN" if name in s.frozen or name in s.fixed else "PARAMETER"
            if stays and role == "PARAMETER":
                role = "LOCAL"
            found.append(
                driver.Tensor(name, role, "float", tuple(value.shape), "", f"p{len(found)}")
            )
        for pattern in self.local:
            if not any(t.role == "LOCAL" and fnmatch.fnmatchcase(t.name, pattern) for t in found):
                raise BuildError(f"local pattern {pattern!r} matches nothing that training changes")
        if not any(t.role == "PARAMETER" for t in found):
            raise BuildError("every parameter is local: there would be nothing to aggregate")
        trained = sum(p.numel() for p in s.trained.values())
        states = [*s.rule.states, *(["anchor"] if s.proximal is not None else [])]
        states += [private.SUM] if self.privacy is not None else []
        for state in states:
            about = f"{state} of each trained parameter"
            found.append(
                driver.Tensor(state, "OPTIMIZER", "float", (trained,), about, f"state_{state}")
            )
        rows = dict(zip(self.inputs, s.example.inputs, strict=True))
        rows["target" if s.example.target.is_floating_point() else "label"] = s.example.target
        for number, (name, example) in enumerate(rows.items()):
            shape = (self.capacity, *example.shape[1:])
            found.append(
                driver.Tensor(name, "INPUT", CTYPES[example.dtype], shape, "", f"x{number}")
            )
        return found

    def _buffers(self, captured: Captured) -> list[Buffer]:
        """Where each placeholder of a graph lies."""
        s = self.subject
        result = []
        at: dict[str, int] = {}
        nodes = [node for node in captured.graph.nodes if node.op == "placeholder"]
        for (kind, name), node in zip(captured.inputs, nodes, strict=True):
            value = node.meta["val"]
            ctype, size = CTYPES[value.dtype], max(value.numel(), 1)
            if kind == "scalar":
                place = f"&scalar_{name}"
            elif kind == "input":
                place = f"now_x{name}"
            elif kind == "target":
                place = f"now_x{len(s.example.inputs)}"
            elif kind == "weight":
                place = "row_weight"
            elif kind == "fixed" and name not in self._places:
                place = self._constant(s.fixed[name])
            elif kind in ("parameter", "frozen", "fixed", "running"):
                place = self._places[name]
            else:
                place = f"state_{kind} + {at.get(kind, 0)}"
                at[kind] = at.get(kind, 0) + size
            result.append(Buffer(f"{kind}.{name}".rstrip("."), ctype, size, place))
        return result

    def _constant(self, tensor: Tensor) -> str:
        """Data that goes into the code."""
        data = data_of(tensor)
        for name, known in self.constants.items():
            if known.dtype == data.dtype and np.array_equal(known, data):
                return name
        name = f"constant{len(self.constants)}"
        self.constants[name] = data
        return name

    # -- programs ----------------------------------------------------------------------------------

    def run(self, *, traced: bool) -> Task:
        """All of it."""
        clock = _Clock(self.seconds)
        with torch.device("cpu"):
            if self.privacy is None:
                steps = {"train": training(self.subject, self.how, traced=traced)}
            else:
                steps = {
                    "train": private.row_gradient(self.subject, self.privacy, traced=traced),
                    "update": private.update(self.subject, traced=traced),
                }
            evaluated = evaluation(self.subject, traced=traced)
        clock.lap("capture")
        outputs = [t for t in evaluated.results if t[0] == "output"]
        programs = {
            name: self._lower(name, step, {r: r[0] != "metric" for r in step.results})
            for name, step in steps.items()
        }
        evaluate = self._lower(
            "evaluate", evaluated, {r: False for r in evaluated.results if r[0] == "metric"}
        )
        predict = self._lower("predict", evaluated, dict.fromkeys(outputs, False))
        clock.lap("lower")
        programs |= {p.name: p for p in (evaluate, predict)}
        plans = {}
        for key, program in programs.items():
            pipeline.run(program, self._stage if self.explain else None)
            plans[key] = plan(program)
        clock.lap("passes")
        nodes = dict(zip(evaluated.results, _results(evaluated), strict=True))
        for number, output in enumerate(outputs):
            value = nodes[output].meta["val"]
            self.tensors = [t for t in self.tensors if t.identifier != f"y{number}"]
            self.tensors.append(
                driver.Tensor(
                    "output" if len(outputs) == 1 else f"output{number}",
                    "OUTPUT",
                    CTYPES[value.dtype],
                    (self.capacity, *value.shape[1:]),
                    "",
                    f"y{number}",
                )
            )
            if not value.ndim or value.shape[0] != self.batch:
                raise BuildError("the model's output has no leading dimension of rows")
        for number, name in enumerate(t.name for t in self.tensors if t.role == "OUTPUT"):
            predict.results[name] = predict.results.pop(f"output {number}")
        source = self._source().write(programs, plans)
        clock.lap("emit")
        with tempfile.TemporaryDirectory(prefix="cloister-compile-") as folder:
            path = Path(folder) / "task.c"
            path.write_text(source)
            wasm = compile_c(path, kind=Kind.KIND_TRAINING, variant=self.variant)
        clock.lap("zig")
        state = self.subject.model.state_dict()
        blocks = {
            role: np.concatenate(
                [_f32(state[t.name]).ravel() for t in self.tensors if t.role == role]
                or [np.zeros(0, "f4")]
            )
            for role in ("PARAMETER", "FROZEN")
        }
        return Task(
            wasm,
            blocks["PARAMETER"],
            blocks["FROZEN"] if blocks["FROZEN"].size else None,
            programs,
            plans,
            dict(self.stages),
            source,
            dict(self.seconds),
            self.how,
            self.variant,
            {name: tensor.detach() for name, tensor in state.items()},
            self.privacy,
        )

    def _stage(self, title: str, program: Program) -> None:
        self.stages[f"{program.name}: {title}"] = str(program)

    def _lower(
        self, name: str, captured: Captured, wanted: Mapping[tuple[str, str], bool]
    ) -> Program:
        """One program of a graph: the results wanted, and whether each is written in place."""
        graph = pipeline.graph(captured.graph, [r in wanted for r in captured.results])
        buffers = self._buffers(captured)
        by_name = dict(zip(captured.inputs, buffers, strict=True))
        constants = {
            k: Buffer(k, CTYPES[t.dtype], max(t.numel(), 1), self._constant(t))
            for k, t in captured.constants.items()
        }
        rows = {b for (kind, _), b in by_name.items() if kind in ("input", "target")}
        lowering = Lowering(name, buffers, constants, rows)
        kept = [r for r in captured.results if r in wanted]
        destinations = [by_name[r] if wanted[r] else None for r in kept]
        program = lowering.run(graph, destinations)
        program.results = {
            " ".join(kept[int(number)]).strip(): buffer
            for number, buffer in program.results.items()
        }
        if self.explain:
            self.stages[f"{name}: graph"] = str(graph)
            self._stage("lowered", program)
        return program

    def _source(self) -> driver.Source:
        s = self.subject
        settings = {
            **s.rule.settings,
            "batch_size": Setting(
                "int32_t", self.batch, f"Rows of a mini-batch, up to {self.batch}"
            ),
            "seed": Setting("int64_t", 0, "Root of the random numbers of training"),
            "step": Setting("int32_t", 0, "Steps before this round, for the random numbers"),
        }
        scalars = dict(s.rule.scalars)
        for key, value, about in (
            ("clip_norm", s.clip_norm, "Largest norm of a batch's gradient"),
            ("proximal", s.proximal, "Pull towards the received parameters"),
        ):
            if value is not None:
                settings[key] = Setting("float", value, about)
                scalars[key] = key
        if self.privacy is not None:
            scalars[private.BATCH] = "batch_size"
            if self.privacy.deviation:
                about = "Secret of the device, part of the key of the noise"
                settings |= {key: Setting("int64_t", 0, about) for key in NOISE_KEYS}
        state = s.model.state_dict()
        return driver.Source(
            name=self.name,
            about=self.description,
            capacity=self.capacity,
            batch=self.batch,
            maskable=self.how.maskable,
            mean=self.how.reduction == "mean",
            tensors=self.tensors,
            settings=settings,
            scalars=scalars,
            metrics=["loss", *s.metrics],
            initial=initial_values(
                s.model,
                {t.name: t.identifier for t in self.tensors if t.role in ("PARAMETER", "LOCAL")},
            ),
            constants=self.constants,
            anchored=s.proximal is not None,
            trained=[(self._places[k], v.numel()) for k, v in s.trained.items()],
            defaults={t.identifier: _f32(state[t.name]) for t in self.tensors if t.role == "LOCAL"},
            noise=None if self.privacy is None else self.privacy.deviation,
        )


def _results(captured: Captured) -> list[Any]:
    output = next(node for node in captured.graph.nodes if node.op == "output")
    return list(output.args[0])


def _f32(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().cpu().to(torch.float32).numpy())


@dataclass
class _Clock:
    """What each part took."""

    seconds: dict[str, float]
    began: float = field(default_factory=time.perf_counter)

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] = now - self.began
        self.began = now
