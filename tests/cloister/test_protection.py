from __future__ import annotations

from typing import Any

import pytest

from cloister.errors import InvalidJob
from cloister.protection import (
    AdaptiveClipping,
    DifferentialPrivacy,
    SecureAggregation,
    default_minimum,
    default_weighting,
    protect,
)
from cloister_protos import Graph, JobSpec, Noise, Weighting

PRIVATE = DifferentialPrivacy(noise_multiplier=1, delta=1e-6)


def test_the_words_of_the_wire() -> None:
    privacy = DifferentialPrivacy(
        noise_multiplier=0.5, delta=1e-6, epsilon=3, noise="central", adaptive=AdaptiveClipping()
    )
    message = privacy.message()
    assert message.noise == Noise.NOISE_CENTRAL
    assert (message.noise_multiplier, message.epsilon, message.delta) == (0.5, 3, 1e-6)
    # what is not said is left to the coordinator
    assert (message.adaptive.quantile, message.adaptive.count_noise) == (0.5, 0)
    masked = SecureAggregation(graph="ring", corrupt_fraction=0.1, max_weight=7).message()
    assert masked.graph == Graph.GRAPH_RING
    assert (masked.corrupt_fraction, masked.max_weight, masked.value_bits) == (0.1, 7, 16)
    assert SecureAggregation().message().max_weight == 0


def test_what_is_absent_stays_absent() -> None:
    spec = JobSpec()
    protect(spec, None, None, None)
    assert spec == JobSpec()
    protect(spec, 2.0, SecureAggregation(), PRIVATE)
    assert spec.clip_norm == 2
    assert not spec.differential_privacy.HasField("adaptive")
    assert spec.differential_privacy.epsilon == 0


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (SecureAggregation(value_bits=0), "secure_aggregation.value_bits must be above 0, not 0"),
        (SecureAggregation(max_weight=-1), "max_weight must be above 0"),
        (SecureAggregation(max_weight=1 << 64), "secure_aggregation cannot be"),
        (SecureAggregation(step_seconds=float("nan")), "step_seconds must be above 0"),
        (SecureAggregation(graph="tree"), "complete or ring, not 'tree'"),  # type: ignore[arg-type]
        (AdaptiveClipping(quantile=0), "adaptive.quantile must be above 0"),
        (AdaptiveClipping(count_noise=0), "adaptive.count_noise must be above 0"),
        (DifferentialPrivacy(noise_multiplier=0, delta=0.1), "noise_multiplier must be above 0"),
        (DifferentialPrivacy(noise_multiplier=1, delta=0), "delta must be above 0"),
        (DifferentialPrivacy(noise_multiplier=1, delta=0.1, epsilon=0), "epsilon must be above 0"),
        (
            DifferentialPrivacy(noise_multiplier=1, delta=0.1, noise="none"),  # type: ignore[arg-type]
            "central or distributed, not 'none'",
        ),
    ],
)
def test_a_setting_that_cannot_be(setting: Any, says: str) -> None:
    """On the wire 0 would mean that nothing was said."""
    with pytest.raises(InvalidJob, match=says):
        setting.message()


def test_what_holds_when_nobody_says() -> None:
    assert default_minimum(8, None, None) == 1
    assert default_minimum(8, SecureAggregation(), None) == 3
    assert default_minimum(2, SecureAggregation(), None) == 2
    assert default_minimum(8, SecureAggregation(), PRIVATE) == 5
    assert default_minimum(4, SecureAggregation(), PRIVATE) == 3
    assert default_weighting(None, None) == Weighting.WEIGHTING_EXAMPLES
    assert default_weighting(None, PRIVATE) == Weighting.WEIGHTING_UNIFORM
    assert default_weighting(False, PRIVATE) == Weighting.WEIGHTING_EXAMPLES
