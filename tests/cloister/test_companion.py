from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from cloister.companion import companion, first_blocks, write_companion
from cloister.errors import InvalidJob
from cloister.operator import Coordinator
from cloister_tasks import Module

WEIGHT = np.arange(6, dtype=np.float32)
BASE = np.arange(6, 12, dtype=np.float32)


@pytest.fixture
def beside(personal_file: Path, personal: Module) -> Path:
    return write_companion(personal_file, personal.manifest, WEIGHT, BASE)


def test_it_holds_both_blocks_by_name(beside: Path) -> None:
    assert beside.name == "net.safetensors"
    tensors = safetensors.numpy.load_file(beside)
    assert {name: t.shape for name, t in tensors.items()} == {"0.weight": (2, 3), "base": (2, 3)}
    np.testing.assert_array_equal(tensors["base"].reshape(-1), BASE)


def test_a_path_begins_with_the_file_beside_it(
    personal_file: Path, personal: Module, beside: Path
) -> None:
    assert companion(personal_file) == beside
    found = first_blocks(personal, personal_file, None, None)
    for block, expected in zip(found, (WEIGHT, BASE), strict=True):
        assert block is not None
        np.testing.assert_array_equal(block, expected)


def test_what_is_given_wins_and_the_rest_still_comes_from_the_file(
    personal_file: Path, personal: Module, beside: Path
) -> None:
    parameters, frozen = first_blocks(personal, personal_file, -WEIGHT, None)
    assert parameters is not None
    assert frozen is not None
    np.testing.assert_array_equal(parameters, -WEIGHT)
    np.testing.assert_array_equal(frozen, BASE)
    _, frozen = first_blocks(personal, personal.data, None, {"base": -BASE.reshape(2, 3)})
    assert frozen is not None
    np.testing.assert_array_equal(frozen, -BASE)


def test_frozen_values_that_are_missing_are_asked_for(
    personal_file: Path, personal: Module
) -> None:
    for source in (personal, personal.data, personal_file):
        with pytest.raises(InvalidJob, match=r"frozen parameters .base .* --frozen FILE"):
            first_blocks(personal, source, WEIGHT, None)


def test_a_file_of_another_task_is_named(
    personal_file: Path, personal: Module, task_file: Path, task: bytes, tmp_path: Path
) -> None:
    other = write_companion(task_file, Module.parse(task).manifest, np.zeros(650, np.float32), None)
    other.rename(tmp_path / "net.safetensors")
    with pytest.raises(InvalidJob, match=r"net\.safetensors: .* lack 0\.weight"):
        first_blocks(personal, personal_file, None, None)


def test_submit_sends_both_blocks(
    coordinator: Coordinator, peer: Any, personal_file: Path, beside: Path
) -> None:
    spec = peer.jobs[coordinator.submit(personal_file, rounds=1, cohort=1).id].spec
    assert bytes(peer.blobs[spec.initial_model.digest]) == WEIGHT.tobytes()
    assert bytes(peer.blobs[spec.frozen.digest]) == BASE.tobytes()
    beside.unlink()
    with pytest.raises(InvalidJob, match="frozen parameters"):
        coordinator.submit(personal_file, rounds=1, cohort=1)
