"""A compiled task in a bare engine, and its twin: the same model trained by PyTorch itself."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cloister_protos import Role
from cloister_tasks import Status, binary
from cloister_tasks.binary import Reader, SectionId

STEP = 2.0**20
"""A step size that makes a step all gradient: p - STEP * g rounds at the size of g, not of p."""


def inputs_of(example: dict[str, Any]) -> tuple[Tensor, ...]:
    """The inputs of an example as a tuple."""
    inputs = example["example"][0]
    return inputs if isinstance(inputs, tuple) else (inputs,)


class Machine:
    """One instance of a compiled task.

    Args:
        guest: the class of instances, from the fixture of that name.
        task: what ``compile`` gave.
    """

    def __init__(self, guest: Callable[[bytes], Any], task: Any) -> None:
        self.task = task
        self.guest = guest(task.wasm)
        self.manifest = task.manifest
        self.start()

    def start(self) -> None:
        """Write the initial parameters and reset."""
        self.guest.parameters[:] = self.task.parameters
        block = self.manifest.block(Role.ROLE_FROZEN)
        if block is not None:
            end = block.offset + block.nbytes
            self.guest.memory[block.offset : end].view("<f4")[:] = self.task.frozen
        assert self.guest("reset") == Status.OK

    def give(self, example: dict[str, Any]) -> int:
        """Write an example's rows; returns how many there are."""
        arrays = (*inputs_of(example), example["example"][1])
        buffers = self.manifest.of(Role.ROLE_INPUT)
        for buffer, array in zip(buffers, arrays, strict=True):
            self.guest[buffer.name][: len(array)] = array.numpy()
        return len(arrays[-1])

    def run(self, entry: str, example: dict[str, Any]) -> None:
        """Call an entry point on an example's rows."""
        rows = self.give(example)
        assert self.guest(entry, rows) == Status.OK

    def state(self) -> dict[str, np.ndarray]:
        """Copies of everything that PyTorch would call the state, by name."""
        roles = (Role.ROLE_PARAMETER, Role.ROLE_FROZEN, Role.ROLE_LOCAL)
        return {b.name: self.guest[b.name].copy() for r in roles for b in self.manifest.of(r)}

    def undeclared(self) -> np.ndarray:
        """Which bytes of memory nobody outside may rely on: bool[memory].

        They hold neither data of the module nor a buffer that the host writes.
        """
        free = np.ones(len(self.guest.memory), bool)
        for buffer in self.manifest.buffers.values():
            if buffer.role != Role.ROLE_OPTIMIZER:
                free[buffer.offset : buffer.end] = False
        section = next(s for s in binary.sections(self.task.wasm) if s.number == SectionId.DATA)
        reader = Reader(section.payload)
        for _ in range(reader.u32()):
            reader.u32(), reader.byte()
            offset = reader.i32()
            reader.byte()
            free[offset : offset + len(reader.bytes(reader.u32()))] = False
        return free

    def outputs(self, rows: int) -> np.ndarray:
        """The predictions of the first rows."""
        outputs: np.ndarray = self.guest["output"][:rows].copy()
        return outputs


class Twin:
    """The same model in PyTorch, trained as the task contract says a task is.

    Args:
        example: what a factory of the zoo returns.
        dtype: of all that is not a number of a class or token.
        options: what to change of the optimizer's arguments.
    """

    def __init__(
        self, example: dict[str, Any], dtype: torch.dtype = torch.float64, **options: Any
    ) -> None:
        self.dtype = dtype
        self.model: nn.Module = copy.deepcopy(example["model"]).to(dtype)
        self.loss = example["loss"]
        kind = type(example["optimizer"])
        known = inspect.signature(kind).parameters
        defaults = example["optimizer"].defaults
        given = {k: v for k, v in defaults.items() if k in known} | options
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = kind(self.trained, **given)
        self.start = [p.detach().clone() for p in self.trained]
        self.total = self.correct = 0.0

    def cast(self, array: Tensor) -> Tensor:
        """Floats in the twin's own type."""
        return array.to(self.dtype) if array.is_floating_point() else array

    def measure(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Adds to the metrics; gives the mean loss."""
        loss: Tensor = self.loss(outputs, target)
        self.total += loss.item() * len(target)
        if not target.is_floating_point():
            hits = (outputs.argmax(1) == target).double().reshape(len(target), -1)
            self.correct += hits.mean(1).sum().item()
        return loss

    def train(
        self,
        example: dict[str, Any],
        batch: int,
        *,
        clip_norm: float | None = None,
        proximal: float | None = None,
    ) -> None:
        """One optimizer step for each batch; the last one may be partial."""
        arrays = [self.cast(a) for a in (*inputs_of(example), example["example"][1])]
        self.model.train()
        for parts in zip(*(a.split(batch) for a in arrays), strict=True):
            self.optimizer.zero_grad()
            loss = self.measure(self.model(*parts[:-1]), parts[-1])
            loss.backward()
            if proximal is not None:
                for p, start in zip(self.trained, self.start, strict=True):
                    assert p.grad is not None
                    p.grad += proximal * (p.detach() - start)
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(self.trained, clip_norm)
            self.optimizer.step()

    def gradients(self, example: dict[str, Any]) -> dict[str, np.ndarray]:
        """Gradients of the mean loss by each trained parameter, f64."""
        arrays = [self.cast(a) for a in (*inputs_of(example), example["example"][1])]
        self.model.train()
        self.optimizer.zero_grad()
        self.measure(self.model(*arrays[:-1]), arrays[-1]).backward()
        named = self.model.named_parameters()
        return {n: p.grad.double().numpy() for n, p in named if p.grad is not None}

    def predict(self, example: dict[str, Any]) -> np.ndarray:
        """Outputs of the model that no longer trains."""
        self.model.eval()
        with torch.no_grad():
            outputs: Tensor = self.model(*(self.cast(a) for a in inputs_of(example)))
        return outputs.numpy()

    def state(self) -> dict[str, np.ndarray]:
        """The state by name."""
        return {name: value.numpy() for name, value in self.model.state_dict().items()}


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    """Root of the mean squared difference, by that of what is wanted; of zeros: as it is."""
    size = float(np.sqrt(np.mean(np.square(wanted.astype("f8")))))
    off = float(np.sqrt(np.mean(np.square(found.astype("f8") - wanted))))
    return off / size if size else off
