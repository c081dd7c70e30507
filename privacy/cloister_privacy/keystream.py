"""Key streams of AES-256 in counter mode (NIST SP 800-38A, section 6.5): masks, and randomness.

The stream of a key is the encryption of zeros with a counter that begins at zero, or, for masks, at
two, so a key is for one stream. Words are little-endian on every host.

From two on, it is what AES-256-GCM makes of zeros with a zero nonce (NIST SP 800-38D, section 7.1).
libcrypto has that mode for the widest AES instructions of a processor, and plain counter mode not:
where there are such, masks come more than twice as fast although a tag that nobody asks for is
computed in passing, and elsewhere they take 1.7 times as long. So either is tried once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM
from numpy.typing import NDArray

KEY_BYTES = 32

BLOCK_BYTES = 128 * 1024
"""Of a vector, masked with all keys before the next one: block, stream and zeros stay in cache."""
KEYS_AT_ONCE = 256
"""Streams that are open together, about 1 KiB each; a server may have to take off 100,000."""
MAX_MASK_BYTES = (1 << 36) - 32
"""Of a key's stream: its counter has 32 bits."""

_COUNTER = (2).to_bytes(16, "big")
_NONCE = bytes(12)
"""As GCM has its counter begin at two, after one block for its hash and one for its tag."""
_ZEROS = memoryview(bytes(BLOCK_BYTES))


class Entropy:
    """Random numbers that nobody can predict or tell from uniform ones.

    One stream: each call goes on where the last one stopped. A copy in a forked process would
    yield the same numbers, so make a new one there.

    Args:
        key: 32 bytes for a stream that can be had again; None: from the system's randomness.

    Raises:
        ValueError: a key of another length.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._stream = _stream(os.urandom(KEY_BYTES) if key is None else key)

    def bytes(self, count: int) -> bytes:
        """So many random bytes."""
        return self._words(count, "u1").tobytes()

    def uint32(self, count: int) -> NDArray[np.uint32]:
        """Uniform over all values, (count,)."""
        return self._words(count, "<u4").astype(np.uint32, copy=False)

    def uint64(self, count: int) -> NDArray[np.uint64]:
        """Uniform over all values, (count,)."""
        return self._words(count, "<u8").astype(np.uint64, copy=False)

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Uniform over the multiples of 2^-53 in [0, 1), (count,)."""
        return (self.uint64(count) >> np.uint64(11)) * np.float64(2.0**-53)

    def _words(self, count: int, dtype: str) -> NDArray[Any]:
        words = np.empty(count, dtype)
        for block in _blocks(words):
            _fill(block, self._stream)
        return words


def add_masks(
    tail: NDArray[np.uint64],
    body: NDArray[np.uint32] | NDArray[np.uint64],
    keys: Sequence[tuple[bytes, int]],
) -> None:
    """Add or subtract the streams of `keys`, in place, modulo 2^64 or 2^32.

    A stream's first 8 bytes a word mask `tail`, and the bytes after them `body`; both together have
    at most MAX_MASK_BYTES.

    Args:
        tail: uint64 (m,).
        body: uint32 or uint64 (P,).
        keys: each of 32 bytes, with 1 to add its stream or -1 to subtract it.

    Raises:
        ValueError: another dtype, shape, sign or length of a key; nothing has changed.
    """
    if tail.dtype != np.uint64 or body.dtype not in (np.uint32, np.uint64):
        raise ValueError(f"a tail of {tail.dtype} and a body of {body.dtype} cannot be masked")
    if tail.ndim != 1 or body.ndim != 1:
        raise ValueError("masks are for vectors of one dimension")
    if tail.nbytes + body.nbytes > MAX_MASK_BYTES:
        raise ValueError(f"a mask has at most {MAX_MASK_BYTES} bytes")
    for key, sign in keys:
        if sign not in (1, -1) or len(key) != KEY_BYTES:
            raise ValueError(f"a sign of {sign} or a key of {len(key)} bytes; 1 or -1, and 32")
    begin = _faster()
    for first in range(0, len(keys), KEYS_AT_ONCE):
        _add_streams(
            tail,
            body,
            [
                (np.add if sign == 1 else np.subtract, begin(key))
                for key, sign in keys[first : first + KEYS_AT_ONCE]
            ],
        )


def _add_streams(
    tail: NDArray[Any], body: NDArray[Any], streams: Sequence[tuple[np.ufunc, CipherContext]]
) -> None:
    space = np.empty(BLOCK_BYTES, np.uint8)
    for vector in (tail, body):
        little = vector.dtype.newbyteorder("<")
        for block in _blocks(vector):
            mask = space[: block.nbytes]
            words, zeros, out = mask.view(little), _ZEROS[: block.nbytes], mask.data
            for change, stream in streams:
                # as _fill does, without its cost for each of many keys
                stream.update_into(zeros, out)
                change(block, words, out=block)


def _stream(key: bytes) -> CipherContext:
    return Cipher(AES256(key), CTR(bytes(16))).encryptor()


def _counted(key: bytes) -> CipherContext:
    return Cipher(AES256(key), CTR(_COUNTER)).encryptor()


def _authenticated(key: bytes) -> CipherContext:
    return Cipher(AES256(key), GCM(_NONCE)).encryptor()


@cache
def _faster() -> Callable[[bytes], CipherContext]:
    """How a mask's stream is had sooner on this processor; either way it is the same stream."""
    return min((_counted, _authenticated), key=_seconds)


def _seconds(begin: Callable[[bytes], CipherContext]) -> float:
    """For a block: the least of a few, as the process may be interrupted in any of them."""
    block, seconds = np.empty(BLOCK_BYTES, np.uint8), []
    for _ in range(8):
        stream = begin(bytes(KEY_BYTES))
        began = time.perf_counter()
        _fill(block, stream)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _blocks(vector: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Views of BLOCK_BYTES or less that make up a vector."""
    words = BLOCK_BYTES // vector.itemsize
    for first in range(0, len(vector), words):
        yield vector[first : first + words]


def _fill(block: NDArray[Any], stream: CipherContext) -> None:
    stream.update_into(_ZEROS[: block.nbytes], block.view(np.uint8).data)


__all__ = [
    "BLOCK_BYTES",
    "KEYS_AT_ONCE",
    "KEY_BYTES",
    "MAX_MASK_BYTES",
    "Entropy",
    "add_masks",
]
