"""Sums under masks that the test knows, against Python's integers; and the coordinator's noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cloister_coordinator.blocks import F32, ArrayBlocks, PackedArray, PackedFile, PackedReader
from cloister_coordinator.secure_sum import SecureSum, central_noise
from cloister_privacy.counters import Counters
from cloister_privacy.keystream import Entropy
from cloister_privacy.terms import Terms
from cloister_protos import (
    AdaptiveClipping,
    Assignment,
    DifferentialPrivacy,
    Noise,
    SecureAggregation,
    SecureTerms,
    Training,
)
from cloister_sandbox import Faulted, SandboxPool

KEY = bytes(range(32))
CHUNK = 65536
"""Columns of the module that adds."""
METRICS = ("loss", "accuracy")
SCALES = {"weight": 1, "unclipped": 1 << 10}
PUBLIC_SCALES = SCALES | {
    "examples": 1,
    "trained_rows": 1,
    "evaluated_rows": 1,
    "training loss": 1 << 20,
    "training accuracy": 1 << 20,
    "evaluation loss": 1 << 20,
    "evaluation accuracy": 1 << 20,
}
"""What one of each counter is in steps."""


@pytest.fixture(scope="module")
def local() -> Iterator[SandboxPool]:
    with SandboxPool(isolated=False) as pool:
        yield pool


def terms(
    parameters: int,
    *,
    members: int = 3,
    value_bits: int = 16,
    max_weight: int = 1,
    clip_norm: float = 0.75,
    private: bool = False,
    central_variance: float = 0.0,
) -> tuple[Terms, Counters]:
    """What all are told, and what is summed beside updates."""
    counters = Counters(METRICS, members, private)
    told = Assignment(clip_norm=clip_norm, training=Training(epochs=1))
    told.secure.CopyFrom(
        SecureTerms(
            settings=SecureAggregation(value_bits=value_bits, max_weight=max_weight),
            members=members,
            minimum=2,
            private=private,
            central_variance=central_variance,
        )
    )
    return Terms.of(told, parameters, len(counters)), counters


def packed(values: Sequence[int], bits: int) -> bytes:
    """By Python's integers: value k has the bits from k * bits on, of one little-endian number."""
    if not values:
        return b""
    number = int("".join(f"{value:0{bits}b}" for value in reversed(values)), 2)
    return number.to_bytes((len(values) * bits + 7) // 8, "little")


class Masked:
    """Members' integers under random masks, and what the masks of all come to.

    Args:
        tails: of each member, any integers.
        bodies: of each member, integers that are masked modulo 2^bits.
        bits: of the ring.
    """

    def __init__(self, tails: list[list[int]], bodies: list[list[int]], bits: int) -> None:
        rng = np.random.default_rng([len(tails), len(bodies[0]), bits])
        word = np.uint32 if bits <= 32 else np.uint64
        size = len(bodies), len(bodies[0])
        tail_masks = rng.integers(0, 1 << 64, (len(tails), len(tails[0])), np.uint64)
        body_masks = rng.integers(0, np.iinfo(word).max, size, word, endpoint=True)
        self.tail_mask = tail_masks.sum(axis=0, dtype=np.uint64)
        self.body_mask = body_masks.sum(axis=0, dtype=word)
        self.vectors = [
            b"".join(
                ((value + mask) % (1 << 64)).to_bytes(8, "little")
                for value, mask in zip(tail, tail_mask, strict=True)
            )
            + packed(
                [(v + m) % (1 << bits) for v, m in zip(body, body_mask, strict=True)],
                bits,
            )
            for tail, body, tail_mask, body_mask in zip(
                tails, bodies, tail_masks.tolist(), body_masks.tolist(), strict=True
            )
        ]

    def readers(self, folder: Path | None = None) -> list[PackedReader]:
        """In memory, but for the second vector, where there is a folder to put it in."""
        readers: list[PackedReader] = [PackedArray(vector) for vector in self.vectors]
        if folder is not None:
            (folder / "vector").write_bytes(self.vectors[1])
            readers[1] = PackedFile(folder / "vector")
        return readers


def opened(
    pool: SandboxPool,
    told: tuple[Terms, Counters],
    readers: list[PackedReader],
    masks: tuple[NDArray[np.uint64], NDArray[Any]],
    workers: int = 2,
) -> tuple[dict[str, float], F32]:
    out = np.full(told[0].parameters, np.nan, np.float32)
    sums = SecureSum(pool, workers).open(*told, readers, *masks, ArrayBlocks(out))
    return sums, out


def total(vectors: list[list[int]]) -> list[int]:
    return [sum(column) for column in zip(*vectors, strict=True)]


def expected(bodies: list[list[int]], step: float) -> bytes:
    return np.array([np.float32(float(s) * step) for s in total(bodies)], np.float32).tobytes()


RINGS = [
    # bits, value_bits, max_weight: 3 (max_weight 2^(value_bits - 1) + 1) steps, and a sign
    (5, 2, 1),
    (18, 16, 1),
    (32, 24, 1 << 6),
    (33, 24, 1 << 7),
    (58, 24, 1 << 32),
]


@pytest.mark.parametrize(("bits", "value_bits", "max_weight"), RINGS)
@pytest.mark.parametrize("size", [1, 13, CHUNK - 1, CHUNK + 5])
def test_the_masks_come_off_and_the_sums_are_exact(
    local: SandboxPool, tmp_path: Path, size: int, bits: int, value_bits: int, max_weight: int
) -> None:
    told = terms(size, value_bits=value_bits, max_weight=max_weight)
    assert told[0].encoding.ring_bits == bits
    rng = np.random.default_rng([size, bits])
    most = max_weight << value_bits - 1
    bodies = rng.integers(-most, most, (3, size), endpoint=True).tolist()
    for body in bodies:  # the largest sum and the least, as far as they are
        body[0], body[-1] = most, -most
    tails = rng.integers(-(1 << 58), 1 << 58, (3, len(PUBLIC_SCALES))).tolist()
    masked = Masked(tails, bodies, bits)
    sums, out = opened(local, told, masked.readers(tmp_path), (masked.tail_mask, masked.body_mask))
    assert sums == {
        name: number / scale
        for (name, scale), number in zip(PUBLIC_SCALES.items(), total(tails), strict=True)
    }
    assert out.tobytes() == expected(bodies, 0.75 / (1 << value_bits - 1))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda members: st.lists(
            st.tuples(
                st.lists(st.integers(-(1 << 61), 1 << 61), min_size=2, max_size=2),
                st.lists(st.integers(-8, 8), min_size=3, max_size=3),
            ),
            min_size=members,
            max_size=members,
        )
    )
)
def test_any_few_members(local: SandboxPool, given: list[tuple[list[int], list[int]]]) -> None:
    """A tail is a sum modulo 2^64, with its sign, whatever it is of."""
    told = terms(3, members=4, value_bits=4, private=True, clip_norm=8.0)
    tails, bodies = [tail for tail, _ in given], [body for _, body in given]
    masked = Masked(tails, bodies, told[0].encoding.ring_bits)
    sums, out = opened(local, told, masked.readers(), (masked.tail_mask, masked.body_mask))
    half = 1 << 63
    weight, unclipped = ((number + half) % (2 * half) - half for number in total(tails))
    assert sums == {"weight": weight / 1, "unclipped": unclipped / 1024}
    assert out.tolist() == total(bodies)


