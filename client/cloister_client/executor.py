"""From an assignment to its answer: policy, blobs, sandbox, gate, masks."""

from __future__ import annotations

import functools
import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from cloister_client.blob_cache import BlobCache
from cloister_client.certification import Certification
from cloister_client.dataset import Dataset
from cloister_client.day_budget import DayBudget
from cloister_client.desk import Work
from cloister_client.errors import DigestMismatch, RoundOutOfTime, UnfitAssignment
from cloister_client.gate import Gate
from cloister_client.link import Link
from cloister_client.local_state import LocalStore
from cloister_client.membership import Membership
from cloister_client.policy import Policy, weigh
from cloister_client.training import Outcome, train
from cloister_client.transfer import Download, Upload
from cloister_protos import MAX_INLINE_BYTES, Assignment, Blob, Result, Role
from cloister_protos import Module as SignedModule
from cloister_sandbox import SandboxPool
from cloister_tasks import InvalidSignature, Module
from cloister_tasks.signature import verify

_PREPARED = 4
"""Tasks kept parsed, with their data in shape, between rounds; bounds memory."""


@dataclass(frozen=True)
class Done:
    """A result to hand in."""

    result: Result
    upload: Upload | None
    """The update, or masked vector, when it is too large to go with the result."""
    outcome: Outcome
    """What training and evaluation gave, for this device's own eyes; without the update."""
    norm: float | None
    """L2 norm of the update before the gate clipped it; None after evaluation only."""
    bytes_in: int
    """Bytes downloaded or received inline."""
    before: bytes | None = None
    """The local state it began from; None: the task's own values."""
    local: bytes = b""
    """The local state it ended with, to keep once the result is taken; empty: nothing."""
    membership: Membership | None = None
    """To finish once the result is taken, and to close in any case; None: it leaves in clear."""


@dataclass(frozen=True)
class _Prepared:
    module: Module
    dataset: Dataset
    parameters: int
    """Elements of the model."""
    frozen: int
    """Elements of the frozen block; 0: there is none."""
    local: int
    """Bytes of local state; 0: there is none."""
    metrics: list[str]
    """Names, in the manifest's order."""


