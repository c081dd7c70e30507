"""What protects a job's updates: secure aggregation and differential privacy.

Here the settings are checked and filled in, once, when a job is submitted; and here is what they
mean for a round.
"""

from __future__ import annotations

import math

from cloister_coordinator import cohort
from cloister_coordinator.errors import Invalid
from cloister_privacy.accounting import Release
from cloister_privacy.counters import Counters
from cloister_privacy.encoding import (
    MAX_VALUE_BITS,
    MAX_WEIGHT,
    MIN_VALUE_BITS,
    Encoding,
)
from cloister_privacy.noise import count_variance, honest_survivors, member_variance
from cloister_privacy.parameters import plan
from cloister_protos import (
    AdaptiveClipping,
    DifferentialPrivacy,
    Graph,
    JobSpec,
    Kind,
    Noise,
    Role,
    SecureTerms,
    Weighting,
)
from cloister_tasks import Manifest

MAX_MEMBERS = 5000
"""Members of a round with secure aggregation; the roster of more exceeds a message of 4 MiB."""
MAX_STEP_SECONDS = 3600.0
MAX_FRACTION = 0.5
"""Of members that collude, or drop out; no threshold holds against half."""
MAX_NOISE_MULTIPLIER = 1000.0

DEFAULT_VALUE_BITS = 16
DEFAULT_MAX_WEIGHT = 1024
DEFAULT_STEP_SECONDS = 20.0
DEFAULT_QUANTILE = 0.5
DEFAULT_CLIP_RATE = 0.2
COUNT_NOISE_PART = 20
"""By default, the deviation of the noise on the number of unclipped updates is the fewest members
divided by this (Andrew et al. 2021, section 3.2)."""
COUNT_NOISE_LEAST = 2.0
"""But so many times the noise multiplier at least: it costs an eighth of epsilon then."""


def check(spec: JobSpec, task: Manifest, aggregation: Manifest) -> None:
    """Check a job whose other fields are right, and fill in the defaults.

    Raises:
        Invalid: a field is out of bounds, or the parts do not go together.
    """
    if not (math.isfinite(spec.clip_norm) and spec.clip_norm >= 0):
        raise _invalid("clip_norm", f"is {spec.clip_norm:g}; it must be 0 or more")
    if aggregation.masked:
        raise _invalid("aggregation", "adds masked vectors; secure aggregation does so by itself")
    if spec.HasField("secure_aggregation"):
        _check_secure(spec, aggregation)
    if spec.HasField("differential_privacy"):
        _check_private(spec, task)
    if spec.HasField("secure_aggregation"):
        _check_encoding(spec)


def members(spec: JobSpec) -> int:
    """Most members of a round."""
    return cohort.size(spec.cohort.target, spec.cohort.over_selection)


def secure_terms(spec: JobSpec) -> SecureTerms:
    """What the members of each of a checked job's rounds are told."""
    terms = SecureTerms(
        settings=spec.secure_aggregation,
        members=members(spec),
        minimum=spec.cohort.minimum,
        private=spec.HasField("differential_privacy"),
    )
    privacy = spec.differential_privacy
    if privacy.noise == Noise.NOISE_DISTRIBUTED:
        honest = _honest(spec)
        terms.noise_variance = member_variance(
            privacy.noise_multiplier, spec.secure_aggregation.value_bits, honest
        )
        if privacy.HasField("adaptive"):
            terms.count_variance = count_variance(privacy.adaptive.count_noise, honest)
    elif privacy.noise == Noise.NOISE_CENTRAL:
        steps = 1 << spec.secure_aggregation.value_bits - 1
        terms.central_variance = (privacy.noise_multiplier * steps) ** 2
    return terms


def default_count_noise(minimum: int, noise_multiplier: float) -> float:
    """Deviation of the noise on the number of unclipped updates when nobody says."""
    return max(minimum / COUNT_NOISE_PART, COUNT_NOISE_LEAST * noise_multiplier)


def counters(terms: SecureTerms, task: Manifest) -> Counters:
    """What is summed beside the update."""
    names = [buffer.name for buffer in task.of(Role.ROLE_METRIC)]
    return Counters(names, terms.members, terms.private)


def release(spec: JobSpec, task: Manifest) -> Release | None:
    """What each round of a job costs; None: it has no differential privacy."""
    if not spec.HasField("differential_privacy"):
        return None
    return Release.of(
        spec.differential_privacy,
        value_bits=spec.secure_aggregation.value_bits,
        parameters=task.parameter_count,
        honest=_honest(spec),
    )


def _honest(spec: JobSpec) -> int:
    return honest_survivors(
        spec.cohort.minimum, members(spec), spec.secure_aggregation.corrupt_fraction
    )


