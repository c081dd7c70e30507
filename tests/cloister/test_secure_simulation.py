"""Simulations under secure aggregation, against plain ones and against sums in float64."""

from __future__ import annotations

import re

import numpy as np
import pytest

from cloister.errors import InvalidJob
from cloister.history import History
from cloister.protection import AdaptiveClipping, DifferentialPrivacy, SecureAggregation
from cloister.simulation import Client, simulate
from cloister_client.dataset import Dataset
from cloister_coordinator import protection
from cloister_protos import Cohort, JobSpec, Weighting
from cloister_tasks import Module, builtin, template

FEATURES, CLASSES = 6, 3
SIZES = [5, 17, 1, 40, 23]
CLIP_NORM = 4.0
STEP = CLIP_NORM / (1 << 15)
"""Of the default 16 bits."""


@pytest.fixture(scope="session")
def task() -> Module:
    return Module.parse(
        template.build("softmax-regression", features=FEATURES, classes=CLASSES, capacity=16)
    )


@pytest.fixture(scope="session")
def clients() -> list[Client]:
    random = np.random.default_rng(7)
    made = []
    for place, size in enumerate(SIZES):
        x = random.normal(size=(size, FEATURES)).astype(np.float32)
        y = (x[:, :CLASSES].argmax(axis=1)).astype(np.int32)
        made.append(Client(f"c{place}", Dataset({"features": x, "label": y}, {})))
    return made


def plain(task: Module, clients: list[Client], **changed: object) -> History:
    settings: dict[str, object] = {
        "rounds": 1,
        "epochs": 2,
        "hyperparameters": {"batch_size": 4, "learning_rate": 0.2},
        "seed": 3,
        "clip_norm": CLIP_NORM,
    }
    return simulate(task, clients, **{**settings, **changed})  # type: ignore[arg-type]


def secure(task: Module, clients: list[Client], **changed: object) -> History:
    return plain(task, clients, **{"secure_aggregation": SecureAggregation(), **changed})


def private(task: Module, clients: list[Client], **changed: object) -> History:
    noise = DifferentialPrivacy(noise_multiplier=1.0, delta=1e-5)
    return secure(task, clients, **{"differential_privacy": noise, **changed})


@pytest.mark.parametrize("bits", [8, 16, 24])
def test_one_round_is_the_plain_one_but_for_rounding(
    task: Module, clients: list[Client], bits: int
) -> None:
    settings = SecureAggregation(value_bits=bits)
    found = secure(task, clients, secure_aggregation=settings)
    expected = plain(task, clients)
    # each of five members is off by less than a step, in a sum over all rows
    step = CLIP_NORM / (1 << bits - 1)
    bound = len(SIZES) * step / sum(SIZES) + 4 * np.finfo(np.float32).eps
    error = np.abs(found.block.astype(np.float64) - expected.block).max()
    assert 0 < error < bound
    assert found.secure
    assert not expected.secure
    assert (found.rounds[0].survivors, found.rounds[0].clipped) == (5, 0)


def test_metrics_are_summed_to_the_twentieth_bit(task: Module, clients: list[Client]) -> None:
    found, expected = (run(task, clients).rounds[0].training for run in (secure, plain))
    assert found.examples == expected.examples == 2 * sum(SIZES)
    for name, mean in expected.means.items():
        bound = len(SIZES) * 0.5 * 2.0**-20 / expected.examples
        assert found.means[name] == pytest.approx(mean, abs=bound)


def test_weights_are_cut_to_the_largest(task: Module, clients: list[Client]) -> None:
    start = np.zeros(task.manifest.parameter_count, np.float32)
    common = {"initial_model": start, "secure_aggregation": None}
    single = [plain(task, [c], aggregation="sum", **common).block for c in clients]
    weights = np.minimum(SIZES, 10)
    expected = np.average(np.array(single, np.float64), axis=0, weights=weights)
    found = secure(
        task,
        clients,
        initial_model=start,
        secure_aggregation=SecureAggregation(max_weight=10),
    )
    np.testing.assert_allclose(found.block, expected, atol=5 * STEP / weights.sum())


