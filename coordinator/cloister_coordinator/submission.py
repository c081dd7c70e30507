"""A job as an operator submits it, checked before anything is recorded.

Every message says which field is wrong and what it may be; all of them are the operator's to
mend.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container
from dataclasses import dataclass

import numpy as np

from cloister_coordinator import cohort, protection
from cloister_coordinator.blobs import Blobs
from cloister_coordinator.errors import Invalid, NotFound
from cloister_coordinator.outcome import one_line
from cloister_coordinator.schedule import fault
from cloister_coordinator.spool import check_blob
from cloister_protos import Blob, JobSpec, Kind, Role, Training, Weighting
from cloister_protos import Module as ModuleMessage
from cloister_sandbox import Limits
from cloister_tasks import Buffer, InvalidModule, InvalidSignature, Manifest, Module
from cloister_tasks.contract import NOISE_KEYS
from cloister_tasks.signature import verify

MAX_ROUNDS = 1_000_000
MAX_TARGET = 100_000
MAX_MEMBERS = 80_000
"""Clients selected for one round, drop-outs included; a record of more exceeds 4 MiB."""
MAX_OVER_SELECTION = 10.0
MAX_DEADLINE_SECONDS = 604_800.0
MAX_EPOCHS = 1000
MAX_ABANDONED = 1_000_000
DEFAULT_ABANDONED = 10
MAX_TAGS = 64
MAX_NAME = 64
MAX_IDEMPOTENCY_KEY = 64

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Submission:
    """A job that can run."""

    spec: JobSpec
    """With every default filled in."""
    task: Module
    aggregation: Module


def check(spec: JobSpec, blobs: Blobs, limits: Limits) -> Submission:
    """Check a job and fill in its defaults; reads the blobs it names, so it blocks.

    Raises:
        Invalid: a field is out of bounds, or a module or model does not fit.
        NotFound: a blob has not been put.
    """
    filled = JobSpec()
    filled.CopyFrom(spec)
    _check_numbers(filled)
    _check_eligibility(filled)
    task = read_module("task", spec.task, blobs, limits)
    _kind("task", task, Kind.KIND_TRAINING, Kind.KIND_SUMMARY)
    aggregation = read_module("aggregation", spec.aggregation, blobs, limits)
    _kind("aggregation", aggregation, Kind.KIND_AGGREGATION)
    if aggregation.manifest.memory_bytes > limits.memory_bytes:
        raise _invalid(
            "aggregation",
            f"wants {aggregation.manifest.memory_bytes} bytes of memory;"
            f" this coordinator grants {limits.memory_bytes}",
        )
    _check_training(filled, task.manifest)
    _check_models(filled, task.manifest, blobs)
    protection.check(filled, task.manifest, aggregation.manifest)
    return Submission(filled, task, aggregation)


def read_module(field: str, message: ModuleMessage, blobs: Blobs, limits: Limits) -> Module:
    """The module behind a message, parsed, and its signature verified when there is one.

    Raises:
        Invalid: it breaks the task contract, or the signature is wrong.
        NotFound: its bytes have not been put.
    """
    check_blob(message.blob, field)
    if message.blob.size > limits.module_bytes:
        raise _invalid(field, f"has {message.blob.size} bytes; at most {limits.module_bytes}")
    _check_stored(field, message.blob, blobs)
    try:
        if message.publisher or message.signature:
            verify(message)
        return Module.parse(blobs.read(message.blob.digest), limits.module_bytes)
    except InvalidModule as e:
        raise _invalid(field, f"is no valid module: {e.message}") from e
    except InvalidSignature as e:
        raise _invalid(field, str(e)) from e


def _check_numbers(spec: JobSpec) -> None:
    if not _NAME.fullmatch(spec.name):
        raise _invalid("name", f"is {one_line(spec.name)[:80]!r}; it must match {_NAME.pattern}")
    _between("rounds", spec.rounds, 1, MAX_ROUNDS)
    _between("cohort.target", spec.cohort.target, 1, MAX_TARGET)
    _between("cohort.minimum", spec.cohort.minimum, 1, spec.cohort.target)
    spec.cohort.over_selection = spec.cohort.over_selection or 1.0
    _between("cohort.over_selection", spec.cohort.over_selection, 1.0, MAX_OVER_SELECTION)
    selected = cohort.size(spec.cohort.target, spec.cohort.over_selection)
    if selected > MAX_MEMBERS:
        raise _invalid("cohort", f"selects {selected} clients at once; at most {MAX_MEMBERS}")
    _between("round_deadline_seconds", spec.round_deadline_seconds, 0.1, MAX_DEADLINE_SECONDS)
    spec.max_abandoned_rounds = spec.max_abandoned_rounds or DEFAULT_ABANDONED
    _between("max_abandoned_rounds", spec.max_abandoned_rounds, 1, MAX_ABANDONED)
    spec.weighting = spec.weighting or Weighting.WEIGHTING_EXAMPLES
    if spec.weighting not in Weighting.values():
        raise _invalid("weighting", f"is {spec.weighting}, which this coordinator does not know")


def _check_eligibility(spec: JobSpec) -> None:
    wanted = spec.eligibility
    if len(wanted.tags) > MAX_TAGS:
        raise _invalid("eligibility.tags", f"are {len(wanted.tags)}; at most {MAX_TAGS}")
    for text in (wanted.dataset, *wanted.tags):
        if len(text) > MAX_NAME or not text.isprintable():
            raise _invalid(
                "eligibility", f"has a name that is not {MAX_NAME} printable characters or fewer"
            )


def _check_training(spec: JobSpec, manifest: Manifest) -> None:
    if not spec.HasField("training"):
        spec.training.CopyFrom(Training(epochs=1))
    training = spec.training
    _between("training.epochs", training.epochs, 1, MAX_EPOCHS)
    if manifest.kind == Kind.KIND_SUMMARY:
        if training.epochs != 1:
            raise _invalid("training.epochs", "is not 1; a summary sees each row once")
        if spec.evaluate_every:
            raise _invalid("evaluate_every", "is not 0; a summary has nothing to evaluate")
    _check_secrets("training.hyperparameters", training.hyperparameters)
    _check_secrets("schedules", spec.schedules)
    known = {buffer.name: buffer for buffer in manifest.of(Role.ROLE_HYPERPARAMETER)}
    for name, value in training.hyperparameters.items():
        if name not in known:
            raise _invalid(
                "training.hyperparameters",
                f"names {one_line(name)[:80]!r}; the task has"
                f" {', '.join(sorted(known)) or 'no hyperparameters'}",
            )
        _check_hyperparameter(known[name], value)
    for name, schedule in spec.schedules.items():
        if (why := fault(name, schedule, manifest, spec.rounds)) is not None:
            raise _invalid("schedules", f"cannot be followed: {one_line(why)}")
    batch = training.hyperparameters.get("batch_size") if "batch_size" in known else None
    if batch is not None:
        _between("training.hyperparameters[batch_size]", batch, 1, manifest.capacity)


def _check_secrets(field: str, given: Container[str]) -> None:
    """The noise of whoever knows its key can be taken off, so no job may set one."""
    for name in NOISE_KEYS:
        if name in given:
            raise _invalid(field, f"sets {name}, a secret that each client draws itself")


def _check_hyperparameter(buffer: Buffer, value: float) -> None:
    field = f"training.hyperparameters[{buffer.name}]"
    if buffer.dtype.kind == "f":
        limit = float(np.finfo(np.dtype(buffer.dtype.str)).max)
        if not (math.isfinite(value) and abs(value) <= limit):
            raise _invalid(field, f"is {value}; the task keeps it as {buffer.dtype.name}")
        return
    whole = np.iinfo(np.dtype(buffer.dtype.str))
    if not value.is_integer() or not whole.min <= value <= whole.max:
        raise _invalid(field, f"is {value}; the task keeps it as {buffer.dtype.name}")


def _check_models(spec: JobSpec, manifest: Manifest, blobs: Blobs) -> None:
    frozen = manifest.block(Role.ROLE_FROZEN)
    for field, size in (
        ("initial_model", 4 * manifest.parameter_count),
        ("frozen", frozen.nbytes if frozen else 0),
    ):
        if not spec.HasField(field):
            if field == "frozen" and size:
                raise _invalid(field, f"is absent; the task has {size} bytes of frozen parameters")
            continue
        blob: Blob = getattr(spec, field)
        check_blob(blob, field)
        if blob.size != size:
            raise _invalid(field, f"has {blob.size} bytes; the task has {size}")
        _check_stored(field, blob, blobs)
        _check_finite(field, blob, blobs)


def _check_stored(field: str, blob: Blob, blobs: Blobs) -> None:
    size = blobs.size(blob.digest)
    if size is None:
        raise NotFound(
            "NO_BLOB",
            f"{field}: there is no blob {blob.digest.hex()}",
            "Put it first, then submit the job.",
        )
    if size != blob.size:
        raise _invalid(field, f"names a size of {blob.size} bytes; the blob has {size}")


def _check_finite(field: str, blob: Blob, blobs: Blobs) -> None:
    vector, count = blobs.vector(blob.digest), blob.size // 4
    piece = np.empty(min(count, 1 << 18), np.float32)
    for start in range(0, count, len(piece)):
        part = piece[: count - start]
        vector.read_into(start, part)
        if not np.isfinite(part).all():
            raise _invalid(field, "has values that are not finite")


def _kind(field: str, module: Module, *kinds: Kind) -> None:
    if module.manifest.kind not in kinds:
        wanted = " or ".join(Kind.Name(kind) for kind in kinds)
        raise _invalid(field, f"is of {Kind.Name(module.manifest.kind)}; it must be of {wanted}")


def _between(field: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # false for NaN too
        raise _invalid(field, f"is {value:g}; it must be from {least:g} to {most:g}")


def _invalid(field: str, fault: str) -> Invalid:
    return Invalid("BAD_JOB", f"{field} {fault}", "Correct the job and submit it again.")
