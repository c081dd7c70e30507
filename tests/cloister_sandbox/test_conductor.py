"""The conductor against the plain path: one sandbox, one client at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from cloister_protos import Role
from cloister_sandbox import (
    FIRST,
    LAST,
    Conductor,
    Faulted,
    Limits,
    OutOfTime,
    Refused,
    SandboxPool,
    Trapped,
)
from cloister_tasks import Buffer, Module, build, builtin, with_manifest

from .modules import BUFFERS, F4, I8, ROWS, manifest, task

FEATURES, CLASSES, CAPACITY, BATCH = 6, 3, 8, 4
COUNTS = (14, 3, 8, 21, 1)  # rows of each client
HYPERPARAMETERS = {"learning_rate": 0.2, "momentum": 0.5, "batch_size": BATCH}


@pytest.fixture(scope="module")
def perceptron() -> Module:
    shape = {"features": FEATURES, "hidden": [5], "classes": CLASSES}
    return Module.parse(build("perceptron", capacity=CAPACITY, **shape))


@pytest.fixture(scope="module")
def rows() -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    rng = np.random.default_rng(3)
    total = sum(COUNTS)
    features = rng.standard_normal((total, FEATURES)).astype(np.float32)
    return features, rng.integers(0, CLASSES, total, dtype=np.int32)


def segments() -> NDArray[np.int32]:
    table = []
    start = 0
    for client, count in enumerate(COUNTS):
        for first in range(0, count, CAPACITY):
            flags = FIRST * (first == 0) | LAST * (first + CAPACITY >= count)
            table.append((client, start + first, min(CAPACITY, count - first), flags))
        start += count
    return np.array(table, np.int32)


def plain(
    module: Module, pool: SandboxPool, model: NDArray[np.float32], rows: tuple[NDArray, NDArray]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Each client in a fresh sandbox, its rows in chunks."""
    names = [b.name for b in module.manifest.of(Role.ROLE_METRIC)]
    parameters, metrics, start = [], [], 0
    for count in COUNTS:
        with pool.lease(module) as sandbox:
            for name, value in HYPERPARAMETERS.items():
                sandbox.view(name)[...] = value
            sandbox.view(Role.ROLE_PARAMETER)[:] = model
            sandbox.run(("reset",), send=[*HYPERPARAMETERS, Role.ROLE_PARAMETER])
            for first in range(start, start + count, CAPACITY):
                n = min(CAPACITY, start + count - first)
                for name, column in zip(("features", "label"), rows, strict=True):
                    sandbox.view(name)[:n] = column[first : first + n]
                sandbox.run(("train", n), send=[("features", n), ("label", n)])
            sandbox.run(receive=[Role.ROLE_PARAMETER, *names])
            parameters.append(sandbox.view(Role.ROLE_PARAMETER).copy())
            metrics.append([sandbox.view(name).item() for name in names])
        start += count
    return np.array(parameters), np.array(metrics)


def conducted(module: Module, model: NDArray, rows: tuple[NDArray, NDArray]) -> Conductor:
    conductor = Conductor(module, clients=len(COUNTS), rows=sum(COUNTS))
    with conductor:
        conductor.configure(HYPERPARAMETERS)
        conductor.model[:] = model
        conductor.inputs["features"][:], conductor.inputs["label"][:] = rows
        conductor.run(segments())
    return conductor


@pytest.mark.parametrize("isolated", [False, True])
def test_the_same_bits_as_the_plain_path(
    perceptron: Module, rows: tuple[NDArray, NDArray], isolated: bool
) -> None:
    rng = np.random.default_rng(4)
    model = rng.standard_normal(perceptron.manifest.parameter_count).astype(np.float32)
    with SandboxPool(isolated=isolated) as pool:
        parameters, metrics = plain(perceptron, pool, model, rows)
    conductor = conducted(perceptron, model, rows)
    assert parameters.tobytes() == conductor.parameters.tobytes()
    assert metrics.tobytes() == conductor.metrics.tobytes()
    assert len({p.tobytes() for p in parameters}) == len(COUNTS)
    assert not np.array_equal(parameters[0], model)
    assert conductor.metric_names == ("loss", "accuracy")


