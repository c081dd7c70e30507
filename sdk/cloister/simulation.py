"""`simulate`: a job's rounds in one process, by the very cores a deployment runs.

The next round is planned by `cloister_coordinator.job`, its cohort chosen by
`cloister_coordinator.cohort`, its outcome decided by `cloister_coordinator.round`; updates are
trained in the order `cloister_client.shuffle` gives and folded by
`cloister_coordinator.aggregation`. Only sockets, disks and clocks are missing. So the same seed,
cohort and survivors give the same model bytes as real processes do.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister.companion import first_blocks
from cloister.fleet import Client, Fleet
from cloister.history import History, RoundResult, Score
from cloister.job_spec import ModelSource, ModuleSource, parsed
from cloister.schedules import ScheduleSource, read_schedules
from cloister_client.dataset import Dataset
from cloister_client.training import train
from cloister_coordinator.aggregation import Aggregator, ArrayBlocks
from cloister_coordinator.cohort import client_seed, select
from cloister_coordinator.job import Job
from cloister_coordinator.round import Round
from cloister_coordinator.schedule import training_at
from cloister_protos import Cohort, JobState, Kind, Role, RoundState, Training
from cloister_sandbox import Limits, Sandbox, SandboxPool
from cloister_tasks import InvalidModule, Module, builtin

__all__ = ["Client", "simulate"]

F32 = NDArray[np.float32]
Index = NDArray[np.int64]

UPDATES_IN_MEMORY_BYTES = 64 * 1024 * 1024
"""Bytes of a round's updates kept in memory; past it they lie in a temporary file."""


def simulate(
    task: ModuleSource,
    clients: Sequence[Client],
    *,
    rounds: int,
    aggregation: str | bytes | Path | Module = "fedavg",
    cohort: int | None = None,
    minimum: int = 1,
    over_selection: float = 1.0,
    epochs: int = 1,
    hyperparameters: Mapping[str, float] | None = None,
    schedules: Mapping[str, ScheduleSource] | None = None,
    keep_order: bool = False,
    uniform_weights: bool = False,
    drop_out: float = 0.0,
    max_abandoned_rounds: int = 10,
    seed: int = 0,
    initial_model: ModelSource | None = None,
    frozen: ModelSource | None = None,
    test: Mapping[str, NDArray[Any]] | None = None,
    evaluate_every: int = 1,
    threads: int | None = None,
    limits: Limits | None = None,
    on_round: Callable[[RoundResult], None] | None = None,
) -> History:
    """Run a job's rounds over virtual clients and return their history and the final model.

    :param task: the task's WASM bytes, its path, the parsed module, or what `cloister.compile`
        gives.
    :param clients: at least one, with unique ids and some rows each.
    :param rounds: rounds to commit, as for a job; an abandoned one is followed by another.
    :param aggregation: name of a built-in aggregation, or a module as for `task`.
    :param cohort: updates that complete a round; default all clients.
    :param minimum: fewest updates a round commits with.
    :param over_selection: clients selected for each one targeted, 1 to 10; which of them report
        in time is drawn at random.
    :param epochs: passes over each client's rows in a round.
    :param hyperparameters: values for the task's hyperparameters by name; absent ones keep the
        task's default.
    :param schedules: hyperparameters that change from version to version, by name; see
        `cloister.schedules`.
    :param keep_order: visit rows in their stored order instead of a seeded one.
    :param uniform_weights: each update counts for one, not for its number of rows.
    :param drop_out: probability that a selected client never reports.
    :param max_abandoned_rounds: rounds abandoned in a row that end the simulation early;
        `History.failure` says so then.
    :param seed: root of every random choice, 0 to 2**64 - 1.
    :param initial_model: f32 (parameters,), tensors by name, or a file of either; default: the
        values of a compiled task, or the .safetensors file that `cloister task compile` left
        beside a path, else the task's `init(seed)`.
    :param frozen: the frozen parameters of a task that has some, in the same forms; the same
        default.
    :param test: held-out rows (the task's inputs by name) scored after each `evaluate_every`
        versions (0: never) and after the last.
    :param threads: sandboxes run at once; default one per processor.
    :param limits: caps of each sandbox.
    :param on_round: called after each round, in the caller's thread.
    :raises ValueError: an argument makes no sense.
    :raises InvalidModule: task or aggregation breaks the task contract, or is of another kind.
    :raises BuildError: there is no built-in aggregation of that name.
    :raises DataError: rows do not fit the task.
    :raises InvalidJob: `initial_model` or `frozen` does not fit the task, or is missing.
    :raises UnfitAssignment: the task cannot be trained or evaluated as asked.
    :raises SandboxError: the task was refused or failed; a client whose training merely diverges
        is left out of the round.
    """
    module, folding = _task(task), _aggregation(aggregation)
    if not clients:
        raise ValueError("there must be at least one client")
    ordered = sorted(clients, key=lambda client: client.id)
    wanted = Cohort(
        target=_whole("cohort", len(ordered) if cohort is None else cohort, most=len(ordered)),
        minimum=_whole("minimum", minimum, most=cohort or len(ordered)),
        over_selection=over_selection,
    )
    training = Training(
        epochs=_whole("epochs", epochs),
        hyperparameters=dict(hyperparameters or {}),
        keep_order=keep_order,
    )
    _whole("rounds", rounds)
    _whole("max_abandoned_rounds", max_abandoned_rounds)
    _whole("seed", seed, least=0, most=(1 << 64) - 1)
    _whole("evaluate_every", evaluate_every, least=0)
    threads = _whole("threads", len(os.sched_getaffinity(0)) if threads is None else threads)
    limits = limits or Limits()
    _check_clients(ordered)
    changing = read_schedules(schedules or {}, module.manifest, rounds)
    first, fixed = first_blocks(module, task, initial_model, frozen)
    if not 0 <= drop_out < 1:
        raise ValueError(f"drop_out is a probability below 1, not {drop_out}")
    if not 1 <= over_selection <= 10:
        raise ValueError(f"over_selection must be 1 to 10, not {over_selection}")
    with ExitStack() as stack:
        pool = stack.enter_context(SandboxPool(limits, isolated=False))
        with pool.lease(module) as sandbox:
            batch_size = _batch_size(sandbox, training)
            model = _initialise(sandbox, seed) if first is None else first.copy()
        fleet = Fleet(
            module,
            ordered,
            training,
            batch_size=batch_size,
            threads=threads,
            limits=limits,
            frozen=fixed,
        )
        stack.callback(fleet.close)
        run = _Run(
            [client.id for client in ordered],
            wanted,
            fleet,
            Aggregator(pool, folding, threads),
            seed,
            drop_out,
            uniform_weights,
        )
        examiner = None if test is None or not evaluate_every else _Examiner(pool, fleet, test)
        history = History(module.manifest, model, frozen=fixed)
        job = Job(rounds, 0, max_abandoned_rounds)
        while job.state == JobState.JOB_STATE_RUNNING:
            began = time.perf_counter()
            plan = job.plan()
            job.opened(plan)
            fleet.configure(training_at(training, changing, plan.base_version, rounds))
            result = run.round(plan.number, history)
            if result.committed:
                job.committed(evaluation_only=False)
                due = job.version == rounds or (evaluate_every and not job.version % evaluate_every)
                if examiner and due:
                    result = replace(result, test=examiner.score(history.block))
            else:
                job.abandoned(result.reason)
            result = replace(result, seconds=time.perf_counter() - began)
            history.rounds.append(result)
            if on_round is not None:
                on_round(result)
        history.failure = job.reason
        return history


