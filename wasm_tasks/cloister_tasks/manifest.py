"""What a module says about itself, typed and checked.

The wire form is the canonical protobuf JSON of ``cloister.v1.Manifest``. A :class:`Manifest`
cannot be constructed in breach of the contract, so whoever holds one need not check again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import NoReturn

import numpy as np
from google.protobuf import json_format

import cloister_protos as protos
from cloister_protos import DType, Kind, Role
from cloister_tasks.contract import (
    ABI,
    DTYPES,
    ENTRY_POINTS,
    MASK_BYTES,
    NOISE_KEYS,
    PAGE_BYTES,
    ROLES,
    SEED,
    VARIANTS,
)
from cloister_tasks.errors import InvalidModule

MAX_MANIFEST_BYTES = 256 * 1024
"""Bytes of a manifest's JSON; a longer one is refused."""
MAX_BUFFERS = 4096
"""Buffers in one manifest; more are refused."""
MAX_DIMENSIONS = 8
"""Dimensions of one buffer; more are refused."""
MAX_DESCRIPTION = 256
"""Characters of a description; a longer one is refused."""
MAX_MEMORY_BYTES = 1 << 32
"""Bytes a 32-bit memory can address; more are refused."""

_TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BUFFER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,127}")
_DTYPE_CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Buffer:
    """One named region of a module's memory."""

    name: str
    role: Role
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    """Elements per dimension; () for a scalar."""
    offset: int
    """Bytes from the start of memory."""
    description: str = ""

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return self.size * self.dtype.itemsize

    @property
    def end(self) -> int:
        """First byte after the buffer, from the start of memory."""
        return self.offset + self.nbytes


@dataclass(frozen=True)
class Block:
    """Adjacent f32 buffers of one role, seen as one vector."""

    offset: int
    """Bytes from the start of memory."""
    size: int
    """Elements, f32."""

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return 4 * self.size