def test_the_same_bits_in_threads_and_in_any_order(
    perceptron: Module, rows: tuple[NDArray, NDArray]
) -> None:
    model = np.linspace(-1, 1, perceptron.manifest.parameter_count, dtype=np.float32)
    with ThreadPoolExecutor(3) as threads:
        runs = list(threads.map(lambda _: conducted(perceptron, model, rows), range(6)))
    assert len({run.parameters.tobytes() for run in runs}) == 1
    table = segments()
    order = [np.flatnonzero(table[:, 0] == client) for client in (3, 1, 4, 0, 2)]
    backwards = runs[0]
    wanted = backwards.parameters.copy()
    backwards.parameters[:] = 0
    with Conductor(perceptron, clients=len(COUNTS), rows=sum(COUNTS)) as again:
        again.configure(HYPERPARAMETERS)
        again.model[:] = model
        again.inputs["features"][:], again.inputs["label"][:] = rows
        again.run(table[np.concatenate(order)])
        assert again.parameters.tobytes() == wanted.tobytes()


@pytest.fixture
def small() -> Iterator[Conductor]:
    with Conductor(Module.parse(task()), clients=3, rows=20) as conductor:
        yield conductor


def test_numbers_one_can_check_by_hand(small: Conductor) -> None:
    """weight[0, 0] = weight[0, 0] * 2 + features[0, 0] + rate; seen += rows."""
    small.model[:] = [1, 2, 3, 4, 5, 6]
    small.inputs["features"][:, 0] = np.arange(20)
    small.configure({"rate": 0.25}, np.array([7, 8, 9], np.float32))
    small.run(np.array([(2, 4, 3, FIRST), (2, 10, 5, LAST), (0, 1, 8, FIRST | LAST)], np.int32))
    assert small.parameters[2].tolist() == [(2 + 4.25) * 2 + 10.25, 2, 3, 4, 5, 6]
    assert small.parameters[0].tolist() == [2 + 1.25, 2, 3, 4, 5, 6]
    assert not small.parameters[1].any()
    assert small.metrics.tolist() == [[0, 8], [0, 0], [0, 8]]
    small.configure({})
    small.run(np.array([(1, 0, 1, FIRST | LAST)], np.int32))
    assert small.parameters[1, 0] == 2.5  # the task's default again


LOCAL = (
    Buffer("history", Role.ROLE_LOCAL, F4, (2,), 8192),
    Buffer("seed", Role.ROLE_HYPERPARAMETER, I8, (), 8208),
    Buffer("visits", Role.ROLE_LOCAL, np.dtype("u1"), (3,), 8216),
)
KEEPING = """
  (f32.store (i32.const 8192) (f32.add (f32.load (i32.const 8192)) (f32.load (i32.const 2048))))
  (i32.store8 (i32.const 8217) (i32.add (i32.load8_u (i32.const 8217)) (local.get 0)))
  (f32.store (i32.const 1024) (f32.convert_i64_s (i64.load (i32.const 8208))))
  i32.const 0"""


def test_each_client_has_its_own_local_state_and_seed() -> None:
    """history[0] += features[0, 0]; visits[1] += rows; weight[0, 0] = seed."""
    data = '(data (i32.const 8192) "\\00\\00\\80\\3f") (data (i32.const 8208) "\\05")'  # 1.0, 5
    module = Module.parse(
        with_manifest(task(KEEPING, extra=data), manifest(buffers=BUFFERS + LOCAL))
    )
    with Conductor(module, clients=3, rows=20) as conductor:
        assert conductor.seeds.tolist() == [5, 5, 5]
        first = np.array([1, 0], np.float32).tobytes() + bytes(3)
        assert [row.tobytes() for row in conductor.local] == [first] * 3
        conductor.seeds[:] = [-3, 7, 9]
        conductor.inputs["features"][:, 0] = np.arange(20)
        once = np.array([(2, 4, 3, FIRST), (2, 10, 5, LAST), (0, 1, 8, FIRST | LAST)], np.int32)
        conductor.run(once)
        histories = conductor.local[:, :8].copy().view(np.float32)
        assert histories[:, 0].tolist() == [2, 1, 15]
        assert conductor.local[:, 9].tolist() == [8, 0, 8]
        assert conductor.parameters[:, 0].tolist() == [-3, 0, 9]
        conductor.run(once)  # the next round goes on from there
        assert conductor.local[:, :8].copy().view(np.float32)[:, 0].tolist() == [3, 1, 29]