@dataclass
class _Run:
    """What stays the same over the rounds of one simulation."""

    ids: Sequence[str]
    """Of all clients, ascending; a place in it is a place in the fleet."""
    cohort: Cohort
    fleet: Fleet
    aggregator: Aggregator
    seed: int
    drop_out: float
    uniform_weights: bool

    def __post_init__(self) -> None:
        """Server optimizer state starts at zero."""
        parameters = self.fleet.module.manifest.parameter_count
        self.state = ArrayBlocks(np.zeros(self.aggregator.state_size(parameters), np.float32))
        self.place = {client: place for place, client in enumerate(self.ids)}

    def round(self, number: int, history: History) -> RoundResult:
        """Run one round; if it commits, `history` advances to the next model version."""
        cohort = self.cohort
        members = select(self.ids, cohort.target, cohort.over_selection, self.seed, number)
        round_ = Round(number, history.version, members, cohort.target, cohort.minimum)
        random = np.random.default_rng((self.seed, number))
        gone = random.random(len(members)) < self.drop_out
        for member, lost in zip(members, gone.tolist(), strict=True):
            if lost:
                round_.lost(member, "simulated drop-out")
        present = [m for m, lost in zip(members, gone.tolist(), strict=True) if not lost]
        finite = np.ones(len(present), np.bool_)
        training = Score(0, {})
        if present:
            places = np.array([self.place[member] for member in present], np.int64)
            seeds = np.array([client_seed(self.seed, number, m) for m in present], np.uint64)
            with _updates(len(present), len(history.block)) as updates:
                sums, norms = self.fleet.train(
                    history.block, places, seeds, updates, history.version
                )
                finite = np.isfinite(norms)
                _report(round_, present, finite, random.permutation(len(present)))
                taken = set(round_.survivors)
                self.fleet.keep(np.array([member in taken for member in present]))
                if round_.state == RoundState.ROUND_STATE_FOLDING:
                    survivors = np.searchsorted(present, round_.survivors)
                    counts = self.fleet.counts[places[survivors]]
                    history.advance(self._fold(history.block, updates, survivors, counts))
                    round_.folded()
                    rows = int(counts.sum()) * self.fleet.training.epochs
                    training = Score.of(history.manifest, sums[survivors].sum(axis=0), rows)
        return RoundResult(
            number=number,
            version=history.version,
            committed=round_.state == RoundState.ROUND_STATE_COMMITTED,
            reason=round_.reason,
            cohort=len(members),
            survivors=len(round_.survivors),
            diverged=int(np.count_nonzero(~finite)),
            training=training,
        )

    def _fold(self, model: F32, updates: F32, survivors: Index, counts: Index) -> F32:
        """The next model version."""
        following = np.empty_like(model)
        self.aggregator.aggregate(
            len(model),
            ArrayBlocks(model),
            [ArrayBlocks(updates[survivor]) for survivor in survivors],
            np.ones(len(counts)) if self.uniform_weights else counts.astype(np.float64),
            ArrayBlocks(following),
            self.state,
        )
        return following