def test_without_parameters_only_counters_are_summed(local: SandboxPool, tmp_path: Path) -> None:
    told = terms(0)
    tails = [[member * 100 + k for k in range(len(PUBLIC_SCALES))] for member in range(3)]
    masked = Masked(tails, [[], [], []], 18)
    out = np.full(4, 7.0, np.float32)
    sums = SecureSum(local).open(
        *told, masked.readers(tmp_path), masked.tail_mask, masked.body_mask, ArrayBlocks(out)
    )
    assert list(sums) == list(PUBLIC_SCALES)
    assert [sums[name] * scale for name, scale in PUBLIC_SCALES.items()] == total(tails)
    assert out.tolist() == [7.0] * 4


def test_one_opens_many_sums_with_any_workers(local: SandboxPool, tmp_path: Path) -> None:
    opener = SecureSum(local, workers=3)
    for size in (CHUNK + 9, 5, 2 * CHUNK):
        told = terms(size, private=True)
        bodies = np.random.default_rng(size).integers(-99, 99, (3, size)).tolist()
        masked = Masked([[1, 1024], [1, 0], [1, 1024]], bodies, 18)
        out = np.full(size, np.nan, np.float32)
        sums = opener.open(
            *told, masked.readers(tmp_path), masked.tail_mask, masked.body_mask, ArrayBlocks(out)
        )
        assert sums == {"weight": 3.0, "unclipped": 2.0}
        assert out.tobytes() == expected(bodies, 0.75 / (1 << 15))


