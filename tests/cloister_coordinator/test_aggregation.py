from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cloister_coordinator.aggregation import Aggregator
from cloister_coordinator.blocks import ArrayBlocks, Blocks, FileBlocks, Successor, Zeros
from cloister_sandbox import Faulted, SandboxPool
from cloister_tasks import Module, aggregation, compile_c

F32 = NDArray[np.float32]
F32_ZERO = np.zeros(1, np.float32)

MOMENTUM = """
#include <cloister.h>
#define COLUMNS 256
CLOISTER_TASK("momentum", "Server momentum of one half");
CLOISTER_MODEL(COLUMNS);
CLOISTER_UPDATE(4 * COLUMNS);
CLOISTER_WEIGHT(4);
CLOISTER_TOTAL;
CLOISTER_FAULT;
CLOISTER_ACCUMULATOR(double, accumulator, "Weighted sum", COLUMNS);
CLOISTER_SERVER_STATE(momentum, "Momentum", COLUMNS);
CLOISTER_EXPORT(reset) int32_t reset(int32_t columns) {
    for (int c = 0; c < columns; c++) accumulator[c] = 0;
    return CLOISTER_OK;
}
CLOISTER_EXPORT(fold) int32_t fold(int32_t rows, int32_t columns) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++)
            accumulator[c] += weight[r] * (double)update[r * columns + c];
    return CLOISTER_OK;
}
CLOISTER_EXPORT(finish) int32_t finish(int32_t columns) {
    for (int c = 0; c < columns; c++) {
        momentum[c] = 0.5f * momentum[c] + (float)(accumulator[c] / total);
        model[c] += momentum[c];
    }
    return CLOISTER_OK;
}
"""


@pytest.fixture(scope="module")
def local() -> Iterator[SandboxPool]:
    with SandboxPool(isolated=False) as pool:
        yield pool


def updates_of(count: int, size: int) -> F32:
    return np.random.default_rng(count * size).normal(size=(count, size)).astype(np.float32)


def fold(
    pool: SandboxPool,
    name: str,
    updates: list[Blocks],
    weights: object,
    model: F32,
    workers: int,
    total: float | None = None,
) -> F32:
    out = np.empty_like(model)
    Aggregator(pool, Module.parse(aggregation(name)), workers).aggregate(
        len(model),
        ArrayBlocks(model),
        updates,
        np.asarray(weights, np.float64),
        ArrayBlocks(out),
        ArrayBlocks(np.empty(0, np.float32)),
        total,
    )
    return out


@pytest.mark.parametrize("size", [1, 1000, 65536, 200_001])
@pytest.mark.parametrize("count", [1, 9])
def test_fedavg_is_the_weighted_mean(local: SandboxPool, size: int, count: int) -> None:
    updates, weights = updates_of(count, size), np.arange(1, count + 1, dtype=float)
    model = np.linspace(-1, 1, size, dtype=np.float32)
    total = np.zeros(size)
    for weight, update in zip(weights, updates, strict=True):
        total += weight * update.astype(np.float64)
    expected = (model + total / weights.sum()).astype(np.float32)
    got = fold(local, "fedavg", [ArrayBlocks(u) for u in updates], weights, model, 1)
    assert got.tobytes() == expected.tobytes()


def test_the_median_of_many_chunks(local: SandboxPool) -> None:
    updates, model = updates_of(7, 10_000), np.zeros(10_000, np.float32)
    got = fold(local, "median", [ArrayBlocks(u) for u in updates], np.ones(7), model, 2)
    assert got.tobytes() == np.median(updates, axis=0).astype(np.float32).tobytes()


