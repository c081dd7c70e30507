"""The aggregations that come with Cloister, built when it is installed."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from cloister_tasks.errors import BuildError
from cloister_tasks.toolchain import PACKAGE, compile_c

Aggregation: TypeAlias = Literal["fedavg", "median", "sum"]
AGGREGATIONS: tuple[Aggregation, ...] = get_args(Aggregation)
"""Those a job may name: ``fedavg`` weighted mean · ``median`` coordinate-wise, at most 255 updates
· ``sum``."""

_FOLDER = PACKAGE / "aggregations"
_RING_SUM = "ring_sum"


def aggregation(name: str) -> bytes:
    """The module of a built-in aggregation.

    Raises:
        BuildError: there is none of that name, or this installation was never built.
    """
    if name not in AGGREGATIONS:
        raise BuildError(f"no aggregation {name!r}; there are {', '.join(AGGREGATIONS)}")
    return _built(name)


def ring_sum() -> bytes:
    """The module that adds masked vectors, for the coordinator's own use.

    Raises:
        BuildError: this installation was never built.
    """
    return _built(_RING_SUM)


def build_all() -> None:
    """Compile every built-in aggregation beside its source; needs ziglang."""
    for name in (*AGGREGATIONS, _RING_SUM):
        (_FOLDER / f"{name}.wasm").write_bytes(compile_c(_FOLDER / f"{name}.c"))


def _built(name: str) -> bytes:
    path = _FOLDER / f"{name}.wasm"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BuildError(f"{path.name} is not built: run `make tasks` or install again") from None
