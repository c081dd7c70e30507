"""One assignment's work: local rows through the task in the sandbox, an update out of it.

The same function serves devices and tests; the simulator's many-clients path gives the same bits.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister_client.dataset import Dataset, Rows, count
from cloister_client.errors import DataError, UnfitAssignment
from cloister_client.shuffle import row_order
from cloister_protos import Kind, Role, Training
from cloister_sandbox import Sandbox
from cloister_tasks import Manifest

_BATCH_SIZE = "batch_size"
"""Name of the hyperparameter that tells how many rows make a mini-batch."""


@dataclass(frozen=True)
class Outcome:
    """What training and evaluation gave."""

    update: NDArray[np.float32] | None = None
    """f32[P]: trained minus received parameters; None after evaluation only."""
    examples: int = 0
    """Rows trained on in one epoch."""
    training_sums: dict[str, float] = field(default_factory=dict)
    """Sums over the rows of all epochs while training, by metric name."""
    trained_rows: int = 0
    """Rows the training sums run over: examples times epochs."""
    evaluation_sums: dict[str, float] = field(default_factory=dict)
    """Sums over the evaluation rows for the model as received, by metric name."""
    evaluated_rows: int = 0
    """Rows the evaluation sums run over."""
    local: bytes = b""
    """The task's LOCAL buffers after training, little-endian, side by side in manifest order."""


def train(
    sandbox: Sandbox,
    *,
    model: NDArray[np.float32],
    frozen: NDArray[np.float32] | None,
    dataset: Dataset,
    training: Training | None,
    evaluate: bool,
    seed: int,
    local: bytes | None = None,
    out: NDArray[np.float32] | None = None,
    keep_going: Callable[[], None] = lambda: None,
) -> Outcome:
    """Evaluate `model` (f32[P]) if asked, then train it if `training` is given.

    The sandbox must be fresh, `dataset` fitted to the task's inputs. `reset` is called once
    before training, so that optimizer state lives through the epochs of a round. `seed` decides
    the order of rows and, where the job is silent, the task's own `seed`. A task that adds noise
    for privacy gets a key drawn here, which is told to nobody. `local` is what the LOCAL buffers
    held after an earlier round; None: what the module's data says. The update is written to `out`
    (f32[P], may be `model` itself) or to a new array. `keep_going` is called before each chunk of
    rows and raises to stop.

    Raises UnfitAssignment if the task cannot do what is asked, DataError without rows to train
    on, SandboxError (the sandbox is dead then) and whatever `keep_going` raises.
    """
    run = _Run(sandbox, model, frozen, local, keep_going)
    evaluation_sums: dict[str, float] = {}
    if evaluate:
        evaluation_sums = run.evaluate(dataset.evaluation)
    evaluated_rows = count(dataset.evaluation) if evaluate else 0
    if training is None:
        return Outcome(evaluation_sums=evaluation_sums, evaluated_rows=evaluated_rows)
    examples = count(dataset.train)
    training_sums = run.train(dataset.train, training, seed)
    update = np.subtract(sandbox.view(Role.ROLE_PARAMETER), model, out=out)
    return Outcome(
        update=update,
        examples=examples,
        training_sums=training_sums,
        trained_rows=examples * training.epochs,
        evaluation_sums=evaluation_sums,
        evaluated_rows=evaluated_rows,
        local=b"".join(sandbox.view(name).tobytes() for name in run.local_names),
    )


def chunk_rows(rows: int, capacity: int, batch_size: int | None) -> int:
    """Rows per call into a task of this capacity, when there are `rows` in all.

    A chunk boundary must not cut a mini-batch in two, so with more rows than the capacity it is
    the largest multiple of `batch_size` that fits. `batch_size` is None for a task without one.
    Raises UnfitAssignment if not even one mini-batch fits.
    """
    if rows <= capacity:
        return rows
    if batch_size is None:
        return capacity
    if not 1 <= batch_size <= capacity:
        raise UnfitAssignment(
            f"batch_size is {batch_size}, but the task takes at most {capacity} rows at once; "
            "choose a smaller batch_size, or build the task with a larger capacity"
        )
    return capacity - capacity % batch_size


def signed(seed: int) -> int:
    """A seed (u64) as the i64 that a task's `seed` is, of the same bits."""
    return seed - (1 << 64) if seed >= 1 << 63 else seed


def settings(manifest: Manifest, training: Training) -> dict[str, float]:
    """The job's hyperparameters, checked against the task's. Raises UnfitAssignment."""
    dtypes = {buffer.name: buffer.dtype for buffer in manifest.of(Role.ROLE_HYPERPARAMETER)}
    values = dict(training.hyperparameters)
    own = {buffer.name for buffer in manifest.noise_keys}
    for name, value in values.items():
        if name in own:
            raise UnfitAssignment(
                f"hyperparameter {name!r} is a secret that the device draws; a job cannot set it"
            )
        if name not in dtypes:
            there = ", ".join(dtypes) or "none"
            raise UnfitAssignment(f"the task has no hyperparameter {name!r}; there are: {there}")
        if not _holds(dtypes[name], value):
            raise UnfitAssignment(f"hyperparameter {name!r} of {value:g} is no {dtypes[name]}")
    return values


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    """Whether `value` is one of `dtype`, up to the rounding of floats."""
    if dtype.kind == "f":
        return abs(value) <= float(np.finfo(dtype).max)
    bounds = np.iinfo(dtype)
    return bounds.min <= value <= bounds.max and value.is_integer()