class _Examiner:
    """Scores models on held-out rows."""

    def __init__(self, pool: SandboxPool, fleet: Fleet, rows: Mapping[str, NDArray[Any]]) -> None:
        inputs = fleet.module.manifest.of(Role.ROLE_INPUT)
        self._pool, self._fleet, self._dataset = pool, fleet, Dataset({}, rows).fit(inputs)
        if not self._dataset.evaluation_rows:
            raise ValueError("test has no rows")

    def score(self, model: F32) -> Score:
        """Evaluate a model."""
        with self._pool.lease(self._fleet.module) as sandbox:
            outcome = train(
                sandbox,
                model=model,
                frozen=self._fleet.frozen,
                dataset=self._dataset,
                training=None,
                evaluate=True,
                seed=0,
            )
        rows = outcome.evaluated_rows
        return Score(rows, {name: sum_ / rows for name, sum_ in outcome.evaluation_sums.items()})


def _report(
    round_: Round, present: Sequence[str], finite: NDArray[np.bool_], arrival: Index
) -> None:
    """Let the clients that are present report in the order of `arrival`, until the round closes."""
    for place in arrival.tolist():
        if round_.state != RoundState.ROUND_STATE_COLLECTING:
            return
        if finite[place]:
            round_.reported(present[place])
        else:
            round_.failed(present[place], "gate: the update is not finite")


@contextmanager
def _updates(clients: int, parameters: int) -> Iterator[F32]:
    """Room for a round's updates, f32 (clients, parameters); on disk when it is large."""
    if clients * parameters * 4 <= UPDATES_IN_MEMORY_BYTES:
        yield np.empty((clients, parameters), np.float32)
        return
    with tempfile.TemporaryFile() as spool:
        spool.truncate(clients * parameters * 4)
        yield np.memmap(spool, np.float32, "r+", shape=(clients, parameters))


def _initialise(sandbox: Sandbox, seed: int) -> F32:
    """The task's own first parameters; statistics start from zero."""
    if "init" in sandbox.module.manifest.entry_points:
        sandbox.run(("init", seed), receive=[Role.ROLE_PARAMETER])
        return sandbox.view(Role.ROLE_PARAMETER).copy()
    return np.zeros(sandbox.module.manifest.parameter_count, np.float32)


def _batch_size(sandbox: Sandbox, training: Training) -> int | None:
    """The job's batch size, else the task's default, else None: the task has no batches."""
    if "batch_size" in training.hyperparameters:
        return int(training.hyperparameters["batch_size"])
    if "batch_size" not in sandbox.module.manifest.buffers:
        return None
    sandbox.run(receive=["batch_size"])
    return int(sandbox.view("batch_size").item())


def _task(source: ModuleSource) -> Module:
    module = parsed(source)
    if module.manifest.kind == Kind.KIND_AGGREGATION:
        raise InvalidModule("manifest", f"{module.manifest.name} is an aggregation, not a task")
    return module


def _aggregation(source: str | bytes | Path | Module) -> Module:
    module = parsed(builtin.aggregation(source) if isinstance(source, str) else source)
    if module.manifest.kind != Kind.KIND_AGGREGATION:
        raise InvalidModule("manifest", f"{module.manifest.name} is a task, not an aggregation")
    return module


def _whole(name: str, value: int, *, least: int = 1, most: int | None = None) -> int:
    """A whole number inside its bounds."""
    if value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} must be {bounds}, not {value}")
    return value


def _check_clients(clients: Sequence[Client]) -> None:
    if len({client.id for client in clients}) < len(clients):
        raise ValueError("client ids must be unique")
    for client in clients:
        if not client.dataset.train_rows:
            raise ValueError(f"{client.id} has no rows to train on")
