"""What a sandbox is, whichever walls it has."""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloister_protos import Role
from cloister_sandbox.errors import Crashed, Faulted
from cloister_sandbox.limits import Limits
from cloister_sandbox.messages import CallList, Region
from cloister_tasks import ENTRY_POINTS, Module, describe

Key: TypeAlias = "str | Role"
"""A buffer by name; or ROLE_PARAMETER or ROLE_FROZEN for the whole block, one f32 vector."""
Transfer: TypeAlias = "Key | tuple[Key, int]"
"""What to copy: a buffer, or so many of its first rows (elements, if it has one dimension)."""

_RANGES = {"i32": (-(1 << 31), 1 << 31), "i64": (-(1 << 63), 1 << 64)}


@dataclass(frozen=True)
class Place:
    """Where a key lies in memory, and what is there."""

    offset: int
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]

    @cached_property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @cached_property
    def nbytes(self) -> int:
        """Bytes."""
        return self.size * self.dtype.itemsize

    def region(self, rows: int | None) -> Region:
        """The bytes of the first rows; of all, for None."""
        if rows is None:
            return self.offset, self.nbytes
        rows = operator.index(rows)
        if not self.shape or not 0 <= rows <= self.shape[0]:
            raise ValueError(f"{rows} rows of a buffer of shape {self.shape}")
        return self.offset, self.nbytes // self.shape[0] * rows


class Sandbox(ABC):
    """One instance of one module behind walls. Use one from one thread at a time.

    Data goes in and out through views, calls through :meth:`run`::

        sandbox.view("features")[:rows] = features
        sandbox.view(Role.ROLE_PARAMETER)[:] = model
        sandbox.run(("reset",), ("train", rows),
                    send=[Role.ROLE_PARAMETER, ("features", rows)],
                    receive=[Role.ROLE_PARAMETER, "loss"])

    What was written to a view counts from the next run that sends it, and what a view holds is
    defined only after it was written or received. After a SandboxError the sandbox is dead.
    """

    isolated: ClassVar[bool]
    """Whether a process contains what an engine alone cannot: modules that take for ever or
    without end of memory to compile, CPU time, and faults of the engine itself."""

    def __init__(self, module: Module, limits: Limits) -> None:
        self.module = module
        self._limits = limits
        self._places: dict[Key, Place] = {}
        self._signatures = ENTRY_POINTS[module.manifest.kind]
        self._dead = False

    @property
    def alive(self) -> bool:
        """Whether it can still run."""
        return not self._dead

    def view(self, key: Key) -> NDArray[Any]:
        """A writable array over a buffer, with its dtype and shape; good until `fresh()`.

        Raises:
            ValueError: the module has no such buffer or block.
            Crashed: the sandbox is dead.
        """
        self._check_alive()
        return self._array(self._place(key))

    def run(
        self,
        *calls: tuple[str, *tuple[int, ...]],
        send: Iterable[Transfer] = (),
        receive: Iterable[Transfer] = (),
    ) -> None:
        """Copy in, make calls in order, copy out; in one round trip and under one deadline.

        Args:
            calls: entry points with their arguments; the first non-zero status ends it.
            send: what to copy from the views to the module before the calls.
            receive: what to copy from the module to the views after them.

        Raises:
            Trapped, OutOfTime, OutOfMemory, Faulted, Crashed: the sandbox is dead.
            ValueError: no such entry point, buffer or number of rows; nothing was done.
        """
        checked = [self._checked(name, arguments) for name, *arguments in calls]
        sent, received = self._regions(send), self._regions(receive)
        self._guarded(lambda: self._run(checked, sent, received))

    def fresh(self) -> None:
        """Begin anew: zeroed memory with the module's own data, start function included.

        Raises:
            Refused, Trapped, OutOfTime, OutOfMemory, Crashed: the sandbox is dead.
        """
        self._guarded(self._fresh)

    @abstractmethod
    def rest(self) -> None:
        """Give back the instance's memory; the next thing to call is `fresh()`."""

    @abstractmethod
    def close(self) -> None:
        """End it for good; harmless when repeated."""

    @abstractmethod
    def _array(self, place: Place) -> NDArray[Any]: ...

    @abstractmethod
    def _run(self, calls: CallList, send: list[Region], receive: list[Region]) -> None: ...

    @abstractmethod
    def _fresh(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _faulted(self, where: str, status: int, row: int | None) -> Faulted:
        return Faulted(status, describe(status), where=where, row=row)

    def _guarded(self, action: Callable[[], None]) -> None:
        self._check_alive()
        try:
            action()
        except ValueError:  # nothing was done
            raise
        except BaseException:  # an interrupt, too, leaves a call half done
            self.close()
            raise

    def _check_alive(self) -> None:
        if self._dead:
            raise Crashed("the sandbox was closed; lease another one")

    def _place(self, key: Key) -> Place:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = self._find(key)
        return place

    def _find(self, key: Key) -> Place:
        manifest = self.module.manifest
        if isinstance(key, str):
            buffer = manifest.buffers.get(key)
            if buffer is None:
                raise ValueError(f"{manifest.name} has no buffer {key!r}")
            return Place(buffer.offset, buffer.dtype, buffer.shape)
        block = manifest.block(key)
        if block is None:
            raise ValueError(f"{manifest.name} has no {Role.Name(key)}")
        return Place(block.offset, np.dtype("<f4"), (block.size,))

    def _regions(self, transfers: Iterable[Transfer]) -> list[Region]:
        """Where to copy; neighbours are copied as one."""
        regions: list[Region] = []
        for transfer in transfers:
            key, rows = transfer if isinstance(transfer, tuple) else (transfer, None)
            offset, nbytes = self._place(key).region(rows)
            if regions and sum(regions[-1]) == offset:
                regions[-1] = (regions[-1][0], regions[-1][1] + nbytes)
            else:
                regions.append((offset, nbytes))
        return regions

    def _checked(self, name: str, arguments: list[int]) -> tuple[str, list[int]]:
        kinds = self._signatures.get(name)
        if kinds is None or len(kinds) != len(arguments):
            wanted = "no such entry point" if kinds is None else f"it takes {len(kinds)} numbers"
            raise ValueError(f"{name}{tuple(arguments)}: {wanted}")
        numbers = [operator.index(a) for a in arguments]
        for number, kind in zip(numbers, kinds, strict=True):
            low, high = _RANGES[kind]
            if not low <= number < high:
                raise ValueError(f"{name}{tuple(numbers)}: {number} is no {kind}")
        return name, numbers