class _Run:
    """The calls of one assignment; the model is sent along with the first of them."""

    def __init__(
        self,
        sandbox: Sandbox,
        model: NDArray[np.float32],
        frozen: NDArray[np.float32] | None,
        local: bytes | None,
        keep_going: Callable[[], None],
    ):
        self._sandbox, self._keep_going = sandbox, keep_going
        self._manifest = sandbox.module.manifest
        self._inputs = {b.name: sandbox.view(b.name) for b in self._manifest.of(Role.ROLE_INPUT)}
        self._metrics = tuple(buffer.name for buffer in self._manifest.of(Role.ROLE_METRIC))
        self._unsent: list[str | Role] = []
        self._place(Role.ROLE_PARAMETER, model, "parameters")
        self._place(Role.ROLE_FROZEN, frozen, "frozen parameters")
        self.local_names = tuple(buffer.name for buffer in self._manifest.of(Role.ROLE_LOCAL))
        if local is not None:
            self._place_local(local)

    def evaluate(self, rows: Rows) -> dict[str, float]:
        """Metric sums over `rows` for the parameters in place."""
        if "evaluate" not in self._manifest.entry_points:
            raise UnfitAssignment("the job asks for evaluation, but the task has none")
        chunks = _chunks(count(rows), self._manifest.capacity)
        visits = [(None, chunk) for chunk in chunks]
        return self._sweep("evaluate", rows, visits, len(visits), ())

    def train(self, rows: Rows, training: Training, seed: int) -> dict[str, float]:
        """Metric sums over `rows` times epochs; the parameters are trained and received."""
        entry = "train"
        if self._manifest.kind == Kind.KIND_SUMMARY:
            entry = "summarize"
            if training.epochs != 1:
                raise UnfitAssignment("statistics take 1 epoch; more would count rows twice")
        if not count(rows):
            raise DataError("this dataset has no rows to train on")
        values = settings(self._manifest, training)
        for name, value in values.items():
            self._sandbox.view(name)[...] = value
            self._unsent.append(name)
        if (own := self._manifest.seed) is not None and own.name not in values:
            self._sandbox.view(own.name)[...] = signed(seed)
            self._unsent.append(own.name)
        for buffer in self._manifest.noise_keys:
            # Not from the seed: the coordinator knows it, and could subtract the noise.
            self._sandbox.view(buffer.name)[...] = signed(secrets.randbits(64))
            self._unsent.append(buffer.name)
        batch_size = self._batch_size(values) if count(rows) > self._manifest.capacity else None
        size = chunk_rows(count(rows), self._manifest.capacity, batch_size)
        chunks = _chunks(count(rows), size)
        orders = (
            None if training.keep_order else row_order(seed, epoch, count(rows))
            for epoch in range(training.epochs)
        )
        visits = ((order, chunk) for order in orders for chunk in chunks)
        total = training.epochs * len(chunks)
        results: tuple[Role | str, ...] = (Role.ROLE_PARAMETER, *self.local_names)
        return self._sweep(entry, rows, visits, total, results)

    def _sweep(
        self,
        entry: str,
        rows: Rows,
        visits: Iterable[tuple[NDArray[np.int64] | None, slice]],
        total: int,
        results: tuple[Role | str, ...],
    ) -> dict[str, float]:
        """Reset, then one call for each of the `total` visits; metrics and `results` come back."""
        for index, (order, chunk) in enumerate(visits):
            self._keep_going()
            length = chunk.stop - chunk.start
            for name, view in self._inputs.items():
                if order is None:
                    view[:length] = rows[name][chunk]
                else:  # "clip" only spares numpy a buffer; the indices are in range
                    np.take(rows[name], order[chunk], axis=0, out=view[:length], mode="clip")
            reset = (("reset",),) if index == 0 else ()
            self._sandbox.run(
                *reset,
                (entry, length),
                send=[*self._unsent, *((name, length) for name in self._inputs)],
                receive=(*self._metrics, *results) if index == total - 1 else (),
            )
            self._unsent.clear()
        return {name: float(self._sandbox.view(name).item()) for name in self._metrics if total}

    def _place(self, role: Role, values: NDArray[np.float32] | None, what: str) -> None:
        block = self._manifest.block(role)
        wanted, given = block.size if block else 0, 0 if values is None else len(values)
        if wanted != given:
            raise UnfitAssignment(f"the task has {wanted} {what}, the assignment brings {given}")
        if values is not None and block is not None:
            self._sandbox.view(role)[:] = values
            self._unsent.append(role)

    def _place_local(self, local: bytes) -> None:
        if len(local) != self._manifest.local_bytes:
            raise UnfitAssignment(
                f"the task keeps {self._manifest.local_bytes} bytes on the device, not {len(local)}"
            )
        start = 0
        for buffer in self._manifest.of(Role.ROLE_LOCAL):
            values = np.frombuffer(local, buffer.dtype, buffer.size, start)
            self._sandbox.view(buffer.name)[...] = values.reshape(buffer.shape)
            self._unsent.append(buffer.name)
            start += buffer.nbytes

    def _batch_size(self, values: dict[str, float]) -> int | None:
        """The job's, else the task's own default, else None."""
        if _BATCH_SIZE in values:
            return int(values[_BATCH_SIZE])
        if _BATCH_SIZE not in self._manifest.buffers:
            return None
        self._sandbox.run(receive=[_BATCH_SIZE])
        return int(self._sandbox.view(_BATCH_SIZE).item())


def _chunks(rows: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size or 1)]
