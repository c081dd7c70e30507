from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from cloister_client.dataset import Dataset
from cloister_client.errors import DataError, UnfitAssignment
from cloister_client.shuffle import row_order
from cloister_client.training import Outcome, chunk_rows, settings, train
from cloister_protos import Role, Training
from cloister_sandbox import Faulted, Limits, SandboxPool
from cloister_tasks import Module, build, compile_c

FEATURES, CLASSES, ROWS, HELD_OUT = 5, 3, 50, 21
RNG = np.random.default_rng(7)
X = RNG.standard_normal((ROWS + HELD_OUT, FEATURES)).astype(np.float32)
Y = RNG.integers(0, CLASSES, ROWS + HELD_OUT, dtype=np.int32)
DATA = Dataset({"features": X[:ROWS], "label": Y[:ROWS]}, {"features": X[ROWS:], "label": Y[ROWS:]})
MODEL = RNG.standard_normal(CLASSES * FEATURES + CLASSES).astype(np.float32)


@pytest.fixture(scope="module")
def pool() -> Iterator[SandboxPool]:
    pool = SandboxPool(Limits(), isolated=False)
    yield pool
    pool.close()


def softmax_regression(capacity: int) -> Module:
    data = build("softmax-regression", features=FEATURES, classes=CLASSES, capacity=capacity)
    return Module.parse(data)


def oracle(training: Training, seed: int, rate: float, batch: int) -> tuple[NDArray, float, float]:
    """Softmax regression in float64: the update, the loss sum and the number of hits."""
    model = MODEL.astype(np.float64)
    weight = model[: CLASSES * FEATURES].reshape(CLASSES, FEATURES).copy()
    bias = model[CLASSES * FEATURES :].copy()
    loss = hits = 0.0
    for epoch in range(training.epochs):
        order = np.arange(ROWS) if training.keep_order else row_order(seed, epoch, ROWS)
        for start in range(0, ROWS, batch):
            index = order[start : start + batch]
            x, y = X[index].astype(np.float64), Y[index]
            logits = x @ weight.T + bias
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            loss -= np.log(p[np.arange(len(y)), y]).sum()
            hits += (logits.argmax(axis=1) == y).sum()
            p[np.arange(len(y)), y] -= 1
            weight -= rate / len(y) * p.T @ x
            bias -= rate / len(y) * p.sum(axis=0)
    return np.concatenate([weight.ravel(), bias]) - model, loss, hits


