"""Differential privacy for single examples: gradients clipped row by row, noise on their sum.

M. Abadi et al., "Deep learning with differential privacy", CCS 2016, algorithm 1. A step is two
graphs. The first is traced on one row and runs for each row of a batch: it clips that row's
gradient, over all trained parameters together, and adds it to a sum. So no row can reach another,
whatever the model does, and memory does not grow with the batch. Between the graphs the guest adds
noise to the sum. The second graph divides by the size of the batch and updates.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad_and_value
from torch.utils._pytree import tree_leaves

from cloister_tasks.compiler.capture import (
    Behaviour,
    Captured,
    Example,
    Groups,
    Subject,
    regroup,
    traced_graph,
    update_groups,
    update_results,
    updated,
)
from cloister_tasks.errors import BuildError

SUM = "gradient_sum"
"""Sum of the batch's clipped gradients: f32, as long as the trained parameters."""
BATCH = "nominal_batch"
"""The scalar that a sum is divided by: `batch_size`, also where fewer rows are left."""


@dataclass(frozen=True)
class ExamplePrivacy:
    """What bounds the influence of a single row on a step.

    Both numbers are part of the module's code: a job cannot change them, and who knows the digest
    of a task knows them.

    Raises:
        BuildError: a number is out of range.
    """

    clip_norm: float
    """Largest L2 norm of a row's gradient, over all trained parameters together."""
    noise_multiplier: float
    """Standard deviation of the noise on a sum of gradients, over `clip_norm`; 0: none."""

    def __post_init__(self) -> None:
        if not 0 < self.clip_norm < math.inf:
            raise BuildError(f"clip_norm={self.clip_norm}: it has to be finite and above 0")
        if not 0 <= self.noise_multiplier < math.inf:
            raise BuildError(
                f"noise_multiplier={self.noise_multiplier}: it has to be finite and at least 0"
            )
        if not self.deviation <= torch.finfo(torch.float32).max:
            raise BuildError("noise_multiplier times clip_norm is no float32; take smaller ones")

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise on each coordinate of a sum."""
        return self.noise_multiplier * self.clip_norm

    def __str__(self) -> str:
        return f"rows clipped to {self.clip_norm:g}, noise multiplier {self.noise_multiplier:g}"


def check(subject: Subject, how: Behaviour) -> None:
    """Refuse models whose step is more than a mean of what single rows give.

    Raises:
        BuildError: rows influence each other, or reach the model other than by gradients.
    """
    advice = "use GroupNorm or LayerNorm, or compile without example_privacy"
    if subject.running:
        raise BuildError(
            f"example_privacy cannot bound what a row does to {next(iter(subject.running))!r}:"
            f" training changes this buffer beside the gradients; {advice}"
        )
    if how.coupled:
        raise BuildError(
            "example_privacy needs gradients of single rows, but the rows of a batch influence"
            f" each other in training; {advice}"
        )
    if how.reduction != "mean":
        is_now = {"sum": "the sum over rows", "batch": "neither mean nor sum over rows"}
        raise BuildError(
            "example_privacy needs a loss that is the mean over rows, and this one is"
            f" {is_now[how.reduction]}; use reduction='mean' and no weights of classes"
        )
    if not _alone_as_in_a_batch(subject):
        raise BuildError(
            "example_privacy runs the model on one row at a time, and there it gives something"
            " else than for the same row in a batch; does forward squeeze the dimension of rows?"
        )


def row_gradient(subject: Subject, privacy: ExamplePrivacy, *, traced: bool = False) -> Captured:
    """One row: its loss and metrics, and the sum with its clipped gradient added."""
    subject.model.train()
    row = _first_row(subject.example)
    groups: Groups = [
        ("parameter", subject.trained),
        ("frozen", subject.frozen),
        ("fixed", subject.fixed),
        (SUM, {k: torch.zeros_like(p) for k, p in subject.trained.items()}),
        ("input", {str(i): x for i, x in enumerate(row.inputs)}),
        ("target", {"": row.target}),
    ]

    def step(*flat: Tensor) -> list[Tensor]:
        given = regroup(groups, flat)
        target = given["target"][""]

        def objective(trained: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            tensors = {**trained, **given["frozen"], **given["fixed"]}
            output = subject.forward(tensors, list(given["input"].values()))
            expressions = {"loss": subject.loss, **subject.metrics}
            found = {k: subject.rows(e, output, target) for k, e in expressions.items()}
            return found["loss"].sum(), found

        gradients, (_, metrics) = grad_and_value(objective, has_aux=True)(given["parameter"])
        squares = torch.stack([(g * g).sum() for g in gradients.values()]).sum()
        factor = torch.clamp(privacy.clip_norm / torch.sqrt(squares), max=1.0)
        # A gradient without a finite norm cannot be scaled: the row is left out.
        kept = squares < math.inf
        added = [
            given[SUM][k] + torch.where(kept, g * factor, torch.zeros_like(g))
            for k, g in gradients.items()
        ]
        return [*(metrics[k] for k in ("loss", *subject.metrics)), *added]

    names = [("metric", k) for k in ("loss", *subject.metrics)]
    names += [(SUM, k) for k in subject.trained]
    return traced_graph(step, groups, names, traced)


def update(subject: Subject, *, traced: bool = False) -> Captured:
    """The next parameters and states, of a sum of gradients that has its noise."""
    groups: Groups = [
        ("parameter", subject.trained),
        (SUM, {k: torch.zeros_like(p) for k, p in subject.trained.items()}),
        *update_groups(subject),
    ]
    (scalars,) = (tensors for kind, tensors in groups if kind == "scalar")
    scalars[BATCH] = torch.ones(())

    def step(*flat: Tensor) -> list[Tensor]:
        given = regroup(groups, flat)
        batch = given["scalar"][BATCH]
        return updated(subject, given, {k: g / batch for k, g in given[SUM].items()})

    return traced_graph(step, groups, update_results(subject), traced)


def _first_row(example: Example) -> Example:
    return Example(tuple(x[:1] for x in example.inputs), example.target[:1])


def _alone_as_in_a_batch(subject: Subject) -> bool:
    """Whether the first row's output is the same without the others."""
    together = tree_leaves(subject.output())
    row = _first_row(subject.example)
    model = copy.deepcopy(subject.model).eval()
    try:
        with torch.no_grad():
            alone = tree_leaves(model(*row.inputs))
    except Exception:
        return False
    return all(
        a.shape == t[:1].shape and torch.allclose(a, t[:1], rtol=1e-3, atol=1e-5, equal_nan=True)
        for a, t in zip(alone, together, strict=True)
        if isinstance(t, Tensor) and t.ndim
    )
