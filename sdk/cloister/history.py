"""What a simulation returns: the rounds as they went, and the model they ended with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from cloister import tensors
from cloister_protos import Role
from cloister_tasks import Manifest

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """Means per row of a task's metrics."""

    examples: int
    """Rows the means run over."""
    means: Mapping[str, float]
    """Mean per row by metric name, such as "loss" and "accuracy"."""

    @classmethod
    def of(cls, manifest: Manifest, sums: NDArray[np.float64], rows: int) -> Score:
        """Means from sums over rows, (metrics,) in the manifest's order."""
        names = [buffer.name for buffer in manifest.of(Role.ROLE_METRIC)]
        return cls(rows, dict(zip(names, (sums / rows).tolist(), strict=True)))


@dataclass(frozen=True)
class RoundResult:
    """One round of a simulation."""

    number: int
    version: int
    """Model version after the round."""
    committed: bool
    """False: abandoned, because too few clients were left; nothing changed."""
    cohort: int
    """Clients selected."""
    survivors: int
    """Clients whose updates were folded."""
    diverged: int
    """Clients left out because their update was not finite; a smaller learning rate may help."""
    training: Score
    """Over the rows the survivors trained on, while training; empty when abandoned, and under
    differential privacy."""
    test: Score | None = None
    """Of the version after the round, on the held-out rows; None when not evaluated."""
    seconds: float = 0.0
    """Wall-clock, evaluation included."""
    reason: str = ""
    """Why it was abandoned."""
    clip_norm: float = 0.0
    """Largest L2 norm of an update in force; 0: none."""
    clipped: int = 0
    """Updates that were scaled down to it; unknown, and 0, under differential privacy."""
    epsilon: float | None = None
    """Spent up to and including this round; None: there is no differential privacy."""


@dataclass
class History:
    """Rounds and final model of a simulation."""

    manifest: Manifest
    block: F32
    """The final model: the parameter block, f32 (parameters,)."""
    rounds: list[RoundResult] = field(default_factory=list)
    version: int = 0
    failure: str = ""
    """Why the simulation ended before its last round; empty when it did not."""
    frozen: F32 | None = None
    """The frozen block of a task that has one."""
    secure: bool = False
    """Whether updates were summed by secure aggregation."""
    delta: float | None = None
    """Chance that the rounds' epsilon does not hold; None: there is no differential privacy."""

    def advance(self, block: F32) -> None:
        """Make `block` the next model version."""
        self.block = block
        self.version += 1

    @property
    def model(self) -> dict[str, F32]:
        """The final model's tensors by name, views of `block`."""
        return tensors.split(self.manifest, self.block)

    @property
    def final(self) -> Mapping[str, float]:
        """Metrics of the last evaluation on held-out rows; empty if there was none."""
        scores = [result.test for result in self.rounds if result.test is not None]
        return scores[-1].means if scores else {}

    @property
    def epsilon(self) -> float | None:
        """Spent by all rounds; None: there is no differential privacy."""
        if self.delta is None:
            return None
        return next((r.epsilon for r in reversed(self.rounds) if r.epsilon is not None), 0.0)

    def save(self, path: Path) -> None:
        """Write the final model's tensors as NPZ, the frozen ones with them."""
        tensors.save(self.manifest, self.block, Path(path), "npz", self.frozen)

    def table(self, rows: int = 20) -> Table:
        """A table of at most about `rows` rounds, evenly spread, always with the last."""
        step = max(1, -(-len(self.rounds) // rows))
        picked = [r for r in self.rounds if r.number % step == 0 or r is self.rounds[-1]]
        names = [buffer.name for buffer in self.manifest.of(Role.ROLE_METRIC)]
        title = f"{self.manifest.name}, by round"
        if self.secure:
            title += ", under secure aggregation"
        table = Table("round", "version", "clients", title=title)
        tested = any(r.test for r in picked)
        trained = self.delta is None
        for name in names if trained else ():
            table.add_column(f"training {name}", justify="right")
        for name in names if tested else ():
            table.add_column(f"test {name}", justify="right")
        if not trained:
            table.add_column("clip norm", justify="right")
            table.add_column("epsilon", justify="right")
        table.add_column("seconds", justify="right")
        for r in picked:
            scores = [shown(name, r.training.means.get(name)) for name in names if trained]
            if tested:
                means = r.test.means if r.test else {}
                scores += [shown(name, means.get(name)) for name in names]
            if r.epsilon is not None:
                scores += [f"{r.clip_norm:.4g}", f"{r.epsilon:.4g}"]
            version = str(r.version) if r.committed else "abandoned"
            clients = f"{r.survivors}/{r.cohort}"
            table.add_row(str(r.number), version, clients, *scores, f"{r.seconds:.3f}")
        return table

    def to_json(self) -> dict[str, Any]:
        """Everything but the model, as JSON values."""
        return {
            "task": self.manifest.name,
            "parameters": self.manifest.parameter_count,
            "version": self.version,
            "final": dict(self.final),
            "failure": self.failure,
            "secure_aggregation": self.secure,
            "privacy_spent": self._privacy_spent(),
            "rounds": [
                {
                    "number": r.number,
                    "version": r.version,
                    "committed": r.committed,
                    "cohort": r.cohort,
                    "survivors": r.survivors,
                    "diverged": r.diverged,
                    "training": dict(r.training.means),
                    "test": dict(r.test.means) if r.test else None,
                    "seconds": round(r.seconds, 6),
                    "clip_norm": r.clip_norm,
                    "clipped": r.clipped,
                    "epsilon": r.epsilon,
                }
                for r in self.rounds
            ],
        }

    def _privacy_spent(self) -> dict[str, Any] | None:
        if self.delta is None:
            return None
        return {"epsilon": self.epsilon, "delta": self.delta}

    def plot(self, path: Path) -> None:
        """Draw loss and accuracy by round; the suffix decides: .png, .svg or .html."""
        from cloister.plot import plot

        plot(self, Path(path))


def shown(name: str, value: float | None) -> str:
    """A metric's mean for people: shares of rows in percent, "-" for none."""
    if value is None:
        return "-"
    if name in ("accuracy", "correct"):
        return f"{100 * value:.2f} %"
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.3e}"
