from __future__ import annotations

from typing import Any

import pytest

from cloister_coordinator.errors import Invalid
from cloister_coordinator.outcome import (
    MAX_ROWS,
    Expectation,
    check_failure,
    check_result,
    metrics_of,
)
from cloister_protos import Blob, Failure, Result
from cloister_tasks import Module, build

MANIFEST = Module.parse(build("softmax-regression", features=3, classes=2)).manifest
SIZE = 4 * MANIFEST.parameter_count
TRAINED = Expectation(MANIFEST, epochs=2, evaluate=True)
NAMES = ("loss", "accuracy")


def result(**changed: Any) -> Result:
    fields: dict[str, Any] = {
        "examples": 10,
        "trained_rows": 20,
        "training_sums": {"loss": 3.0},
        "evaluation_sums": {"loss": 1.0},
        "evaluated_rows": 4,
        "inline_update": bytes(SIZE),
    }
    return Result(**(fields | changed))


def test_a_right_result_passes() -> None:
    check_result(result(), TRAINED, NAMES)
    uploaded = result(inline_update=b"", update=Blob(digest=bytes(32), size=SIZE))
    check_result(uploaded, TRAINED, NAMES)
    empty = Expectation(MANIFEST, epochs=0, evaluate=True)
    check_result(Result(evaluated_rows=3, evaluation_sums={"loss": 1}), empty, NAMES)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"training_sums": {"lost": 1.0}}, "none of the task's"),
        ({"training_sums": {"loss": float("nan")}}, "is nan"),
        ({"evaluation_sums": {"loss": float("inf")}}, "is inf"),
        ({"examples": MAX_ROWS + 1, "trained_rows": 2 * MAX_ROWS + 2}, "are believed"),
        ({"trained_rows": 10}, "are not 10 rows"),
        ({"inline_update": bytes(SIZE - 4)}, "were expected"),
        ({"inline_update": b"", "update": Blob(digest=bytes(32), size=8)}, "were expected"),
        ({"update": Blob(digest=bytes(32), size=SIZE)}, "were expected"),
        ({"inline_update": b"", "update": Blob(digest=b"x", size=SIZE)}, "digest of 1 bytes"),
        ({"inline_update": b"\xff" * SIZE}, "not finite"),
        ({"inline_update": b""}, "were expected"),
    ],
)
def test_a_wrong_one_does_not(changed: dict[str, Any], fault: str) -> None:
    with pytest.raises(Invalid, match=fault):
        check_result(result(**changed), TRAINED, NAMES)


def test_what_nobody_asked_for_is_refused() -> None:
    with pytest.raises(Invalid, match="nobody asked"):
        check_result(result(), Expectation(MANIFEST, epochs=2, evaluate=False), NAMES)
    with pytest.raises(Invalid):
        check_result(result(), Expectation(MANIFEST, epochs=0, evaluate=True), NAMES)


def test_a_failure_becomes_one_bounded_line() -> None:
    line = check_failure(Failure(kind="k" * 99, message="a\nb\x1b[0m" + "x" * 5000))
    assert line.startswith("k" * 32 + ": a b [0m")
    assert len(line) == 1024
    assert line.isprintable()


def test_metrics_are_means_over_rows() -> None:
    results = [
        Result(examples=2, trained_rows=4, training_sums={"loss": 6.0}, evaluated_rows=0),
        Result(examples=3, trained_rows=6, training_sums={"loss": 9.0}),
    ]
    training = metrics_of(results, NAMES, training=True)
    assert (training.examples, dict(training.means)) == (10, {"loss": 1.5})
    evaluation = metrics_of(results, NAMES, training=False)
    assert (evaluation.examples, dict(evaluation.means)) == (0, {})
