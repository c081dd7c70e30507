from __future__ import annotations

import numpy as np

from cloister.rehearsal import rehearse
from cloister_client.dataset import Dataset
from cloister_client.training import train
from cloister_coordinator.cohort import client_seed
from cloister_protos import Role, Training
from cloister_sandbox import SandboxPool
from cloister_tasks import Module


def test_epochs_are_the_rounds_of_one_client_that_keeps_its_local_state(personal: Module) -> None:
    random = np.random.default_rng(0)
    rows = {
        "patch": random.normal(size=(30, 2, 3)),
        "times": random.integers(0, 3, 30),
        "code": random.integers(0, 256, 30),
        "target": random.normal(size=30),
    }
    half = {name: array[:15] for name, array in rows.items()}
    dataset = Dataset(rows, half)
    first, frozen = np.zeros(6, np.float32), np.ones(6, np.float32)
    epochs = list(rehearse(personal, dataset, epochs=3, seed=9, initial_model=first, frozen=frozen))
    block, local = first, None
    fitted = dataset.fit(personal.manifest.of(Role.ROLE_INPUT))
    with SandboxPool(isolated=False) as pool:
        for number in range(1, 4):
            with pool.lease(personal) as sandbox:
                outcome = train(
                    sandbox,
                    model=block,
                    frozen=frozen,
                    dataset=fitted,
                    training=Training(epochs=1),
                    evaluate=False,
                    seed=client_seed(9, number, "rehearsal"),
                    local=local,
                )
            assert outcome.update is not None
            block, local = block + outcome.update, outcome.local
            assert epochs[number - 1].block.tobytes() == block.tobytes()
            own, visits = np.frombuffer(local, "<f4")[:2], np.frombuffer(local, "<i4")[2]
            assert visits == 30 * number
            x = half["patch"].reshape(15, 6).astype(np.float32)
            predicted = x @ (block + frozen) + half["times"] + half["code"] / 256 + own.sum()
            loss = np.mean((predicted - half["target"]) ** 2)
            np.testing.assert_allclose(epochs[number - 1].evaluation["loss"], loss, rtol=1e-4)
