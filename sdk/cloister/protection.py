"""What protects a job's updates, as one writes it in Python or TOML.

::

    cloister.simulate(
        task,
        clients,
        rounds=20,
        clip_norm=1.0,
        secure_aggregation=cloister.SecureAggregation(),
        differential_privacy=cloister.DifferentialPrivacy(noise_multiplier=0.8, delta=1e-6),
    )

What a setting means, and how far it may go, is decided by `cloister_coordinator.protection`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from cloister.errors import InvalidJob
from cloister_coordinator import protection
from cloister_coordinator.errors import Invalid
from cloister_protos import AdaptiveClipping as AdaptiveClippingMessage
from cloister_protos import DifferentialPrivacy as DifferentialPrivacyMessage
from cloister_protos import Graph, JobSpec, Noise, Weighting
from cloister_protos import SecureAggregation as SecureAggregationMessage
from cloister_tasks import Manifest

Message = TypeVar("Message")

LEAST_SURVIVORS = 3
"""Fewest updates of a sum when nobody says: as many as a device insists on when its owner does not
say either."""

GRAPHS = {"complete": Graph.GRAPH_COMPLETE, "ring": Graph.GRAPH_RING}
NOISES = {"central": Noise.NOISE_CENTRAL, "distributed": Noise.NOISE_DISTRIBUTED}


@dataclass(frozen=True, kw_only=True)
class SecureAggregation:
    """Updates are summed so that nobody sees a single one, the coordinator neither."""

    graph: Literal["complete", "ring"] = "complete"
    """Who shares secrets with whom. A complete graph holds against a coordinator that breaks the
    protocol; a ring costs large cohorts less, and trusts it to follow."""
    corrupt_fraction: float = 0.0
    """Share of a cohort that may collude with the coordinator; 0 to 0.5."""
    drop_out_fraction: float = 0.0
    """Share of a cohort that may drop out; a ring is made for it. 0 to 0.5."""
    value_bits: int = 16
    """Bits of a coordinate, its sign included; 2 to 24."""
    max_weight: int | None = None
    """Most that one update counts for. Default: 1 where updates count alike, else 1024."""
    step_seconds: float = 20.0
    """Seconds that members have for each step but training; no clock runs in a simulation."""

    def message(self) -> SecureAggregationMessage:
        """As it goes over the wire. Raises InvalidJob."""
        return _message(
            SecureAggregationMessage,
            "secure_aggregation",
            {
                "value_bits": self.value_bits,
                "max_weight": self.max_weight,
                "step_seconds": self.step_seconds,
            },
            graph=_word("secure_aggregation.graph", self.graph, GRAPHS),
            corrupt_fraction=self.corrupt_fraction,
            drop_out_fraction=self.drop_out_fraction,
        )


@dataclass(frozen=True, kw_only=True)
class AdaptiveClipping:
    """The clipping norm follows a quantile of the updates' norms (Andrew et al., NeurIPS 2021)."""

    quantile: float = 0.5
    """Share of updates that are not to be clipped."""
    learning_rate: float = 0.2
    """Of the norm's logarithm; at most 1."""
    count_noise: float | None = None
    """Standard deviation of the noise on the number of unclipped updates. Default: a twentieth of
    the fewest members, but at least twice the noise multiplier."""

    def message(self) -> AdaptiveClippingMessage:
        """As it goes over the wire. Raises InvalidJob."""
        return _message(
            AdaptiveClippingMessage,
            "differential_privacy.adaptive",
            {
                "quantile": self.quantile,
                "learning_rate": self.learning_rate,
                "count_noise": self.count_noise,
            },
        )


@dataclass(frozen=True, kw_only=True)
class DifferentialPrivacy:
    """Noise on the sum hides whether any one client took part."""

    noise_multiplier: float
    """Standard deviation of the noise in the sum, over the clipping norm."""
    delta: float
    """Chance that the bound does not hold; less than one in as many as there are clients."""
    epsilon: float | None = None
    """The job ends before a round would take it past this. Default: never."""
    noise: Literal["distributed", "central"] = "distributed"
    """Whether each member adds its part before it masks, or the coordinator all of it, who then
    has to be trusted with the sum."""
    adaptive: AdaptiveClipping | None = None
    """Default: the clipping norm stays."""

    def message(self) -> DifferentialPrivacyMessage:
        """As it goes over the wire. Raises InvalidJob."""
        return _message(
            DifferentialPrivacyMessage,
            "differential_privacy",
            {
                "noise_multiplier": self.noise_multiplier,
                "delta": self.delta,
                "epsilon": self.epsilon,
            },
            noise=_word("differential_privacy.noise", self.noise, NOISES),
            adaptive=None if self.adaptive is None else self.adaptive.message(),
        )


def default_minimum(
    cohort: int, secure: SecureAggregation | None, private: DifferentialPrivacy | None
) -> int:
    """Fewest updates a round commits with when nobody says.

    Members' noise is calibrated to the fewest: with a majority it is at most twice what all need.
    """
    if secure is None:
        return 1
    return min(
        cohort, LEAST_SURVIVORS if private is None else max(LEAST_SURVIVORS, cohort // 2 + 1)
    )


def default_weighting(
    uniform_weights: bool | None, private: DifferentialPrivacy | None
) -> Weighting:
    """By rows when nobody says; but alike under differential privacy, which allows nothing else."""
    if uniform_weights is None:
        uniform_weights = private is not None
    return Weighting.WEIGHTING_UNIFORM if uniform_weights else Weighting.WEIGHTING_EXAMPLES


def protect(
    spec: JobSpec,
    clip_norm: float | None,
    secure: SecureAggregation | None,
    private: DifferentialPrivacy | None,
) -> None:
    """Write into a job what protects its updates. Raises InvalidJob."""
    if clip_norm is not None:
        if not clip_norm > 0:
            raise InvalidJob(f"clip_norm must be above 0, not {clip_norm:g}")
        spec.clip_norm = clip_norm
    if secure is not None:
        spec.secure_aggregation.CopyFrom(secure.message())
    if private is not None:
        spec.differential_privacy.CopyFrom(private.message())


def check(spec: JobSpec, task: Manifest, aggregation: Manifest) -> None:
    """Check what protects a job, as its coordinator will; fill in defaults. Raises InvalidJob."""
    try:
        protection.check(spec, task, aggregation)
    except Invalid as error:
        raise InvalidJob(error.message) from error
    except ValueError as error:
        raise InvalidJob(f"the job cannot be protected so: {error}") from error
    except ModuleNotFoundError as error:
        # an operator's machine may lack what counts epsilon; the coordinator has it
        if (error.name or "").partition(".")[0] != "dp_accounting":
            raise


def _message(
    kind: Callable[..., Message], where: str, known: dict[str, Any], **fields: Any
) -> Message:
    """A message of the given kind.

    Args:
        known: numbers for which the wire has 0 for "not given", so that 0 cannot be meant.
    """
    for name, value in known.items():
        if value is not None and not value > 0:
            raise InvalidJob(f"{where}.{name} must be above 0, not {value}")
    try:
        return kind(**known, **fields)
    except (TypeError, ValueError) as error:
        raise InvalidJob(f"{where} cannot be: {error}") from error


def _word(where: str, word: str, words: dict[str, Any]) -> Any:
    if word not in words:
        raise InvalidJob(f"{where} must be {' or '.join(words)}, not {word!r}")
    return words[word]
