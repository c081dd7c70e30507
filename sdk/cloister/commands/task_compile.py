"""`cloister task compile`: a PyTorch model becomes a task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from cloister.commands.failure import Mistake
from cloister.commands.output import Json, notes, results, say, write_json
from cloister.commands.task_build import Variant

if TYPE_CHECKING:
    from cloister_protos import Role
    from cloister_tasks import Buffer
    from cloister_tasks.compiler import ExamplePrivacy, Task

EPILOG = """
Examples:

  cloister task compile mymodel:federated

  cloister task compile mymodel:federated -o net.wasm --name net --capacity 256

  cloister task compile cloister_tasks.compiler.zoo:lenet5 --explain fused

  cloister task compile mymodel:federated --example-clip-norm 1.0 --example-noise 1.1

The factory is a function without arguments in a module that Python finds from the current folder.
It returns a mapping with the arguments of cloister.compile: model, loss, optimizer, example, and
any of metrics, local, clip_norm, proximal, example_privacy, name, description, capacity, variant.
"""

ALL = "all"
"""What a bare --explain explains."""


class Explained(TyperCommand):
    """A command whose --explain may stand without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Say what a bare --explain leaves out; a factory, with its colon, is not its value."""
        for place in reversed([at for at, word in enumerate(args) if word == "--explain"]):
            following = args[place + 1 : place + 2]
            if not following or following[0].startswith("-") or ":" in following[0]:
                args.insert(place + 1, ALL)
        return super().parse_args(ctx, args)


def compile(  # noqa: A001 - named as it is typed
    factory: Annotated[
        str,
        typer.Argument(
            metavar="PACKAGE.MODULE:FACTORY", help="Function that returns model and all the rest."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; default FACTORY.wasm here."),
    ] = None,
    variant: Annotated[
        Variant | None, typer.Option(help="Instruction set; default simd128.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the task; default the factory's name.")
    ] = None,
    capacity: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rows the input buffers hold, a multiple of the batch; default about 1 MiB.",
        ),
    ] = None,
    example_clip_norm: Annotated[
        float | None,
        typer.Option(help="DP-SGD: largest norm of a row's gradient; with --example-noise."),
    ] = None,
    example_noise: Annotated[
        float | None,
        typer.Option(
            help="DP-SGD: deviation of the noise on a sum of gradients, over --example-clip-norm."
        ),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="[PASS]",
            help="Print the program after this pass, or of this entry point (train, evaluate,"
            " predict); without a value, after every pass.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compile a PyTorch model to a task, and write its initial values beside it."""
    from cloister.compilation import compile_factory, write_task

    target = output or Path(f"{factory.rpartition(':')[2]}.wasm")
    if not target.parent.is_dir():
        raise Mistake(f"cannot write {target}: there is no folder {target.parent}")
    if target.suffix == ".safetensors":
        raise Mistake(f"{target} is the name of the file with the initial values; say NAME.wasm")
    if (example_clip_norm is None) != (example_noise is None):
        raise Mistake("--example-clip-norm and --example-noise go together: give both or neither")
    console = notes()
    with console.status(f"compiling {factory}"):  # shows nothing unless on a terminal
        task = compile_factory(
            factory,
            variant=variant.value if variant else None,
            name=name,
            capacity=capacity,
            example_privacy=_privacy(example_clip_norm, example_noise),
            explain=explain is not None or None,
        )
    stages = _chosen(task.stages, explain)
    values = write_task(target, task)
    if as_json:
        write_json(_document(task, target, values, stages))
        return
    for title, text in stages.items():
        results().print(f"{title}\n\n{text}\n", markup=False, highlight=False, soft_wrap=True)
    _show(task)
    say(f"wrote {target} and {values}")


def _privacy(clip_norm: float | None, noise: float | None) -> ExamplePrivacy | None:
    """What the two options say."""
    if clip_norm is None or noise is None:
        return None
    from cloister_tasks.compiler import ExamplePrivacy

    return ExamplePrivacy(clip_norm=clip_norm, noise_multiplier=noise)


def _chosen(stages: Mapping[str, str], wanted: str | None) -> dict[str, str]:
    """The stages of one pass or one program; of all, for ALL."""
    if wanted is None:
        return {}
    found = {
        title: text
        for title, text in stages.items()
        if wanted in (ALL, title) or wanted in title.split(": ")
    }
    if not found:
        passes = dict.fromkeys(title.split(": ")[1] for title in stages)
        raise Mistake(f"there is no pass {wanted!r}; there are {', '.join(passes)}")
    return found