def test_equal_weights(task: Module, clients: list[Client]) -> None:
    found, expected = (run(task, clients, uniform_weights=True) for run in (secure, plain))
    np.testing.assert_allclose(found.block, expected.block, atol=STEP)


def test_long_updates_are_clipped_and_counted(task: Module, clients: list[Client]) -> None:
    found, expected = (run(task, clients, clip_norm=0.5) for run in (secure, plain))
    assert found.rounds[0].clipped == expected.rounds[0].clipped > 0
    np.testing.assert_allclose(found.block, expected.block, atol=STEP)
    unclipped = plain(task, clients, clip_norm=None)
    assert unclipped.rounds[0].clipped == 0
    assert not np.allclose(unclipped.block, expected.block, atol=0.01)


def test_statistics_are_exact(clients: list[Client]) -> None:
    """A clipping norm that is a power of two makes whole numbers whole steps."""
    summary = Module.parse(template.build("summarize", features=FEATURES, bins=4, low=-2, high=2))
    settings = {"rounds": 1, "aggregation": "sum", "clip_norm": float(1 << 12)}
    masked = SecureAggregation(value_bits=24)
    found = simulate(summary, clients, secure_aggregation=masked, **settings)  # type: ignore[arg-type]
    rows = np.concatenate([c.dataset.train["features"] for c in clients]).astype(np.float64)
    np.testing.assert_array_equal(found.model["count"], np.full(FEATURES, sum(SIZES)))
    step = (1 << 12) / (1 << 23)
    np.testing.assert_allclose(found.model["sum"], rows.sum(axis=0), atol=5 * step, rtol=1e-6)


@pytest.mark.parametrize("run", [secure, private])
def test_the_seed_decides_and_threads_change_no_bit(
    task: Module, clients: list[Client], run: object
) -> None:
    def block(**changed: object) -> bytes:
        history: History = run(task, clients, rounds=2, drop_out=0.1, **changed)  # type: ignore[operator]
        return history.block.tobytes()

    assert block(threads=1) == block(threads=3)
    assert block() != block(seed=4)


def test_a_ring(task: Module, clients: list[Client]) -> None:
    random = np.random.default_rng(0)
    many = [
        Client(
            f"c{place:02}",
            Dataset(
                {
                    "features": random.normal(size=(3, FEATURES)).astype(np.float32),
                    "label": random.integers(0, CLASSES, 3).astype(np.int32),
                },
                {},
            ),
        )
        for place in range(60)
    ]
    ring = SecureAggregation(graph="ring", drop_out_fraction=0.05)
    found = secure(task, many, secure_aggregation=ring)
    np.testing.assert_allclose(found.block, plain(task, many).block, atol=60 * STEP / 180)


def test_drop_outs_and_abandoned_rounds(task: Module, clients: list[Client]) -> None:
    """Three of five shares bring a secret back: with fewer members there is no sum."""
    history = secure(task, clients, rounds=12, drop_out=0.4, minimum=2, max_abandoned_rounds=100)
    committed = [result for result in history.rounds if result.committed]
    abandoned = [result for result in history.rounds if not result.committed]
    assert history.version == len(committed) == 12
    assert {result.survivors for result in committed} > {3}
    reasons = " ".join(result.reason for result in abandoned)
    assert "confirmed the survivors" in reasons
    assert re.search("of 3 shares of c[0-4]'s secret were revealed", reasons)
    assert all(not result.training.means for result in abandoned)


def test_too_few_from_the_start(task: Module, clients: list[Client]) -> None:
    settings = {"rounds": 3, "drop_out": 0.6, "minimum": 4, "max_abandoned_rounds": 100}
    history = secure(task, clients, **settings)
    reasons = [result.reason for result in history.rounds]
    assert any("of at least 4 members sent keys" in reason for reason in reasons)
    assert any("of at least 4 members reported" in reason for reason in reasons)
    again = secure(task, clients, **settings)
    assert [result.reason for result in again.rounds] == reasons


def test_too_many_abandoned_rounds_end_it(task: Module, clients: list[Client]) -> None:
    history = secure(task, clients, rounds=5, drop_out=0.9, max_abandoned_rounds=3)
    assert history.failure.startswith("3 rounds in a row were abandoned")


