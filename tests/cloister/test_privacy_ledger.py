from __future__ import annotations

import numpy as np
import pytest

from cloister.privacy_ledger import PrivacyLedger
from cloister.protection import AdaptiveClipping, DifferentialPrivacy, SecureAggregation
from cloister_coordinator import protection
from cloister_privacy.counters import UNCLIPPED, WEIGHT
from cloister_protos import Cohort, JobSpec, Weighting
from cloister_tasks import Module, builtin, template


@pytest.fixture(scope="module")
def task() -> Module:
    return Module.parse(template.build("softmax-regression", features=4, classes=3))


def job(task: Module, privacy: DifferentialPrivacy | None) -> JobSpec:
    spec = JobSpec(
        rounds=1,
        cohort=Cohort(target=100, minimum=100, over_selection=1.0),
        weighting=Weighting.WEIGHTING_UNIFORM,
        clip_norm=0.1,
        secure_aggregation=SecureAggregation().message(),
    )
    if privacy is not None:
        spec.differential_privacy.CopyFrom(privacy.message())
    fedavg = Module.parse(builtin.aggregation("fedavg"))
    protection.check(spec, task.manifest, fedavg.manifest)
    return spec


def test_without_differential_privacy_nothing_is_counted(task: Module) -> None:
    ledger = PrivacyLedger(job(task, None), task.manifest)
    ledger.released({})
    assert (ledger.rounds, ledger.epsilon, ledger.delta) == (0, None, None)
    assert (ledger.clip_norm, ledger.exhausted) == (0.1, "")


def test_it_counts_rounds_up_to_the_budget(task: Module) -> None:
    privacy = DifferentialPrivacy(noise_multiplier=2, delta=1e-6, epsilon=8)
    spec = job(task, privacy)
    release = protection.release(spec, task.manifest)
    assert release is not None
    ledger = PrivacyLedger(spec, task.manifest)
    assert (ledger.epsilon, ledger.delta) == (0, 1e-6)
    while not ledger.exhausted:
        ledger.released({UNCLIPPED: 100, WEIGHT: 100})
        assert ledger.epsilon == release.epsilon(ledger.rounds, 1e-6) <= 8
    assert ledger.rounds == release.rounds(8, 1e-6) > 1
    assert release.epsilon(ledger.rounds + 1, 1e-6) > 8
    assert f"after {ledger.rounds} rounds" in ledger.exhausted
    assert ledger.clip_norm == 0.1


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
def test_the_norm_converges_to_the_quantile(task: Module, quantile: float) -> None:
    adaptive = AdaptiveClipping(quantile=quantile)
    privacy = DifferentialPrivacy(noise_multiplier=1, delta=1e-6, adaptive=adaptive)
    ledger = PrivacyLedger(job(task, privacy), task.manifest)
    norms = np.random.default_rng(0).lognormal(1.0, 0.5, 100)
    for _ in range(150):
        ledger.released({UNCLIPPED: np.count_nonzero(norms <= ledger.clip_norm), WEIGHT: 100})
    # one update more or less is a hundredth
    low, high = np.quantile(norms, [quantile - 0.03, quantile + 0.03])
    assert low < ledger.clip_norm < high
