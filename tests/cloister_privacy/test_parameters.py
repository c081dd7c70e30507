"""The bounds against exact fractions, and against every way in which members can be gone."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloister_privacy.graph import Graph
from cloister_privacy.parameters import complete_threshold, plan, secure

NEARLY = Fraction(99_999, 100_000)
"""How close to its bound a chance may be and yet be refused."""


def chance(others: int, marked: int, degree: int, found: range) -> Fraction:
    """That so many of `degree` members, drawn from `others`, are among the `marked`."""
    ways = sum(math.comb(marked, k) * math.comb(others - marked, degree - k) for k in found)
    return Fraction(ways, math.comb(others, degree))


def too_many_corrupt(members: int, degree: int, threshold: int, corrupt: int) -> Fraction:
    return members * chance(members - 1, corrupt, degree, range(threshold, degree + 1))


def too_few_left(members: int, degree: int, threshold: int, drop_outs: int) -> Fraction:
    return members * chance(members - 1, members - 1 - drop_outs, degree, range(threshold))


def most_drop_outs(members: int, degree: int, threshold: int) -> int:
    return math.floor(members * (1 - Fraction(threshold, degree + 1)))


def in_two_parts(members: int, degree: int, gone: int) -> Fraction:
    """The union bound over two runs of degree / 2 places with somebody left between them."""
    if not degree <= gone:
        return Fraction(0)
    pairs = Fraction(members * (members - degree - 1), 2)
    return pairs * Fraction(math.comb(members - degree, gone - degree), math.comb(members, gone))


def failures(members: int, degree: int, threshold: int, corrupt: int) -> list[Fraction]:
    gone = min(members, corrupt + most_drop_outs(members, degree, threshold))
    return [
        too_many_corrupt(members, degree, threshold, corrupt),
        in_two_parts(members, degree, gone),
    ]


@st.composite
def rings(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Members, degree, threshold, corrupt."""
    members = draw(st.integers(5, 80))
    degree = 2 * draw(st.integers(1, (members - 2) // 2))
    return members, degree, draw(st.integers(2, degree + 1)), draw(st.integers(0, members - 1))


@given(rings())
@example((80, 50, 42, 48))  # corrupt neighbours decide
@example((200, 100, 80, 110))
@example((80, 20, 12, 5))  # a ring in two parts decides
@example((80, 20, 19, 20))
def test_a_ring_has_the_bits_of_security_that_exact_fractions_give(ring):
    members, degree, threshold, corrupt = ring
    worst = max(failures(*ring))

    def found(bits: int) -> bool:
        return secure(members, degree, threshold, corrupt / members, bits)

    if not worst:
        assert found(1000)
        return
    bits = 1
    while worst <= Fraction(1, 2 ** (bits + 1)) * NEARLY:
        assert found(bits)
        bits += 1
    if worst <= Fraction(1, 2 ** (bits + 1)):
        bits += 1  # too near to the bound to ask
    assert not found(bits)


@pytest.mark.parametrize(
    ("ring", "decisive"),
    [((80, 50, 42, 48), 0), ((200, 100, 80, 110), 0), ((80, 20, 12, 5), 1), ((80, 20, 19, 20), 1)],
)
def test_either_event_decides_in_some_examples(ring, decisive):
    exact = failures(*ring)
    assert exact[decisive] == max(exact)
    assert exact[decisive] < Fraction(1, 4)


@pytest.mark.parametrize(("members", "degree"), [(6, 2), (9, 2), (9, 4), (10, 6), (11, 4)])
def test_a_ring_seldom_falls_apart_whoever_is_gone(members, degree):
    """Every set of members that can be gone is tried on a real graph, and counted."""
    near = [set(Graph(members, degree, b"seed").neighbours(k)) for k in range(members)]
    for gone in range(members - 1):
        sets = list(itertools.combinations(range(members), members - gone))
        apart = sum(not connected(near, set(left)) for left in sets)
        assert Fraction(apart, len(sets)) <= in_two_parts(members, degree, gone)


def connected(near: list[set[int]], left: set[int]) -> bool:
    found, new = set(), {min(left)}
    while new:
        found |= new
        new = set().union(*(near[position] for position in new)) & left - found
    return found == left


@given(
    st.integers(4, 80),
    st.integers(0, 25),
    st.integers(0, 40),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_a_ring_is_the_sparsest_that_exact_fractions_allow(
    members, corrupt_percent, drop_out_percent, security_bits, correctness_bits
):
    corrupt, drop_outs = members * corrupt_percent // 100, members * drop_out_percent // 100
    rare = Fraction(1, 2**correctness_bits)
    hidden = Fraction(1, 2 ** (security_bits + 1))

    def works(degree: int, threshold: int, margin: Fraction) -> bool:
        return (
            too_few_left(members, degree, threshold, drop_outs) <= rare * margin
            and max(failures(members, degree, threshold, corrupt)) <= hidden * margin
        )

    try:
        made = plan(
            members,
            corrupt_percent / 100,
            drop_out_percent / 100,
            security_bits,
            correctness_bits,
            "ring",
        )
    except ValueError as error:
        assert "no ring of" in str(error)  # noqa: PT017
        least = members
    else:
        least = made.degree
        assert (made.corrupt, made.drop_outs) == (corrupt, drop_outs)
        assert not made.complete
        assert 2 <= made.threshold <= made.degree < members - 1
        assert works(made.degree, made.threshold, Fraction(1))
        assert secure(members, made.degree, made.threshold, corrupt_percent / 100, security_bits)
    for degree in range(2, min(least, members - 1), 2):
        assert not any(works(degree, t, NEARLY) for t in range(2, degree + 1))


@pytest.mark.parametrize(
    ("members", "fraction", "threshold"),
    [
        (2, 0.0, 2),
        (3, 0.0, 2),
        (4, 0.0, 3),
        (30, 0.1, 17),  # 3 corrupt
        (100, 1 / 3, 67),  # 33 corrupt
        (100, 0.58, 80),  # 58 corrupt, though 0.58 * 100 is 57.99999999999999
        (10, 0.9, 10),
    ],
)
def test_thresholds_of_complete_graphs_by_hand(members, fraction, threshold):
    assert complete_threshold(members, fraction) == threshold


@given(st.integers(2, 500), st.floats(0, 0.999))
def test_any_two_sets_that_confirm_have_an_honest_member_in_common(members, fraction):
    corrupt = math.floor(fraction * members + 1e-9)
    threshold = complete_threshold(members, fraction)
    in_common = 2 * threshold - members
    assert in_common > corrupt
    assert 2 * (threshold - 1) - members <= corrupt


@given(st.integers(2, 500), st.floats(0, 0.999), st.integers(0, 501))
def test_a_complete_graph_is_secure_from_its_threshold_on(members, fraction, threshold):
    least = complete_threshold(members, fraction)
    assert secure(members, members - 1, threshold, fraction, 40) is (least <= threshold <= members)


def test_a_complete_plan_by_hand():
    made = plan(30, 0.1, 0.4)
    assert made.complete
    assert (made.members, made.degree, made.threshold) == (30, 29, 17)
    assert (made.corrupt, made.drop_outs) == (3, 12)
    assert (made.security_bits, made.correctness_bits) == (40, 30)


def test_a_complete_graph_needs_as_many_survivors_as_shares():
    assert plan(30, 0.1, 13 / 30).threshold == 17
    with pytest.raises(ValueError, match=r"16 survivors of 30 members .* 17 shares .* 3 corrupt"):
        plan(30, 0.1, 14 / 30)


def test_auto_is_complete_up_to_a_thousand_members():
    assert plan(1000, 0.1, 0.1).complete
    ring = plan(1001, 0.1, 0.1)
    assert not ring.complete
    assert ring == plan(1001, 0.1, 0.1, graph="ring")
    assert plan(1001, 0.1, 0.1, graph="complete").degree == 1000


@pytest.mark.parametrize("members", [1001, 10_000])
def test_large_rings_hold_to_their_bounds_exactly(members):
    made = plan(members, 0.1, 0.2)
    ring = members, made.degree, made.threshold
    assert max(failures(*ring, made.corrupt)) <= Fraction(1, 2**41)
    assert too_few_left(*ring, made.drop_outs) <= Fraction(1, 2**30)
    assert too_few_left(members, made.degree, made.threshold + 1, made.drop_outs) > Fraction(
        1, 2**30
    )


def test_more_to_withstand_takes_no_fewer_neighbours():
    def degrees(*settings: tuple[float, float, int, int]) -> list[int]:
        return [plan(2000, *setting, graph="ring").degree for setting in settings]

    for row in (
        degrees(*((share / 100, 0.1, 40, 30) for share in range(0, 35, 3))),
        degrees(*((0.1, share / 100, 40, 30) for share in range(0, 35, 3))),
        degrees(*((0.1, 0.1, bits, 30) for bits in range(10, 90, 10))),
        degrees(*((0.1, 0.1, 40, bits) for bits in range(10, 90, 10))),
    ):
        assert row == sorted(row)
        assert row[0] < row[-1]


@given(rings(), st.integers(1, 30))
def test_a_higher_threshold_or_fewer_corrupt_stay_secure(ring, bits):
    members, degree, threshold, corrupt = ring
    if secure(members, degree, threshold, corrupt / members, bits):
        for higher in range(threshold, degree + 2):
            assert secure(members, degree, higher, corrupt / members, bits)
        assert secure(members, degree, threshold, corrupt / 2 / members, bits)
        assert secure(members, degree, threshold, corrupt / members, max(1, bits - 1))


@pytest.mark.parametrize(
    ("members", "degree", "threshold"),
    [
        (2000, 101, 60),  # odd
        (2000, 100, 102),  # more shares than there are
        (2000, 100, 1),
        (2000, 100, 0),
        (2000, 2000, 1500),
        (2000, 2**32 - 2, 1500),
        (2000, 0, 2),
        (1, 0, 1),
        (0, 0, 0),
        (-5, -6, 2),
    ],
)
def test_nonsense_from_a_coordinator_is_not_secure(members, degree, threshold):
    assert not secure(members, degree, threshold, 0.0, 40)


def test_what_makes_that_ring_secure():
    assert secure(2000, 100, 60, 0.0, 40)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"members": 1}, "1 members"),
        ({"corrupt_fraction": 1.0}, "a share of 1"),
        ({"corrupt_fraction": -0.1}, "a share of -0.1"),
        ({"drop_out_fraction": math.nan}, "a share of nan"),
        ({"security_bits": 0}, "0 bits"),
        ({"correctness_bits": 0}, "0 bits"),
        ({"graph": "star"}, "not star"),
        (
            {"graph": "ring", "members": 20, "corrupt_fraction": 0.6, "drop_out_fraction": 0.5},
            "no ring of 20 members withstands 12 corrupt ones and 10 drop-outs",
        ),
        ({"graph": "ring", "members": 2}, "no ring of 2 members"),
        ({"corrupt_fraction": 0.6, "drop_out_fraction": 0.5, "members": 1200}, "no ring of 1200"),
    ],
)
def test_what_cannot_be_planned(change, reason):
    usual = {"members": 50, "corrupt_fraction": 0.1, "drop_out_fraction": 0.1}
    with pytest.raises(ValueError, match=reason):
        plan(**{**usual, **change})


def test_a_floor_that_is_none():
    with pytest.raises(ValueError, match="a share of nan"):
        secure(10, 9, 9, math.nan, 40)
    with pytest.raises(ValueError, match="0 bits"):
        secure(10, 9, 9, 0.1, 0)