def test_over_selection_stops_at_the_target(task: Module, clients: list[Client]) -> None:
    history = secure(task, clients, rounds=4, cohort=3, over_selection=1.5)
    assert [(r.survivors, r.cohort) for r in history.rounds] == [(3, 5)] * 4


def test_a_client_whose_training_diverges_is_left_out(task: Module, clients: list[Client]) -> None:
    x = np.full((40, FEATURES), np.float32(3e38))
    label = (np.arange(40) % CLASSES).astype(np.int32)
    broken = Client("c9", Dataset({"features": x, "label": label}, {}))
    with_broken = secure(task, [*clients, broken])
    assert [(r.survivors, r.diverged, r.cohort) for r in with_broken.rounds] == [(5, 1, 6)]
    assert with_broken.block.tobytes() == secure(task, clients).block.tobytes()


def test_a_metric_past_its_counter_leaves_a_client_out(task: Module, clients: list[Client]) -> None:
    x = np.full((4, FEATURES), np.float32(1e20))
    broken = Client("c9", Dataset({"features": x, "label": np.array([0, 1, 2, 0], np.int32)}, {}))
    (result,) = secure(task, [*clients, broken]).rounds
    assert (result.survivors, result.diverged) == (5, 1)


# Differential privacy


def job(task: Module, privacy: DifferentialPrivacy) -> JobSpec:
    """The job that `private` simulates, as its coordinator would have it."""
    made = JobSpec(
        rounds=1,
        cohort=Cohort(target=5, minimum=3, over_selection=1.0),
        weighting=Weighting.WEIGHTING_UNIFORM,
        clip_norm=CLIP_NORM,
        secure_aggregation=SecureAggregation().message(),
        differential_privacy=privacy.message(),
    )
    fedavg = Module.parse(builtin.aggregation("fedavg"))
    protection.check(made, task.manifest, fedavg.manifest)
    return made


@pytest.mark.parametrize("noise", ["central", "distributed"])
def test_the_ledger_is_what_the_rounds_cost(
    task: Module, clients: list[Client], noise: str
) -> None:
    privacy = DifferentialPrivacy(noise_multiplier=1.0, delta=1e-5, noise=noise)  # type: ignore[arg-type]
    history = private(task, clients, rounds=3, differential_privacy=privacy)
    release = protection.release(job(task, privacy), task.manifest)
    assert release is not None
    assert [r.epsilon for r in history.rounds] == [release.epsilon(n, 1e-5) for n in (1, 2, 3)]
    assert (history.epsilon, history.delta) == (history.rounds[-1].epsilon, 1e-5)
    assert all(not r.training.means and not r.clipped for r in history.rounds)


def test_abandoned_rounds_cost_nothing(task: Module, clients: list[Client]) -> None:
    history = private(task, clients, rounds=4, drop_out=0.4, max_abandoned_rounds=100)
    spent = 0.0
    for result in history.rounds:
        assert result.epsilon is not None
        assert (result.epsilon > spent) == result.committed
        spent = result.epsilon
    assert not all(result.committed for result in history.rounds)


def test_it_ends_at_the_budget(task: Module, clients: list[Client]) -> None:
    free = private(task, clients, rounds=4)
    third = free.rounds[2].epsilon
    assert third is not None
    privacy = DifferentialPrivacy(noise_multiplier=1.0, delta=1e-5, epsilon=third * 1.001)
    history = private(task, clients, rounds=50, differential_privacy=privacy)
    assert history.version == len(history.rounds) == 3
    assert history.failure.startswith("the privacy budget is spent: after 3 rounds")


