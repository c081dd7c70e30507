"""Packed values against one large number of Python's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister_privacy.packing import AT_ONCE, pack, packed_bytes, unpack

VALUES = st.lists(st.one_of(st.integers(0, 2**64 - 1), st.just(2**64 - 1)), max_size=200)
BITS = st.integers(1, 64)


def number(values: list[int], bits: int) -> bytes:
    """The values side by side in one number."""
    total = 0
    for index, value in enumerate(values):
        total |= (value % (1 << bits)) << (index * bits)
    return total.to_bytes((len(values) * bits + 7) // 8, "little")


@given(VALUES, BITS, st.sampled_from([np.uint32, np.uint64]))
def test_packed_values_are_one_number(values, bits, dtype):
    array = np.array(values, np.uint64).astype(dtype)
    before = array.copy()
    data = pack(array, bits)
    assert data == number(array.tolist(), bits)
    assert len(data) == packed_bytes(len(values), bits)
    np.testing.assert_array_equal(array, before)


@given(VALUES, BITS)
def test_values_go_there_and_back(values, bits):
    values = [value % (1 << bits) for value in values]
    found = unpack(number(values, bits), len(values), bits)
    assert found.dtype == (np.uint32 if bits <= 32 else np.uint64)
    assert found.tolist() == values
    assert pack(found, bits) == number(values, bits)


@given(st.binary(max_size=400), BITS)
def test_bytes_are_refused_or_come_back(data, bits):
    """Every string of bytes of the right length stands for values, unless there are bits left."""
    count = len(data) * 8 // bits
    if packed_bytes(count, bits) != len(data):
        with pytest.raises(ValueError, match="instead of"):
            unpack(data, count, bits)
        return
    if int.from_bytes(data, "little") >> (count * bits):
        with pytest.raises(ValueError, match="behind the last"):
            unpack(data, count, bits)
        return
    assert pack(unpack(data, count, bits), bits) == data


@pytest.mark.parametrize("bits", [1, 7, 8, 16, 20, 24, 27, 31, 32, 33, 48, 63, 64])
@pytest.mark.parametrize("beyond", [-65, -1, 0, 1, 70])
def test_edges_of_what_is_packed_at_once(bits, beyond):
    rng = np.random.default_rng(bits)
    values = rng.integers(0, 2**64, AT_ONCE + beyond, np.uint64)
    data = pack(values, bits)
    # An independent way for any length: the bits themselves, least significant first.
    shown = np.unpackbits(
        values.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little"
    )
    assert data == np.packbits(shown[:, :bits].reshape(-1), bitorder="little").tobytes()
    found = unpack(data, len(values), bits)
    np.testing.assert_array_equal(found, values & np.uint64((1 << bits) - 1))


def test_by_hand():
    assert pack(np.array([0x12345, 0x6789A], np.uint32), 20) == bytes.fromhex("4523a18967")
    assert pack(np.array([1, 0, 1, 1, 0, 0, 0, 0, 1], np.uint32), 1) == b"\x0d\x01"
    assert pack(np.array([0xFFF, 5], np.uint32), 4) == b"\x5f"  # the low bits only
    assert unpack(bytes.fromhex("4523a18967"), 2, 20).tolist() == [0x12345, 0x6789A]
    assert pack(np.array([3], np.uint32), 64) == b"\x03" + bytes(7)


def test_parts_of_larger_arrays():
    values = np.arange(2000, dtype=np.uint32)
    assert pack(values[::2], 24) == number(values[::2].tolist(), 24)
    assert pack(values[::-1], 11) == number(values[::-1].tolist(), 11)


@pytest.mark.parametrize("bits", range(1, 65))
def test_what_is_unpacked_has_the_shorter_dtype_and_can_be_written_to(bits):
    found = unpack(bytes(packed_bytes(64, bits)), 64, bits)
    assert found.dtype == (np.uint32 if bits <= 32 else np.uint64)
    found[:] = 1


@pytest.mark.parametrize(
    ("count", "bits", "size"),
    [(0, 1, 0), (0, 64, 0), (1, 1, 1), (8, 1, 1), (9, 1, 2), (3, 20, 8), (2, 20, 5), (5, 64, 40)],
)
def test_sizes(count, bits, size):
    assert packed_bytes(count, bits) == size


def test_nothing():
    for bits in (1, 20, 32, 64):
        assert pack(np.zeros(0, np.uint32), bits) == b""
        assert unpack(b"", 0, bits).shape == (0,)


def test_fewer_values_than_none_are_refused():
    with pytest.raises(ValueError, match="-1 values"):
        packed_bytes(-1, 20)


@pytest.mark.parametrize("bits", [-1, 0, 65, 1000])
def test_other_numbers_of_bits_are_refused(bits):
    for call in (
        lambda: packed_bytes(3, bits),
        lambda: pack(np.zeros(3, np.uint32), bits),
        lambda: unpack(b"", 0, bits),
    ):
        with pytest.raises(ValueError, match="1 to 64"):
            call()


@pytest.mark.parametrize(
    ("data", "count", "bits", "reason"),
    [
        (bytes(4), 2, 20, "4 bytes instead of 5"),
        (bytes(6), 2, 20, "6 bytes instead of 5"),
        (b"", 1, 1, "0 bytes instead of 1"),
        (b"\0", 0, 20, "1 bytes instead of 0"),
        (b"", -1, 20, "-1 values"),
        (bytes(7) + b"\x10", 3, 20, "behind the last value"),
        (b"\x02", 1, 1, "behind the last value"),
        (b"\x80", 7, 1, "behind the last value"),
    ],
)
def test_data_that_pack_never_makes(data, count, bits, reason):
    with pytest.raises(ValueError, match=reason):
        unpack(data, count, bits)


def test_arrays_of_another_shape():
    with pytest.raises(ValueError, match="one dimension"):
        pack(np.zeros((2, 2), np.uint32), 20)
