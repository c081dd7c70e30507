"""A task on local data without a coordinator: what one client alone would do, round after round."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister_client.dataset import Dataset
from cloister_client.training import settings, train
from cloister_coordinator.cohort import client_seed
from cloister_protos import Kind, Role, Training
from cloister_sandbox import Limits, SandboxPool
from cloister_tasks import Module, cache

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Epoch:
    """One pass over the training rows."""

    number: int
    block: F32
    """The parameters after it, f32 (parameters,)."""
    rows: int
    training: Mapping[str, float]
    """Mean per row by metric name, while training."""
    evaluation: Mapping[str, float]
    """The same of the model after the pass, over the evaluation rows; empty without such rows."""
    seconds: float
    """Wall clock, evaluation included."""

    def to_json(self) -> dict[str, Any]:
        """Everything but the model, as JSON values."""
        return {
            "epoch": self.number,
            "rows": self.rows,
            "training": dict(self.training),
            "evaluation": dict(self.evaluation),
            "seconds": round(self.seconds, 6),
        }


def rehearse(
    module: Module,
    dataset: Dataset,
    *,
    epochs: int,
    hyperparameters: Mapping[str, float] | None = None,
    seed: int = 0,
    initial_model: F32 | None = None,
    frozen: F32 | None = None,
    limits: Limits | None = None,
) -> Iterator[Epoch]:
    """Train epoch by epoch in an isolated sandbox; each is a round of a job with one client.

    A summary task begins at zero parameters, which end as its statistics.

    Raises UnfitAssignment or DataError if task and data don't fit, SandboxError if the task is
    refused or fails.
    """
    dataset = dataset.fit(module.manifest.of(Role.ROLE_INPUT))
    training = Training(epochs=1, hyperparameters=dict(hyperparameters or {}))
    settings(module.manifest, training)
    with SandboxPool(limits, cache_dir=cache.folder() / "native") as pool:
        block = _first(pool, module, seed) if initial_model is None else initial_model
        local: bytes | None = None
        for number in range(1, epochs + 1):
            began = time.perf_counter()
            with pool.lease(module) as sandbox:
                outcome = train(
                    sandbox,
                    model=block,
                    frozen=frozen,
                    dataset=dataset,
                    training=training,
                    evaluate=False,
                    seed=client_seed(seed, number, "rehearsal"),
                    local=local,
                )
                assert outcome.update is not None
                block, local = block + outcome.update, outcome.local
            yield Epoch(
                number,
                block,
                outcome.examples,
                {n: s / outcome.trained_rows for n, s in outcome.training_sums.items()},
                _evaluate(pool, module, block, frozen, local, dataset),
                time.perf_counter() - began,
            )


def _first(pool: SandboxPool, module: Module, seed: int) -> F32:
    if module.manifest.kind == Kind.KIND_SUMMARY:
        return np.zeros(module.manifest.parameter_count, np.float32)
    with pool.lease(module) as sandbox:
        sandbox.run(("init", seed), receive=[Role.ROLE_PARAMETER])
        block: F32 = sandbox.view(Role.ROLE_PARAMETER).copy()
    return block


def _evaluate(
    pool: SandboxPool,
    module: Module,
    block: F32,
    frozen: F32 | None,
    local: bytes,
    dataset: Dataset,
) -> dict[str, float]:
    if not dataset.evaluation_rows or module.manifest.kind == Kind.KIND_SUMMARY:
        return {}
    with pool.lease(module) as sandbox:
        outcome = train(
            sandbox,
            model=block,
            frozen=frozen,
            dataset=dataset,
            training=None,
            evaluate=True,
            seed=0,
            local=local,
        )
    return {name: total / outcome.evaluated_rows for name, total in outcome.evaluation_sums.items()}
