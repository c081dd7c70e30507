"""Built-in tasks, specialised to their shapes when they are built.

========================  =======================================  ================================
template                  shape (defaults)                         inputs
========================  =======================================  ================================
``softmax-regression``    features, classes                        features, label
``linear-regression``     features, outputs (1)                    features, target
``perceptron``            features, hidden (one or more), classes  features, label
``summarize``             features, bins (32), low (0), high (1)   features
``noop``                  parameters                               features (one, not looked at)
========================  =======================================  ================================
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import pairwise
from typing import Any

from cloister_tasks.cache import cached
from cloister_tasks.contract import VARIANTS, Variant
from cloister_tasks.errors import BuildError
from cloister_tasks.toolchain import PACKAGE, compile_c

CAPACITY = 1024
"""Rows the input buffers hold by default; also the largest batch."""
MAX_SIZE = 1 << 28
"""Largest number in a shape; a larger one is refused, as no memory would hold its buffer."""


@dataclass(frozen=True)
class _Source:
    """A C file and the macros that specialise it."""

    file: str
    about: str
    macros: Mapping[str, str | int | float]


def build(
    template: str,
    *,
    variant: Variant = "simd128",
    capacity: int = CAPACITY,
    **shape: Any,
) -> bytes:
    """Build a task from a template, or take it from the cache.

    Args:
        template: a name from :data:`TEMPLATES`.
        variant: instruction set.
        capacity: rows the input buffers hold; a batch cannot be larger.
        **shape: the template's own, see the table above.

    Raises:
        BuildError: no such template, a shape it does not have, or no compiler.
    """
    describe = TEMPLATES.get(template)
    if describe is None:
        raise BuildError(f"no template {template!r}; there are {', '.join(TEMPLATES)}")
    if variant not in VARIANTS:
        raise BuildError(f"unknown variant {variant!r}; there are {', '.join(VARIANTS)}")
    try:
        inspect.signature(describe).bind(**shape)
    except TypeError as e:
        raise BuildError(f"{template}{inspect.signature(describe)}: {e}") from None
    _check_size("capacity", capacity)
    source = describe(**shape)
    macros = {
        "TITLE": f'"{template}"',
        "ABOUT": f'"{source.about}"',
        "CAPACITY": capacity,
        **source.macros,
    }
    key = repr((_toolchain(), source.file, variant, sorted(macros.items())))
    path = PACKAGE / "templates" / source.file
    return cached(key.encode(), lambda: compile_c(path, defines=macros, variant=variant))


def _softmax_regression(features: int, classes: int) -> _Source:
    return _network([features, classes], f"Softmax regression {features}-{classes}", classify=True)


def _linear_regression(features: int, outputs: int = 1) -> _Source:
    return _network([features, outputs], f"Linear regression {features}-{outputs}", classify=False)


def _perceptron(features: int, hidden: int | Sequence[int], classes: int) -> _Source:
    widths = [features, *([hidden] if isinstance(hidden, int) else hidden), classes]
    if len(widths) < 3:
        raise BuildError("a perceptron has at least one hidden layer")
    return _network(widths, f"Perceptron {'-'.join(map(str, widths))}, ReLU", classify=True)


def _summarize(features: int, bins: int = 32, low: float = 0.0, high: float = 1.0) -> _Source:
    _check_size("features", features)
    _check_size("bins", bins)
    low, high = float(low), float(high)
    if not low < high or high - low == float("inf"):
        raise BuildError(f"low {low} and high {high} are not the ends of a range")
    return _Source(
        "summarize.c",
        f"Statistics of {features} features, {bins} bins from {low:g} to {high:g}",
        {"FEATURES": features, "BINS": bins, "LOW": f"({low!r})", "HIGH": f"({high!r})"},
    )


def _noop(parameters: int) -> _Source:
    _check_size("parameters", parameters)
    return _Source("noop.c", f"Nothing, with {parameters} parameters", {"PARAMETERS": parameters})


TEMPLATES: Mapping[str, Callable[..., _Source]] = {
    "softmax-regression": _softmax_regression,
    "linear-regression": _linear_regression,
    "perceptron": _perceptron,
    "summarize": _summarize,
    "noop": _noop,
}
"""What describes each template's source, by name; its parameters are the template's shape."""


def _network(widths: Sequence[int], about: str, *, classify: bool) -> _Source:
    """``network.c`` for layers of these widths, inputs first."""
    for width in widths:
        _check_size("a width", width)
    if classify and widths[-1] < 2:
        raise BuildError(f"{widths[-1]} classes; there are at least 2")
    if len(widths) > 64:
        raise BuildError(f"{len(widths)} widths; at most 64 are allowed")
    deep = len(widths) > 2
    layers = (
        f'LAYER({i},"{f"layer{i}." if deep else ""}",{inputs},{outputs})'
        for i, (inputs, outputs) in enumerate(pairwise(widths))
    )
    return _Source(
        "network.c",
        about,
        {
            "LAYERS(LAYER)": " ".join(layers),
            "DEPTH": len(widths) - 1,
            "FEATURES": widths[0],
            "OUTPUTS": widths[-1],
            "WIDEST": max(widths[1:]),
            "CLASSIFY": int(classify),
        },
    )


def _check_size(what: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIZE:
        raise BuildError(f"{what} is {value!r}; it has to be a whole number from 1 to {MAX_SIZE}")


@cache
def _toolchain() -> str:
    """Everything besides the template's arguments that decides what comes out of a build."""
    try:
        version = metadata.version("ziglang")
    except metadata.PackageNotFoundError:
        version = "none"
    sources = [
        path
        for pattern in ("include/*.h", "kernels/*.h", "templates/*.[ch]", "*.py")
        for path in sorted(PACKAGE.glob(pattern))
    ]
    return version + "".join(path.read_text() for path in sources)
