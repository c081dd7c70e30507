"""What a client hands in, checked against what it was asked for."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from cloister_coordinator.errors import Invalid
from cloister_coordinator.spool import check_blob, check_finite
from cloister_protos import MAX_INLINE_BYTES, Failure, Metrics, Result
from cloister_tasks import Manifest

MAX_ROWS = 1 << 40
"""Rows a client may claim; more would drown all others in the average."""
MAX_KIND = 32
MAX_MESSAGE = 1024


@dataclass(frozen=True)
class Expectation:
    """What an assignment asks for."""

    manifest: Manifest
    epochs: int
    """0: no training."""
    evaluate: bool
    masked: int | None = None
    """Bytes of a masked vector, and nothing else is told; None: results come in clear."""

    @property
    def update_bytes(self) -> int:
        """Bytes of an update; 0: none is expected."""
        if self.masked is not None:
            return self.masked
        return 4 * self.manifest.parameter_count if self.epochs else 0


def check_result(result: Result, expected: Expectation, metrics: Collection[str]) -> None:
    """Refuse a result that cannot be the outcome of the assignment.

    An update that was uploaded is only checked for its size here; its values were, on arrival.

    Raises:
        Invalid: the client is at fault; its message is fit for the round's record.
    """
    clear = expected.masked is None
    if not clear:
        _check_masked(result)
    elif result.accused:
        raise Invalid("BAD_RESULT", "members are accused without secure aggregation")
    _check_sums("training", result.training_sums, metrics, asked=expected.epochs > 0)
    _check_sums("evaluation", result.evaluation_sums, metrics, asked=expected.evaluate)
    for what, rows in (("trained on", result.examples), ("evaluated", result.evaluated_rows)):
        if rows > MAX_ROWS:
            raise Invalid("BAD_RESULT", f"{rows} rows {what}; at most {MAX_ROWS} are believed")
    if result.trained_rows != result.examples * expected.epochs:
        raise Invalid(
            "BAD_RESULT",
            f"{result.examples} rows in {expected.epochs} epochs are not"
            f" {result.trained_rows} rows",
        )
    if result.evaluated_rows and not expected.evaluate:
        raise Invalid("BAD_RESULT", "rows were evaluated although nobody asked for it")
    inline, uploaded = len(result.inline_update), result.HasField("update")
    if uploaded:
        check_blob(result.update, "the result")
    size = result.update.size if uploaded else inline
    if size != expected.update_bytes or (inline and uploaded) or inline > MAX_INLINE_BYTES:
        raise Invalid(
            "BAD_UPDATE",
            f"an update of {inline} bytes inline and {result.update.size} uploaded;"
            f" {expected.update_bytes} were expected",
        )
    if inline and clear:
        check_finite(result.inline_update)


def _check_masked(result: Result) -> None:
    told = (
        result.examples,
        result.trained_rows,
        result.evaluated_rows,
        len(result.training_sums),
        len(result.evaluation_sums),
    )
    if any(told):
        raise Invalid("BAD_RESULT", "rows or metrics in clear, under secure aggregation")


def check_failure(failure: Failure) -> str:
    """A failure as one line for the record: cut and printable, whatever was sent."""
    return one_line(f"{failure.kind[:MAX_KIND]}: {failure.message}")


def one_line(words: str) -> str:
    """Foreign words for a record: one printable line of at most 1024 characters."""
    return "".join(c if c.isprintable() else " " for c in words[:MAX_MESSAGE])


def metrics_of(results: Iterable[Result], names: Iterable[str], *, training: bool) -> Metrics:
    """Means over all rows of all results (in order of client id, so that they repeat)."""
    taken = [
        (r.training_sums, r.trained_rows) if training else (r.evaluation_sums, r.evaluated_rows)
        for r in results
    ]
    rows = sum(count for _, count in taken)
    means = {}
    if rows:
        for name in names:
            sums = [values[name] for values, _ in taken if name in values]
            if sums:
                means[name] = functools.reduce(operator.add, sums) / rows
    return Metrics(examples=rows, means=means)


def _check_sums(
    what: str, sums: Mapping[str, float], metrics: Collection[str], *, asked: bool
) -> None:
    if sums and not asked:
        raise Invalid("BAD_RESULT", f"{what} metrics although nobody asked for them")
    for name, value in sums.items():
        if name not in metrics:
            raise Invalid(
                "BAD_RESULT", f"the {what} metric {one_line(name)[:64]!r} is none of the task's"
            )
        if not math.isfinite(value):
            raise Invalid(
                "METRIC_NOT_FINITE",
                f"the {what} metric {name} is {value}",
                "Lower the learning rate, or look for broken rows in the data.",
            )
