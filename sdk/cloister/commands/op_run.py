"""`cloister op run`: one operator, compiled and run in the sandbox a device has."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloister.commands.failure import Mistake
from cloister.commands.output import Json, notes, say, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

EPILOG = """
Examples:

  cloister op run Add --dtype int8 --input '[1, 2]' --input '[3, 4]'

  cloister op run Softmax --input '[[1, 2], [3, 4]]' -a axis=0

  cloister op run Conv2d --input-file x.npy --input-file weight.npy -a pads=1 -o y.npy

INT8 is computed as numpy and torch do: 100 + 100 wraps around to -56. Sum, Prod and CumSum of
integers give INT32, as do counts and positions; comparisons give BOOL. Div of integers rounds
towards zero. An input that a type cannot hold is refused, except that FP32 rounds.
"""


class DTypeName(StrEnum):
    """Types of the inputs."""

    fp32 = "fp32"
    int32 = "int32"
    int8 = "int8"


def run(
    operator: Annotated[str, typer.Argument(help="Name, as `cloister op list` shows it.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="JSON", help="An input; repeat in order."),
    ] = None,
    input_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--input-file", metavar="FILE.npy", help="An input; those of --input come first."
        ),
    ] = None,
    dtype: Annotated[
        DTypeName | None,
        typer.Option(
            case_sensitive=False, help="Type of the inputs; default that of a file, or fp32."
        ),
    ] = None,
    attribute: Annotated[
        list[str] | None,
        typer.Option("--attribute", "-a", metavar="NAME=JSON", help="Such as axis=0; repeat."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the result as NPY, not as JSON.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run one operator on small inputs in the isolated sandbox, and print what it gives."""
    import numpy as np

    from cloister.computation import compute, dtype_of, read_json, read_npy

    if output is not None and not output.parent.is_dir():
        raise Mistake(f"cannot write {output}: there is no folder {output.parent}")
    files = [read_npy(path) for path in input_files or []]
    values = [read_json(text, f"input {n}") for n, text in enumerate(inputs or [], 1)]
    asked = dtype.value.upper() if dtype else dtype_of(files)
    attributes = _attributes(attribute or [])
    with notes().status(f"computing {operator}"):  # shows nothing unless on a terminal
        result = compute(operator, *values, *files, dtype=asked, attributes=attributes)  # type: ignore[arg-type]
    if output is not None:
        with output.open("wb") as file:
            np.save(file, result, allow_pickle=False)
        say(f"wrote {output}: {result.dtype.name}{list(result.shape)}")
    if as_json:
        write_json(_document(operator, result, output))
    elif output is None:
        write_json(_lists(result))


def _attributes(words: list[str]) -> dict[str, Any]:
    """NAME=JSON each; what is no JSON is text."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not name or not equals:
            raise Mistake(f"an attribute is NAME=VALUE, not {word!r}")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _document(operator: str, result: NDArray[Any], output: Path | None) -> dict[str, Any]:
    content = {"result": _lists(result)} if output is None else {"path": str(output)}
    return {
        "operator": operator,
        "dtype": result.dtype.name,
        "shape": list(result.shape),
        **content,
    }


def _lists(result: NDArray[Any]) -> Any:
    """Nested lists; of FP32 the fewest digits that tell its numbers apart."""
    import numpy as np

    if result.dtype.kind != "f":
        return result.tolist()
    digits = [float(str(number)) for number in result.ravel()]
    return np.array(digits, np.float64).reshape(result.shape).tolist()
