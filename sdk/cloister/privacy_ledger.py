"""What a simulation spends of its privacy budget, and the clipping norm in force."""

from __future__ import annotations

from collections.abc import Mapping

from cloister_coordinator.protection import release
from cloister_privacy.clipping import next_norm
from cloister_privacy.counters import UNCLIPPED, WEIGHT
from cloister_protos import JobSpec
from cloister_tasks import Manifest


class PrivacyLedger:
    """Counts the rounds whose sums were released.

    Args:
        spec: a checked job; without differential privacy nothing is counted.
    """

    def __init__(self, spec: JobSpec, task: Manifest) -> None:
        self._privacy = spec.differential_privacy
        self._release = release(spec, task)
        self.clip_norm: float = spec.clip_norm
        """Of the next round; 0: none."""
        self.rounds = 0
        """Released so far."""
        self.epsilon: float | None = None if self._release is None else 0.0
        """Spent so far; None: the job has no differential privacy."""
        self._most: int | None = None
        if self._release is not None and self._privacy.epsilon:
            self._most = self._release.rounds(self._privacy.epsilon, self._privacy.delta)

    @property
    def delta(self) -> float | None:
        """Chance that `epsilon` does not hold."""
        return None if self._release is None else self._privacy.delta

    @property
    def exhausted(self) -> str:
        """Why there may be no further round; empty: there may."""
        if self.rounds != self._most:
            return ""
        return (
            f"the privacy budget is spent: after {self.rounds} rounds another one would take"
            f" epsilon past {self._privacy.epsilon:g} at delta {self._privacy.delta:g}"
        )

    def released(self, sums: Mapping[str, float]) -> None:
        """A round's sum is known.

        Args:
            sums: of the counters, by name.
        """
        if self._release is None:
            return
        self.rounds += 1
        self.epsilon = self._release.epsilon(self.rounds, self._privacy.delta)
        if self._privacy.HasField("adaptive"):
            adaptive = self._privacy.adaptive
            unclipped = sums[UNCLIPPED] / sums[WEIGHT]
            self.clip_norm = next_norm(
                self.clip_norm, unclipped, adaptive.quantile, adaptive.learning_rate
            )
