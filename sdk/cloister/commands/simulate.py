"""`cloister simulate`: a job's rounds over virtual clients on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloister.commands.beginning import Frozen, InitialModel, announce
from cloister.commands.failure import Mistake
from cloister.commands.hyperparameters import BatchSize, LearningRate, Settings, hyperparameters
from cloister.commands.inputs import Inputs, named_inputs
from cloister.commands.output import Json, notes, results, say, write_json
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
    from cloister.datasets import Split
    from cloister.history import History
    from cloister.partition import Index
    from cloister.simulation import Client
    from cloister_tasks import Module

EPILOG = """
Examples:

  cloister simulate digits --clients 20 --partition dirichlet --alpha 0.5 --central

  cloister simulate digits --hidden 128 --clients 100 --cohort 20 --drop-out 0.1 --plot run.html

  cloister simulate mine.csv --label outcome --clients 8 --rounds 10 --json

  cloister simulate digits --clients 100 --clip-norm 1 --noise-multiplier 0.8 --epsilon 8

A bundled data set is simulated under secure aggregation with a clipping norm of 10, where that is
possible: with a linear aggregation and at most 100 members of a round. --no-secure is faster.
"""

DEFAULT_CLIP_NORM = 10.0
"""Under secure aggregation, when nobody says: longer than updates of the bundled data sets are."""
MOST_MEMBERS = 100
"""Of a round that is secure without being told to; the work grows as the square of them."""


class Partition(StrEnum):
    """How rows are spread over the virtual clients."""

    iid = "iid"
    dirichlet = "dirichlet"
    by_label = "by-label"


def simulate(
    data: Annotated[
        str,
        typer.Argument(
            help="digits, breast-cancer, wine, iris, diabetes, or a CSV, NPZ or Parquet file."
        ),
    ],
    task: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A task's .wasm; default: a model built to fit the data.",
        ),
    ] = None,
    hidden: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Width of a hidden layer of the built model; repeat for more layers."
        ),
    ] = None,
    aggregation: Annotated[
        str, typer.Option(help="fedavg, median, sum, or a .wasm file.")
    ] = "fedavg",
    clients: Annotated[int, typer.Option(min=1, max=100_000, help="Virtual clients.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, max=1_000_000, help="Rounds to run.")] = 20,
    partition: Annotated[
        Partition, typer.Option(help="How rows are spread over clients.")
    ] = Partition.iid,
    alpha: Annotated[
        float, typer.Option(help="Skew of --partition dirichlet; small is skewed.")
    ] = 0.5,
    labels_per_client: Annotated[
        int, typer.Option(min=1, help="Labels a client sees under --partition by-label.")
    ] = 2,
    cohort: Annotated[
        int | None, typer.Option(min=1, help="Updates that complete a round; default: all clients.")
    ] = None,
    minimum: Annotated[
        int | None,
        typer.Option(min=1, help="Fewest updates a round commits with; default 1, if secure 3."),
    ] = None,
    over_selection: Annotated[
        float, typer.Option(min=1, max=10, help="Clients selected for each one targeted.")
    ] = 1.0,
    drop_out: Annotated[
        float,
        typer.Option(min=0, max=0.99, help="Probability that a selected client drops out."),
    ] = 0.0,
    epochs: Annotated[int, typer.Option(min=1, max=1000, help="Local passes in a round.")] = 1,
    learning_rate: LearningRate = None,
    batch_size: BatchSize = None,
    settings: Settings = None,
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
    initial_model: InitialModel = None,
    frozen: Frozen = None,
    label: Annotated[
        str | None, typer.Option(help="Column of a data file with class numbers to predict.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Column of a data file with numbers to predict.")
    ] = None,
    inputs: Inputs = None,
    test_fraction: Annotated[
        float, typer.Option(help="Share of rows held out for the test.")
    ] = 0.2,
    seed: Annotated[
        int, typer.Option(min=0, max=(1 << 64) - 1, help="Root of every random choice.")
    ] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Sandboxes at once; default: one per processor.")
    ] = None,
    central: Annotated[
        bool,
        typer.Option("--central", help="Train the same model on all rows at once, to compare."),
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the rounds: .png, .svg or .html.")] = None,
    output: Annotated[Path | None, typer.Option(help="Save the final model as NPZ.")] = None,
    as_json: Json = False,
) -> None:
    """Simulate a job over virtual clients, in real sandboxes, on this machine."""
    import numpy as np

    from cloister.partition import PARTITIONS
    from cloister_coordinator.cohort import size

    _check_outputs(plot, output)
    split = _load(data, label, target, named_inputs(inputs), test_fraction, seed)
    skews: dict[Partition, dict[str, Any]] = {
        Partition.iid: {},
        Partition.dirichlet: {"alpha": alpha},
        Partition.by_label: {"labels_per_client": labels_per_client},
    }
    parts = PARTITIONS[partition](split.labels, clients, seed, **skews[partition])
    module = _task(task, split, hidden or [])
    first = _first(module, task, initial_model, frozen)
    common: dict[str, Any] = {
        "initial_model": first[0],
        "frozen": first[1],
        "rounds": rounds,
        "epochs": epochs,
        "hyperparameters": hyperparameters(learning_rate, batch_size, settings),
        "seed": seed,
        "threads": threads,
        "test": split.test if "evaluate" in module.manifest.entry_points else None,
    }
    folding = _folding(aggregation)
    protected = protections(
        {},
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
    why_clear = ""
    if "secure_aggregation" not in protected:
        wanted = clients if cohort is None else cohort
        members = size(wanted, over_selection)
        why_clear = _why_clear(secure, data, module, folding, wanted, members, minimum)
    if not why_clear:
        _complete(protected, module)
    federated = _run(
        f"{clients} clients",
        module,
        _clients(split, parts),
        **common,
        **protected,
        aggregation=folding,
        cohort=cohort,
        minimum=minimum,
        over_selection=over_selection,
        drop_out=drop_out,
    )
    pooled: History | None = None
    if central:
        whole = _clients(split, [np.arange(len(split.labels))])
        pooled = _run("central", module, whole, **common, evaluate_every=rounds)
    if output is not None:
        federated.save(output)
    if plot is not None:
        federated.plot(plot)
    if as_json:
        document = federated.to_json() | {"why_clear": why_clear}
        if pooled is not None:
            document["central"] = dict(pooled.final)
        write_json(document)
        _raise_if_failed(federated)
        return
    console = results()
    console.print(federated.table())
    for line in (*_protection(federated, why_clear), *_summary(split, federated, pooled)):
        console.print(line, markup=False, highlight=False)
    for path in (plot, output):
        if path is not None:
            say(f"wrote {path}")
    _raise_if_failed(federated)


def _raise_if_failed(history: History) -> None:
    from cloister.commands.exit_code import ExitCode

    if history.failure:
        raise typer.Exit(ExitCode.JOB)


def _check_outputs(plot: Path | None, output: Path | None) -> None:
    """What cannot be written is better known before the rounds than after them."""
    from cloister.plot import check

    for path in (plot, output):
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"cannot write {path}: there is no folder {path.parent}")
    if plot is not None:
        check(plot)


def _load(
    data: str,
    label: str | None,
    target: str | None,
    inputs: dict[str, tuple[str, ...]],
    test_fraction: float,
    seed: int,
) -> Split:
    from cloister import datasets

    if not Path(data).suffix:
        return datasets.load(data, test_fraction=test_fraction, seed=seed)
    return datasets.load_file(
        Path(data),
        label=label,
        target=target,
        inputs=inputs,
        test_fraction=test_fraction,
        seed=seed,
    )


def _task(path: Path | None, split: Split, hidden: Sequence[int]) -> Module:
    """The task of a file, or one built to fit the data."""
    from cloister_tasks import Module, template

    if path is not None:
        return Module.parse(path.read_bytes())
    if "features" not in split.train:
        raise ValueError("a model can be built for features only; give a task: --task FILE.wasm")
    if not split.classes:
        if hidden:
            raise ValueError("--hidden builds a classifier, and this data has no classes")
        data = template.build("linear-regression", features=split.features)
    elif hidden:
        data = template.build(
            "perceptron", features=split.features, hidden=hidden, classes=split.classes
        )
    else:
        data = template.build("softmax-regression", features=split.features, classes=split.classes)
    return Module.parse(data)


def _folding(name: str) -> Module:
    """A built-in aggregation, or that of a file."""
    from cloister_tasks import Module, builtin

    file = name.endswith(".wasm")
    return Module.parse(Path(name).read_bytes() if file else builtin.aggregation(name))


def _why_clear(
    secure: bool | None,
    data: str,
    task: Module,
    folding: Module,
    wanted: int,
    members: int,
    minimum: int | None,
) -> str:
    """Why there is no secure aggregation where nobody asks for it; empty: there is."""
    from cloister_privacy.parameters import complete_threshold
    from cloister_protos import Kind

    if secure is False:
        return "--no-secure"
    for reason, holds in {
        "--secure turns it on for data of one's own": bool(Path(data).suffix),
        f"{folding.manifest.name} needs single updates": not folding.manifest.linear,
        "statistics need a --clip-norm that fits them": task.manifest.kind == Kind.KIND_SUMMARY,
        "a sum of one update is that update": wanted < 2 or minimum == 1,
        "it needs over half of those selected to report": wanted < complete_threshold(members, 0),
        f"it takes long with {members} members of a round": members > MOST_MEMBERS,
    }.items():
        if holds:
            return reason
    return ""


def _complete(protected: dict[str, Any], task: Module) -> None:
    """Put in what secure aggregation needs and nobody has said."""
    from cloister.protection import SecureAggregation
    from cloister_protos import Kind

    protected.setdefault("secure_aggregation", SecureAggregation())
    if "clip_norm" in protected:
        return
    if "differential_privacy" in protected:
        raise Mistake("noise is in proportion to the clipping norm: give --clip-norm")
    if task.manifest.kind == Kind.KIND_SUMMARY:
        raise Mistake("statistics are not to be clipped: give a --clip-norm beyond all of them")
    protected["clip_norm"] = DEFAULT_CLIP_NORM


def _protection(history: History, why_clear: str) -> list[str]:
    """Who saw what."""
    if not history.secure:
        return [f"secure aggregation was off: {why_clear}"]
    norm = history.rounds[0].clip_norm
    lines = [f"updates were summed by secure aggregation, with a clipping norm of {norm:g}"]
    if history.delta is not None:
        lines.append(
            f"privacy spent: epsilon {history.epsilon:.4g} at delta {history.delta:g}; a"
            " simulation's noise follows from its seed, so do not give its model away"
        )
    if clipped := sum(result.clipped for result in history.rounds):
        lines.append(f"{clipped} updates were longer than the clipping norm and scaled down")
    return lines


def _first(
    module: Module, task: Path | None, initial_model: Path | None, frozen: Path | None
) -> tuple[Any, Any]:
    """The blocks to begin with; a built task has no file with values beside it."""
    from cloister.companion import first_blocks

    if task is not None:
        announce(task, initial_model, frozen)
    return first_blocks(module, module if task is None else task, initial_model, frozen)


def _clients(split: Split, parts: Sequence[Index]) -> list[Client]:
    from cloister.simulation import Client
    from cloister_client.dataset import Dataset

    width = len(str(len(parts) - 1))
    return [
        Client(
            f"client-{place:0{width}}",
            Dataset({name: column[rows] for name, column in split.train.items()}, {}),
        )
        for place, rows in enumerate(parts)
    ]


def _run(title: str, module: Module, clients: Sequence[Client], **settings: Any) -> History:
    """Simulate under a progress bar on standard error."""
    from rich.progress import Progress

    from cloister.simulation import simulate as run

    console = notes()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(title, total=settings["rounds"])
        return run(
            module,
            clients,
            on_round=lambda result: progress.update(bar, completed=result.version),
            **settings,
        )


def _summary(split: Split, federated: History, pooled: History | None) -> list[str]:
    """What came out, and what went wrong."""
    from cloister.commands.metric import SHARES
    from cloister.history import shown

    lines = []
    rounds = federated.rounds
    if federated.final:
        shares = [name for name in SHARES if name in federated.final]
        metric = shares[0] if shares else next(iter(federated.final))
        value = shown(metric, federated.final[metric])
        line = f"test {metric} of {federated.manifest.name} on {split.name}: {value} federated"
        if pooled is not None:
            line += f", {shown(metric, pooled.final[metric])} trained centrally"
        lines.append(line)
    seconds = sum(result.seconds for result in rounds)
    abandoned = sum(not result.committed for result in rounds)
    lines.append(
        f"{len(rounds)} round{'s' * (len(rounds) != 1)} in {seconds:.1f} s"
        + (f", {abandoned} of them abandoned with too few clients left" if abandoned else "")
    )
    if federated.failure:
        lines.append(f"ended early: {federated.failure}")
    diverged = sum(result.diverged for result in rounds)
    if diverged:
        lines.append(
            f"{diverged} updates were not finite and left out:"
            " try a smaller --learning-rate, or scale the features"
        )
    return lines