@pytest.mark.parametrize("kept", [15, 40])
def test_a_truncated_vector_is_an_error(local: SandboxPool, tmp_path: Path, kept: int) -> None:
    """Its tail has 16 bytes, and its body 25."""
    told = terms(11, private=True)
    masked = Masked([[1, 0]] * 3, [[0] * 11] * 3, 18)
    masked.vectors[1] = masked.vectors[1][:kept]
    for folder in (tmp_path, None):
        with pytest.raises(OSError, match="ends before"):
            opened(local, told, masked.readers(folder), (masked.tail_mask, masked.body_mask))


def test_a_sum_past_float32_is_an_error(local: SandboxPool) -> None:
    told = terms(1, clip_norm=3e38, private=True)
    masked = Masked([[1, 0]] * 3, [[1 << 15]] * 3, 18)
    with pytest.raises(Faulted):
        opened(local, told, masked.readers(), (masked.tail_mask, masked.body_mask))


# The noise is drawn with a fixed key, and bounds are 6.5 deviations of an estimate: a right
# implementation with another key would exceed one of them with a chance of 10^-10.
SURE = 6.5


def is_normal(values: NDArray[np.float64], deviation: float) -> None:
    """Of mean 0 and this deviation; not twice the noise, nor a share of it."""
    count = len(values)
    assert abs(values.mean()) < SURE * deviation / math.sqrt(count)
    # a square has a variance of 2 deviation^4
    assert abs((values**2).mean() / deviation**2 - 1) < SURE * math.sqrt(2 / count)
    assert np.abs(values).max() < 12 * deviation


def central(multiplier: float = 1.5, **fields: Any) -> DifferentialPrivacy:
    return DifferentialPrivacy(
        noise=Noise.NOISE_CENTRAL, noise_multiplier=multiplier, delta=1e-6, **fields
    )


@pytest.mark.parametrize(
    ("value_bits", "multiplier", "members"),
    [(4, 2.0, 2), (16, 1.5, 12), (16, 0.01, 12), (24, 1.5, 5000), (24, 1000.0, 12)],
)
def test_noise_of_the_coordinator(value_bits: int, multiplier: float, members: int) -> None:
    """Its deviation is the multiplier times the clipping norm, whatever that is by now."""
    size, deviation = 100_000, multiplier * (1 << value_bits - 1)
    told, counters = terms(
        size,
        members=members,
        value_bits=value_bits,
        clip_norm=0.1234567,
        private=True,
        central_variance=deviation**2,
    )
    encoding = told.encoding
    rng = np.random.default_rng(value_bits)
    most = np.iinfo(encoding.dtype).max
    before = rng.integers(0, most, size, encoding.dtype, endpoint=True)
    tail = rng.integers(0, 1 << 64, 2, np.uint64)
    body, tail_before = before.copy(), tail.copy()
    central_noise(central(multiplier), told, counters, tail, body, Entropy(KEY))
    noise = (body - before).view(np.int32 if body.itemsize == 4 else np.int64)
    is_normal(noise.astype(np.float64), deviation)
    assert tail.tolist() == tail_before.tolist()
    # every sum with it is one of the ring's
    room = (1 << encoding.ring_bits - 1) - 1
    assert members * ((1 << value_bits - 1) + 1) + 12 * math.floor(deviation) <= room


