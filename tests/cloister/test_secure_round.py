"""One round with made-up updates of whole steps, whose sum is known to the last bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.gathering import Exit, Report
from cloister.protection import SecureAggregation
from cloister.secure_round import SecureRound, SecureRounds
from cloister_coordinator import protection
from cloister_privacy.counters import EXAMPLES, TRAINED_ROWS, UNCLIPPED, WEIGHT
from cloister_privacy.errors import Unrecoverable
from cloister_protos import Cohort, JobSpec, Role, Training
from cloister_sandbox import Limits, SandboxPool
from cloister_tasks import Module, builtin, template

CLIP_NORM = 1.0
STEP = CLIP_NORM / (1 << 15)
MEMBERS = 9


@pytest.fixture(scope="module")
def rounds() -> Iterator[SecureRounds]:
    task = Module.parse(template.build("softmax-regression", features=4, classes=3))
    fedavg = Module.parse(builtin.aggregation("fedavg"))
    spec = JobSpec(
        rounds=1,
        cohort=Cohort(target=MEMBERS, minimum=2, over_selection=1.0),
        clip_norm=CLIP_NORM,
        secure_aggregation=SecureAggregation(max_weight=100).message(),
    )
    protection.check(spec, task.manifest, fedavg.manifest)
    with SandboxPool(Limits(), isolated=False) as pool:
        yield SecureRounds(spec, task, fedavg, pool, 2)


def begin(rounds: SecureRounds) -> SecureRound:
    model = np.zeros(rounds.parameters, np.float32)
    return rounds.begin(1, 0, model, Training(epochs=2), CLIP_NORM)


def steps_of(place: int) -> np.ndarray:
    return np.random.default_rng(place).integers(-9000, 9001, 15)


def report(place: int) -> Report:
    """Of 40, 60, 80, ... rows; more than 100 count for 100."""
    update = (steps_of(place) * STEP).astype(np.float32)
    rows = 40 + 20 * place
    return Report(update, place % 3 > 0, rows, 2 * rows, np.array([place + 0.5, -0.25]))


EXITS = st.lists(st.sampled_from([*Exit, *[Exit.NEVER] * 12]), min_size=MEMBERS, max_size=MEMBERS)


@settings(max_examples=30, deadline=None)
@given(EXITS)
def test_the_sum_of_those_whose_vectors_arrived(rounds: SecureRounds, exits: list[Exit]) -> None:
    gathering = begin(rounds)
    members = [f"m{place}" for place in range(MEMBERS)]
    counted = [place for place, step in enumerate(exits) if step > Exit.VECTOR]
    keyed = sum(step > Exit.KEYS for step in exits)
    enough = sum(step > Exit.UNMASKING for step in exits) >= max(2, keyed // 2 + 1)
    try:
        gathering.join(dict(zip(members, exits, strict=True)))
        for place in counted:
            gathering.hand_in(members[place], report(place))
        found = gathering.gather()
    except Unrecoverable:
        assert not enough
        return
    assert enough
    weights = [min(100, 40 + 20 * place) for place in counted]
    expected = sum(w * steps_of(p) for w, p in zip(weights, counted, strict=True)) * STEP
    (total,) = found.updates
    np.testing.assert_array_equal(total, np.float32(expected))
    assert found.weights.tolist() == [1.0]
    assert found.total == sum(weights)
    rows = sum(40 + 20 * place for place in counted)
    assert found.counters[WEIGHT] == sum(weights)
    assert found.counters[EXAMPLES] == rows
    assert found.counters[TRAINED_ROWS] == found.training.examples == 2 * rows
    assert found.counters[UNCLIPPED] == sum(place % 3 > 0 for place in counted)
    assert found.clipped == sum(place % 3 == 0 for place in counted)
    sums = {"loss": sum(place + 0.5 for place in counted), "accuracy": -0.25 * len(counted)}
    assert found.training.means == {name: total / (2 * rows) for name, total in sums.items()}


@pytest.mark.parametrize("step", [step for step in Exit if step is not Exit.NEVER])
def test_a_drop_out_at_each_step(rounds: SecureRounds, step: Exit) -> None:
    gathering = begin(rounds)
    gathering.join({"m0": step, **{f"m{place}": Exit.NEVER for place in range(1, 4)}})
    counted = [place for place in range(4) if place or step > Exit.VECTOR]
    for place in counted:
        gathering.hand_in(f"m{place}", report(place))
    expected = sum(min(100, 40 + 20 * place) * steps_of(place) for place in counted) * STEP
    np.testing.assert_array_equal(gathering.gather().updates[0], np.float32(expected))


def test_a_report_that_cannot_be_counted(rounds: SecureRounds) -> None:
    assert len(rounds._task.manifest.of(Role.ROLE_METRIC)) == 2
    gathering = begin(rounds)
    gathering.join({f"m{place}": Exit.NEVER for place in range(3)})
    bad = report(0)
    bad.sums[1] = np.nan
    with pytest.raises(ValueError, match="training accuracy is nan"):
        gathering.hand_in("m0", bad)
    for place in (1, 2):
        gathering.hand_in(f"m{place}", report(place))
    assert gathering.gather().counters[WEIGHT] == 60 + 80


def test_whoever_is_to_blame_is_named(rounds: SecureRounds) -> None:
    gathering = begin(rounds)
    gathering.join({"m0": Exit.UNMASKING, "m1": Exit.UNMASKING, "m2": Exit.NEVER})
    for place in range(3):
        gathering.hand_in(f"m{place}", report(place))
    with pytest.raises(Unrecoverable, match=r"1 of 2 shares of m[012]'s secret were revealed"):
        gathering.gather()
