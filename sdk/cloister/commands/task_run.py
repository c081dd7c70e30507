"""`cloister task run`: train on a local file, as a client would, without any coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloister.commands.beginning import Frozen, InitialModel, announce
from cloister.commands.failure import Mistake
from cloister.commands.hyperparameters import BatchSize, LearningRate, Settings, hyperparameters
from cloister.commands.inputs import Inputs, named_inputs
from cloister.commands.metric import shown
from cloister.commands.output import Json, notes, results, say, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cloister.rehearsal import Epoch

EPILOG = """
Examples:

  cloister task run digits.wasm digits.csv --label digit --scale 0.0625 --epochs 20

  cloister task run digits.wasm digits.npz --label label --batch-size 10 --learning-rate 0.5
  --evaluation-fraction 0.2 -o model.npz

  cloister task run ratings.wasm ratings.csv --input user=user_id --input item=item_id
  --target stars

  cloister task run summarize.wasm patients.parquet -o statistics.npz

Each epoch is what one client does in a round: the optimizer's state begins anew.
"""


def run(
    task: Annotated[Path, typer.Argument(metavar="TASK.wasm", help="A training or summary task.")],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="CSV, NPZ or Parquet file with the rows.")
    ],
    label: Annotated[str | None, typer.Option(help="Column of class numbers from 0.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Column of numbers to predict; repeat for more.")
    ] = None,
    features: Annotated[
        list[str] | None,
        typer.Option(help="Feature column or pattern such as 'pixel_*'; default all others."),
    ] = None,
    inputs: Inputs = None,
    scale: Annotated[float, typer.Option(help="Features become x * scale + offset.")] = 1.0,
    offset: Annotated[float, typer.Option(help="See --scale.")] = 0.0,
    evaluation_fraction: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of rows to evaluate on, not to train on.")
    ] = 0.0,
    epochs: Annotated[int, typer.Option(min=1, max=100_000, help="Passes over the rows.")] = 10,
    learning_rate: LearningRate = None,
    batch_size: BatchSize = None,
    settings: Settings = None,
    seed: Annotated[int, typer.Option(min=0, help="Root of initialisation and row order.")] = 0,
    initial_model: InitialModel = None,
    frozen: Frozen = None,
    memory: Annotated[
        float, typer.Option(min=0.0625, help="MiB of memory the task may have.")
    ] = 256.0,
    seconds: Annotated[
        float, typer.Option(min=0.01, help="Seconds one call into the task may take.")
    ] = 60.0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Save the model as NPZ.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a task on a local file in the isolated sandbox; no coordinator needed."""
    from cloister.companion import first_blocks
    from cloister.job_spec import load_module
    from cloister.rehearsal import rehearse
    from cloister.tensors import save
    from cloister_client import DataConfig, load_dataset
    from cloister_protos import Kind
    from cloister_sandbox import Limits

    module = load_module(task, aggregation=False)
    summary = module.manifest.kind == Kind.KIND_SUMMARY
    rows = load_dataset(
        DataConfig(
            data,
            features=tuple(features) if features else None,
            label=label,
            target=tuple(target or ()),
            inputs=named_inputs(inputs),
            scale=(scale,),
            offset=(offset,),
            evaluation_fraction=evaluation_fraction,
        )
    )
    for name in ("label", "target"):
        if name in module.manifest.buffers and name not in rows.train:
            raise Mistake(f"the task learns a {name}; say which column it is: --{name} NAME")
    if summary and output is None:
        say("save the statistics with -o FILE.npz")
    announce(task, initial_model, frozen)
    first, fixed = first_blocks(module, task, initial_model, frozen)
    run = rehearse(
        module,
        rows,
        epochs=1 if summary else epochs,
        hyperparameters=hyperparameters(learning_rate, batch_size, settings),
        seed=seed,
        initial_model=first,
        frozen=fixed,
        limits=Limits(
            memory_bytes=int(memory * (1 << 20)), run_seconds=seconds, cpu_seconds=seconds
        ),
    )
    last = _show(run, 1 if summary else epochs, as_json)
    if output is not None:
        save(module.manifest, last.block, output, "npz", fixed)
        say(f"wrote {output}")


def _show(epochs: Iterator[Epoch], total: int, as_json: bool) -> Epoch:
    """Print each epoch as it ends; returns the last."""
    import sys

    from rich.progress import Progress

    out = results()
    # one console for lines and bar where both are seen, or they would overwrite each other
    console = out if sys.stdout.isatty() and not as_json else notes()
    names: list[str] | None = None
    with Progress(
        console=console,
        redirect_stdout=False,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        bar = progress.add_task("epochs", total=total)
        for epoch in epochs:
            progress.advance(bar)
            if as_json:
                write_json(epoch.to_json())
                continue
            cells = _cells(epoch)
            if names is None:
                names = list(cells)
                heads = "".join(f"{name:>22}" for name in names)
                out.print(f"[bold]{'epoch':>6}{heads}{'seconds':>10}[/]", soft_wrap=True)
            values = "".join(f"{cells[name]:>22}" for name in names)
            out.print(
                f"{epoch.number:>6}{values}{epoch.seconds:>10.3f}", highlight=False, soft_wrap=True
            )
    return epoch


def _cells(epoch: Epoch) -> dict[str, str]:
    """The metrics by heading."""
    phases = (("train", epoch.training), ("evaluation", epoch.evaluation))
    return {
        f"{phase} {name}": shown(name, value)
        for phase, means in phases
        for name, value in means.items()
    }
