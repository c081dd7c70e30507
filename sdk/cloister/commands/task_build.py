"""`cloister task build`: a task from a template, a C file or WASM text."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloister.commands.failure import Mistake
from cloister.commands.output import Json, say, write_json

if TYPE_CHECKING:
    from cloister_tasks import Module

EPILOG = """
Examples:

  cloister task build softmax-regression --features 64 --classes 10

  cloister task build perceptron --features 64 --hidden 128 --hidden 32 --classes 10

  cloister task build linear-regression --features 13 -o housing.wasm

  cloister task build summarize --features 4 --bins 20 --low 0 --high 10

  cloister task build mine.c --define HIDDEN=32

  cloister task build mine.wat --manifest mine.json
"""


class Variant(StrEnum):
    """Instruction sets a task can be built for."""

    scalar = "scalar"
    simd128 = "simd128"
    relaxed_simd = "relaxed-simd"


_SHAPE = "Shape (for templates)"


def build(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="softmax-regression, linear-regression, perceptron, summarize or noop; or a .c or"
            " .wat file.",
        ),
    ],
    features: Annotated[
        int | None, typer.Option(help="Features per row.", rich_help_panel=_SHAPE)
    ] = None,
    classes: Annotated[int | None, typer.Option(help="Classes.", rich_help_panel=_SHAPE)] = None,
    hidden: Annotated[
        list[int] | None,
        typer.Option(
            help="Width of a perceptron's hidden layer; repeat for more.", rich_help_panel=_SHAPE
        ),
    ] = None,
    outputs: Annotated[
        int | None, typer.Option(help="Targets of a regression.", rich_help_panel=_SHAPE)
    ] = None,
    bins: Annotated[
        int | None, typer.Option(help="Bins of a histogram.", rich_help_panel=_SHAPE)
    ] = None,
    low: Annotated[
        float | None, typer.Option(help="Where the first bin begins.", rich_help_panel=_SHAPE)
    ] = None,
    high: Annotated[
        float | None, typer.Option(help="Where the last bin ends.", rich_help_panel=_SHAPE)
    ] = None,
    parameters: Annotated[
        int | None, typer.Option(help="Parameters of a noop.", rich_help_panel=_SHAPE)
    ] = None,
    capacity: Annotated[
        int | None,
        typer.Option(
            help="Rows the input buffers hold, and so the largest batch; default 1024.",
            rich_help_panel=_SHAPE,
        ),
    ] = None,
    define: Annotated[
        list[str] | None,
        typer.Option("--define", "-D", metavar="MACRO=VALUE", help="A macro for a .c file."),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Manifest (JSON) for a .wat file that carries none.")
    ] = None,
    variant: Annotated[Variant, typer.Option(help="Instruction set.")] = Variant.simd128,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default SOURCE.wasm here.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Build a task from a template, or from your own C or WASM text."""
    from cloister_tasks import Module

    shape = {
        "features": features,
        "classes": classes,
        "hidden": tuple(hidden) if hidden else None,
        "outputs": outputs,
        "bins": bins,
        "low": low,
        "high": high,
        "parameters": parameters,
        "capacity": capacity,
    }
    given = {name: value for name, value in shape.items() if value is not None}
    path = Path(source)
    if path.suffix in (".c", ".wat"):
        if given:
            raise Mistake(f"--{next(iter(given))} is for templates, not for files")
        data = _build_file(path, define or [], manifest, variant)
    elif define or manifest:
        raise Mistake("--define and --manifest are for files, not for templates")
    else:
        data = _build_template(source, given, variant)
    module = Module.parse(data)
    target = output or Path(f"{path.stem}.wasm")
    target.write_bytes(data)
    _report(module, target, as_json)


def _build_file(path: Path, define: list[str], manifest: Path | None, variant: Variant) -> bytes:
    if path.suffix == ".wat":
        from cloister_tasks.wat import compile_wat

        if define:
            raise Mistake("--define is for .c files")
        return compile_wat(path, manifest)
    from cloister_tasks import compile_c

    if manifest is not None:
        raise Mistake("--manifest is for .wat files; a .c file declares its buffers")
    macros = dict(macro.partition("=")[::2] for macro in define)
    return compile_c(
        path, defines={name: value or "1" for name, value in macros.items()}, variant=variant.value
    )


def _build_template(name: str, given: dict[str, Any], variant: Variant) -> bytes:
    from inspect import Parameter, signature

    from cloister_tasks import TEMPLATES, build

    if name not in TEMPLATES:
        raise Mistake(
            f"{name!r} is neither a template ({', '.join(TEMPLATES)}) nor a .c or .wat file"
        )
    parameters = signature(TEMPLATES[name]).parameters
    for key in given:
        if key not in parameters and key != "capacity":
            takes = ", ".join(f"--{known}" for known in parameters)
            raise Mistake(f"{name} takes no --{key}; it takes {takes}")
    for key, parameter in parameters.items():
        if parameter.default is Parameter.empty and key not in given:
            raise Mistake(f"{name} needs --{key}")
    return build(name, variant=variant.value, **given)


def _report(module: Module, path: Path, as_json: bool) -> None:
    manifest = module.manifest
    if as_json:
        write_json(
            {
                "path": str(path),
                "name": manifest.name,
                "bytes": len(module.data),
                "digest": module.digest.hex(),
                "parameters": manifest.parameter_count,
                "memory_bytes": manifest.memory_bytes,
                "variant": manifest.variant,
            }
        )
        return
    say(
        f"wrote {path}: {manifest.description or manifest.name},"
        f" {manifest.parameter_count:,} parameters, {len(module.data):,} bytes,"
        f" runs in {manifest.memory_bytes / (1 << 20):.2f} MiB"
    )