@pytest.mark.parametrize(
    ("noise", "members"),
    [
        # everything by the coordinator
        ("central", 1.0),
        # five members make noise although three suffice
        ("distributed", 5 / 3),
    ],
)
def test_the_noise_has_the_deviation_asked_for(
    clients: list[Client], noise: str, members: float
) -> None:
    """Against the plain simulation, over 65 x 10 = 650 coordinates."""
    random = np.random.default_rng(1)
    digits = Module.parse(template.build("softmax-regression", features=64, classes=10))
    wide = [
        Client(
            client.id,
            Dataset(
                {
                    "features": random.normal(size=(4, 64)).astype(np.float32),
                    "label": np.arange(4, dtype=np.int32),
                },
                {},
            ),
        )
        for client in clients
    ]
    privacy = DifferentialPrivacy(noise_multiplier=2.0, delta=1e-5, noise=noise)  # type: ignore[arg-type]
    found = private(digits, wide, differential_privacy=privacy)
    expected = plain(digits, wide, uniform_weights=True)
    # of the mean over five updates
    deviation = 2.0 * CLIP_NORM * np.sqrt(members) / 5
    difference = (found.block - expected.block) / deviation
    assert abs(difference.mean()) < 5 / np.sqrt(650)
    assert abs(difference.std() - 1) < 5 / np.sqrt(2 * 650)


def test_the_clipping_norm_adapts(task: Module, clients: list[Client]) -> None:
    privacy = DifferentialPrivacy(
        noise_multiplier=1e-3,
        delta=1e-5,
        adaptive=AdaptiveClipping(quantile=0.9, learning_rate=0.5, count_noise=0.01),
    )
    history = private(task, clients, rounds=6, clip_norm=0.01, differential_privacy=privacy)
    norms = [result.clip_norm for result in history.rounds]
    assert norms[0] == 0.01
    # nobody is as short: log(norm) rises by 0.5 * 0.9
    assert norms[1] == pytest.approx(0.01 * np.exp(0.45), rel=0.05)
    assert norms == sorted(norms)


# What cannot be


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"clip_norm": None}, "clip_norm is absent"),
        ({"clip_norm": -1.0}, "clip_norm must be above 0"),
        ({"aggregation": "median"}, "median needs single updates"),
        ({"cohort": 1}, "cohort.minimum is below 2"),
        ({"minimum": 1}, "cohort.minimum is below 2"),
        ({"cohort": 2, "over_selection": 2.0}, "of whom 3 have to stay to the end"),
        ({"secure_aggregation": SecureAggregation(value_bits=30)}, "must be from 2 to 24"),
        ({"secure_aggregation": SecureAggregation(value_bits=0)}, "value_bits must be above 0"),
        ({"secure_aggregation": SecureAggregation(corrupt_fraction=0.6)}, "from 0 to 0.5"),
        ({"secure_aggregation": SecureAggregation(max_weight=1 << 70)}, "secure_aggregation can"),
        (
            {"secure_aggregation": SecureAggregation(max_weight=5), "uniform_weights": True},
            "max_weight is not 1",
        ),
        (
            {"secure_aggregation": SecureAggregation(graph="star")},  # type: ignore[arg-type]
            "must be complete or ring",
        ),
        (
            {
                "secure_aggregation": None,
                "differential_privacy": DifferentialPrivacy(noise_multiplier=1, delta=1e-6),
            },
            "needs secure_aggregation",
        ),
        (
            {
                "uniform_weights": False,
                "differential_privacy": DifferentialPrivacy(noise_multiplier=1, delta=1e-6),
            },
            "must be uniform",
        ),
        (
            {
                "differential_privacy": DifferentialPrivacy(
                    noise_multiplier=0.1, delta=1e-6, epsilon=0.1
                )
            },
            "that one round costs",
        ),
        (
            {"differential_privacy": DifferentialPrivacy(noise_multiplier=1, delta=2)},
            "delta is 2",
        ),
    ],
)
def test_what_cannot_be_protected_so(
    task: Module, clients: list[Client], changed: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidJob, match=says):
        secure(task, clients, **changed)


def test_a_large_roster_is_refused_before_it_is_made(task: Module) -> None:
    rows = Dataset(
        {
            "features": np.zeros((1, FEATURES), np.float32),
            "label": np.zeros(1, np.int32),
        },
        {},
    )
    many = [Client(f"{place:04}", rows) for place in range(protection.MAX_MEMBERS + 1)]
    with pytest.raises(InvalidJob, match="a roster holds 5000"):
        secure(task, many)
