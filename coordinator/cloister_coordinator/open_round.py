"""A round under way: its core, and what its members have handed in."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from cloister_coordinator import ledger
from cloister_coordinator.assignments import assign
from cloister_coordinator.blocks import (
    F32,
    U8,
    ArrayBlocks,
    Blocks,
    FileBlocks,
    PackedArray,
    PackedFile,
    PackedReader,
)
from cloister_coordinator.job import Plan
from cloister_coordinator.outcome import Expectation, metrics_of
from cloister_coordinator.resources import Resources
from cloister_coordinator.roster import Message
from cloister_coordinator.round import Round
from cloister_coordinator.secure_round import SETTLING_STEPS, SecureRound
from cloister_privacy.counters import EVALUATED_ROWS, TRAINED_ROWS
from cloister_protos import (
    Assignment,
    JobSpec,
    MemberState,
    Metrics,
    Result,
    Role,
    RoundState,
    Weighting,
)
from cloister_tasks import Manifest

_OPEN = (MemberState.MEMBER_STATE_ASSIGNED, MemberState.MEMBER_STATE_LOST)

INLINE_MEMORY_BYTES = 16 * 1024 * 1024
"""Inline updates of one round kept in memory; the others are read back from the database."""


@dataclass
class OpenRound:
    """One round and its reports."""

    job_id: str
    spec: JobSpec
    manifest: Manifest
    plan: Plan
    core: Round
    shared: Assignment
    """What all members are told."""
    started_ms: int
    deadline_ms: int
    secure: SecureRound | None = None
    """Its secure aggregation; None: updates come in clear."""
    announced: bool = False
    """Whether it is durable and the members were told."""
    sums: dict[str, float] = field(default_factory=dict)
    """Counters of the survivors, by name, once the masks are off."""
    results: dict[str, Result] = field(default_factory=dict)
    """Of those who reported, without inline updates."""
    _updates: dict[str, bytes] = field(default_factory=dict)
    _held: int = 0

    @property
    def group(self) -> str:
        """Name of its uploads in the spool."""
        return f"{self.job_id}-{self.plan.number}"

    @property
    def collecting(self) -> bool:
        """Whether reports are taken."""
        return self.core.state == RoundState.ROUND_STATE_COLLECTING

    @cached_property
    def metric_names(self) -> tuple[str, ...]:
        """The task's metrics."""
        return tuple(buffer.name for buffer in self.manifest.of(Role.ROLE_METRIC))

    @cached_property
    def expectation(self) -> Expectation:
        """What a result has to look like."""
        epochs = 0 if self.plan.evaluation_only else self.spec.training.epochs
        masked = None if self.secure is None else self.secure.vector_bytes
        return Expectation(self.manifest, epochs, self.plan.evaluate, masked)

    def open_for(self, client_id: str) -> bool:
        """Whether this client's report would be taken."""
        return self.collecting and self.core.members.get(client_id) in _OPEN

    def message(self, client_id: str) -> Message:
        """A member's assignment; under secure aggregation its work goes on after its report."""
        steps = 0 if self.secure is None else SETTLING_STEPS
        settling = steps * self.shared.secure.settings.step_seconds
        return assign(self.shared, client_id, self.spec.seed, self.deadline_ms / 1000 + settling)

    def needs(self, client_id: str) -> bool:
        """Whether a member that has reported is still needed to take the masks off."""
        return self.secure is not None and self.secure.needs(client_id)

    def keep(self, client_id: str, result: Result) -> bytes:
        """Remember a result, whose inline update is taken out and returned.

        The update itself stays only while there is room.
        """
        update = result.inline_update
        result.ClearField("inline_update")
        self.results[client_id] = result
        if update and self._held + len(update) <= INLINE_MEMORY_BYTES:
            self._held += len(update)
            self._updates[client_id] = update
        return update

    def in_memory(self) -> bool:
        """Whether no update has to be read from the database."""
        return all(
            client_id in self._updates or self.results[client_id].HasField("update")
            for client_id in self.core.survivors
        )

    def updates(self, resources: Resources) -> list[Blocks]:
        """The survivors' updates in canonical order."""
        return [self._update(client_id, resources) for client_id in self.core.survivors]

    def vectors(self, resources: Resources) -> list[PackedReader]:
        """The survivors' masked vectors, in canonical order."""
        return [self._vector(client_id, resources) for client_id in self.core.survivors]

    def weights(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """What each survivor's update counts for, f64 (survivors,)."""
        survivors = self.core.survivors
        if self.spec.weighting == Weighting.WEIGHTING_UNIFORM:
            return np.ones(len(survivors))
        return np.array([self.results[i].examples for i in survivors], np.float64)

    def metrics(self) -> tuple[Metrics, Metrics]:
        """Means over the survivors: while training, and of the base version."""
        if self.secure is not None:
            return (
                self._summed("training", TRAINED_ROWS),
                self._summed("evaluation", EVALUATED_ROWS),
            )
        results = [self.results[client_id] for client_id in self.core.survivors]
        training = metrics_of(results, self.metric_names, training=True)
        return training, metrics_of(results, self.metric_names, training=False)

    def _summed(self, phase: str, rows: str) -> Metrics:
        """Means from the counters; none where those are not summed, or over no rows."""
        count = int(self.sums.get(rows, 0))
        if count <= 0:
            return Metrics()
        means = {name: self.sums[f"{phase} {name}"] / count for name in self.metric_names}
        return Metrics(examples=count, means=means)

    def _vector(self, client_id: str, resources: Resources) -> PackedReader:
        if (vector := self._updates.get(client_id)) is not None:
            return PackedArray(vector)
        result = self.results[client_id]
        if result.HasField("update"):
            return PackedFile(resources.spool.path(self.group, client_id, result.update.digest))
        return _Row(resources, self.job_id, self.plan.number, client_id)

    def _update(self, client_id: str, resources: Resources) -> Blocks:
        if (update := self._updates.get(client_id)) is not None:
            return ArrayBlocks(np.frombuffer(update, "<f4"))
        result = self.results[client_id]
        if result.HasField("update"):
            path = resources.spool.path(self.group, client_id, result.update.digest)
            return FileBlocks(path)
        return _RowBlocks(_Row(resources, self.job_id, self.plan.number, client_id))


class _Row:
    """What a member handed in, in the database; read anew for each piece, as it is small."""

    def __init__(self, resources: Resources, job_id: str, number: int, client_id: str) -> None:
        self._resources = resources
        self._key = (job_id, number, client_id)

    def read_into(self, start: int, out: U8) -> None:
        """See blocks.PackedReader."""
        content = self._resources.read(ledger.inline_update, *self._key)
        assert content is not None, f"update {self._key} was acknowledged and is gone"
        PackedArray(content).read_into(start, out)


class _RowBlocks:
    """The same as f32."""

    def __init__(self, row: _Row) -> None:
        self._row = row

    def read_into(self, start: int, out: F32) -> None:
        """See blocks.Blocks."""
        self._row.read_into(4 * start, out.view(np.uint8))
