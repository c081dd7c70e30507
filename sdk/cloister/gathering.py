"""How a simulated round comes by the sum of its updates: in clear, or as `cloister.secure_round`.

A gathering is one round's. Members join it, those who trained hand in what came of it, and it gives
what the aggregation is to fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cloister.history import Score
from cloister_protos import Training, Weighting
from cloister_tasks import Manifest

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


class Exit(IntEnum):
    """The first step of a round that a member which drops out does not take."""

    KEYS = 0
    """It never says anything."""
    VECTOR = 1
    """It has dealt the shares of its secrets."""
    CONFIRMATION = 2
    """Its vector has arrived, and counts."""
    UNMASKING = 3
    NEVER = 4
    """It stays."""


@dataclass(frozen=True)
class Report:
    """What a virtual client hands in."""

    update: F32
    """(parameters,), clipped; good until the round is over."""
    unclipped: bool
    """Whether it was as short before."""
    examples: int
    trained_rows: int
    sums: F64
    """(metrics,), over the trained rows."""


@dataclass(frozen=True)
class Gathered:
    """What the aggregation folds."""

    updates: Sequence[F32]
    weights: F64
    """(updates,)."""
    total: float | None
    """Weight of all updates; None: the sum of the weights."""
    training: Score
    """Empty where only private sums are known."""
    clipped: int = 0
    """Updates that were scaled down; 0 where only private sums are known."""
    counters: Mapping[str, float] = field(default_factory=dict)
    """Under secure aggregation."""


class Gathering(Protocol):
    """One round's."""

    def join(self, exits: Mapping[str, Exit]) -> None:
        """The round begins.

        Args:
            exits: of all members.

        Raises:
            Unrecoverable: too few are there.
        """

    def hand_in(self, member: str, report: Report) -> None:
        """A member reports.

        Raises:
            ValueError: the report cannot be taken.
        """

    def gather(self) -> Gathered:
        """What was handed in.

        Raises:
            Unrecoverable: too few are left.
        """


class Gatherings(Protocol):
    """Makes those of one simulation."""

    @property
    def steps(self) -> Sequence[Exit]:
        """Where members may drop out."""

    def begin(
        self, number: int, version: int, model: F32, training: Training, clip_norm: float
    ) -> Gathering:
        """Of round `number`, from model `version`, f32 (parameters,).

        Args:
            clip_norm: in force; 0: none.
        """


class Clear:
    """Of updates that the coordinator sees one by one."""

    steps = (Exit.KEYS,)

    def __init__(self, task: Manifest, weighting: Weighting) -> None:
        self._task, self._weighting = task, weighting

    def begin(
        self, number: int, version: int, model: F32, training: Training, clip_norm: float
    ) -> ClearGathering:
        """See Gatherings."""
        del number, version, model, training, clip_norm
        return ClearGathering(self._task, self._weighting)


class ClearGathering:
    """One round's."""

    def __init__(self, task: Manifest, weighting: Weighting) -> None:
        self._task, self._weighting = task, weighting
        self._reports: dict[str, Report] = {}

    def join(self, exits: Mapping[str, Exit]) -> None:
        """See Gathering."""

    def hand_in(self, member: str, report: Report) -> None:
        """See Gathering."""
        self._reports[member] = report

    def gather(self) -> Gathered:
        """See Gathering; in the order of folding, ascending client id."""
        reports = [report for _, report in sorted(self._reports.items())]
        uniform = self._weighting == Weighting.WEIGHTING_UNIFORM
        sums = np.array([report.sums for report in reports]).sum(axis=0)
        return Gathered(
            [report.update for report in reports],
            np.array([1.0 if uniform else report.examples for report in reports]),
            None,
            Score.of(self._task, sums, sum(report.trained_rows for report in reports)),
            sum(not report.unclipped for report in reports),
        )