def test_more_segments_than_a_table_holds(small: Conductor) -> None:
    count = 4096 + 7
    table = np.tile(np.array([[1, 0, 1, 0]], np.int32), (count, 1))
    table[0, 3], table[-1, 3] = FIRST, LAST
    small.run(table)
    assert small.metrics[1].tolist() == [0, count]
    small.run(np.empty((0, 4), np.int32))


@pytest.mark.parametrize(
    "segment",
    [
        (-1, 0, 1, 0),
        (3, 0, 1, 0),
        (0, -1, 1, 0),
        (0, 20, 1, 0),
        (0, 15, 6, 0),
        (0, 0, ROWS + 1, 0),
        (0, 0, -1, 0),
        (0, 0, 1, 4),
        (0, 2**31 - 1, 1, 0),
    ],
)
def test_segments_outside_are_refused(small: Conductor, segment: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="outside"):
        small.run(np.array([segment], np.int32))
    with pytest.raises(ValueError, match="shape"):
        small.run(np.zeros((1, 3), np.int32))


@pytest.mark.parametrize(
    ("values", "says"),
    [({"speed": 1}, "no hyperparameter"), ({"batch_size": 1.5}, "no hyperparameter")],
)
def test_mistaken_hyperparameters(small: Conductor, values: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        small.configure(values)


def test_a_batch_size_is_whole(perceptron: Module) -> None:
    with (
        Conductor(perceptron, clients=1, rows=1) as conductor,
        pytest.raises(ValueError, match="whole"),
    ):
        conductor.configure({"batch_size": 1.5})


def test_a_fault_names_client_and_row(small: Conductor) -> None:
    body = """(if (f32.gt (f32.load (i32.const 2060)) (f32.const 0)) (then
      (i64.store (i32.const 4112) (i64.const 1)) (return (i32.const 2)))) i32.const 0"""
    with Conductor(Module.parse(task(body)), clients=3, rows=20) as conductor:
        conductor.inputs["features"][11] = 1  # row 1 of the segment below that begins at 10
        with pytest.raises(Faulted) as caught:
            conductor.run(np.array([(0, 0, 5, 3), (2, 10, 5, 3), (1, 5, 5, 3)], np.int32))
    error = caught.value
    assert (error.status, error.client, error.row) == (2, 2, 11)
    assert "row 11 of client 2" in error.message


def test_traps_and_endless_loops() -> None:
    once = np.array([(0, 0, 1, 3)], np.int32)
    with (
        Conductor(Module.parse(task("unreachable")), clients=1, rows=1) as conductor,
        pytest.raises(Trapped),
    ):
        conductor.run(once)
    loop = Module.parse(task("(loop $a (br $a)) i32.const 0"))
    with (
        Conductor(loop, clients=1, rows=1, limits=Limits(run_seconds=0.2)) as conductor,
        pytest.raises(OutOfTime),
    ):
        conductor.run(once)


def test_what_cannot_be_conducted() -> None:
    with pytest.raises(Refused, match="aggregation"):
        Conductor(Module.parse(builtin.aggregation("fedavg")), clients=1, rows=1)
    with pytest.raises(ValueError, match="4 GiB"):
        Conductor(Module.parse(task()), clients=1, rows=1 << 28)
    with pytest.raises(ValueError, match="there must be some"):
        Conductor(Module.parse(task()), clients=0, rows=1)
