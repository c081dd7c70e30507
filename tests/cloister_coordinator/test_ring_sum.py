"""Sums of masked vectors, against Python's integers and numpy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cloister_coordinator.blocks import F32, ArrayBlocks, PackedArray, PackedFile, PackedReader
from cloister_coordinator.ring_sum import MAX_BITS, MIN_BITS, Masks, RingSum
from cloister_sandbox import Faulted, SandboxPool

U64 = NDArray[np.uint64]

CHUNK = 65536
"""Columns of the module."""


@pytest.fixture(scope="module")
def local() -> Iterator[SandboxPool]:
    with SandboxPool(isolated=False) as pool:
        yield pool


def pack(values: U64, bits: int) -> bytes:
    """By numpy's bits, lowest first."""
    ones = values[:, None] >> np.arange(bits, dtype=np.uint64) & np.uint64(1)
    return np.packbits(ones.astype(np.uint8), bitorder="little").tobytes()


def random(count: int, size: int, bits: int) -> tuple[U64, Masks]:
    """Vectors u64 (count, size) of so many bits, and whole words of masks."""
    rng = np.random.default_rng([count, size, bits])
    vectors = rng.integers(0, 1 << bits, (count, size), np.uint64)
    word = np.uint32 if bits <= 32 else np.uint64
    return vectors, rng.integers(0, np.iinfo(word).max, size, word, endpoint=True)


def expected(vectors: U64, masks: Masks, bits: int, step: float) -> F32:
    """By uint64 arithmetic, which wraps: float32 (size,)."""
    total = vectors.sum(axis=0, dtype=np.uint64) - masks.astype(np.uint64)
    above = 64 - bits
    signed = (total << np.uint64(above)).view(np.int64) >> np.int64(above)
    values: F32 = (signed.astype(np.float64) * step).astype(np.float32)
    return values


def added(
    pool: SandboxPool,
    vectors: list[PackedReader],
    masks: Masks,
    bits: int,
    step: float = 1.0,
    workers: int = 2,
) -> F32:
    out = np.full(len(masks), np.nan, np.float32)
    RingSum(pool, workers).sum(len(masks), vectors, masks, bits, step, ArrayBlocks(out))
    return out


@st.composite
def sums(draw: st.DrawFn) -> tuple[list[list[int]], list[int], int, float]:
    bits, size = draw(st.integers(MIN_BITS, MAX_BITS)), draw(st.integers(1, 40))
    value = st.integers(0, (1 << bits) - 1)
    word = st.integers(0, (1 << (32 if bits <= 32 else 64)) - 1)
    vector = st.lists(value, min_size=size, max_size=size)
    vectors = draw(st.lists(vector, max_size=5))
    masks = draw(st.lists(word, min_size=size, max_size=size))
    return vectors, masks, bits, draw(st.sampled_from([1.0, 1e-3, 2.0**-30]))


