from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cloister_privacy.encoding import Encoding
from cloister_privacy.keystream import Entropy

KEY = bytes(range(32))


@st.composite
def encodings(draw: st.DrawFn) -> Encoding:
    """With rings on either side of 32 bits, and up to 62."""
    return Encoding(
        clip_norm=draw(st.floats(1e-6, 1e6)),
        value_bits=draw(st.integers(2, 24)),
        max_weight=draw(st.one_of(st.integers(1, 100), st.integers(1, 2**26))),
        members=draw(st.integers(1, 1000)),
        noise_variance=draw(st.sampled_from([0.0, 0.25, 1e6])),
    )


def signed(values: NDArray[Any], bits: int) -> list[int]:
    """Python's integers from -2^(bits - 1) on."""
    half = 1 << bits - 1
    return [(value + half) % (1 << bits) - half for value in values.tolist()]


def clipped(encoding: Encoding, *shares: float) -> NDArray[np.float32]:
    """Coordinates at these shares of the clipping norm."""
    return (np.array(shares) * encoding.clip_norm).astype(np.float32)


@given(encodings(), st.data())
def test_the_ring_sum_decodes_to_the_sum_of_signed_integers(encoding, data):
    bits, count = encoding.ring_bits, data.draw(st.integers(1, min(encoding.members, 5)))
    shares = st.lists(st.floats(-1, 1), min_size=3, max_size=3)
    total, exact = np.zeros(3, encoding.dtype), [0, 0, 0]
    for _ in range(count):
        weight = data.draw(st.integers(0, encoding.max_weight))
        vector = encoding.encode(clipped(encoding, *data.draw(shares)), weight, Entropy())
        assert vector.dtype == encoding.dtype
        assert all(value < 1 << bits for value in vector.tolist())
        total += vector
        exact = [a + b for a, b in zip(exact, signed(vector, bits), strict=True)]
    expected = [float(value) * encoding.step for value in exact]
    reduced = total & encoding.dtype.type((1 << bits) - 1)
    for sums in (reduced, total):
        decoded = encoding.decode(sums)
        assert decoded.dtype == np.float64
        assert decoded.tolist() == expected


@given(encodings(), st.data())
def test_every_integer_is_next_to_the_exact_value(encoding, data):
    weight = data.draw(st.integers(0, encoding.max_weight))
    update = clipped(encoding, *data.draw(st.lists(st.floats(-1, 1), min_size=1, max_size=20)))
    vector = encoding.encode(update, weight, Entropy())
    largest = weight * 2 ** (encoding.value_bits - 1)
    shrunk = 1.0
    if encoding.max_weight == 1:  # the update's norm is bounded too
        shrunk = min(1.0, encoding.clip_norm / (math.hypot(*update.tolist()) or 1.0))
    for value, x in zip(signed(vector, encoding.ring_bits), update.tolist(), strict=True):
        exact = weight * x * shrunk * 2 ** (encoding.value_bits - 1) / encoding.clip_norm
        assert abs(value - exact) < 1 + 1e-6 + abs(exact) * 1e-7
        assert abs(value) <= largest


@given(encodings(), st.data())
def test_the_extremes_of_all_members_stay_within_the_ring(encoding, data):
    """Nor does noise of 12 standard deviations lead out of it; half the ring would not do."""
    bits, members = encoding.ring_bits, encoding.members
    sign = data.draw(st.sampled_from([1, -1]))
    # past the clipping norm, as float32 arithmetic may leave it, and far past
    for share in (1.0, 1.000001, 1e6):
        update = clipped(encoding, sign * share)
        (value,) = signed(encoding.encode(update, encoding.max_weight, Entropy()), bits)
        assert abs(value) <= encoding.max_weight * 2 ** (encoding.value_bits - 1) + 1
        assert abs(members * value) < 2 ** (bits - 1)
    bound = members * (encoding.max_weight * 2 ** (encoding.value_bits - 1) + 1)
    bound += 12 * math.sqrt(members * encoding.noise_variance) * (1 - 1e-12)
    assert 2 ** (bits - 2) <= bound * (1 + 1e-12) + 1
    assert bound < 2 ** (bits - 1)


@pytest.mark.parametrize(
    ("value_bits", "max_weight", "members", "variance", "bits"),
    [
        (2, 1, 1, 0.0, 3),  # 3 < 4
        (2, 3, 1, 0.0, 4),  # 7 < 8
        (2, 3, 1, 1 / 144, 5),  # 8 is not below 8
        (2, 1, 5, 0.0, 5),  # 15 < 16
        (16, 1, 1000, 0.0, 26),  # 32,769,000 < 2^25 = 33,554,432
        (16, 1, 1024, 0.0, 27),  # 2^25 + 1024
        (20, 1000, 1000, 0.0, 40),  # 524,288,001,000 < 2^39 = 549,755,813,888
        (2, 1, 100, 1.0, 10),  # 300 + 120 < 512
        (2, 1, 100, 4.0, 11),  # 300 + 240
    ],
)
def test_bits_of_the_ring_by_hand(value_bits, max_weight, members, variance, bits):
    encoding = Encoding(1.0, value_bits, max_weight, members, variance)
    assert encoding.ring_bits == bits
    assert encoding.dtype == (np.uint32 if bits <= 32 else np.uint64)