def _check_secure(spec: JobSpec, aggregation: Manifest) -> None:
    secure = spec.secure_aggregation
    if not spec.clip_norm:
        raise _invalid("clip_norm", "is absent; integers of secure aggregation need a largest")
    if not aggregation.linear:
        raise _invalid(
            "aggregation", f"{aggregation.name} needs single updates, not only their weighted sum"
        )
    secure.graph = secure.graph or Graph.GRAPH_COMPLETE
    if secure.graph not in Graph.values():
        raise _invalid("secure_aggregation.graph", f"is {secure.graph}, which is not known here")
    for name in ("corrupt_fraction", "drop_out_fraction"):
        _between(f"secure_aggregation.{name}", getattr(secure, name), 0.0, MAX_FRACTION)
    secure.value_bits = secure.value_bits or DEFAULT_VALUE_BITS
    _between("secure_aggregation.value_bits", secure.value_bits, MIN_VALUE_BITS, MAX_VALUE_BITS)
    secure.step_seconds = secure.step_seconds or DEFAULT_STEP_SECONDS
    _between("secure_aggregation.step_seconds", secure.step_seconds, 0.1, MAX_STEP_SECONDS)
    if spec.weighting == Weighting.WEIGHTING_UNIFORM or aggregation.unweighted:
        if secure.max_weight > 1:
            raise _invalid("secure_aggregation.max_weight", "is not 1 although updates count alike")
        secure.max_weight = 1
    secure.max_weight = secure.max_weight or DEFAULT_MAX_WEIGHT
    _between("secure_aggregation.max_weight", secure.max_weight, 1, MAX_WEIGHT)
    if spec.cohort.minimum < 2:
        raise _invalid("cohort.minimum", "is below 2; a sum of one update is that update")
    if (most := members(spec)) > MAX_MEMBERS:
        raise _invalid("cohort", f"selects {most} members; a roster holds {MAX_MEMBERS}")
    _check_graph(spec, most)


def _check_graph(spec: JobSpec, most: int) -> None:
    """There must be a graph, and a sum by those who have reported when the round closes."""
    secure = spec.secure_aggregation
    ring = secure.graph == Graph.GRAPH_RING
    try:
        chosen = plan(
            most,
            secure.corrupt_fraction,
            secure.drop_out_fraction,
            graph="ring" if ring else "complete",
        )
    except ValueError as error:
        raise _invalid("secure_aggregation", f"has no safe graph: {error}") from error
    least = most - chosen.drop_outs if ring else chosen.threshold
    if spec.cohort.target < least:
        raise _invalid(
            "cohort.over_selection",
            f"selects {most} members, of whom {least} have to stay to the end under secure"
            f" aggregation, but {spec.cohort.target} updates complete a round: lower it",
        )


def _check_private(spec: JobSpec, task: Manifest) -> None:
    privacy = spec.differential_privacy
    if not spec.HasField("secure_aggregation"):
        raise _invalid("differential_privacy", "needs secure_aggregation, which is absent")
    if privacy.noise not in (Noise.NOISE_CENTRAL, Noise.NOISE_DISTRIBUTED):
        raise _invalid("differential_privacy.noise", "must be central or distributed")
    if task.kind == Kind.KIND_SUMMARY and privacy.HasField("adaptive"):
        raise _invalid("differential_privacy.adaptive", "is for training, not for summaries")
    if spec.secure_aggregation.max_weight != 1:
        raise _invalid(
            "weighting", "must be uniform under differential privacy: no update counts for more"
        )
    if spec.evaluate_every:
        raise _invalid("evaluate_every", "is not 0; exact metrics would not be private")
    _between(
        "differential_privacy.noise_multiplier",
        privacy.noise_multiplier,
        1e-6,
        MAX_NOISE_MULTIPLIER,
    )
    if not (math.isfinite(privacy.epsilon) and privacy.epsilon >= 0):
        raise _invalid(
            "differential_privacy.epsilon", f"is {privacy.epsilon:g}; it must be above 0"
        )
    if not 0 < privacy.delta < 1:
        raise _invalid(
            "differential_privacy.delta", f"is {privacy.delta:g}; it must be above 0 and below 1"
        )
    if _honest(spec) < 1:
        raise _invalid(
            "cohort.minimum", "leaves no honest member: raise it, or assume fewer corrupt ones"
        )
    if privacy.HasField("adaptive"):
        _check_adaptive(privacy, spec.cohort.minimum)
    try:
        _check_budget(spec, privacy, task)
    except ValueError as error:
        raise _invalid("differential_privacy", f"has no such noise: {error}") from error


def _check_adaptive(privacy: DifferentialPrivacy, minimum: int) -> None:
    adaptive: AdaptiveClipping = privacy.adaptive
    adaptive.quantile = adaptive.quantile or DEFAULT_QUANTILE
    _between("differential_privacy.adaptive.quantile", adaptive.quantile, 0.01, 0.99)
    adaptive.learning_rate = adaptive.learning_rate or DEFAULT_CLIP_RATE
    _between("differential_privacy.adaptive.learning_rate", adaptive.learning_rate, 1e-6, 1.0)
    adaptive.count_noise = adaptive.count_noise or default_count_noise(
        minimum, privacy.noise_multiplier
    )
    _between("differential_privacy.adaptive.count_noise", adaptive.count_noise, 0.01, 1e6)


def _check_budget(spec: JobSpec, privacy: DifferentialPrivacy, task: Manifest) -> None:
    cost = release(spec, task)
    assert cost is not None
    if privacy.epsilon and (first := cost.epsilon(1, privacy.delta)) > privacy.epsilon:
        raise _invalid(
            "differential_privacy.epsilon",
            f"of {privacy.epsilon:g} is less than the {first:.4g} that one round costs:"
            " raise the noise multiplier, or the budget",
        )


def _check_encoding(spec: JobSpec) -> None:
    try:
        terms = secure_terms(spec)
        Encoding(
            clip_norm=spec.clip_norm,
            value_bits=terms.settings.value_bits,
            max_weight=terms.settings.max_weight,
            members=terms.members,
            noise_variance=terms.noise_variance,
            central_variance=terms.central_variance,
        )
    except ValueError as error:
        raise _invalid("secure_aggregation", f"has no encoding: {error}") from error


def _between(field: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # false for NaN too
        raise _invalid(field, f"is {value:g}; it must be from {least:g} to {most:g}")


def _invalid(field: str, fault: str) -> Invalid:
    return Invalid("BAD_JOB", f"{field} {fault}", "Correct the job and submit it again.")
