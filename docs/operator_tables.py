"""Writes the page on operators from the compiler's own tables.

`make operators` runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import getdoc
from itertools import groupby
from pathlib import Path
from typing import Any

from cloister_tasks.compiler import operators
from cloister_tasks.compiler.library import DTYPES
from cloister_tasks.compiler.library import OPERATORS as LIBRARY
from cloister_tasks.compiler.lower import OPERATORS

PAGE = Path(__file__).with_name("operators.md")

_HEAD = """# Operators

What [the compiler](compiler.md) knows. A model may use any of PyTorch's functions that comes down
to these; the others are refused by name.

## Of models

The operators of ATen that are left of a model when PyTorch has taken it apart. Behind each stand
its overloads.
"""
_LIBRARY = """## One by one

The library of `cloister op run`. Under each type of the inputs stands the type of the result.
Inputs named `indices` are INT32, those named `condition` BOOL; what ends in `?` may be left out.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_sections(), _LIBRARY, *_library()]) + "\n"


def _sections() -> Iterator[str]:
    """A section for each file of operators, in the order of the package."""
    for name in operators.__all__:
        module = import_module(f"{operators.__name__}.{name}")
        own = {
            target: handler
            for target, handler in OPERATORS.items()
            if handler.__module__ == module.__name__
        }
        if not own:
            continue
        yield f"### {name.capitalize()}\n\n{_first_line(module)}\n"
        rows = [
            f"| {_names(targets)} | {about} |"
            for about, targets in _by_description(own).items()
            if about
        ]
        if rows:
            yield "| operators | |\n|---|---|"
            yield "\n".join(rows) + "\n"
        if rest := _by_description(own).get(""):
            yield ("Besides: " if rows else "") + _names(rest) + ".\n"


def _by_description(handlers: dict[Any, Callable[..., Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for target, handler in handlers.items():
        found.setdefault(_first_line(handler), []).append(str(target))
    return found


def _first_line(documented: Any) -> str:
    return (getdoc(documented) or "").partition("\n")[0].replace("``", "`").replace("|", "\\|")


def _names(targets: list[str]) -> str:
    """`aten.add` (Tensor, Scalar) and so on."""
    pairs = sorted(target.rpartition(".")[::2] for target in targets)
    words = []
    for name, group in groupby(pairs, lambda pair: pair[0]):
        overloads = [overload for _, overload in group if overload != "default"]
        words.append(f"`{name}`" + (f" ({', '.join(overloads)})" if overloads else ""))
    return ", ".join(words)


def _library() -> Iterator[str]:
    yield f"| operator | {' | '.join(DTYPES)} | inputs and attributes | what it gives |"
    yield "|---" * (len(DTYPES) + 3) + "|"
    for operator in LIBRARY.values():
        types = " | ".join(operator.results.get(dtype, "-") for dtype in DTYPES)
        yield f"| {operator.name} | {types} | `{operator.signature}` | {operator.about} |"


if __name__ == "__main__":
    PAGE.write_text(page())