class Executor:
    """Runs assignments; used by one thread."""

    def __init__(
        self,
        policy: Policy,
        datasets: Mapping[str, Dataset],
        pool: SandboxPool,
        cache: BlobCache,
        budget: DayBudget,
        link: Link,
        store: LocalStore,
        certification: Certification | None = None,
    ):
        self._policy, self._datasets = policy, datasets
        self._pool, self._cache, self._budget, self._link = pool, cache, budget, link
        self._store, self._certification = store, certification
        self._limits = policy.limits()
        self._prepared: OrderedDict[tuple[bytes, str], _Prepared] = OrderedDict()

    def weigh(self, assignment: Assignment) -> str | None:
        """None if the policy allows the assignment, else the reason why not."""
        task, certification = assignment.task, self._certification
        reason = weigh(
            self._policy,
            assignment,
            signed=_signed(task.blob.digest, task.publisher, task.signature),
            datasets=self._datasets,
            seconds_today=self._budget.seconds,
            secure=certification.config if certification else None,
        )
        if reason is None and certification and assignment.HasField("secure"):
            return certification.fault(datetime.now(UTC))
        return reason

    def run(self, work: Work) -> Done:
        """The result of a valid and allowed assignment.

        Raises AssignmentFailure, Aborted, SandboxError and InvalidModule for what is to be
        reported, Withdrawn, NotWanted and Rejected for what is not.
        """
        assignment = work.assignment
        prepared, bytes_in = self._prepare(work)
        _same_size(assignment.model, prepared.parameters, "model")
        _same_size(assignment.frozen, prepared.frozen, "frozen block")
        with ExitStack() as undo:
            membership = None
            if assignment.HasField("secure"):
                membership = self._membership(work, prepared)
                undo.callback(membership.close)
                membership.join()
            done = self._work_off(work, prepared, membership, bytes_in)
            undo.pop_all()
        return done

    def keep(self, work: Work, done: Done) -> None:
        """Keep the local state of a result that the coordinator has taken."""
        if done.local:
            self._store.keep(work.assignment, done.before, done.local)

    def _membership(self, work: Work, prepared: _Prepared) -> Membership:
        assert self._certification is not None, "an assignment that was weighed"
        return Membership(
            work, self._link, self._certification, prepared.parameters, prepared.metrics
        )

    def _work_off(
        self, work: Work, prepared: _Prepared, membership: Membership | None, bytes_in: int
    ) -> Done:
        assignment = work.assignment
        if assignment.inline_model:
            model = _inline(assignment)
        else:
            model = self._download(work, assignment.model, "model").view("<f4")
        bytes_in += assignment.model.size
        frozen = None
        if prepared.frozen:
            blob, fetched = self._blob(work, assignment.frozen, "frozen block")
            frozen = np.frombuffer(blob, dtype="<f4")
            bytes_in += fetched
        before = self._store.begin(assignment, prepared.local) if prepared.local else None
        outcome = self._train(work, prepared, model, frozen, before)
        norm = None
        if outcome.update is not None:
            gate = Gate(_smaller(self._policy.clip_norm, assignment.clip_norm))
            norm = gate.admit(outcome.update, prepared.parameters)
        if membership is None:
            result, leaving = _in_clear(outcome)
        else:
            masked = membership.mask(outcome, self._unclipped(assignment, norm))
            result, leaving = Result(accused=masked.accused), memoryview(masked.data)
        upload = None
        if leaving is not None and leaving.nbytes <= MAX_INLINE_BYTES:
            result.inline_update = leaving.tobytes()
        elif leaving is not None:
            upload = Upload.of(leaving)
            result.update.CopyFrom(upload.blob)
        return Done(
            result,
            upload,
            replace(outcome, update=None, local=b""),
            norm,
            bytes_in,
            before,
            outcome.local,
            membership,
        )

    def _unclipped(self, assignment: Assignment, norm: float | None) -> bool:
        """Whether the job's clipping norm leaves the update as the owner's has left it."""
        if norm is None:
            return False
        return min(norm, self._policy.clip_norm or norm) <= assignment.clip_norm

    def _train(
        self,
        work: Work,
        prepared: _Prepared,
        model: NDArray[np.float32],
        frozen: NDArray[np.float32] | None,
        local: bytes | None,
    ) -> Outcome:
        assignment = work.assignment
        started = time.monotonic()

        def keep_going() -> None:
            work.check()
            if time.monotonic() - started > self._policy.seconds_per_round:
                raise RoundOutOfTime(
                    f"the {self._policy.seconds_per_round:g} seconds per round are used up"
                )

        try:
            with (
                self._pool.lease(prepared.module) as sandbox,
                work.interruptible(sandbox.close),
            ):
                return train(
                    sandbox,
                    model=model,
                    frozen=frozen,
                    dataset=prepared.dataset,
                    training=assignment.training if assignment.HasField("training") else None,
                    evaluate=assignment.evaluate,
                    seed=assignment.seed,
                    local=local,
                    out=model if model.flags.writeable else None,
                    keep_going=keep_going,
                )
        except Exception:
            work.check()  # interrupted because it was withdrawn: no fault of the task
            raise
        finally:
            if self._policy.seconds_per_day is not None:
                self._budget.spend(time.monotonic() - started)

    def _prepare(self, work: Work) -> tuple[_Prepared, int]:
        """The task, parsed, with the data it takes; and the bytes downloaded for it."""
        assignment = work.assignment
        name = assignment.dataset or next(iter(self._datasets))
        key = (assignment.task.blob.digest, name)
        if (known := self._prepared.get(key)) is not None:
            self._prepared.move_to_end(key)
            return known, 0
        size = assignment.task.blob.size
        if size > self._limits.module_bytes:
            raise UnfitAssignment(
                f"the task has {size} bytes; this device takes at most {self._limits.module_bytes}"
            )
        data, fetched = self._blob(work, assignment.task.blob, "task")
        module = Module.parse(data, self._limits.module_bytes)
        if module.memory.max_bytes > self._limits.memory_bytes:  # before its model is downloaded
            raise UnfitAssignment(
                f"the task needs {module.memory.max_bytes} bytes of memory; "
                f"this device allows {self._limits.memory_bytes}"
            )
        dataset = self._datasets[name].fit(module.manifest.of(Role.ROLE_INPUT))
        frozen = module.manifest.block(Role.ROLE_FROZEN)
        prepared = _Prepared(
            module,
            dataset,
            module.manifest.parameter_count,
            frozen.size if frozen else 0,
            module.manifest.local_bytes,
            [buffer.name for buffer in module.manifest.of(Role.ROLE_METRIC)],
        )
        self._prepared[key] = prepared
        if len(self._prepared) > _PREPARED:
            self._prepared.popitem(last=False)
        return prepared, fetched

    def _blob(self, work: Work, blob: Blob, what: str) -> tuple[bytes, int]:
        """A blob that later rounds need again, and the bytes downloaded for it."""
        if (cached := self._cache.get(blob.digest)) is not None:
            return cached, 0
        data = self._download(work, blob, what).tobytes()
        self._cache.put(blob.digest, data)
        return data, len(data)

    def _download(self, work: Work, blob: Blob, what: str) -> NDArray[np.uint8]:
        array = np.empty(blob.size, dtype=np.uint8)
        download = Download(blob, array.data, what)
        transport, assignment_id = self._link.transport, work.assignment.assignment_id
        self._link.persist(work, lambda: transport.download(assignment_id, download))
        download.verify()
        return array


def _same_size(blob: Blob, elements: int, what: str) -> None:
    """Before a byte of it is downloaded."""
    if blob.size != 4 * elements:
        raise UnfitAssignment(
            f"the {what} has {blob.size} bytes, but the task's has {4 * elements}"
        )


def _smaller(own: float | None, asked: float) -> float | None:
    """The owner's clipping norm or the job's (0: none); None: no limit."""
    return min((norm for norm in (own, asked) if norm), default=None)


def _in_clear(outcome: Outcome) -> tuple[Result, memoryview | None]:
    """The result but for the update, and the update's bytes."""
    result = Result(
        examples=outcome.examples,
        training_sums=outcome.training_sums,
        trained_rows=outcome.trained_rows,
        evaluation_sums=outcome.evaluation_sums,
        evaluated_rows=outcome.evaluated_rows,
    )
    return result, None if outcome.update is None else outcome.update.data.cast("B")


def _inline(assignment: Assignment) -> NDArray[np.float32]:
    if hashlib.sha256(assignment.inline_model).digest() != assignment.model.digest:
        raise DigestMismatch("the model does not have the digest the assignment names")
    return np.frombuffer(assignment.inline_model, dtype="<f4")


@functools.lru_cache(maxsize=64)
def _signed(digest: bytes, publisher: bytes, signature: bytes) -> bool:
    """Whether `publisher` vouches for the task; remembered, as the same task comes each round."""
    if not publisher:
        return False
    try:
        verify(SignedModule(blob=Blob(digest=digest), publisher=publisher, signature=signature))
    except InvalidSignature:
        return False
    return True
