from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cloister.errors import InvalidJob
from cloister.schedules import read_schedules
from cloister.simulation import Client, simulate
from cloister_client.dataset import Dataset
from cloister_protos import Schedule
from cloister_tasks import Module


def read(task: bytes, source: Any) -> Schedule:
    manifest = Module.parse(task).manifest
    return read_schedules({"learning_rate": source}, manifest, 10)["learning_rate"]


def test_each_kind_is_read(task: bytes) -> None:
    cosine = Schedule(cosine=Schedule.Cosine(start=0.1, end=0.001))
    assert read(task, {"kind": "cosine", "start": 0.1, "end": 0.001}) == cosine
    assert read(task, cosine) == cosine
    step = {"kind": "step", "start": 1, "factor": 0.5, "every": 3}
    assert read(task, step).step == Schedule.Step(start=1, factor=0.5, every=3)
    exponential = {"kind": "exponential", "start": 1, "factor": 0.5}
    assert read(task, exponential).exponential == Schedule.Exponential(start=1, factor=0.5)
    assert list(read(task, [1, 0.5]).values.values) == [1, 0.5]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("cosine", "a list of numbers, or a table"),
        ([], "a list of numbers"),
        ([1, "x"], "finite number"),
        ({"start": 1}, "have a kind, one of cosine"),
        ({"kind": "sine"}, "have a kind"),
        ({"kind": "cosine", "start": 1}, "must have start, end"),
        ({"kind": "cosine", "start": 1, "end": "x"}, "finite number"),
        ({"kind": "step", "start": 1, "factor": 1, "every": 0.5}, "whole number from 1"),
        ([1e39], "at version 0"),
    ],
)
def test_mistakes_are_named(task: bytes, source: Any, says: str) -> None:
    with pytest.raises(InvalidJob, match=says):
        read(task, source)


def test_rounds_train_with_the_number_of_their_version(task: bytes) -> None:
    """A job with a schedule is a chain of jobs of one round each with that round's number."""
    random = np.random.default_rng(0)
    clients = [
        Client(
            f"c{place}",
            Dataset(
                {
                    "features": random.normal(size=(9, 64)).astype(np.float32),
                    "label": random.integers(0, 10, 9),
                },
                {},
            ),
        )
        for place in range(3)
    ]
    rates = [0.5, 0.25, 0.125]
    common: dict[str, Any] = {"keep_order": True, "seed": 1}
    whole = simulate(task, clients, rounds=3, schedules={"learning_rate": rates}, **common)
    start = simulate(
        task, clients, rounds=1, hyperparameters={"learning_rate": 0.0}, **common
    ).block  # what init gives
    block = start
    for rate in rates:
        chained = simulate(
            task,
            clients,
            rounds=1,
            initial_model=block,
            hyperparameters={"learning_rate": rate},
            **common,
        )
        block = chained.block
    assert whole.block.tobytes() == block.tobytes()
    assert not np.array_equal(block, start)
