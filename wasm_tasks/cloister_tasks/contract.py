"""The task contract, ABI 1, as two tables: what each kind of module exports, and its buffers.

Everything here is data; :mod:`cloister_tasks.manifest` and :mod:`cloister_tasks.module` check
modules against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from cloister_protos import DType, Kind, Role

ABI = 1
"""Version of the contract; a module of any other is refused."""

PAGE_BYTES = 65536
"""Bytes of one WASM memory page."""

Variant: TypeAlias = Literal["scalar", "simd128", "relaxed-simd"]
VARIANTS: tuple[Variant, ...] = ("scalar", "simd128", "relaxed-simd")
"""Instruction sets; results are bit-identical on every host within one of them."""

SEED = "seed"
"""Name of the i64 hyperparameter that is each client's own seed of the round, unless the job sets
it: what a task draws from it (dropout, noise) differs between clients."""

MASK_BYTES = 8
"""Bytes that a mask buffer has for each column: the longest word a masked sum is computed in."""

NOISE_KEYS = tuple(f"noise_key{n}" for n in range(4))
"""Names of the i64 hyperparameters that together are the key of noise for privacy: 256 bits that a
device draws for each round and nobody else may know."""

DTYPES: Mapping[DType, np.dtype[np.generic]] = {
    DType.DTYPE_F32: np.dtype("<f4"),
    DType.DTYPE_F64: np.dtype("<f8"),
    DType.DTYPE_I32: np.dtype("<i4"),
    DType.DTYPE_I64: np.dtype("<i8"),
    DType.DTYPE_U8: np.dtype("u1"),
    DType.DTYPE_I8: np.dtype("i1"),
}

ENTRY_POINTS: Mapping[Kind, Mapping[str, tuple[str, ...]]] = {
    Kind.KIND_TRAINING: {
        "init": ("i64",),  # seed
        "reset": (),
        "train": ("i32",),  # rows
        "evaluate": ("i32",),  # rows
        "predict": ("i32",),  # rows
    },
    Kind.KIND_SUMMARY: {
        "reset": (),
        "summarize": ("i32",),  # rows
    },
    Kind.KIND_AGGREGATION: {
        "reset": ("i32",),  # columns
        "fold": ("i32", "i32"),  # rows, columns
        "finish": ("i32",),  # columns
    },
}
"""Parameter types of each function a kind must export; all of them return one i32 status."""


@dataclass(frozen=True)
class RoleRule:
    """What the contract asks of the buffers of one role."""

    kinds: frozenset[Kind]
    """Kinds of module that may have the role."""
    dtypes: frozenset[DType] = field(default_factory=lambda: frozenset(DTYPES))
    """Element types it may have."""
    form: Literal["any", "number", "vector", "rows"] = "any"
    """One number; one dimension; or rows: a leading dimension that all row buffers share."""
    least: int = 0
    """Fewest buffers of the role in a module of such a kind."""
    most: int | None = None
    """Most buffers of the role; None: as many as a manifest holds."""


_LOCAL = frozenset({Kind.KIND_TRAINING, Kind.KIND_SUMMARY})
_SERVER = frozenset({Kind.KIND_AGGREGATION})
_F32, _F64 = frozenset({DType.DTYPE_F32}), frozenset({DType.DTYPE_F64})
_U8 = frozenset({DType.DTYPE_U8})
_NUMBERS = frozenset({DType.DTYPE_F32, DType.DTYPE_F64, DType.DTYPE_I32, DType.DTYPE_I64})

ROLES: Mapping[Role, RoleRule] = {
    Role.ROLE_PARAMETER: RoleRule(_LOCAL, _F32, least=1),
    Role.ROLE_FROZEN: RoleRule(_LOCAL, _F32),
    Role.ROLE_LOCAL: RoleRule(_LOCAL),
    Role.ROLE_OPTIMIZER: RoleRule(_LOCAL),
    Role.ROLE_INPUT: RoleRule(_LOCAL, form="rows", least=1),
    Role.ROLE_HYPERPARAMETER: RoleRule(_LOCAL | _SERVER, _NUMBERS, "number"),
    Role.ROLE_METRIC: RoleRule(_LOCAL, _F64, "number"),
    Role.ROLE_OUTPUT: RoleRule(_LOCAL, form="rows"),
    Role.ROLE_FAULT: RoleRule(
        _LOCAL | _SERVER, frozenset({DType.DTYPE_I64}), "number", least=0, most=1
    ),
    Role.ROLE_UPDATE: RoleRule(_SERVER, _F32 | _U8, "vector", least=1, most=1),
    Role.ROLE_WEIGHT: RoleRule(_SERVER, _F64, "vector", most=1),
    Role.ROLE_ACCUMULATOR: RoleRule(_SERVER),
    Role.ROLE_MODEL: RoleRule(_SERVER, _F32, "vector", least=1, most=1),
    Role.ROLE_SERVER_STATE: RoleRule(_SERVER, _F32, "vector", most=1),
    Role.ROLE_TOTAL: RoleRule(_SERVER, _F64, "number", most=1),
    Role.ROLE_MASK: RoleRule(_SERVER, _U8, "vector", most=1),
}
"""Where updates are masked, there are a mask and updates of u8, but neither weights nor total;
everywhere else it is the other way round."""