def run(pool: SandboxPool, module: Module, training: Training | None, **more: object) -> Outcome:
    options = {"frozen": None, "dataset": DATA, "evaluate": False, "seed": 11, **more}
    with pool.lease(module) as sandbox:
        return train(sandbox, model=MODEL, training=training, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("capacity", [64, 23])
@pytest.mark.parametrize("keep_order", [False, True])
def test_epochs_of_sgd_agree_with_float64(
    pool: SandboxPool, capacity: int, keep_order: bool
) -> None:
    training = Training(
        epochs=3,
        hyperparameters={"learning_rate": 0.5, "batch_size": 7},
        keep_order=keep_order,
    )
    outcome = run(pool, softmax_regression(capacity), training)
    update, loss, hits = oracle(training, 11, 0.5, 7)
    assert outcome.update is not None
    np.testing.assert_allclose(outcome.update, update, rtol=1e-4, atol=1e-6)
    assert outcome.training_sums["loss"] == pytest.approx(loss, rel=1e-5)
    assert outcome.training_sums["accuracy"] == hits
    assert (outcome.examples, outcome.trained_rows) == (ROWS, 3 * ROWS)
    assert (outcome.evaluation_sums, outcome.evaluated_rows) == ({}, 0)


def test_the_capacity_does_not_change_a_bit(pool: SandboxPool) -> None:
    training = Training(epochs=2, hyperparameters={"momentum": 0.9, "batch_size": 7})
    updates = {
        run(pool, softmax_regression(capacity), training).update.tobytes()  # type: ignore[union-attr]
        for capacity in (8, 14, 64)
    }
    assert len(updates) == 1


def test_the_tasks_own_batch_size_decides_where_the_job_is_silent(pool: SandboxPool) -> None:
    outcome = run(pool, softmax_regression(40), Training(epochs=1))
    update, _, _ = oracle(Training(epochs=1), 11, 0.1, 32)
    assert outcome.update is not None
    np.testing.assert_allclose(outcome.update, update, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("capacity", [64, 8])
def test_evaluation_sees_the_model_as_received(pool: SandboxPool, capacity: int) -> None:
    module = softmax_regression(capacity)
    hyperparameters = {"batch_size": 4}
    both = run(pool, module, Training(epochs=1, hyperparameters=hyperparameters), evaluate=True)
    only = run(pool, module, None, evaluate=True)
    logits = X[ROWS:].astype(np.float64) @ MODEL[:-CLASSES].reshape(CLASSES, FEATURES).T
    logits += MODEL[-CLASSES:]
    log_sum = np.log(np.exp(logits).sum(axis=1))
    loss = (log_sum - logits[np.arange(HELD_OUT), Y[ROWS:]]).sum()
    for outcome in (both, only):
        assert outcome.evaluated_rows == HELD_OUT
        assert outcome.evaluation_sums["loss"] == pytest.approx(loss, rel=1e-5)
        assert outcome.evaluation_sums["accuracy"] == (logits.argmax(axis=1) == Y[ROWS:]).sum()
    assert only.update is None
    assert only.training_sums == {}
    assert both.trained_rows == ROWS


def test_an_empty_evaluation_set_is_no_error(pool: SandboxPool) -> None:
    empty = Dataset(DATA.train, {name: array[:0] for name, array in DATA.train.items()})
    outcome = run(pool, softmax_regression(64), None, evaluate=True, dataset=empty)
    assert (outcome.evaluation_sums, outcome.evaluated_rows) == ({}, 0)


def test_the_update_can_take_the_models_place(pool: SandboxPool) -> None:
    module, training = softmax_regression(64), Training(epochs=1)
    expected = run(pool, module, training).update
    model = MODEL.copy()
    with pool.lease(module) as sandbox:
        outcome = train(
            sandbox,
            model=model,
            frozen=None,
            dataset=DATA,
            training=training,
            evaluate=False,
            seed=11,
            out=model,
        )
    assert outcome.update is model
    np.testing.assert_array_equal(model, expected)


def test_statistics_are_the_update_from_zero(pool: SandboxPool) -> None:
    module = Module.parse(build("summarize", features=FEATURES, bins=4, capacity=8))
    zeros = np.zeros(module.manifest.parameter_count, dtype=np.float32)
    data = Dataset({"features": X[:ROWS]}, {"features": X[:0]})
    with pool.lease(module) as sandbox:
        outcome = train(
            sandbox,
            model=zeros,
            frozen=None,
            dataset=data,
            training=Training(epochs=1),
            evaluate=False,
            seed=1,
        )
    buffers = {b.name: b for b in module.manifest.of(Role.ROLE_PARAMETER)}
    first = min(b.offset for b in buffers.values())
    assert outcome.update is not None
    total = buffers["sum"]
    start = (total.offset - first) // 4
    np.testing.assert_allclose(
        outcome.update[start : start + total.size], X[:ROWS].sum(axis=0), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("training", "more", "message"),
    [
        (Training(epochs=1, hyperparameters={"speed": 1.0}), {}, "'speed'; there are: learning"),
        (Training(epochs=1, hyperparameters={"batch_size": 1.5}), {}, "1.5 is no int32"),
        (Training(epochs=1, hyperparameters={"batch_size": 2.0**40}), {}, "is no int32"),
        (Training(epochs=1, hyperparameters={"momentum": 1e39}), {}, r"1e\+39 is no float32"),
        (Training(epochs=1, hyperparameters={"momentum": np.nan}), {}, "nan is no float32"),
        (Training(epochs=1, hyperparameters={"batch_size": 41}), {}, "at most 40 rows at once"),
        (Training(epochs=1, hyperparameters={"batch_size": 0}), {}, "batch_size is 0"),
        (Training(epochs=1), {"frozen": MODEL}, "0 frozen parameters, the assignment brings 18"),
    ],
)
def test_what_the_task_cannot_do_is_refused(
    pool: SandboxPool, training: Training, more: dict[str, object], message: str
) -> None:
    with pytest.raises(UnfitAssignment, match=message):
        run(pool, softmax_regression(40), training, **more)


SECRETIVE = """
#include <cloister.h>
CLOISTER_TASK("secretive", "Shows the key of its noise, 16 bits a parameter");
CLOISTER_PARAMETER(shown, "The key", 16);
CLOISTER_INPUT(float, features, "Rows", 64, 5);
CLOISTER_HYPERPARAMETER(int64_t, seed, 0, "Of the round");
CLOISTER_HYPERPARAMETER(int64_t, noise_key0, 0, "Secret");
CLOISTER_HYPERPARAMETER(int64_t, noise_key1, 0, "Secret");
CLOISTER_HYPERPARAMETER(int64_t, noise_key2, 0, "Secret");
CLOISTER_HYPERPARAMETER(int64_t, noise_key3, 0, "Secret");
CLOISTER_EXPORT(reset) int32_t reset(void) { return CLOISTER_OK; }
CLOISTER_EXPORT(init) int32_t init(int64_t from) { return (int32_t)(from * 0); }
CLOISTER_EXPORT(train) int32_t train(int32_t rows) {
    const int64_t key[] = {noise_key0, noise_key1, noise_key2, noise_key3};
    for (int i = 0; i < 16; i++) shown[i] = (float)((uint64_t)key[i / 4] >> 16 * (i % 4) & 0xffff);
    return rows * 0;
}
CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t rows) { return rows * 0; }
CLOISTER_EXPORT(predict) int32_t predict(int32_t rows) { return rows * 0; }
"""


@pytest.fixture(scope="module")
def secretive(tmp_path_factory: pytest.TempPathFactory) -> Module:
    path = tmp_path_factory.mktemp("secretive") / "secretive.c"
    path.write_text(SECRETIVE)
    return Module.parse(compile_c(path))


def test_the_key_of_noise_is_drawn_anew_and_is_not_the_seed(
    pool: SandboxPool, secretive: Module
) -> None:
    data = Dataset({"features": X[:ROWS]}, {"features": X[:0]})
    zeros = np.zeros(16, np.float32)
    keys = set()
    for _ in range(4):
        with pool.lease(secretive) as sandbox:
            outcome = train(
                sandbox,
                model=zeros,
                frozen=None,
                dataset=data,
                training=Training(epochs=2),
                evaluate=False,
                seed=11,
            )
        assert outcome.update is not None
        keys.add(outcome.update.astype("<u2").tobytes())
    assert len(keys) == 4
    ones = sum(int.from_bytes(key, "little").bit_count() for key in keys)
    assert abs(ones - 512) < 6 * 16  # of 1024 bits, six standard deviations


def test_a_job_cannot_set_the_key_of_noise(pool: SandboxPool, secretive: Module) -> None:
    training = Training(epochs=1, hyperparameters={"noise_key2": 7.0})
    with pytest.raises(UnfitAssignment, match="'noise_key2' is a secret that the device draws"):
        settings(secretive.manifest, training)


def test_no_rows_to_train_on(pool: SandboxPool) -> None:
    empty = {name: array[:0] for name, array in DATA.train.items()}
    with pytest.raises(DataError, match="no rows"):
        run(pool, softmax_regression(40), Training(epochs=1), dataset=Dataset(empty, empty))


def test_a_label_out_of_range_is_the_guests_to_find(pool: SandboxPool) -> None:
    labels = Y[:ROWS].copy()
    labels[13] = CLASSES
    data = Dataset({"features": X[:ROWS], "label": labels}, DATA.evaluation)
    with pytest.raises(Faulted):
        run(pool, softmax_regression(64), Training(epochs=1, keep_order=True), dataset=data)


def test_the_owner_of_the_time_is_asked_before_each_chunk(pool: SandboxPool) -> None:
    asked = []

    def keep_going() -> None:
        asked.append(None)
        if len(asked) == 3:
            raise TimeoutError

    training = Training(epochs=2, hyperparameters={"batch_size": 5})
    with pytest.raises(TimeoutError):
        run(pool, softmax_regression(20), training, keep_going=keep_going)
    assert len(asked) == 3


def test_chunks_never_cut_a_mini_batch() -> None:
    assert chunk_rows(100, 100, 1000) == 100
    assert chunk_rows(101, 100, 32) == 96
    assert chunk_rows(101, 100, None) == 100
    assert chunk_rows(0, 100, 32) == 0
