"""However rows are laid out, each virtual client gets what a client of its own would compute."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister import fleet, local_states
from cloister.fleet import Client, Fleet
from cloister_client.dataset import Dataset
from cloister_client.training import Outcome, train
from cloister_protos import Role, Training
from cloister_sandbox import SandboxPool
from cloister_tasks import Module, template

FEATURES, CLASSES = 3, 2


@cache
def task(capacity: int) -> Module:
    return Module.parse(
        template.build("softmax-regression", features=FEATURES, classes=CLASSES, capacity=capacity)
    )


def made(sizes: list[int]) -> list[Client]:
    random = np.random.default_rng(len(sizes))
    return [
        Client(
            f"c{place}",
            Dataset(
                {
                    "features": random.normal(size=(size, FEATURES)).astype(np.float32),
                    "label": random.integers(0, CLASSES, size).astype(np.int32),
                },
                {},
            ),
        )
        for place, size in enumerate(sizes)
    ]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    capacity=st.sampled_from([8, 64]),
    batch_size=st.integers(1, 8),
    momentum=st.sampled_from([0.0, 0.5]),
    epochs=st.integers(1, 3),
    keep_order=st.booleans(),
    threads=st.integers(1, 3),
    rows_per_call=st.integers(1, 100),
    clients_per_conductor=st.integers(1, 4),
)
def test_every_layout_gives_the_same_bits(
    sizes: list[int],
    capacity: int,
    batch_size: int,
    momentum: float,
    epochs: int,
    keep_order: bool,
    threads: int,
    rows_per_call: int,
    clients_per_conductor: int,
) -> None:
    module, clients = task(capacity), made(sizes)
    hyperparameters = {"batch_size": batch_size, "learning_rate": 0.3, "momentum": momentum}
    training = Training(epochs=epochs, hyperparameters=hyperparameters, keep_order=keep_order)
    model = np.linspace(-1, 1, module.manifest.parameter_count, dtype=np.float32)
    places = np.arange(len(sizes))[::-1].copy()
    seeds = np.arange(len(sizes), dtype=np.uint64) + np.uint64(7)
    updates = np.empty((len(sizes), len(model)), np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fleet, "ROWS_PER_CALL", rows_per_call)
        patch.setattr(fleet, "CLIENTS_PER_CONDUCTOR", clients_per_conductor)
        subject = Fleet(module, clients, training, batch_size=batch_size, threads=threads)
    try:
        for _ in range(2):  # again, on conductors that have been used
            sums, norms = subject.train(model, places, seeds, updates)
    finally:
        subject.close()
    np.testing.assert_allclose(norms, np.linalg.norm(updates.astype(np.float64), axis=1))
    with SandboxPool(isolated=False) as pool:
        for slot, place in enumerate(places):
            with pool.lease(module) as sandbox:
                outcome = train(
                    sandbox,
                    model=model,
                    frozen=None,
                    dataset=clients[place].dataset,
                    training=training,
                    evaluate=False,
                    seed=int(seeds[slot]),
                )
            assert outcome.update is not None
            assert updates[slot].tobytes() == outcome.update.tobytes()
            assert sums[slot].tolist() == list(outcome.training_sums.values())


def personal_clients(count: int) -> list[Client]:
    random = np.random.default_rng(1)
    return [
        Client(
            f"c{place}",
            Dataset(
                {
                    "patch": random.normal(size=(size, 2, 3)),
                    "times": random.integers(-2, 3, size),
                    "code": random.integers(0, 256, (size, 1), dtype=np.uint8),
                    "target": random.normal(size=size),
                },
                {},
            ),
        )
        for place, size in enumerate(range(3, 3 + 8 * count, 8))
    ]


@pytest.mark.parametrize("job_seed", [None, 5.0])
@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("threads", [1, 3])
def test_local_state_and_seeds_are_each_clients_own(
    personal: Module,
    monkeypatch: pytest.MonkeyPatch,
    job_seed: float | None,
    in_memory: bool,
    threads: int,
) -> None:
    """Four rounds, of which the second is repeated, as single clients would go through them."""
    if not in_memory:
        monkeypatch.setattr(local_states, "STATES_IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(fleet, "CLIENTS_PER_CONDUCTOR", 2)
    clients = personal_clients(5)
    training = Training(epochs=2, hyperparameters={} if job_seed is None else {"seed": job_seed})
    frozen = np.linspace(-1, 1, 6, dtype=np.float32)
    subject = Fleet(personal, clients, training, batch_size=None, threads=threads, frozen=frozen)
    kept: dict[int, bytes] = {}
    rolled_back: dict[int, bytes] = {}
    model = np.zeros(6, np.float32)
    try:
        for number, (version, places, taken) in enumerate(
            [
                (0, [0, 1, 2, 3], [True, True, False, True]),
                (1, [1, 2, 3, 4], [True, True, True, True]),
                (1, [1, 3, 0], [True, True, True]),
                (2, [4, 3, 2, 1, 0], [True] * 5),
            ]
        ):
            # the third round begins from the model of the second, and so from its states
            before = rolled_back if number == 2 else dict(kept)
            rolled_back = dict(kept)
            seeds = np.arange(len(places), dtype=np.uint64) + np.uint64((1 << 63) + 9 * number)
            updates = np.empty((len(places), 6), np.float32)
            sums, _ = subject.train(model, np.array(places), seeds, updates, version)
            subject.keep(np.array(taken))
            for slot, place in enumerate(places):
                own = before.get(place)
                outcome = single(
                    personal, clients[place], training, seeds[slot], model, frozen, own
                )
                assert outcome.update is not None
                assert updates[slot].tobytes() == outcome.update.tobytes()
                assert sums[slot].tolist() == list(outcome.training_sums.values())
                if taken[slot]:
                    kept[place] = outcome.local
            model = model + updates.mean(axis=0)
    finally:
        subject.close()
    assert len(set(kept.values())) == 5


def single(
    module: Module,
    client: Client,
    training: Training,
    seed: np.uint64,
    model: np.ndarray,
    frozen: np.ndarray,
    local: bytes | None,
) -> Outcome:
    with SandboxPool(isolated=False) as pool, pool.lease(module) as sandbox:
        return train(
            sandbox,
            model=model,
            frozen=frozen,
            dataset=client.dataset.fit(module.manifest.of(Role.ROLE_INPUT)),
            training=training,
            evaluate=False,
            seed=int(seed),
            local=local,
        )