@settings(max_examples=60, deadline=None)
@given(sums())
def test_against_pythons_integers(
    local: SandboxPool, case: tuple[list[list[int]], list[int], int, float]
) -> None:
    vectors, masks, bits, step = case
    packed = []
    for vector in vectors:
        number = sum(value << (k * bits) for k, value in enumerate(vector))
        packed.append(number.to_bytes(-(-len(vector) * bits // 8), "little"))
    half, whole = 1 << (bits - 1), 1 << bits
    wanted = [
        np.float32(float((sum(v[k] for v in vectors) - mask + half) % whole - half) * step)
        for k, mask in enumerate(masks)
    ]
    readers: list[PackedReader] = [PackedArray(data) for data in packed]
    words = np.array(masks, np.uint32 if bits <= 32 else np.uint64)
    found = added(local, readers, words, bits, step)
    assert found.tobytes() == np.array(wanted, np.float32).tobytes()


@pytest.mark.parametrize("bits", [2, 19, 32, 33, 61])
@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 13])
def test_many_chunks(local: SandboxPool, size: int, bits: int) -> None:
    vectors, masks = random(3, size, bits)
    readers: list[PackedReader] = [PackedArray(pack(v, bits)) for v in vectors]
    found = added(local, readers, masks, bits, 0.1)
    assert found.tobytes() == expected(vectors, masks, bits, 0.1).tobytes()


def test_more_vectors_than_fit_at_once(local: SandboxPool) -> None:
    vectors, masks = random(23, CHUNK + 5, 24)
    readers: list[PackedReader] = [PackedArray(pack(v, 24)) for v in vectors]
    assert added(local, readers, masks, 24).tobytes() == expected(vectors, masks, 24, 1).tobytes()


def test_bytes_do_not_depend_on_workers_processes_or_storage(
    local: SandboxPool, tmp_path: Path
) -> None:
    bits = 27
    vectors, masks = random(7, 4 * CHUNK + 3, bits)
    arrays: list[PackedReader] = []
    files: list[PackedReader] = []
    for place, vector in enumerate(vectors):
        data = pack(vector, bits)
        (tmp_path / str(place)).write_bytes(data)
        arrays.append(PackedArray(data))
        files.append(PackedFile(tmp_path / str(place)))
    wanted = expected(vectors, masks, bits, 0.25).tobytes()
    for workers in (1, 3):
        assert added(local, arrays, masks, bits, 0.25, workers).tobytes() == wanted
    with SandboxPool(isolated=True) as isolated:
        for workers in (1, 2):
            assert added(isolated, files, masks, bits, 0.25, workers).tobytes() == wanted


def test_masks_that_cancel_leave_the_sum(local: SandboxPool) -> None:
    """Two members, one mask between them, added by one and subtracted by the other."""
    bits, size = 20, 100
    clear = np.arange(-50, 50)
    mask = np.random.default_rng(0).integers(0, 1 << bits, size)
    masked = [(clear + mask) % (1 << bits), (clear - mask) % (1 << bits)]
    readers: list[PackedReader] = [PackedArray(pack(m.astype(np.uint64), bits)) for m in masked]
    found = added(local, readers, np.zeros(size, np.uint32), bits, 0.5)
    assert found.tolist() == clear.tolist()


def test_vectors_are_arrays_of_any_dtype(local: SandboxPool) -> None:
    """Of 32 bits a value, the packed form is the array itself."""
    values = np.arange(9, dtype=np.uint32)
    found = added(local, [PackedArray(values), PackedArray(values)], np.zeros(9, np.uint32), 32)
    assert found.tolist() == (2.0 * values).tolist()


def test_masks_need_not_be_contiguous(local: SandboxPool) -> None:
    masks = np.arange(20, dtype=np.uint32)[::2]
    assert added(local, [], masks, 8).tolist() == (-1.0 * masks).tolist()


def test_one_is_good_for_many_sums(local: SandboxPool) -> None:
    ring = RingSum(local)
    for bits in (5, 40, 5):
        vectors, masks = random(2, 300, bits)
        out = np.empty(300, np.float32)
        readers: list[PackedReader] = [PackedArray(pack(v, bits)) for v in vectors]
        ring.sum(300, readers, masks, bits, 1.0, ArrayBlocks(out))
        assert out.tobytes() == expected(vectors, masks, bits, 1).tobytes()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_truncated_vector_is_an_error(local: SandboxPool, tmp_path: Path, workers: int) -> None:
    size, bits = CHUNK + 9, 20
    data = pack(np.zeros(size, np.uint64), bits)
    path = tmp_path / "vector"
    path.write_bytes(data[:-1])
    masks = np.zeros(size, np.uint32)
    for reader in (PackedFile(path), PackedArray(data[:-1])):
        with pytest.raises(OSError, match="ends before"):
            added(local, [PackedArray(data), reader], masks, bits, workers=workers)
    with pytest.raises(FileNotFoundError):
        added(local, [PackedFile(tmp_path / "none")], masks, bits, workers=workers)


def test_a_result_past_float32_is_an_error(local: SandboxPool) -> None:
    with pytest.raises(Faulted):
        added(local, [PackedArray(pack(np.array([100], np.uint64), 8))], ZERO, 8, 1e37)


ZERO = np.zeros(1, np.uint32)


@pytest.mark.parametrize(
    ("masks", "bits", "step", "says"),
    [
        (ZERO, 1, 1.0, "bits"),
        (ZERO, 63, 1.0, "bits"),
        (ZERO, 33, 1.0, "uint64"),
        (ZERO.astype(np.uint64), 32, 1.0, "uint32"),
        (ZERO.astype(np.int32), 32, 1.0, "uint32"),
        (np.zeros(2, np.uint32), 32, 1.0, "masks"),
        (np.zeros((1, 1), np.uint32), 32, 1.0, "masks"),
        (ZERO, 8, 0.0, "step"),
        (ZERO, 8, -1.0, "step"),
        (ZERO, 8, np.nan, "step"),
        (ZERO, 8, np.inf, "step"),
    ],
)
def test_arguments_are_checked(
    local: SandboxPool, masks: Masks, bits: int, step: float, says: str
) -> None:
    out = np.zeros(1, np.float32)
    with pytest.raises(ValueError, match=says):
        RingSum(local).sum(1, [], masks, bits, step, ArrayBlocks(out))
    assert out == 0
