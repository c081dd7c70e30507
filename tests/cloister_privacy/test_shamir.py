"""Enough shares bring a secret back; one fewer fit every secret, and each one equally well."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cloister_privacy.keystream import Entropy
from cloister_privacy.shamir import (
    COMBINED_AT_ONCE,
    SHARE_BYTES,
    combine,
    combine_many,
    decode,
    encode,
    split,
    to_bytes,
)

P = 65537
KEYS = st.binary(min_size=32, max_size=32)
SECRETS = st.one_of(KEYS, st.sampled_from([bytes(32), b"\xff" * 32]))
LIMBS = st.one_of(st.sampled_from([0, 1, 65535, 65536]), st.integers(0, 65536))


@st.composite
def holders(draw: st.DrawFn) -> tuple[list[int], int]:
    """Points of holders, and a threshold."""
    points = draw(st.lists(st.integers(1, 65536), min_size=1, max_size=9, unique=True))
    return points, draw(st.integers(1, len(points)))


def limbs(secret: bytes) -> list[int]:
    return [int.from_bytes(secret[k : k + 2], "little") for k in range(0, 32, 2)]


def value_at(x: int, known: dict[int, int]) -> int:
    """At x, of the one polynomial of degree below len(known) with these values; in integers."""
    total = 0
    for i, y in known.items():
        term = y
        for j in known:
            if j != i:
                term = term * (x - j) * pow(i - j, -1, P) % P
        total += term
    return total % P


class Given:
    """Draws what it was given, in place of randomness."""

    def __init__(self, *draws: np.ndarray) -> None:
        self._draws = list(draws)

    def uint32(self, count: int) -> np.ndarray:
        drawn = self._draws.pop(0)
        assert len(drawn) == count
        return drawn.astype(np.uint32)


# There and back


@given(holders(), st.lists(SECRETS, min_size=1, max_size=3), KEYS, st.data())
def test_any_so_many_shares_bring_a_secret_back(holders, secrets, key, data):
    points, threshold = holders
    shares = split(secrets, threshold, np.array(points), Entropy(key))
    assert shares.dtype == np.uint32
    assert shares.shape == (len(points), len(secrets), 16)
    assert shares.max() <= 65536
    places = data.draw(st.permutations(range(len(points))), label="holders")
    enough = data.draw(st.integers(threshold, len(points)), label="shares")
    chosen = places[:enough]
    for index, secret in enumerate(secrets):
        assert combine(np.array(points)[chosen], shares[chosen, index]) == secret
    many = combine_many(np.array(points)[chosen], shares[chosen].transpose(1, 0, 2))
    assert many.dtype == np.uint32
    assert [to_bytes(row) for row in many] == secrets


@given(holders(), SECRETS, KEYS)
def test_shares_lie_on_polynomials_whose_value_at_0_is_the_limb(holders, secret, key):
    points, threshold = holders
    shares = split([secret], threshold, np.array(points), Entropy(key))[:, 0].tolist()
    for limb, known in enumerate(limbs(secret)):
        values = {x: row[limb] for x, row in zip(points, shares, strict=True)}
        some = {x: values[x] for x in points[:threshold]}
        assert value_at(0, some) == known
        assert all(value_at(x, some) == values[x] for x in points)


# Secrecy


@given(holders(), SECRETS, SECRETS, KEYS, st.data())
def test_one_share_fewer_fits_every_secret(holders, secret, other, key, data):
    """For any other secret there is one polynomial through the shares that are known.

    It is made here, dealt out to the remaining holders, and brings back the other secret together
    with the very same shares.
    """
    points, threshold = holders
    shares = split([secret], threshold, np.array(points), Entropy(key))[:, 0]
    order = data.draw(st.permutations(range(len(points))), label="holders")
    seen, unseen = order[: threshold - 1], order[threshold - 1 :]
    forged = shares.copy()
    for limb, wanted in enumerate(limbs(other)):
        known = {0: wanted} | {points[place]: int(shares[place, limb]) for place in seen}
        assert len(known) == threshold  # so it has degree below the threshold, and is the only one
        for place in unseen:
            forged[place, limb] = value_at(points[place], known)
    for last in unseen:
        chosen = [*seen, last]
        assert combine(np.array(points)[chosen], forged[chosen]) == other
    assert combine(np.array(points), forged) == other
    np.testing.assert_array_equal(forged[seen], shares[seen])


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(range(32))])
@pytest.mark.parametrize("point", [1, 2, 40_000, 65536])
def test_a_share_has_each_value_equally_often(secret, point):
    """Two of two, over every polynomial there is: whatever the limb, each value comes once."""
    slopes = np.repeat(np.arange(P), 16)
    shares = split([secret] * P, 2, np.array([point, point % 65536 + 1]), Given(slopes))
    for holder in shares:
        for limb in holder.T:
            assert (np.bincount(limb, minlength=P) == 1).all()


def test_the_number_that_would_favour_a_value_is_drawn_again():
    """2^32 - 1 is 65535 P: of the numbers below it, each remainder occurs equally often."""
    assert 65535 * P == 2**32 - 1
    most = 2**32 - 1
    first = np.arange(16) + most - 15
    assert first.tolist().count(most) == 1
    shares = split([bytes(32)], 2, np.array([1, 2]), Given(first, np.array([most]), np.array([5])))
    slopes = [(most - 15 + k) % P for k in range(15)] + [5]
    assert shares[0, 0].tolist() == slopes
    assert shares[1, 0].tolist() == [2 * slope % P for slope in slopes]


def test_shares_are_fresh_and_even():
    points = np.arange(1, 31)
    one, other = (split([bytes(32)] * 20, 16, points, Entropy(k * 32)) for k in (b"a", b"b"))
    equal = np.count_nonzero(one == other)
    assert equal < 10  # 9,600 / 65,537 are expected
    # Mean 32768, deviation 18,919; six deviations of the mean of 9,600, with fixed keys.
    assert abs(one.mean() - 32768) < 6 * 18_919 / 9_600**0.5


# Many


@pytest.mark.parametrize("count", [0, 1, COMBINED_AT_ONCE, COMBINED_AT_ONCE + 1, 200])
def test_many_secrets_of_the_same_holders(count):
    entropy = Entropy(b"m" * 32)
    secrets = [entropy.bytes(32) for _ in range(count)]
    points = np.arange(1, 8)
    chosen = [6, 0, 3, 2]
    shares = split(secrets, 4, points, entropy)[chosen].transpose(1, 0, 2)
    found = combine_many(points[chosen], shares)
    assert found.shape == (count, 16)
    assert [to_bytes(row) for row in found] == secrets


def test_a_cohort_of_a_thousand():
    entropy = Entropy(b"t" * 32)
    secrets = [entropy.bytes(32), b"\xff" * 32]
    points = np.arange(1, 1001)
    shares = split(secrets, 551, points, entropy)
    for chosen in (slice(0, 551), slice(449, 1000), slice(None)):
        found = combine_many(points[chosen], shares[chosen].transpose(1, 0, 2))
        assert [to_bytes(row) for row in found] == secrets
    short = combine_many(points[:550], shares[:550].transpose(1, 0, 2))
    assert short.tolist() != [limbs(secret) for secret in secrets]


# Refusals


@pytest.mark.parametrize(
    ("secrets", "threshold", "points", "reason"),
    [
        ([bytes(31)], 1, [1, 2], "32 bytes"),
        ([bytes(32), bytes(33)], 1, [1, 2], "32 bytes"),
        ([bytes(32)], 0, [1, 2], "0 shares out of 2"),
        ([bytes(32)], -1, [1, 2], "-1 shares out of 2"),
        ([bytes(32)], 3, [1, 2], "3 shares out of 2"),
        ([bytes(32)], 1, [], "1 shares out of 0"),
        ([bytes(32)], 2, [1, 0], "from 1 to 65536"),
        ([bytes(32)], 2, [1, 65537], "from 1 to 65536"),
        ([bytes(32)], 2, [7, 7], "occurs twice"),
        ([bytes(32)], 2, [[1, 2]], "shares out of 2"),
    ],
)
def test_what_cannot_be_split(secrets, threshold, points, reason):
    with pytest.raises(ValueError, match=reason):
        split(secrets, threshold, np.array(points, np.int64), Entropy())


@pytest.mark.parametrize(
    ("points", "shape", "reason"),
    [
        ([1, 2], (3, 16), "for 2 points"),
        ([1, 2], (2, 15), "for 2 points"),
        ([[1, 2]], (2, 16), "for 2 points"),
        ([], (0, 16), "for 0 points"),
        ([1, 1], (2, 16), "occurs twice"),
        ([0, 1], (2, 16), "from 1 to 65536"),
    ],
)
def test_what_cannot_be_combined(points, shape, reason):
    with pytest.raises(ValueError, match=reason):
        combine(np.array(points, np.int64), np.zeros(shape, np.uint32))


@pytest.mark.parametrize("limb", [0, 7, 15])
def test_shares_of_no_secret(limb):
    """Polynomials with the value 65536 at 0, which no 16 bits have."""
    points = [3, 9, 4]
    values = np.zeros((3, 16), np.uint32)
    for row, x in zip(values, points, strict=True):
        row[limb] = (65536 + 5 * x + 6 * x * x) % P
    found = combine_many(np.array(points), values)
    assert found[limb] == 65536
    with pytest.raises(ValueError, match="no secret"):
        to_bytes(found)
    with pytest.raises(ValueError, match="no secret"):
        combine(np.array(points), values)


def test_limbs_beyond_the_field_are_refused():
    beyond = np.full((2, 16), 65537, np.uint32)
    for call in (lambda: combine(np.array([1, 2]), beyond), lambda: encode(beyond)):
        with pytest.raises(ValueError, match="at most 65536"):
            call()
    with pytest.raises(ValueError, match="16 limbs"):
        to_bytes(np.zeros(15, np.uint32))


@given(holders().filter(lambda h: h[1] > 1), SECRETS, KEYS, st.data())
def test_a_wrong_share_brings_back_another_secret_or_none(holders, secret, key, data):
    points, threshold = holders
    shares = split([secret], threshold, np.array(points), Entropy(key))[:threshold, 0].copy()
    place, limb = data.draw(st.integers(0, threshold - 1)), data.draw(st.integers(0, 15))
    shares[place, limb] = (shares[place, limb] + data.draw(st.integers(1, P - 1))) % P
    try:
        assert combine(np.array(points[:threshold]), shares) != secret
    except ValueError as error:
        assert "no secret" in str(error)  # noqa: PT017 - either is right


# As they travel


def test_a_share_by_hand():
    share = np.zeros((2, 16), np.uint32)
    share[0, :4] = 0x1234, 65536, 65535, 256
    share[0, 9] = share[0, 15] = 65536
    data = encode(share)
    assert data.dtype == np.uint8
    assert data.shape == (2, SHARE_BYTES) == (2, 34)
    assert data[0].tobytes() == bytes.fromhex("34120000ffff0001") + bytes(24) + b"\x02\x82"
    assert data[1].tobytes() == bytes(34)
    assert encode(np.full((1, 16), 65536, np.uint32)).tobytes() == bytes(32) + b"\xff\xff"


@given(st.integers(0, 5).flatmap(lambda n: arrays.arrays(np.uint32, (n, 16), elements=LIMBS)))
def test_shares_go_there_and_back(shares):
    data = encode(shares)
    assert data.shape == (len(shares), 34)
    found = decode(data)
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, shares)


@settings(max_examples=300)
@given(st.binary(min_size=32, max_size=32), st.one_of(st.just(0), st.integers(0, 65535)), st.data())
def test_each_share_has_one_form(low, whole, data):
    """Bytes are refused, or are what the share they stand for is encoded as."""
    if data.draw(st.booleans(), label="mend"):
        low = b"".join(bytes(2) if whole >> k & 1 else low[2 * k : 2 * k + 2] for k in range(16))
    row = np.frombuffer(low + whole.to_bytes(2, "little"), np.uint8)[np.newaxis]
    canonical = not any(whole >> k & 1 and low[2 * k : 2 * k + 2] != bytes(2) for k in range(16))
    if canonical:
        assert encode(decode(row)).tobytes() == row.tobytes()
        assert decode(row).max() <= 65536
    else:
        with pytest.raises(ValueError, match="above 65536"):
            decode(row)


@pytest.mark.parametrize("limb", range(16))
def test_every_limb_of_another_form_is_refused(limb):
    good = np.zeros((3, 34), np.uint8)
    good[1, 32 + limb // 8] = 1 << limb % 8
    assert decode(good)[1, limb] == 65536
    for byte in (2 * limb, 2 * limb + 1):
        bad = good.copy()
        bad[1, byte] = 1
        with pytest.raises(ValueError, match="above 65536"):
            decode(bad)


def test_arrays_that_lie_in_larger_ones():
    """Two shares side by side, as they are sealed."""
    shares = split([b"\xff" * 32, bytes(32)], 2, np.array([1, 2, 3]), Entropy(b"p" * 32))
    pairs = np.concatenate([encode(shares[:, 0]), encode(shares[:, 1])], axis=1)
    np.testing.assert_array_equal(decode(pairs[:, :34]), shares[:, 0])
    np.testing.assert_array_equal(decode(pairs[:, 34:]), shares[:, 1])


@pytest.mark.parametrize("shape", [(34,), (2, 33), (2, 35), (1, 2, 34)])
def test_bytes_of_another_shape(shape):
    with pytest.raises(ValueError, match="instead of"):
        decode(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(16,), (2, 15), (1, 2, 16)])
def test_shares_of_another_shape(shape):
    with pytest.raises(ValueError, match="instead of"):
        encode(np.zeros(shape, np.uint32))