def test_bytes_do_not_depend_on_workers_processes_or_storage(
    local: SandboxPool, tmp_path: Path
) -> None:
    updates, weights = updates_of(6, 300_000), np.array([3, 1, 4, 1, 5, 9.0])
    model = updates_of(1, 300_000)[0]
    arrays: list[Blocks] = [ArrayBlocks(u) for u in updates]
    files: list[Blocks] = []
    for place, update in enumerate(updates):
        (tmp_path / str(place)).write_bytes(update.tobytes())
        files.append(FileBlocks(tmp_path / str(place)))
    expected = fold(local, "fedavg", arrays, weights, model, 1).tobytes()
    assert fold(local, "fedavg", arrays, weights, model, 3).tobytes() == expected
    with SandboxPool(isolated=True) as isolated:
        for workers in (1, 2):
            got = fold(isolated, "fedavg", files, weights, model, workers)
            assert got.tobytes() == expected


@pytest.mark.parametrize("name", ["fedavg", "sum"])
def test_a_linear_aggregation_runs_on_the_sum_alone(local: SandboxPool, name: str) -> None:
    size = 100_000
    updates, model = updates_of(5, size), updates_of(1, size)[0]
    weights = np.array([3, 1, 4, 1, 5.0])
    manifest = Module.parse(aggregation(name)).manifest
    assert manifest.linear
    factors = np.ones(5) if manifest.unweighted else weights
    total = np.zeros(size)
    for factor, update in zip(factors, updates, strict=True):
        total += factor * update.astype(np.float64)
    alone = ArrayBlocks(total.astype(np.float32))
    expected = fold(local, name, [ArrayBlocks(u) for u in updates], weights, model, 2)
    found = fold(local, name, [alone], [1], model, 2, total=weights.sum())
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_what_is_not_linear_does_not(local: SandboxPool) -> None:
    updates = np.float32([[0], [0], [3]])
    alone = ArrayBlocks(updates.sum(axis=0))
    whole = fold(local, "median", [ArrayBlocks(u) for u in updates], np.ones(3), F32_ZERO, 1)
    assert whole == 0
    assert fold(local, "median", [alone], [1], F32_ZERO, 1, total=3) == 3


@pytest.mark.parametrize("total", [0.0, -1.0, np.nan, np.inf])
def test_a_total_that_divides_nothing_is_an_error(local: SandboxPool, total: float) -> None:
    with pytest.raises(Faulted):
        fold(local, "fedavg", [ArrayBlocks(F32_ZERO)], [1], F32_ZERO, 1, total=total)


def test_state_is_carried_from_round_to_round(local: SandboxPool, tmp_path: Path) -> None:
    source = tmp_path / "momentum.c"
    source.write_text(MOMENTUM)
    size = 600  # three chunks, the last one partial
    aggregator = Aggregator(local, Module.parse(compile_c(source)), 2)
    assert aggregator.state_size(size) == size
    model, momentum = np.zeros(size), np.zeros(size)
    blocks, old = ArrayBlocks(np.zeros(size, np.float32)), None
    for round_number in (1, 2, 3):
        updates = updates_of(3, size) * np.float32(round_number)
        new = ArrayBlocks(np.full(size, np.nan, np.float32))
        out = ArrayBlocks(np.empty(size, np.float32))
        aggregator.aggregate(
            size,
            blocks,
            [ArrayBlocks(u) for u in updates],
            np.ones(3),
            out,
            Successor(Zeros() if old is None else old, new),
        )
        momentum = 0.5 * momentum + updates.astype(np.float64).mean(axis=0)
        model = model + momentum
        np.testing.assert_allclose(out.array, model, rtol=1e-4, atol=1e-6)
        blocks, old = out, new


def test_an_update_that_is_not_finite_is_an_error(local: SandboxPool) -> None:
    updates = updates_of(2, 100_000)
    updates[1, 99_999] = np.nan
    with pytest.raises(Faulted) as caught:
        fold(
            local, "fedavg", [ArrayBlocks(u) for u in updates], [1, 1], updates_of(1, 100_000)[0], 2
        )
    assert caught.value.row == 1


def test_a_short_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(bytes(40))
    with pytest.raises(OSError, match="ends before"):
        FileBlocks(path).read_into(5, np.empty(6, np.float32))