@pytest.mark.parametrize(
    ("max_weight", "bits", "dtype"),
    [(2**21, 32, np.uint32), (2**22, 33, np.uint64)],
)
def test_the_widest_ring_of_32_bits_and_the_next_one(max_weight, bits, dtype):
    # 512 members: 2^9 * 2^21 * 2 = 2^31 is too much by the members' 1 each, 511 are not
    encoding = Encoding(1.0, 2, max_weight, 511 if bits == 32 else 500)
    assert encoding.ring_bits == bits
    assert encoding.dtype == dtype
    update = np.array([1, -1, 0.5, 0], np.float32)
    vector = encoding.encode(update, max_weight, Entropy(KEY))
    assert encoding.decode(vector).tolist() == [max_weight, -max_weight, max_weight / 2, 0]


def test_the_largest_ring_is_exact_at_its_extremes():
    encoding = Encoding(1.0, 24, 2**32, 2**6 - 1)
    assert encoding.ring_bits == 62
    for weight in (2**32, 2**32 - 1):
        vector = encoding.encode(np.array([1, -1], np.float32), weight, Entropy(KEY))
        assert signed(vector, 62) == [weight * 2**23, -weight * 2**23]
        # past 2^52 a float64 has no fractions, and nothing may be rounded up
        assert encoding.decode(vector).tolist() == [weight, -weight]


@pytest.mark.parametrize("share", [0.1, -0.1, 0.5, 1e-4, -1e-4, 0.999])
def test_rounding_has_the_right_mean(share):
    """One step is 1 / 8 here; of Bernoulli draws with a fixed key, within 6 standard errors."""
    encoding, count = Encoding(1.0, 4, 2, 1), 1_000_000  # not conditional
    x = np.float32(share)
    decoded = encoding.decode(encoding.encode(np.full(count, x), 1, Entropy(KEY)))
    fraction = float(x) / encoding.step % 1
    error = encoding.step * math.sqrt(fraction * (1 - fraction) / count)
    assert abs(decoded.mean() - float(x)) <= 6 * error
    assert set(np.unique(decoded / encoding.step)) == {
        math.floor(share / encoding.step),
        math.ceil(share / encoding.step),
    }


def test_coordinates_are_rounded_independently():
    """Also across the blocks in which they are rounded: no draw is used twice."""
    encoding, count = Encoding(1.0, 2, 2, 1), 200_000
    half = np.full(count, encoding.step / 2, np.float32)
    up = encoding.decode(encoding.encode(half, 1, Entropy(KEY))) > 0
    for lag in (1, 2, 1024, 16 * 1024, 32 * 1024):
        same = (up[lag:] == up[:-lag]).mean()
        assert abs(same - 0.5) < 6 * 0.5 / math.sqrt(count - lag)


@pytest.mark.parametrize(
    ("value_bits", "parameters", "bound"),
    [
        (4, 0, 8.0),
        (4, 1, math.sqrt(64 + 0.25 + 8.5)),  # 8.53 is less than 9
        (4, 4, math.sqrt(64 + 1 + 9)),  # 8.6 is less than 10
        (16, 10**6, math.sqrt(2**30 + 250_000 + 32_768 + 500)),
        (2, 10**6, math.sqrt(4 + 250_000 + 502)),
    ],
)
def test_sensitivity_by_hand(value_bits, parameters, bound):
    encoding = Encoding(3.0, value_bits, 1, 10)
    assert encoding.sensitivity(parameters) == pytest.approx(bound, rel=1e-15)


def test_updates_of_any_weight_have_no_sensitivity():
    with pytest.raises(ValueError, match="counts for up to 2; it must be 1"):
        Encoding(1.0, 16, 2, 10).sensitivity(5)


def norm(encoding: Encoding, update: NDArray[np.float32], entropy: Entropy) -> float:
    """Of the integers, in Python's own arithmetic."""
    values = signed(encoding.encode(update, 1, entropy), encoding.ring_bits)
    return math.sqrt(sum(value**2 for value in values))


@given(
    st.integers(2, 24),
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50).filter(any),
    st.floats(0.5, 1e3),
)
def test_no_rounded_update_is_longer_than_the_sensitivity(value_bits, direction, length):
    encoding = Encoding(0.7, value_bits, 1, 10)
    x = np.array(direction)
    update = (x / math.sqrt(x @ x) * length * 0.7).astype(np.float32)
    assert norm(encoding, update, Entropy()) <= encoding.sensitivity(len(x)) * (1 + 1e-15)