@dataclass(frozen=True)
class Manifest:
    """A module's description of itself; see ``task.proto`` for the meaning of each field.

    Raises:
        InvalidModule: (``manifest``) a field breaks the contract.
    """

    name: str
    kind: Kind
    memory_bytes: int
    entry_points: tuple[str, ...]
    buffers: Mapping[str, Buffer]
    """By name, in manifest order."""
    variant: str
    description: str = ""
    linear: bool = False
    """An aggregation that uses nothing of the updates but their sum, so that it may run on the
    sum alone: given as one update of weight 1, beside the round's total."""
    unweighted: bool = False
    """An aggregation that leaves the weights aside: if linear, the sum it uses is that of the
    updates as they are, and otherwise each times its weight."""
    abi: int = ABI

    def __post_init__(self) -> None:
        object.__setattr__(self, "buffers", MappingProxyType(dict(self.buffers)))
        _check_head(self)
        _check_buffers(self)
        _check_roles(self)

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read and check a manifest from outside.

        Raises:
            InvalidModule: (``manifest``) it is no manifest, or breaks the contract.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            _refuse(f"the manifest has {len(data)} bytes; at most {MAX_MANIFEST_BYTES} are allowed")
        message = protos.Manifest()
        try:
            json_format.Parse(data.decode("utf-8"), message)
        except (json_format.Error, ValueError, TypeError, ArithmeticError, RecursionError) as e:
            _refuse(f"the manifest is not the JSON of cloister.v1.Manifest: {str(e)[:200]!r}")
        if len(message.buffers) > MAX_BUFFERS:
            _refuse(f"{len(message.buffers)} buffers; at most {MAX_BUFFERS} are allowed")
        buffers: dict[str, Buffer] = {}
        for b in message.buffers:
            if b.name in buffers:
                _refuse(f"two buffers are named {b.name!r}")
            dtype = DTYPES.get(b.dtype)
            if dtype is None:
                _refuse(f"buffer {b.name!r} has the unknown dtype {b.dtype}")
            buffers[b.name] = Buffer(b.name, b.role, dtype, tuple(b.shape), b.offset, b.description)
        return cls(
            name=message.name,
            kind=message.kind,
            memory_bytes=message.memory_bytes,
            entry_points=tuple(message.entry_points),
            buffers=buffers,
            variant=message.variant,
            description=message.description,
            linear=message.linear,
            unweighted=message.unweighted,
            abi=message.abi,
        )

    def to_json(self) -> bytes:
        """Write the canonical form: sorted keys, no spaces, UTF-8."""
        message = protos.Manifest(
            abi=self.abi,
            name=self.name,
            kind=self.kind,
            memory_bytes=self.memory_bytes,
            entry_points=self.entry_points,
            buffers=[
                protos.Buffer(
                    name=b.name,
                    role=b.role,
                    dtype=_DTYPE_CODES[b.dtype],
                    shape=b.shape,
                    offset=b.offset,
                    description=b.description,
                )
                for b in self.buffers.values()
            ],
            variant=self.variant,
            description=self.description,
            linear=self.linear,
            unweighted=self.unweighted,
        )
        fields = json_format.MessageToDict(message)
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()

    def of(self, role: Role) -> tuple[Buffer, ...]:
        """Buffers of one role, in manifest order."""
        return tuple(b for b in self.buffers.values() if b.role == role)

    def block(self, role: Role) -> Block | None:
        """The gapless block of all PARAMETER or FROZEN buffers; None if there are none."""
        if role not in (Role.ROLE_PARAMETER, Role.ROLE_FROZEN):
            raise ValueError(f"{Role.Name(role)} buffers form no block")
        buffers = self.of(role)
        if not buffers:
            return None
        return Block(buffers[0].offset, sum(b.size for b in buffers))

    @property
    def masked(self) -> bool:
        """Whether it adds masked vectors: the coordinator's own work, no aggregation for a job."""
        return bool(self.of(Role.ROLE_MASK))

    @property
    def local_bytes(self) -> int:
        """Bytes of all LOCAL buffers, side by side in manifest order."""
        return sum(b.nbytes for b in self.of(Role.ROLE_LOCAL))

    @property
    def seed(self) -> Buffer | None:
        """The hyperparameter that holds each client's own seed; None: the task draws nothing."""
        seed = self.buffers.get(SEED)
        if seed is None or seed.role != Role.ROLE_HYPERPARAMETER:
            return None
        return seed if seed.dtype == DTYPES[DType.DTYPE_I64] else None

    @property
    def noise_keys(self) -> tuple[Buffer, ...]:
        """The hyperparameters that hold the secret of a device's noise; none: there is no noise."""
        found = (self.buffers.get(name) for name in NOISE_KEYS)
        return tuple(
            b
            for b in found
            if b is not None
            and b.role == Role.ROLE_HYPERPARAMETER
            and b.dtype == DTYPES[DType.DTYPE_I64]
        )

    @property
    def capacity(self) -> int:
        """Rows the input buffers hold; 0 for an aggregation."""
        inputs = self.of(Role.ROLE_INPUT)
        return inputs[0].shape[0] if inputs else 0

    @property
    def parameter_count(self) -> int:
        """Elements of the parameter block; 0 for an aggregation."""
        block = self.block(Role.ROLE_PARAMETER)
        return block.size if block else 0


def _refuse(message: str) -> NoReturn:
    raise InvalidModule("manifest", message)


def _check_line(what: str, text: str) -> None:
    """Descriptions are shown on terminals: no control characters, bounded."""
    if len(text) > MAX_DESCRIPTION or not text.isprintable():
        _refuse(
            f"the description of {what} is not one line of at most {MAX_DESCRIPTION} characters"
        )


def _check_head(m: Manifest) -> None:
    if m.abi != ABI:
        _refuse(f"the module is of ABI {m.abi}; this version runs ABI {ABI}")
    if not _TASK_NAME.fullmatch(m.name):
        _refuse(f"the task name {m.name[:80]!r} does not match {_TASK_NAME.pattern}")
    if m.kind not in ENTRY_POINTS:
        _refuse(f"unknown kind of module {m.kind}")
    if m.variant not in VARIANTS:
        _refuse(f"the variant {m.variant[:80]!r} is none of {', '.join(VARIANTS)}")
    if not 0 < m.memory_bytes <= MAX_MEMORY_BYTES or m.memory_bytes % PAGE_BYTES:
        _refuse(f"memory_bytes {m.memory_bytes} is no multiple of {PAGE_BYTES} up to 4 GiB")
    wanted = ENTRY_POINTS[m.kind]
    if sorted(m.entry_points) != sorted(wanted):
        _refuse(f"the entry points of {Kind.Name(m.kind)} are {', '.join(wanted)}")
    if (m.linear or m.unweighted) and m.kind != Kind.KIND_AGGREGATION:
        _refuse("only an aggregation can be linear or unweighted")
    _check_line("the module", m.description)


