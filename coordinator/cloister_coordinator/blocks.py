"""Vectors read and written piece by piece, wherever they lie: of f32, and packed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


class Blocks(Protocol):
    """A vector to read from, by any thread."""

    def read_into(self, start: int, out: F32) -> None:
        """Fill ``out`` (n,) with elements start to start + n."""


class Sink(Protocol):
    """A vector to write to."""

    def write_from(self, start: int, values: F32) -> None:
        """Store ``values`` (n,) as elements start to start + n; called in ascending order."""


class State(Blocks, Sink, Protocol):
    """A vector that is replaced piece by piece: each piece is read before it is written."""


class PackedReader(Protocol):
    """A vector of packed integers to read from, by any thread."""

    def read_into(self, start: int, out: U8) -> None:
        """Fill ``out`` (n,) with bytes start to start + n.

        Raises:
            OSError: it cannot be read, or ends before.
        """


class ArrayBlocks:
    """A vector in memory, f32 (n,)."""

    def __init__(self, array: F32) -> None:
        self.array = array

    def read_into(self, start: int, out: F32) -> None:
        """See Blocks."""
        out[:] = self.array[start : start + len(out)]

    def write_from(self, start: int, values: F32) -> None:
        """See Sink."""
        self.array[start : start + len(values)] = values


class FileBlocks:
    """A vector in a file of little-endian f32; open only while it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read_into(self, start: int, out: F32) -> None:
        """See Blocks.

        Raises:
            OSError: the file is gone or too short.
        """
        _read_file(self.path, 4 * start, out.data.cast("B"))


class PackedArray:
    """Packed integers in memory.

    Args:
        packed: the bytes; of an array, whatever its dtype, those it consists of.
    """

    def __init__(self, packed: bytes | memoryview | NDArray[Any]) -> None:
        self._bytes = np.frombuffer(packed, np.uint8)

    def read_into(self, start: int, out: U8) -> None:
        """See PackedReader."""
        piece = self._bytes[start : start + len(out)]
        if len(piece) < len(out):
            raise OSError(f"a packed vector ends before byte {start + len(out)}")
        out[:] = piece


class PackedFile:
    """Packed integers in a file; open only while it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read_into(self, start: int, out: U8) -> None:
        """See PackedReader."""
        _read_file(self._path, start, out.data)


class Zeros:
    """A vector of zeros, of any length."""

    def read_into(self, start: int, out: F32) -> None:  # noqa: ARG002
        """See Blocks."""
        out[:] = 0


class Successor:
    """A state whose old pieces are read from one place and whose new ones go to another.

    What was is kept whole until what comes is durable.
    """

    def __init__(self, old: Blocks, new: Sink) -> None:
        self._old = old
        self._new = new

    def read_into(self, start: int, out: F32) -> None:
        """See Blocks."""
        self._old.read_into(start, out)

    def write_from(self, start: int, values: F32) -> None:
        """See Sink."""
        self._new.write_from(start, values)


def _read_file(path: Path, offset: int, target: memoryview) -> None:
    """Fill a target of bytes from an offset on."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while target:
            count = os.preadv(descriptor, [target], offset)
            if count == 0:
                raise OSError(f"{path} ends before byte {offset + len(target)}")
            target = target[count:]
            offset += count
    finally:
        os.close(descriptor)
