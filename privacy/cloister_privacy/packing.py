"""Whole numbers of b bits, side by side without a gap.

The packed bytes are one little-endian number, in which value k has the bits from k * b on. Bits
that are left over in the last byte are 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

AT_ONCE = 1 << 18
"""Values that are packed at the same time, 8 bytes each while that lasts."""


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` values of `bits` bits take; raises ValueError unless 1 <= bits <= 64."""
    if not 1 <= bits <= 64:
        raise ValueError(f"values of {bits} bits cannot be packed; it takes 1 to 64")
    if count < 0:
        raise ValueError(f"{count} values")
    return (count * bits + 7) // 8


def pack(values: NDArray[np.uint32] | NDArray[np.uint64], bits: int) -> bytes:
    """The low `bits` bits of each value.

    Args:
        values: uint32 or uint64 (n,).
        bits: 1 to 64; values of fewer bits are filled up with zeros.

    Raises:
        ValueError: another number of bits, or another shape.
    """
    if values.ndim != 1:
        raise ValueError(f"values of shape {values.shape} instead of one dimension")
    size = packed_bytes(len(values), bits)
    group, words = _layout(bits)
    groups = -(-len(values) // group)
    rows = _padded(values, groups * group).reshape(groups, group)
    packed = np.empty((groups, words), "<u8")
    low = np.uint64((1 << bits) - 1)
    for several in _several(groups, group):
        # Transposed, so that each step below runs over neighbours in memory.
        columns = rows[several].T.astype(np.uint64, order="C")
        columns &= low
        out = np.zeros((words, columns.shape[1]), np.uint64)
        for column, word, shift in _places(columns, bits):
            out[word] |= column << np.uint64(shift)
            if shift + bits > 64:
                out[word + 1] |= column >> np.uint64(64 - shift)
        packed[several] = out.T
    return packed.tobytes()[:size]


def unpack(data: bytes, count: int, bits: int) -> NDArray[np.uint32] | NDArray[np.uint64]:
    """What was packed: (count,), uint32 for up to 32 bits, and uint64 for more.

    Raises:
        ValueError: data of another length, bits set that are left over, or another number of bits.
    """
    if len(data) != packed_bytes(count, bits):
        raise ValueError(
            f"{len(data)} bytes instead of {packed_bytes(count, bits)}"
            f" for {count} values of {bits} bits"
        )
    used = count * bits % 8
    if used and data[-1] >> used:
        raise ValueError("bits are set behind the last value")
    dtype = np.dtype(np.uint32 if bits <= 32 else np.uint64)
    group, words = _layout(bits)
    groups = -(-count // group)
    packed = _padded(np.frombuffer(data, np.uint8), groups * words * 8)
    rows = packed.view("<u8").reshape(groups, words)
    values = np.empty((groups, group), dtype)
    low = np.uint64((1 << bits) - 1)
    for several in _several(groups, group):
        columns = rows[several].T.astype(np.uint64, order="C")
        out = np.empty((group, columns.shape[1]), dtype)
        for target, word, shift in _places(out, bits):
            value = columns[word] >> np.uint64(shift)
            if shift + bits > 64:
                value |= columns[word + 1] << np.uint64(64 - shift)
            target[:] = value & low
        values[several] = out.T
    return values.reshape(-1)[:count]


def _layout(bits: int) -> tuple[int, int]:
    """How many values fill how many words of 64 bits, at the least."""
    common = math.gcd(bits, 64)
    return 64 // common, bits // common


def _places(columns: NDArray[Any], bits: int) -> Iterator[tuple[NDArray[Any], int, int]]:
    """Each value of a group with the word and the bit where it begins."""
    for index, column in enumerate(columns):
        word, shift = divmod(index * bits, 64)
        yield column, word, shift


def _several(groups: int, group: int) -> Iterator[slice]:
    step = AT_ONCE // group
    for first in range(0, groups, step):
        yield slice(first, first + step)


def _padded(array: NDArray[Any], length: int) -> NDArray[Any]:
    if len(array) == length:
        return array
    padded = np.zeros(length, array.dtype)
    padded[: len(array)] = array
    return padded


__all__ = ["AT_ONCE", "pack", "packed_bytes", "unpack"]
