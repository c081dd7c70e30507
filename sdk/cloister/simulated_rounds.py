"""The rounds of a simulation: who is there, what they train, what becomes of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloister.fleet import Fleet
from cloister.gathering import Exit, Gathered, Gathering, Gatherings, Report
from cloister.history import History, RoundResult, Score
from cloister.privacy_ledger import PrivacyLedger
from cloister_coordinator.aggregation import Aggregator, ArrayBlocks
from cloister_coordinator.cohort import client_seed, select
from cloister_coordinator.round import Round
from cloister_privacy.errors import Unrecoverable
from cloister_protos import Cohort, RoundState

F32 = NDArray[np.float32]

UPDATES_IN_MEMORY_BYTES = 64 * 1024 * 1024
"""Bytes of a round's updates kept in memory; past it they lie in a temporary file."""


@dataclass
class SimulatedRounds:
    """What stays the same over the rounds of one simulation."""

    ids: Sequence[str]
    """Of all clients, ascending; a place in it is a place in the fleet."""
    cohort: Cohort
    fleet: Fleet
    gatherings: Gatherings
    aggregator: Aggregator
    ledger: PrivacyLedger
    seed: int
    drop_out: float

    def __post_init__(self) -> None:
        """Server optimizer state starts at zero."""
        parameters = self.fleet.module.manifest.parameter_count
        self.state = ArrayBlocks(np.zeros(self.aggregator.state_size(parameters), np.float32))
        self.place = {client: place for place, client in enumerate(self.ids)}

    def round(self, number: int, history: History) -> RoundResult:
        """Run one round; if it commits, `history` advances to the next model version."""
        cohort, clip_norm = self.cohort, self.ledger.clip_norm
        members = select(self.ids, cohort.target, cohort.over_selection, self.seed, number)
        round_ = Round(number, history.version, members, cohort.target, cohort.minimum)
        random = np.random.default_rng((self.seed, number))
        exits = self._exits(number, members, random.random(len(members)) < self.drop_out)
        present = [member for member in members if exits[member] > Exit.VECTOR]
        for member in members:
            if exits[member] <= Exit.VECTOR:
                round_.lost(member, "simulated drop-out")
        training, clipped, diverged = Score(0, {}), 0, 0
        if present:
            gathering = self.gatherings.begin(
                number, history.version, history.block, self.fleet.training, clip_norm
            )
            try:
                gathering.join(exits)
                with _updates(len(present), len(history.block)) as updates:
                    arrival = random.permutation(len(present))
                    diverged = self._train(round_, present, arrival, history, updates, gathering)
                    if round_.state == RoundState.ROUND_STATE_FOLDING:
                        gathered = gathering.gather()
                        self.ledger.released(gathered.counters)
                        history.advance(self._fold(history.block, gathered))
                        round_.folded()
                        training, clipped = gathered.training, gathered.clipped
            except Unrecoverable as error:
                round_.abandon(str(error))
        return RoundResult(
            number=number,
            version=history.version,
            committed=round_.state == RoundState.ROUND_STATE_COMMITTED,
            reason=round_.reason,
            cohort=len(members),
            survivors=len(round_.survivors),
            diverged=diverged,
            training=training,
            clip_norm=clip_norm,
            clipped=clipped,
            epsilon=self.ledger.epsilon,
        )

    def _exits(
        self, number: int, members: Sequence[str], gone: NDArray[np.bool_]
    ) -> dict[str, Exit]:
        """At which step each member drops out, of those that do."""
        steps = np.array(self.gatherings.steps)
        random = np.random.default_rng((self.seed, number, 1))
        drawn = np.where(gone, random.choice(steps, len(members)), Exit.NEVER)
        return dict(zip(members, map(Exit, drawn.tolist()), strict=True))

    def _train(
        self,
        round_: Round,
        present: Sequence[str],
        arrival: NDArray[np.int64],
        history: History,
        updates: F32,
        gathering: Gathering,
    ) -> int:
        """Train those who are present, who report by order of `arrival` until the round closes.

        Returns how many updates were not finite.
        """
        fleet, clip_norm = self.fleet, self.ledger.clip_norm
        places = np.array([self.place[member] for member in present], np.int64)
        seeds = np.array([client_seed(self.seed, round_.number, m) for m in present], np.uint64)
        sums, norms = fleet.train(history.block, places, seeds, updates, history.version)
        finite = np.isfinite(norms)
        for row in arrival.tolist():
            if round_.state != RoundState.ROUND_STATE_COLLECTING:
                break
            if not finite[row]:
                round_.failed(present[row], "gate: the update is not finite")
                continue
            examples = int(fleet.counts[places[row]])
            report = Report(
                updates[row],
                not clip_norm or bool(norms[row] <= clip_norm),
                examples,
                examples * fleet.training.epochs,
                sums[row],
            )
            try:
                gathering.hand_in(present[row], report)
            except ValueError as error:
                finite[row] = False
                round_.failed(present[row], f"gate: {error}")
            else:
                round_.reported(present[row])
        taken = set(round_.survivors)
        fleet.keep(np.array([member in taken for member in present]))
        return int(np.count_nonzero(~finite))

    def _fold(self, model: F32, gathered: Gathered) -> F32:
        """The next model version."""
        following = np.empty_like(model)
        self.aggregator.aggregate(
            len(model),
            ArrayBlocks(model),
            [ArrayBlocks(update) for update in gathered.updates],
            gathered.weights,
            ArrayBlocks(following),
            self.state,
            gathered.total,
        )
        return following


@contextmanager
def _updates(clients: int, parameters: int) -> Iterator[F32]:
    """Room for a round's updates, f32 (clients, parameters); on disk when it is large."""
    if clients * parameters * 4 <= UPDATES_IN_MEMORY_BYTES:
        yield np.empty((clients, parameters), np.float32)
        return
    with tempfile.TemporaryFile() as spool:
        spool.truncate(clients * parameters * 4)
        yield np.memmap(spool, np.float32, "r+", shape=(clients, parameters))