def partial_batches(task: Task) -> str:
    """What becomes of the last rows where they fill no batch."""
    if task.example_privacy is not None:
        return "the rows there are count; their sum is divided by the batch size all the same"
    behaviour = task.behaviour
    if behaviour.maskable:
        return "masked: the rows there are count, as in PyTorch"
    reason = (
        "rows of a batch influence each other"
        if behaviour.coupled
        else "the loss is neither mean nor sum over rows"
    )
    return f"dropped in training, as by drop_last=True: {reason}"


def _show(task: Task) -> None:
    from rich.markup import escape
    from rich.table import Table

    from cloister_protos import Role

    manifest = task.manifest
    table = Table(title=escape(manifest.name), show_header=False)
    frozen = f", {task.frozen.size:,} frozen" if task.frozen is not None else ""
    local = sum(buffer.size for buffer in manifest.of(Role.ROLE_LOCAL))
    memory, arena, least = manifest.memory_bytes, task.arena_bytes, task.lower_bound
    for key, value in {
        "parameters": f"{manifest.parameter_count:,}{frozen}{f', {local:,} local' * bool(local)}",
        "memory": f"{memory:,} bytes ({memory / (1 << 20):.2f} MiB)",
        "arena": f"{arena:,} bytes, {arena / max(least, 1):.3f} of the lower bound ({least:,})",
        "module": f"{len(task.wasm):,} bytes, {task.variant}",
        "inputs": _listed(task, Role.ROLE_INPUT),
        "outputs": _listed(task, Role.ROLE_OUTPUT),
        "hyperparameters": _listed(task, Role.ROLE_HYPERPARAMETER),
        "metrics": _listed(task, Role.ROLE_METRIC),
        "partial batches": partial_batches(task),
        "example privacy": str(task.example_privacy or "none"),
        "seconds": ", ".join(f"{stage} {s:.2f}" for stage, s in task.seconds.items()),
    }.items():
        table.add_row(key, escape(value))
    results().print(table, highlight=False)


def _listed(task: Task, role: Role) -> str:
    return "\n".join(map(_described, task.manifest.of(role)))


def _described(buffer: Buffer) -> str:
    shape = f"[{', '.join(map(str, buffer.shape))}]" if buffer.shape else ""
    about = f": {buffer.description}" if buffer.description else ""
    return f"{buffer.name} {buffer.dtype.name}{shape}{about}"


def _numbers(privacy: ExamplePrivacy | None) -> dict[str, float] | None:
    if privacy is None:
        return None
    return {"clip_norm": privacy.clip_norm, "noise_multiplier": privacy.noise_multiplier}


def _document(task: Task, path: Path, values: Path, stages: Mapping[str, str]) -> dict[str, Any]:
    from cloister_protos import Role
    from cloister_tasks import Module

    manifest = task.manifest

    def shapes(role: Role) -> dict[str, Any]:
        return {
            buffer.name: {"dtype": buffer.dtype.name, "shape": list(buffer.shape)}
            for buffer in manifest.of(role)
        }

    return {
        "path": str(path),
        "values": str(values),
        "name": manifest.name,
        "digest": Module.parse(task.wasm).digest.hex(),
        "bytes": len(task.wasm),
        "variant": task.variant,
        "parameters": manifest.parameter_count,
        "frozen": 0 if task.frozen is None else task.frozen.size,
        "local": sum(buffer.size for buffer in manifest.of(Role.ROLE_LOCAL)),
        "memory_bytes": manifest.memory_bytes,
        "arena_bytes": task.arena_bytes,
        "arena_lower_bound_bytes": task.lower_bound,
        "inputs": shapes(Role.ROLE_INPUT),
        "outputs": shapes(Role.ROLE_OUTPUT),
        "hyperparameters": [buffer.name for buffer in manifest.of(Role.ROLE_HYPERPARAMETER)],
        "metrics": [buffer.name for buffer in manifest.of(Role.ROLE_METRIC)],
        "partial_batches": "masked" if task.behaviour.maskable else "dropped",
        "example_privacy": _numbers(task.example_privacy),
        "seconds": dict(task.seconds),
        **({"stages": dict(stages)} if stages else {}),
    }
