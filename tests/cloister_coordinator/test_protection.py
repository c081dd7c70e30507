"""What a job's protection may be, and what it means, against numbers calculated by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from cloister_coordinator.errors import Invalid
from cloister_coordinator.protection import check, counters, members, release, secure_terms
from cloister_privacy.accounting import Release
from cloister_protos import (
    AdaptiveClipping,
    Cohort,
    DifferentialPrivacy,
    Graph,
    JobSpec,
    Noise,
    SecureAggregation,
    SecureTerms,
    Weighting,
)
from cloister_tasks import Manifest, Module, aggregation, build
from cloister_tasks.builtin import ring_sum

Divergence: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]

NAN, INF = math.nan, math.inf
UNIFORM, EXAMPLES = Weighting.WEIGHTING_UNIFORM, Weighting.WEIGHTING_EXAMPLES
CENTRAL, DISTRIBUTED = Noise.NOISE_CENTRAL, Noise.NOISE_DISTRIBUTED


def manifest(content: bytes) -> Manifest:
    return Module.parse(content).manifest


TRAINING = manifest(build("softmax-regression", features=2, classes=2))
"""Of 6 parameters."""
SUMMARY = manifest(build("summarize", features=2))
FEDAVG, MEDIAN, SUM = (manifest(aggregation(name)) for name in ("fedavg", "median", "sum"))
MASKED = manifest(ring_sum())


def plain(**fields: Any) -> JobSpec:
    """A job without protection, of 12 members, of whom 10 complete a round and 8 are enough."""
    usual: dict[str, Any] = {
        "rounds": 5,
        "cohort": Cohort(target=10, minimum=8, over_selection=1.2),
        "weighting": EXAMPLES,
    }
    return JobSpec(**usual | fields)


def secured(settings: SecureAggregation | None = None, **fields: Any) -> JobSpec:
    secure = SecureAggregation() if settings is None else settings
    return plain(**{"clip_norm": 1.0, "secure_aggregation": secure} | fields)


def private(settings: SecureAggregation | None = None, /, **fields: Any) -> JobSpec:
    """With noise of 1.5 clipping norms; fields of DifferentialPrivacy change it, others the job."""
    usual: dict[str, Any] = {"noise": CENTRAL, "noise_multiplier": 1.5, "delta": 1e-6}
    own = {name for name in fields if name in DifferentialPrivacy.DESCRIPTOR.fields_by_name}
    privacy = DifferentialPrivacy(**usual | {name: fields.pop(name) for name in own})
    return secured(settings, **{"weighting": UNIFORM, "differential_privacy": privacy} | fields)


def adaptive(**fields: float) -> JobSpec:
    return private(adaptive=AdaptiveClipping(**fields))


def secure(**fields: Any) -> SecureAggregation:
    return SecureAggregation(**fields)


def checked(spec: JobSpec, task: Manifest = TRAINING, reduction: Manifest = FEDAVG) -> JobSpec:
    check(spec, task, reduction)
    return spec


def refusal(spec: JobSpec, task: Manifest = TRAINING, reduction: Manifest = FEDAVG) -> str:
    with pytest.raises(Invalid) as caught:
        check(spec, task, reduction)
    assert caught.value.reason == "BAD_JOB"
    assert "submit it again" in caught.value.help_text
    return caught.value.message


HALF = "it must be from 0 to 0.5"
SETTINGS = "secure_aggregation"
PRIVACY = "differential_privacy"

REFUSED: list[tuple[str, str, JobSpec]] = [
    ("clip_norm", "is -1; it must be 0 or more", plain(clip_norm=-1.0)),
    ("clip_norm", "is nan; it must be 0 or more", plain(clip_norm=NAN)),
    ("clip_norm", "is inf; it must be 0 or more", plain(clip_norm=INF)),
    ("clip_norm", "is absent", secured(clip_norm=0.0)),
    (f"{SETTINGS}.graph", "is 7, which is not known", secured(secure(graph=7))),
    (f"{SETTINGS}.corrupt_fraction", f"is -0.1; {HALF}", secured(secure(corrupt_fraction=-0.1))),
    (f"{SETTINGS}.corrupt_fraction", f"is 0.51; {HALF}", secured(secure(corrupt_fraction=0.51))),
    (f"{SETTINGS}.corrupt_fraction", f"is nan; {HALF}", secured(secure(corrupt_fraction=NAN))),
    (f"{SETTINGS}.drop_out_fraction", f"is -0.1; {HALF}", secured(secure(drop_out_fraction=-0.1))),
    (f"{SETTINGS}.drop_out_fraction", f"is 0.51; {HALF}", secured(secure(drop_out_fraction=0.51))),
    (f"{SETTINGS}.drop_out_fraction", f"is nan; {HALF}", secured(secure(drop_out_fraction=NAN))),
    (f"{SETTINGS}.value_bits", "is 1; it must be from 2 to 24", secured(secure(value_bits=1))),
    (f"{SETTINGS}.value_bits", "is 25; it must be from 2 to 24", secured(secure(value_bits=25))),
    (f"{SETTINGS}.step_seconds", "is 0.09; it must be", secured(secure(step_seconds=0.09))),
    (f"{SETTINGS}.step_seconds", "is 3601; it must be", secured(secure(step_seconds=3601))),
    (f"{SETTINGS}.step_seconds", "is nan; it must be", secured(secure(step_seconds=NAN))),
    (
        f"{SETTINGS}.max_weight",
        "is 4.29497e+09; it must be from 1",
        secured(secure(max_weight=(1 << 32) + 1)),
    ),
    (
        f"{SETTINGS}.max_weight",
        "is not 1 although updates count alike",
        secured(secure(max_weight=2), weighting=UNIFORM),
    ),
    (
        "cohort.minimum",
        "is below 2; a sum of one",
        secured(cohort=Cohort(target=10, minimum=1, over_selection=1.2)),
    ),
    (
        "cohort",
        "selects 5001 members; a roster holds 5000",
        secured(cohort=Cohort(target=5001, minimum=4000, over_selection=1.0)),
    ),
    (
        SETTINGS,  # 7 shares are more than 6 who stay
        "has no safe graph: 6 survivors of 12 members are fewer than the 7 shares",
        secured(secure(drop_out_fraction=0.5)),
    ),
    (
        SETTINGS,
        "has no safe graph: no ring of 12 members",
        secured(secure(graph=Graph.GRAPH_RING, corrupt_fraction=0.5, drop_out_fraction=0.5)),
    ),
    (
        "cohort.over_selection",  # of 20 in a complete graph it takes over half
        "selects 20 members, of whom 11 have to stay to the end",
        secured(cohort=Cohort(target=10, minimum=8, over_selection=2.0)),
    ),
    (
        "cohort.over_selection",  # and with 4 of 16 against them, half of 20
        "selects 16 members, of whom 11 have to stay to the end",
        secured(
            secure(corrupt_fraction=0.25), cohort=Cohort(target=10, minimum=8, over_selection=1.6)
        ),
    ),
    (
        "cohort.over_selection",  # on a ring, all but a twentieth of 400
        "selects 400 members, of whom 380 have to stay to the end",
        secured(
            secure(graph=Graph.GRAPH_RING, corrupt_fraction=0.05, drop_out_fraction=0.05),
            cohort=Cohort(target=379, minimum=300, over_selection=400 / 379),
        ),
    ),
    (
        PRIVACY,
        "needs secure_aggregation, which is absent",
        plain(weighting=UNIFORM, clip_norm=1.0, differential_privacy=DifferentialPrivacy()),
    ),
    (f"{PRIVACY}.noise", "must be central or distributed", private(noise=0)),
    (f"{PRIVACY}.noise", "must be central or distributed", private(noise=3)),
    ("weighting", "must be uniform under differential privacy", private(weighting=EXAMPLES)),
    ("evaluate_every", "is not 0; exact metrics", private(evaluate_every=1)),
    (f"{PRIVACY}.noise_multiplier", "is 0; it must be from 1e-06", private(noise_multiplier=0)),
    (f"{PRIVACY}.noise_multiplier", "is nan; it must be", private(noise_multiplier=NAN)),
    (f"{PRIVACY}.noise_multiplier", "is 1001; it must be", private(noise_multiplier=1001)),
    (f"{PRIVACY}.epsilon", "is -1; it must be above 0", private(epsilon=-1)),
    (f"{PRIVACY}.epsilon", "is nan; it must be above 0", private(epsilon=NAN)),
    (f"{PRIVACY}.epsilon", "is inf; it must be above 0", private(epsilon=INF)),
    (f"{PRIVACY}.delta", "is 0; it must be above 0 and below 1", private(delta=0)),
    (f"{PRIVACY}.delta", "is 1; it must be above 0 and below 1", private(delta=1)),
    (f"{PRIVACY}.delta", "is nan; it must be above 0 and below 1", private(delta=NAN)),
    (
        "cohort.minimum",  # 3 of 12 are corrupt, and 3 are enough
        "leaves no honest member",
        private(
            secure(corrupt_fraction=0.25), cohort=Cohort(target=10, minimum=3, over_selection=1.2)
        ),
    ),
    (f"{PRIVACY}.adaptive.quantile", "is 0.009; it must be from 0.01", adaptive(quantile=0.009)),
    (f"{PRIVACY}.adaptive.quantile", "is 1; it must be from 0.01 to 0.99", adaptive(quantile=1)),
    (f"{PRIVACY}.adaptive.quantile", "is nan; it must be", adaptive(quantile=NAN)),
    (f"{PRIVACY}.adaptive.learning_rate", "is -1; it must be", adaptive(learning_rate=-1)),
    (f"{PRIVACY}.adaptive.learning_rate", "is 1.5; it must be", adaptive(learning_rate=1.5)),
    (f"{PRIVACY}.adaptive.learning_rate", "is nan; it must be", adaptive(learning_rate=NAN)),
    (f"{PRIVACY}.adaptive.count_noise", "is -1; it must be from 0.01", adaptive(count_noise=-1)),
    (f"{PRIVACY}.adaptive.count_noise", "is 2e+06; it must be", adaptive(count_noise=2e6)),
    (f"{PRIVACY}.adaptive.count_noise", "is nan; it must be", adaptive(count_noise=NAN)),
    (
        PRIVACY,  # 6 * 2^15 steps, of which each of 8 has 69511: more than 2^16
        "has no such noise: noise of deviation 69511.4 steps for each member",
        private(noise=DISTRIBUTED, noise_multiplier=6),
    ),
    (
        PRIVACY,  # 200 * 2^10 steps, of which each of 8 has 72408
        "has no such noise: noise of deviation 72407.7 steps for each member",
        private(noise=DISTRIBUTED, adaptive=AdaptiveClipping(count_noise=200)),
    ),
    (
        SETTINGS,
        "has no encoding: a clipping norm of 1e-39 is no positive float32",
        secured(clip_norm=1e-39),
    ),
    (
        SETTINGS,  # 200 * 2^32 * 2^23, and a sign
        "has no encoding: a sum takes 64 bits, of at most 62",
        secured(secure(value_bits=24, max_weight=1 << 32), cohort=Cohort(target=200, minimum=2)),
    ),
]


@pytest.mark.parametrize(
    ("field", "reason", "spec"), REFUSED, ids=[f"{field} {why}" for field, why, _ in REFUSED]
)
def test_a_job_is_refused_with_the_field_and_the_reason(
    field: str, reason: str, spec: JobSpec
) -> None:
    spec.cohort.over_selection = spec.cohort.over_selection or 1.0
    assert refusal(spec).startswith(f"{field} {reason}")


def test_an_aggregation_that_needs_single_updates_is_refused() -> None:
    assert refusal(secured(), TRAINING, MEDIAN).startswith("aggregation median needs single")
    checked(plain(), TRAINING, MEDIAN)


@pytest.mark.parametrize("spec", [plain(), secured()], ids=["plain", "secured"])
def test_an_aggregation_of_masked_vectors_is_refused(spec: JobSpec) -> None:
    assert refusal(spec, TRAINING, MASKED).startswith("aggregation adds masked vectors")


def test_an_aggregation_without_weights_takes_none() -> None:
    found = refusal(secured(secure(max_weight=2)), TRAINING, SUM)
    assert found.startswith("secure_aggregation.max_weight is not 1")
    assert checked(secured(), TRAINING, SUM).secure_aggregation.max_weight == 1


def test_adaptive_clipping_is_not_for_summaries() -> None:
    assert refusal(adaptive(), SUMMARY, SUM).startswith("differential_privacy.adaptive is for")
    checked(private(), SUMMARY, SUM)
    checked(adaptive())


SPARSE = Graph.GRAPH_RING
"""Of 400 members, a twentieth of whom is corrupt, and another gone."""


@pytest.mark.parametrize(
    "spec",
    [
        secured(secure(corrupt_fraction=0.5, value_bits=2, step_seconds=0.1, max_weight=1)),
        secured(secure(value_bits=24, step_seconds=3600)),
        secured(secure(max_weight=1 << 32, value_bits=16)),
        secured(
            secure(drop_out_fraction=0.5),  # 6 of 13, and 7 shares
            cohort=Cohort(target=13, minimum=2, over_selection=1.0),
        ),
        secured(cohort=Cohort(target=10, minimum=8, over_selection=1.8)),
        secured(
            secure(graph=SPARSE, corrupt_fraction=0.05, drop_out_fraction=0.05),
            cohort=Cohort(target=380, minimum=300, over_selection=400 / 380),
        ),
        private(noise_multiplier=1e-6),
        private(noise_multiplier=1000),
        private(adaptive=AdaptiveClipping(quantile=0.01, learning_rate=1e-6, count_noise=0.01)),
        private(adaptive=AdaptiveClipping(quantile=0.99, learning_rate=1, count_noise=1e6)),
        private(noise=DISTRIBUTED, noise_multiplier=5.6),  # each of 8 has 64876 steps
        private(secure(corrupt_fraction=0.25), cohort=Cohort(target=8, minimum=3)),
    ],
)
def test_the_ends_of_each_range_are_taken(spec: JobSpec) -> None:
    spec.cohort.over_selection = spec.cohort.over_selection or 1.0
    checked(spec)


def test_the_largest_roster_is_taken() -> None:
    spec = secured(cohort=Cohort(target=5000, minimum=4000, over_selection=1.0))
    assert members(checked(spec)) == 5000


def test_a_job_without_protection_is_left_as_it_is() -> None:
    for spec in (plain(), plain(clip_norm=2.5)):
        before = spec.SerializeToString(deterministic=True)
        checked(spec)
        assert spec.SerializeToString(deterministic=True) == before
        assert not spec.HasField("secure_aggregation")
        assert not spec.HasField("differential_privacy")


def test_defaults_of_secure_aggregation() -> None:
    expected = SecureAggregation(
        graph=Graph.GRAPH_COMPLETE, value_bits=16, max_weight=1024, step_seconds=20.0
    )
    assert checked(secured()).secure_aggregation == expected
    expected.max_weight = 1
    assert checked(secured(weighting=UNIFORM)).secure_aggregation == expected


@pytest.mark.parametrize(
    ("minimum", "multiplier", "expected"),
    [
        (8, 1.5, 3.0),  # twice the multiplier
        (8, 0.1, 0.4),  # a twentieth of 8
        (300, 1.5, 15.0),
        (300, 7.5, 15.0),
        (300, 8.0, 16.0),
    ],
)
def test_defaults_of_adaptive_clipping(minimum: int, multiplier: float, expected: float) -> None:
    spec = checked(
        private(
            noise_multiplier=multiplier,
            adaptive=AdaptiveClipping(),
            cohort=Cohort(target=minimum, minimum=minimum, over_selection=1.0),
        )
    )
    adaptive = spec.differential_privacy.adaptive
    assert (adaptive.quantile, adaptive.learning_rate) == (0.5, 0.2)
    assert adaptive.count_noise == pytest.approx(expected, rel=1e-15)


def test_what_is_given_is_not_replaced() -> None:
    settings = SecureAggregation(
        graph=SPARSE,
        corrupt_fraction=0.04,
        drop_out_fraction=0.05,
        value_bits=12,
        max_weight=1,
        step_seconds=7.5,
    )
    clipping = AdaptiveClipping(quantile=0.7, learning_rate=0.1, count_noise=2.25)
    spec = private(
        settings,
        adaptive=clipping,
        epsilon=50,
        cohort=Cohort(target=380, minimum=300, over_selection=400 / 380),
    )
    before = spec.SerializeToString(deterministic=True)
    assert checked(spec).SerializeToString(deterministic=True) == before


QUARTER = SecureAggregation(corrupt_fraction=0.25, value_bits=12)
"""3 of 12 members are corrupt, so that 5 of the fewest survivors are honest; a clipping norm is
2^11 = 2048 steps."""


@pytest.mark.parametrize(
    ("spec", "private_", "variances"),
    [
        (secured(QUARTER), False, (0, 0, 0)),
        # (1.5 * 2048)^2, all of it by the coordinator
        (private(QUARTER), True, (0, 0, 9_437_184)),
        (private(QUARTER, adaptive=AdaptiveClipping(count_noise=4)), True, (0, 0, 9_437_184)),
        # a fifth of it by each honest member: Skellam noises add up to one of the sum's variance
        (private(QUARTER, noise=DISTRIBUTED), True, (1_887_436.8, 0, 0)),
        # and (4 * 1024)^2 / 5 on the count
        (
            private(QUARTER, noise=DISTRIBUTED, adaptive=AdaptiveClipping(count_noise=4)),
            True,
            (1_887_436.8, 3_355_443.2, 0),
        ),
        # (3 * 1024)^2 / 5, where 3 is the default
        (
            private(QUARTER, noise=DISTRIBUTED, adaptive=AdaptiveClipping()),
            True,
            (1_887_436.8, 1_887_436.8, 0),
        ),
    ],
    ids=["none", "central", "central-adaptive", "distributed", "adaptive", "adaptive-default"],
)
def test_what_members_are_told(
    spec: JobSpec, private_: bool, variances: tuple[float, float, float]
) -> None:
    told = secure_terms(checked(spec))
    assert told.settings == SecureAggregation(
        graph=Graph.GRAPH_COMPLETE,
        corrupt_fraction=0.25,
        value_bits=12,
        max_weight=1 if private_ else 1024,
        step_seconds=20.0,
    )
    assert (told.members, told.minimum, told.private) == (12, 8, private_)
    found = told.noise_variance, told.count_variance, told.central_variance
    assert found == pytest.approx(variances, rel=1e-12)


def test_counters_are_the_tasks_metrics_unless_they_would_tell() -> None:
    told = SecureTerms(members=3)
    assert counters(told, TRAINING).names == (
        "weight",
        "unclipped",
        "examples",
        "trained_rows",
        "evaluated_rows",
        "training loss",
        "training accuracy",
        "evaluation loss",
        "evaluation accuracy",
    )
    told.private = True
    assert counters(told, TRAINING).names == ("weight", "unclipped")


def test_without_differential_privacy_nothing_is_released() -> None:
    assert release(checked(plain()), TRAINING) is None
    assert release(checked(secured()), TRAINING) is None


def test_what_a_round_releases() -> None:
    expected = Release(noise_multiplier=1.5, value_bits=12, parameters=6)
    assert release(checked(private(QUARTER)), TRAINING) == expected
    spec = private(QUARTER, noise=DISTRIBUTED, adaptive=AdaptiveClipping(count_noise=4))
    expected = Release(noise_multiplier=1.5, value_bits=12, parameters=6, honest=5, count_noise=4.0)
    assert release(checked(spec), TRAINING) == expected


def cost(divergence: Divergence, orders: NDArray[np.float64], delta: float) -> float:
    """Least epsilon over orders a: r(a) + log((a - 1) / a) - log(delta a) / (a - 1), Canonne,
    Kamath, Steinke, 2020, proposition 12."""
    a = orders
    return float((divergence(a) + np.log1p(-1 / a) - np.log(delta * a) / (a - 1)).min())


REAL = 1 + np.geomspace(1e-2, 1e6, 100_000)
WHOLE = np.arange(2.0, 100_000)
STEPS = 2.0**11
LONGEST = math.sqrt(STEPS**2 + 6 / 4 + STEPS + math.sqrt(6) / 2)
"""Of 6 integers of 12 bits, by conditional rounding with beta = exp(-1/2): Kairouz, Liu, Steinke,
2021, section 4.1."""


def gaussian(order: NDArray[np.float64], l2: float, deviation: float) -> NDArray[np.float64]:
    return order * l2**2 / (2 * deviation**2)


def skellam(
    order: NDArray[np.float64], l1: float, l2: float, deviation: float
) -> NDArray[np.float64]:
    """Agarwal, Kairouz, Liu, 2021, theorem 3.5."""
    some = ((2 * order - 1) * l2**2 + 6 * l1) / (4 * deviation**4)
    return gaussian(order, l2, deviation) + np.minimum(some, 3 * l1 / (2 * deviation**2))


BUDGETS: list[tuple[dict[str, Any], Divergence, NDArray[np.float64]]] = [
    ({}, lambda a: gaussian(a, LONGEST, 1.5 * STEPS), REAL),
    (
        {"adaptive": AdaptiveClipping(count_noise=2)},
        lambda a: gaussian(a, LONGEST, 1.5 * STEPS) + gaussian(a, 1, 2),
        REAL,
    ),
    (
        {"noise": DISTRIBUTED, "adaptive": AdaptiveClipping(count_noise=2)},
        lambda a: (
            skellam(a, math.sqrt(6) * LONGEST, LONGEST, 1.5 * STEPS) + skellam(a, 1024, 1024, 2048)
        ),
        WHOLE,
    ),
]


@pytest.mark.parametrize(
    ("fields", "divergence", "orders"), BUDGETS, ids=["central", "adaptive", "distributed"]
)
def test_a_budget_pays_for_one_round_at_least(
    fields: dict[str, Any], divergence: Divergence, orders: NDArray[np.float64]
) -> None:
    first = cost(divergence, orders, 1e-6)
    message = refusal(private(QUARTER, epsilon=0.995 * first, **fields))
    assert message.startswith(f"differential_privacy.epsilon of {0.995 * first:g} is less than the")
    assert message.endswith("that one round costs: raise the noise multiplier, or the budget")
    checked(private(QUARTER, epsilon=1.005 * first, **fields))
    checked(private(QUARTER, epsilon=0, **fields))  # none at all
