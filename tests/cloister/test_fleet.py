"""However rows are laid out, each virtual client gets what a client of its own would compute."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister import fleet
from cloister.fleet import Client, Fleet
from cloister_client.dataset import Dataset
from cloister_client.training import train
from cloister_protos import Training
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
