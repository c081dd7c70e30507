"""`cloister job submit`: start a job from options, a TOML, or both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloister.commands.beginning import Frozen, InitialModel, announce
from cloister.commands.connection import connected
from cloister.commands.failure import Mistake
from cloister.commands.hyperparameters import BatchSize, LearningRate, Settings, hyperparameters
from cloister.commands.output import Json, say, write_json
from cloister.commands.protection import (
    AdaptiveNorm,
    ClipNorm,
    Corrupt,
    Delta,
    Epsilon,
    MaxWeight,
    NoiseBy,
    NoiseMultiplier,
    Secure,
    ValueBits,
    protections,
)

if TYPE_CHECKING:
    from cloister.operator import Coordinator

EPILOG = """
Examples:

  cloister job submit digits.wasm --cohort 8 --rounds 20 --watch

  cloister job submit digits.wasm --cohort 8 --minimum 6 --over-selection 1.25 --rounds 100
  --round-deadline 60 --learning-rate 0.1 --batch-size 10 --evaluate-every 5

  cloister job submit --job digits.toml --rounds 5      options win over the TOML

  cloister job submit digits.wasm --cohort 20 --minimum 15 --rounds 100 --secure --clip-norm 1
  --noise-multiplier 1 --epsilon 8

A signature beside the task (digits.wasm.sig, by `cloister task sign`) goes along, and so do the
values it begins with (digits.safetensors, by `cloister task compile`).
"""


@connected
def submit(
    coordinator: Coordinator,
    task: Annotated[
        Path | None, typer.Argument(metavar="TASK.wasm", help="The task every client runs.")
    ] = None,
    job: Annotated[
        Path | None, typer.Option(metavar="JOB.toml", help="A job described in a TOML file.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="For people; default: the task's.")] = None,
    aggregation: Annotated[
        str | None, typer.Option(help="fedavg (the default), median, sum, or a .wasm file.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds to commit.")] = None,
    cohort: Annotated[
        int | None, typer.Option(min=1, help="Updates that complete a round.")
    ] = None,
    minimum: Annotated[
        int | None,
        typer.Option(
            min=1, help="Fewest updates a round commits with; default 1, with --secure 3."
        ),
    ] = None,
    over_selection: Annotated[
        float | None, typer.Option(min=1, max=10, help="Clients selected for each one wanted.")
    ] = None,
    round_deadline: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds until a round closes; default 600.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Local passes in a round; default 1.")
    ] = None,
    learning_rate: LearningRate = None,
    batch_size: BatchSize = None,
    settings: Settings = None,
    keep_order: Annotated[
        bool | None, typer.Option("--keep-order", help="Visit rows in their stored order.")
    ] = None,
    uniform_weights: Annotated[
        bool | None, typer.Option("--uniform-weights", help="Count each update once, not by rows.")
    ] = None,
    clip_norm: ClipNorm = None,
    secure: Secure = None,
    corrupt: Corrupt = None,
    value_bits: ValueBits = None,
    max_weight: MaxWeight = None,
    noise_multiplier: NoiseMultiplier = None,
    noise: NoiseBy = None,
    epsilon: Epsilon = None,
    delta: Delta = None,
    adaptive_clipping: AdaptiveNorm = None,
    evaluate_every: Annotated[
        int | None, typer.Option(min=0, help="Evaluate every so many versions; default never.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Dataset the clients must offer; default: their only one.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(help="Tag the clients must carry; repeat for more.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Root of every random choice.")] = None,
    initial_model: InitialModel = None,
    frozen: Frozen = None,
    max_abandoned_rounds: Annotated[
        int | None, typer.Option(min=0, help="Rounds in a row that may be abandoned; default 10.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow the job until it ends.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Upload a task and start a job; prints the job's id."""
    from cloister.job_file import aggregation_source, load_job

    arguments: dict[str, Any] = load_job(job) if job is not None else {}
    given = {
        "task": task,
        "name": name,
        "aggregation": None if aggregation is None else aggregation_source(aggregation),
        "rounds": rounds,
        "cohort": cohort,
        "minimum": minimum,
        "over_selection": over_selection,
        "round_deadline_seconds": round_deadline,
        "epochs": epochs,
        "keep_order": keep_order,
        "uniform_weights": uniform_weights,
        "evaluate_every": evaluate_every,
        "dataset": dataset,
        "tags": tag or None,
        "seed": seed,
        "initial_model": initial_model,
        "frozen": frozen,
        "max_abandoned_rounds": max_abandoned_rounds,
    }
    arguments |= {key: value for key, value in given.items() if value is not None}
    arguments["hyperparameters"] = arguments.get("hyperparameters", {}) | hyperparameters(
        learning_rate, batch_size, settings
    )
    protected = protections(
        arguments,
        secure=secure,
        clip_norm=clip_norm,
        corrupt=corrupt,
        value_bits=value_bits,
        max_weight=max_weight,
        noise=noise,
        noise_multiplier=noise_multiplier,
        epsilon=epsilon,
        delta=delta,
        adaptive=adaptive_clipping,
    )
    for key in ("clip_norm", "secure_aggregation", "differential_privacy"):
        arguments.pop(key, None)
    arguments |= protected
    for key, option in (("task", "TASK.wasm"), ("rounds", "--rounds"), ("cohort", "--cohort")):
        if key not in arguments:
            raise Mistake(f"{option} is missing; give it, or --job with a TOML that does")
    announce(arguments["task"], arguments.get("initial_model"), arguments.get("frozen"))
    submitted = coordinator.submit(arguments.pop("task"), **arguments)
    if follow:
        from cloister.commands.job_watch import follow as follow_job

        say(f"job {submitted.id} ({submitted.name}) submitted")
        follow_job(submitted, as_json=as_json)
    elif as_json:
        from cloister.commands.job_view import job_document

        write_json(job_document(submitted.status))
    else:
        typer.echo(submitted.id)
        say(f"submitted; follow it with: cloister job watch {submitted.id}")
