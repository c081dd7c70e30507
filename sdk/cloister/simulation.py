"""`simulate`: a job's rounds in one process, by the very cores a deployment runs.

The next round is planned by `cloister_coordinator.job`, its cohort chosen by
`cloister_coordinator.cohort`, its outcome decided by `cloister_coordinator.round`; updates are
trained in the order `cloister_client.shuffle` gives and folded by
`cloister_coordinator.aggregation`. Only sockets, disks and clocks are missing. So the same seed,
cohort and survivors give the same model bytes as real processes do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloister import protection
from cloister.companion import first_blocks
from cloister.fleet import Client, Fleet
from cloister.gathering import Clear, Gatherings
from cloister.history import History, RoundResult, Score
from cloister.job_spec import ModelSource, ModuleSource, parsed
from cloister.privacy_ledger import PrivacyLedger
from cloister.protection import DifferentialPrivacy, SecureAggregation
from cloister.schedules import ScheduleSource, read_schedules
from cloister.secure_round import SecureRounds
from cloister.simulated_rounds import SimulatedRounds
from cloister_client.dataset import Dataset
from cloister_client.training import train
from cloister_coordinator.aggregation import Aggregator
from cloister_coordinator.job import Job
from cloister_coordinator.schedule import training_at
from cloister_protos import Cohort, JobSpec, JobState, Kind, Role, Training
from cloister_sandbox import Limits, Sandbox, SandboxPool
from cloister_tasks import InvalidModule, Module, builtin

__all__ = ["Client", "simulate"]

F32 = NDArray[np.float32]


def simulate(
    task: ModuleSource,
    clients: Sequence[Client],
    *,
    rounds: int,
    aggregation: str | bytes | Path | Module = "fedavg",
    cohort: int | None = None,
    minimum: int | None = None,
    over_selection: float = 1.0,
    epochs: int = 1,
    hyperparameters: Mapping[str, float] | None = None,
    schedules: Mapping[str, ScheduleSource] | None = None,
    keep_order: bool = False,
    uniform_weights: bool | None = None,
    clip_norm: float | None = None,
    secure_aggregation: SecureAggregation | None = None,
    differential_privacy: DifferentialPrivacy | None = None,
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

    Under secure aggregation every member and the coordinator run the real protocol, with identities
    made for the occasion. But while devices round and make noise with the operating system's
    randomness, here both follow from `seed`, so that a simulation can be repeated: what it gives
    out is not private.

    :param task: the task's WASM bytes, its path, the parsed module, or what `cloister.compile`
        gives.
    :param clients: at least one, with unique ids and some rows each.
    :param rounds: rounds to commit, as for a job; an abandoned one is followed by another.
    :param aggregation: name of a built-in aggregation, or a module as for `task`.
    :param cohort: updates that complete a round; default all clients.
    :param minimum: fewest updates a round commits with; default 1, or under secure aggregation 3,
        or under differential privacy a majority of the cohort.
    :param over_selection: clients selected for each one targeted, 1 to 10; which of them report
        in time is drawn at random.
    :param epochs: passes over each client's rows in a round.
    :param hyperparameters: values for the task's hyperparameters by name; absent ones keep the
        task's default.
    :param schedules: hyperparameters that change from version to version, by name; see
        `cloister.schedules`.
    :param keep_order: visit rows in their stored order instead of a seeded one.
    :param uniform_weights: each update counts for one, not for its number of rows; the default
        only under differential privacy.
    :param clip_norm: largest L2 norm of an update; clients scale longer ones down to it.
    :param secure_aggregation: sum updates so that nobody sees a single one; needs a `clip_norm`
        and a linear aggregation.
    :param differential_privacy: noise on the sum; needs `secure_aggregation`. Rounds end at its
        budget, and `History.failure` says so then.
    :param drop_out: probability that a selected client drops out: before it reports, or under
        secure aggregation at any step of the protocol.
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
    :raises InvalidJob: `initial_model` or `frozen` does not fit the task, or is missing; or the
        job cannot be protected as asked.
    :raises UnfitAssignment: the task cannot be trained or evaluated as asked.
    :raises SandboxError: the task was refused or failed; a client whose training merely diverges
        is left out of the round.
    """
    module, folding = _task(task), _aggregation(aggregation)
    if not clients:
        raise ValueError("there must be at least one client")
    ordered = sorted(clients, key=lambda client: client.id)
    target = _whole("cohort", len(ordered) if cohort is None else cohort, most=len(ordered))
    if minimum is None:
        minimum = protection.default_minimum(target, secure_aggregation, differential_privacy)
    wanted = Cohort(
        target=target,
        minimum=_whole("minimum", minimum, most=target),
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
    spec = JobSpec(
        rounds=rounds,
        cohort=wanted,
        training=training,
        weighting=protection.default_weighting(uniform_weights, differential_privacy),
        seed=seed,
    )
    protection.protect(spec, clip_norm, secure_aggregation, differential_privacy)
    protection.check(spec, module.manifest, folding.manifest)
    ledger = PrivacyLedger(spec, module.manifest)
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
        ids = [client.id for client in ordered]
        gatherings: Gatherings = Clear(module.manifest, spec.weighting)
        if secure_aggregation is not None:
            gatherings = SecureRounds(spec, module, folding, pool, threads)
        aggregator = Aggregator(pool, folding, threads)
        run = SimulatedRounds(ids, wanted, fleet, gatherings, aggregator, ledger, seed, drop_out)
        examiner = None if test is None or not evaluate_every else _Examiner(pool, fleet, test)
        history = History(
            module.manifest,
            model,
            frozen=fixed,
            secure=secure_aggregation is not None,
            delta=ledger.delta,
        )
        job = Job(rounds, 0, max_abandoned_rounds)
        while job.state == JobState.JOB_STATE_RUNNING:
            if ledger.exhausted:
                job.fail(ledger.exhausted)
                break
            began = time.perf_counter()
            plan = job.plan()
            job.opened(plan)
            settings = training_at(training, changing, plan.base_version, rounds)
            fleet.configure(settings, ledger.clip_norm)
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