@pytest.mark.parametrize("value_bits", [4, 24])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sum_with_noise_does_not_wrap(
    local: SandboxPool, tmp_path: Path, value_bits: int, sign: int
) -> None:
    """In rings of 9 bits and of 33: what the sum exceeds the exact one by is the noise."""
    size, deviation = 20_000, 2.0 * (1 << value_bits - 1)
    members = {4: 2, 24: 400}[value_bits]
    told = terms(
        size,
        members=members,
        value_bits=value_bits,
        clip_norm=3.0,
        private=True,
        central_variance=deviation**2,
    )
    bits = told[0].encoding.ring_bits
    assert bits == {4: 9, 24: 33}[value_bits]
    # two members, whose vectors are those of all
    each = sign * (members // 2 << value_bits - 1)
    masked = Masked([[1, 0], [1, 1024]], [[each] * size] * 2, bits)
    central_noise(central(2.0), *told, masked.tail_mask, masked.body_mask, Entropy(KEY))
    sums, out = opened(local, told, masked.readers(tmp_path), (masked.tail_mask, masked.body_mask))
    assert sums == {"weight": 2.0, "unclipped": 1.0}
    is_normal(out.astype(np.float64) - sign * members * 3.0, 2.0 * 3.0)


def test_noise_differs_from_round_to_round_and_between_coordinates() -> None:
    told, counters = terms(1000, private=True, central_variance=1.0)
    drawn = []
    for _ in range(2):
        tail, body = np.zeros(2, np.uint64), np.zeros(1000, np.uint32)
        central_noise(central(), told, counters, tail, body, Entropy())
        drawn.append(body)
    # of a deviation of 49152 steps: two are alike with a chance of 6 in a million
    assert (drawn[0] == drawn[1]).sum() < 5
    assert len(np.unique(drawn[0])) > 980


def test_adaptive_clipping_has_noise_on_the_count_alone() -> None:
    """Of count_noise members, each of whom counts for 2^10 steps."""
    told, counters = terms(0, private=True)
    privacy = central(adaptive=AdaptiveClipping(count_noise=2.5))
    entropy, count = Entropy(KEY), 4000
    tails = np.full((count, 2), (1 << 64) - 5, np.uint64)
    for tail in tails:
        central_noise(privacy, told, counters, tail, np.zeros(0, np.uint32), entropy)
    assert set(tails[:, 0].tolist()) == {(1 << 64) - 5}
    noise = (tails[:, 1] + np.uint64(5)).view(np.int64)
    is_normal(noise.astype(np.float64), 2.5 * 1024)


def test_updates_have_their_noise_beside_the_counts() -> None:
    told, counters = terms(50_000, private=True, central_variance=49152.0**2)
    tail, body = np.zeros(2, np.uint64), np.zeros(50_000, np.uint32)
    privacy = central(adaptive=AdaptiveClipping(count_noise=2.5))
    central_noise(privacy, told, counters, tail, body, Entropy(KEY))
    is_normal(body.view(np.int32).astype(np.float64), 1.5 * 2**15)
    assert tail[0] == 0
    assert tail[1] != 0  # with a chance of 6 in 10,000, for a key that is drawn


@pytest.mark.parametrize("noise", [Noise.NOISE_UNSPECIFIED, Noise.NOISE_DISTRIBUTED])
def test_nothing_is_added_where_the_noise_is_not_the_coordinators(noise: Noise) -> None:
    told, counters = terms(1000, private=True)
    privacy = DifferentialPrivacy(
        noise=noise, noise_multiplier=1.5, adaptive=AdaptiveClipping(count_noise=2.5)
    )
    tail, body = np.full(2, 3, np.uint64), np.arange(1000, dtype=np.uint32)
    central_noise(privacy, told, counters, tail, body, Entropy(KEY))
    assert tail.tolist() == [3, 3]
    assert body.tolist() == list(range(1000))
