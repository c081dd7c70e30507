"""The streams are AES-256 on a counter, from zero, or from two for masks, and nothing else."""

from __future__ import annotations

import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister_privacy import keystream
from cloister_privacy.keystream import (
    BLOCK_BYTES,
    KEYS_AT_ONCE,
    MAX_MASK_BYTES,
    Entropy,
    add_masks,
)

KEY = bytes(range(32))
KEYS = st.binary(min_size=32, max_size=32)
FIRST = 2  # counter of a mask
SIGNED = st.tuples(KEYS, st.sampled_from([1, -1]))


def counted(key: bytes, size: int, counter: int = 0) -> bytes:
    """SP 800-38A, section 6.5, by hand: each block is the cipher of a big-endian counter."""
    blocks = -(-size // 16)
    inputs = b"".join(((counter + k) % (1 << 128)).to_bytes(16, "big") for k in range(blocks))
    return Cipher(AES256(key), ECB()).encryptor().update(inputs)[:size]


def stream(key: bytes, size: int, counter: int = 0) -> bytes:
    """The same at once, for long streams."""
    begin = counter.to_bytes(16, "big")
    return Cipher(AES256(key), CTR(begin)).encryptor().update(bytes(size))


def masked(tail: list[int], body: list[int], bits: int, keys: list[tuple[bytes, int]]):
    """What add_masks has to make of vectors, in Python's integers, one word after the other."""
    tail, body = list(tail), list(body)
    for key, sign in keys:
        data = counted(key, 8 * len(tail) + bits // 8 * len(body), FIRST)
        at = 0
        for vector, size in ((tail, 8), (body, bits // 8)):
            for index in range(len(vector)):
                word = int.from_bytes(data[at : at + size], "little")
                vector[index] = (vector[index] + sign * word) % (1 << (8 * size))
                at += size
    return tail, body


def test_aes_256_ctr_of_sp_800_38a():
    """Vector F.5.5, for the library and for this file's oracle."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes(range(0xF0, 0x100))
    plain = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    expected = (
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )
    assert Cipher(AES256(key), CTR(counter)).encryptor().update(plain).hex() == expected
    by_hand = counted(key, len(plain), int.from_bytes(counter, "big"))
    assert bytes(a ^ b for a, b in zip(plain, by_hand, strict=True)).hex() == expected


def test_aes_256_of_fips_197():
    """Appendix C.3: so the first 16 bytes of this key's stream are not the library's opinion."""
    cipher = Cipher(AES256(KEY), ECB()).encryptor()
    block = bytes.fromhex("00112233445566778899aabbccddeeff")
    assert cipher.update(block).hex() == "8ea2b7ca516745bfeafc49904b496089"


@pytest.mark.parametrize("way", ["_counted", "_authenticated"])
@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_a_mask_is_that_stream_from_counter_two(monkeypatch, dtype, way):
    monkeypatch.setattr(keystream, "_faster", lambda: getattr(keystream, way))
    words = 3 * BLOCK_BYTES // np.dtype(dtype).itemsize + 5
    tail, body = np.zeros(3, np.uint64), np.zeros(words, dtype)
    add_masks(tail, body, [(KEY, 1)])
    assert tail.tobytes() + body.tobytes() == counted(KEY, 24 + body.nbytes, FIRST)
    assert Entropy(KEY).bytes(24 + body.nbytes) == counted(KEY, 24 + body.nbytes)


# Masks


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=5),
    st.sampled_from([32, 64]),
    st.lists(st.integers(0, 2**64 - 1), max_size=20),
    st.lists(SIGNED, max_size=5),
)
def test_masks_against_a_slow_reference(tail, bits, body, keys):
    body = [value % (1 << bits) for value in body]
    found_tail, found_body = np.array(tail, np.uint64), np.array(body, f"u{bits // 8}")
    add_masks(found_tail, found_body, keys)
    assert (found_tail.tolist(), found_body.tolist()) == masked(tail, body, bits, keys)


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize("counters", [0, 1, 2, 7, BLOCK_BYTES // 8, BLOCK_BYTES // 8 + 1])
@pytest.mark.parametrize("beyond", [None, -1, 0, 1, BLOCK_BYTES // 4 + 3])
def test_edges_of_blocks(dtype, counters, beyond):
    """Vectors of a block, of one word less or more, and of several, before and behind a tail."""
    words = 0 if beyond is None else BLOCK_BYTES // np.dtype(dtype).itemsize + beyond
    tail = Entropy(KEY).uint64(counters)
    body = Entropy(KEY).uint64(words).astype(dtype)
    keys = [(b"a" * 32, 1), (b"b" * 32, -1)]
    expected_tail, expected_body = tail.copy(), body.copy()
    for key, sign in keys:
        data = stream(key, tail.nbytes + body.nbytes, FIRST)
        change = np.add if sign == 1 else np.subtract
        change(expected_tail, np.frombuffer(data[: tail.nbytes], "<u8"), out=expected_tail)
        mask = np.frombuffer(data[tail.nbytes :], np.dtype(dtype).newbyteorder("<"))
        change(expected_body, mask, out=expected_body)
    add_masks(tail, body, keys)
    np.testing.assert_array_equal(tail, expected_tail)
    np.testing.assert_array_equal(body, expected_body)


@settings(max_examples=25)
@given(
    st.lists(SIGNED, min_size=1, max_size=6),
    st.integers(0, 3),
    st.integers(0, 70_000),
    st.sampled_from([np.uint32, np.uint64]),
    st.randoms(use_true_random=False),
)
def test_opposite_signs_restore(keys, counters, words, dtype, random):
    tail, body = Entropy(KEY).uint64(counters), Entropy(KEY).uint64(words).astype(dtype)
    before_tail, before_body = tail.copy(), body.copy()
    add_masks(tail, body, keys)
    back = [(key, -sign) for key, sign in keys]
    random.shuffle(back)
    add_masks(tail, body, back)
    np.testing.assert_array_equal(tail, before_tail)
    np.testing.assert_array_equal(body, before_body)


@pytest.mark.parametrize("count", [KEYS_AT_ONCE - 1, KEYS_AT_ONCE, KEYS_AT_ONCE + 1, 600])
def test_more_keys_than_are_open_together(count):
    keys = [
        (count.to_bytes(16, "big") + k.to_bytes(16, "big"), 1 - k % 3 % 2 * 2) for k in range(count)
    ]
    tail, body = np.zeros(2, np.uint64), np.zeros(9, np.uint32)
    add_masks(tail, body, keys)
    assert (tail.tolist(), body.tolist()) == masked([0] * 2, [0] * 9, 32, keys)


def test_no_keys_and_no_vector_change_nothing():
    tail, body = np.arange(3, dtype=np.uint64), np.arange(5, dtype=np.uint32)
    add_masks(tail, body, [])
    assert (tail.tolist(), body.tolist()) == ([0, 1, 2], [0, 1, 2, 3, 4])
    add_masks(np.zeros(0, np.uint64), np.zeros(0, np.uint32), [(KEY, 1)])


def test_parts_of_larger_arrays_are_masked_in_place():
    whole = np.zeros((1000, 2), np.uint32)
    add_masks(np.zeros(0, np.uint64), whole[:, 0], [(KEY, 1)])
    assert whole[:, 0].astype("<u4").tobytes() == counted(KEY, 4000, FIRST)
    assert not whole[:, 1].any()


def test_a_mask_ends_before_its_counter_does():
    body = np.broadcast_to(np.uint64(0), (MAX_MASK_BYTES // 8,))  # takes no memory
    with pytest.raises(ValueError, match=f"{MAX_MASK_BYTES} bytes"):
        add_masks(np.zeros(1, np.uint64), body, [(KEY, 1)])


@pytest.mark.parametrize(
    ("tail", "body", "keys"),
    [
        (np.zeros(1, np.uint32), np.zeros(1, np.uint32), [(KEY, 1)]),
        (np.zeros(1, np.uint64), np.zeros(1, np.int32), [(KEY, 1)]),
        (np.zeros(1, np.uint64), np.zeros(1, np.float32), [(KEY, 1)]),
        (np.zeros(1, np.uint64), np.zeros(1, np.uint16), [(KEY, 1)]),
        (np.zeros(1, np.uint64), np.zeros(1, ">u4"), [(KEY, 1)]),
        (np.zeros(1, np.uint64), np.zeros((2, 2), np.uint32), [(KEY, 1)]),
        (np.zeros((1, 1), np.uint64), np.zeros(2, np.uint32), [(KEY, 1)]),
        (np.zeros(1, np.uint64), np.zeros(2, np.uint32), [(KEY, 1), (KEY, 0)]),
        (np.zeros(1, np.uint64), np.zeros(2, np.uint32), [(KEY, 1), (KEY, 2)]),
        (np.zeros(1, np.uint64), np.zeros(2, np.uint32), [(KEY, 1), (KEY[:16], 1)]),
        (np.zeros(1, np.uint64), np.zeros(2, np.uint32), [(KEY, 1), (b"", 1)]),
    ],
)
def test_what_cannot_be_masked_stays_as_it_is(tail, body, keys):
    with pytest.raises(ValueError, match=r"mask|32"):
        add_masks(tail, body, keys)
    assert not tail.any()
    assert not body.any()


def test_no_key_is_told():
    key = os.urandom(16)
    with pytest.raises(ValueError, match="16 bytes") as raised:
        add_masks(np.zeros(1, np.uint64), np.zeros(2, np.uint32), [(key, 1)])
    assert key.hex() not in str(raised.value)
    assert repr(key) not in str(raised.value)


# Entropy


def test_entropy_is_never_the_same():
    drawn = {Entropy().bytes(16) for _ in range(200)}
    assert len(drawn) == 200
    one = Entropy()
    assert len({one.bytes(16) for _ in range(200)}) == 200


@given(KEYS, st.lists(st.sampled_from(["bytes", "uint32", "uint64", "uniform"]), max_size=8))
def test_a_key_gives_its_stream_whatever_is_drawn_from_it(key, kinds):
    sizes = {"bytes": 1, "uint32": 4, "uint64": 8, "uniform": 8}
    one, other = Entropy(key), Entropy(key)
    data = counted(key, 8 * 7 * 8)
    for count, kind in enumerate(kinds):
        taken, data = data[: count * sizes[kind]], data[count * sizes[kind] :]
        found, again = getattr(one, kind)(count), getattr(other, kind)(count)
        if kind == "bytes":
            assert found == again == taken
            continue
        assert found.tolist() == again.tolist()
        size = sizes[kind]
        words = [int.from_bytes(taken[k : k + size], "little") for k in range(0, len(taken), size)]
        if kind == "uniform":
            assert found.dtype == np.float64
            assert found.tolist() == [(word >> 11) / 2**53 for word in words]
        else:
            assert found.dtype == np.dtype(kind)
            assert found.tolist() == words


def test_long_draws_are_the_stream_too():
    size = 3 * BLOCK_BYTES + 12
    assert Entropy(KEY).uint32(size // 4).tobytes() == stream(KEY, size)
    assert Entropy(KEY).bytes(size) == stream(KEY, size)


def test_what_is_drawn_can_be_written_to():
    entropy = Entropy()
    for drawn in (entropy.uint32(3), entropy.uint64(3), entropy.uniform(3)):
        drawn[:] = 0


def test_uniform_is_within_and_even():
    drawn = Entropy(KEY).uniform(100_000)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    # Mean 1/2, variance 1/12; six standard deviations of the mean, with a fixed key.
    assert abs(drawn.mean() - 0.5) < 6 * (1 / 12 / 100_000) ** 0.5
    assert abs(drawn.var() - 1 / 12) < 0.002
    # 53 bits each: the least significant one is 1 half of the time.
    last = (drawn * 2.0**53).astype(np.uint64) & np.uint64(1)
    assert abs(last.mean() - 0.5) < 6 * 0.5 / 100_000**0.5


def test_the_extremes_of_uniform(monkeypatch):
    entropy = Entropy()
    monkeypatch.setattr(entropy, "uint64", lambda count: np.array([0, 2**64 - 1], np.uint64))
    assert entropy.uniform(2).tolist() == [0.0, 1 - 2.0**-53]


def test_bytes_of_words_are_even():
    """Pearson's chi-square of a million bytes over 256 values: mean 255, deviation 22.6."""
    counts = np.bincount(Entropy(KEY).uint32(250_000).view(np.uint8), minlength=256)
    expected = 1_000_000 / 256
    assert 150 < ((counts - expected) ** 2 / expected).sum() < 360


@pytest.mark.parametrize("length", [0, 16, 24, 33])
def test_entropy_takes_keys_of_32_bytes(length):
    with pytest.raises(ValueError, match="key size"):
        Entropy(bytes(length))


def test_no_key_is_shown():
    assert KEY.hex() not in repr(Entropy(KEY))
    assert repr(KEY) not in f"{Entropy(KEY)!r} {vars(Entropy(KEY))}"