def _check_buffers(m: Manifest) -> None:
    """Each buffer alone, then all of them against each other."""
    if len(m.buffers) > MAX_BUFFERS:
        _refuse(f"{len(m.buffers)} buffers; at most {MAX_BUFFERS} are allowed")
    for name, b in m.buffers.items():
        if not _BUFFER_NAME.fullmatch(b.name) or name != b.name:
            _refuse(f"the buffer name {b.name[:80]!r} does not match {_BUFFER_NAME.pattern}")
        _check_line(f"buffer {b.name}", b.description)
        if b.dtype not in _DTYPE_CODES:
            _refuse(f"buffer {b.name} has the unknown dtype {b.dtype}")
        if len(b.shape) > MAX_DIMENSIONS or any(n < 1 for n in b.shape):
            _refuse(f"buffer {b.name}: a shape has up to {MAX_DIMENSIONS} dimensions, each >= 1")
        if b.offset < 0 or b.offset % b.dtype.itemsize:
            _refuse(
                f"buffer {b.name}: offset {b.offset} is not aligned to {b.dtype.itemsize} bytes"
            )
        if b.end > m.memory_bytes:
            _refuse(
                f"buffer {b.name} ends at byte {b.end}, past the {m.memory_bytes} bytes of memory"
            )
    by_offset = sorted(m.buffers.values(), key=lambda b: b.offset)
    for below, above in pairwise(by_offset):
        if above.offset < below.end:
            _refuse(f"buffers {below.name} and {above.name} overlap")


def _check_roles(m: Manifest) -> None:
    """Every role against its row in the contract's table, then what spans several roles."""
    for b in m.buffers.values():
        rule = ROLES.get(b.role)
        if rule is None or m.kind not in rule.kinds:
            _refuse(f"buffer {b.name}: a module of {Kind.Name(m.kind)} has no role {b.role}")
        role = Role.Name(b.role)
        if _DTYPE_CODES[b.dtype] not in rule.dtypes:
            wanted = ", ".join(DType.Name(d) for d in sorted(rule.dtypes))
            _refuse(f"buffer {b.name}: {role} has one of the dtypes {wanted}")
        if (
            (rule.form == "number" and b.size != 1)
            or (rule.form == "vector" and len(b.shape) != 1)
            or (rule.form == "rows" and not b.shape)
        ):
            _refuse(f"buffer {b.name}: the shape {b.shape} does not fit {role}")
    for role_code, rule in ROLES.items():
        if m.kind in rule.kinds:
            count = len(m.of(role_code))
            if count < rule.least or (rule.most is not None and count > rule.most):
                _refuse(f"{count} buffers of {Role.Name(role_code)}")
    rows = {b.shape[0] for b in m.buffers.values() if ROLES[b.role].form == "rows"}
    if len(rows) > 1:
        _refuse(f"inputs and outputs differ in their capacity of rows: {sorted(rows)}")
    for role_code in (Role.ROLE_PARAMETER, Role.ROLE_FROZEN):
        _check_gapless(m.of(role_code))
    if m.kind == Kind.KIND_AGGREGATION:
        _check_aggregation(m)


def _check_aggregation(m: Manifest) -> None:
    (model,), (update,) = m.of(Role.ROLE_MODEL), m.of(Role.ROLE_UPDATE)
    if m.masked != (_DTYPE_CODES[update.dtype] == DType.DTYPE_U8):
        _refuse("updates are of u8 where there is a mask, and f32 everywhere else")
    for role in (Role.ROLE_WEIGHT, Role.ROLE_TOTAL):
        if len(m.of(role)) == m.masked:
            _refuse(f"{Role.Name(role)} belongs to an aggregation without a mask, and only there")
    if m.masked and m.linear:
        _refuse("an aggregation of masked updates cannot run on their sum: it makes it")
    row = model.size * (MASK_BYTES if m.masked else 1)
    if update.size < row:
        _refuse(f"the update buffer ({update.size}) does not hold one row ({row})")
    for mask in m.of(Role.ROLE_MASK):
        if mask.size != row or model.size % 8:
            _refuse(f"a mask has {MASK_BYTES} bytes for each column, a multiple of 8 columns")
    if any(s.size != model.size for s in m.of(Role.ROLE_SERVER_STATE)):
        _refuse("the server state is not of the model's size")


def _check_gapless(buffers: Iterable[Buffer]) -> None:
    for one, following in pairwise(buffers):
        if following.offset != one.end:
            _refuse(f"{one.name} and {following.name} are not adjacent in memory")