def test_what_came_out_too_long_is_rounded_again():
    """Coordinates of half a step, as many as the norm allows, would often exceed the bound."""
    encoding, count = Encoding(1.0, 6, 1, 1), 4096
    update = np.full(count, encoding.step / 2, np.float32)
    assert float(np.linalg.norm(update.astype(np.float64))) == 1
    # each is 0 or 1 then: 2048 +- 32 ones, and the bound is sqrt(2112)
    bound = encoding.sensitivity(count)
    assert bound == math.sqrt(1024 + 1024 + 64)
    entropy = Entropy(KEY)
    ones = [round(norm(encoding, update, entropy) ** 2) for _ in range(300)]
    assert max(ones) <= 2112
    # the mean of a normal variable below 2 deviations; 0.055 deviations less
    below = math.exp(-2) / math.sqrt(2 * math.pi) / 0.97725
    assert abs(np.mean(ones) - (2048 - 32 * below)) < 6 * 32 / math.sqrt(300)


def test_a_vector_beyond_the_norm_is_scaled_not_bent():
    encoding = Encoding(1.0, 16, 1, 1)
    decoded = encoding.decode(encoding.encode(np.array([30, -40], np.float32), 1, Entropy(KEY)))
    assert np.abs(decoded - [0.6, -0.8]).max() <= encoding.step


@pytest.mark.parametrize("count", [0, 1, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 50_000])
def test_whole_steps_of_any_number_of_coordinates(count):
    encoding = Encoding(2.0, 8, 3, 10)
    steps = np.random.default_rng(count).integers(-128, 129, count)
    strided = np.repeat((steps * encoding.step).astype(np.float32), 2)[::2]
    vector = encoding.encode(strided, 3, Entropy(KEY))
    assert signed(vector, encoding.ring_bits) == (3 * steps).tolist()


def test_the_same_key_rounds_alike_and_another_does_not():
    encoding = Encoding(1.0, 4, 1, 1)
    update = np.full(1000, 0.3, np.float32)
    once, again, other = (
        encoding.encode(update, 1, Entropy(key)).tolist() for key in (KEY, KEY, bytes(32))
    )
    assert once == again
    assert once != other


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"clip_norm": 0.0}, "a clipping norm of 0"),
        ({"clip_norm": -1.0}, "a clipping norm of -1"),
        ({"clip_norm": math.inf}, "a clipping norm of inf"),
        ({"clip_norm": math.nan}, "a clipping norm of nan"),
        ({"clip_norm": 1e-300}, "a clipping norm of 1e-300"),
        ({"value_bits": 1}, "value_bits is 1; it must be from 2 to 24"),
        ({"value_bits": 25}, "value_bits is 25"),
        ({"max_weight": 0}, "max_weight is 0"),
        ({"max_weight": 2**32 + 1}, "max_weight is 4294967297"),
        ({"members": 0}, "members is 0"),
        ({"members": 2**16 + 1}, "members is 65537"),
        ({"noise_variance": -1.0}, "noise_variance is -1"),
        ({"noise_variance": math.nan}, "noise_variance is nan"),
        ({"noise_variance": math.inf}, "noise_variance is inf"),
        ({"noise_variance": 1e308}, "lower value_bits, max_weight, members or the noise"),
        (
            {"value_bits": 24, "max_weight": 2**32, "members": 64},
            r"takes 63 bits, of at most 62: lower value_bits, max_weight, members or the noise",
        ),
    ],
)
def test_an_encoding_that_could_overflow_or_makes_no_sense(change, reason):
    usual = {"clip_norm": 1.0, "value_bits": 16, "max_weight": 1, "members": 10}
    with pytest.raises(ValueError, match=reason):
        Encoding(**{**usual, **change})


@pytest.mark.parametrize(
    ("update", "weight", "reason"),
    [
        (np.zeros(2, np.float64), 1, "not float64"),
        (np.zeros((2, 1), np.float32), 1, r"not float32 \(2, 1\)"),
        (np.zeros(2, np.float32), -1, "a weight of -1"),
        (np.zeros(2, np.float32), 6, "a weight of 6; it must be from 0 to 5"),
        (np.array([0, np.nan], np.float32), 1, "not finite"),
        (np.array([-np.inf, 0], np.float32), 1, "not finite"),
    ],
)
def test_what_cannot_be_encoded(update, weight, reason):
    with pytest.raises(ValueError, match=reason):
        Encoding(1.0, 16, 5, 10).encode(update, weight, Entropy(KEY))


def test_sums_of_another_ring_are_not_decoded():
    with pytest.raises(ValueError, match="sums are uint32, not uint64"):
        Encoding(1.0, 16, 5, 10).decode(np.zeros(2, np.uint64))
