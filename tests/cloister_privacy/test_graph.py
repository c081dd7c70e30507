from __future__ import annotations

import hashlib
import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister_privacy.graph import Graph


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Rings, and complete graphs said in either way."""
    members = draw(st.integers(1, 60))
    sparse = st.integers(1, max(1, (members - 2) // 2)).map(lambda side: 2 * side)
    degree = draw(st.one_of(st.sampled_from([0, members - 1]), sparse))
    return Graph(members, degree if degree < members else 0, draw(st.binary(max_size=40)))


def all_neighbours(graph: Graph) -> list[tuple[int, ...]]:
    return [graph.neighbours(position) for position in range(graph.members)]


def reached(near: list[tuple[int, ...]], left: set[int]) -> set[int]:
    """Those of `left` that a path through `left` joins to its first member."""
    found, open_ = set(), [min(left)]
    while open_:
        position = open_.pop()
        if position not in found:
            found.add(position)
            open_.extend(left.intersection(near[position]))
    return found


@given(graphs())
def test_neighbours_are_so_many_others_and_mutual(graph):
    near = all_neighbours(graph)
    degree = graph.degree or graph.members - 1
    for position, others in enumerate(near):
        assert len(others) == degree
        assert list(others) == sorted(set(others))
        assert position not in others
        assert all(position in near[other] for other in others)


@given(graphs(), st.data())
def test_nobody_is_cut_off_by_fewer_than_a_degree_of_drop_outs(graph, data):
    degree = graph.degree or graph.members - 1
    everybody = range(graph.members)
    gone = data.draw(st.sets(st.sampled_from(everybody), max_size=max(0, degree - 1)))
    left = set(everybody) - gone
    assert reached(all_neighbours(graph), left) == left


@pytest.mark.parametrize("degree", [0, 4])
def test_a_complete_graph_needs_no_seed(degree):
    for seed in (b"", b"another"):
        graph = Graph(5, degree, seed)
        assert graph.complete
        assert graph.neighbours(2) == (0, 1, 3, 4)


def test_a_member_alone_has_no_neighbours():
    assert Graph(1, 0, b"").neighbours(0) == ()


def by_the_book(members: int, degree: int, seed: bytes) -> dict[int, set[int]]:
    """The definition as another program would read it, and a ring walked step by step."""
    counter, ring, unplaced = 0, [], list(range(members))
    while len(unplaced) > 1:
        text = b"cloister graph v1\x00" + seed + bytes(counter >> 8 * k & 255 for k in range(8))
        draw = sum(byte << 8 * k for k, byte in enumerate(hashlib.sha256(text).digest()[:8]))
        counter += 1
        if draw >= 2**64 // len(unplaced) * len(unplaced):
            continue
        chosen = draw % len(unplaced)
        # the chosen one takes the last free place, and who stood there takes its own
        unplaced[chosen], unplaced[-1] = unplaced[-1], unplaced[chosen]
        ring.insert(0, unplaced.pop())
    ring.insert(0, unplaced.pop())
    near: dict[int, set[int]] = {position: set() for position in range(members)}
    for place, distance in itertools.product(range(members), range(1, degree // 2 + 1)):
        one, other = ring[place], ring[(place + distance) % members]
        near[one].add(other)
        near[other].add(one)
    return near


@pytest.mark.parametrize(("members", "degree"), [(4, 2), (30, 6), (301, 40)])
def test_the_order_can_be_found_by_any_program(members, degree):
    seed = bytes(range(32))
    expected = by_the_book(members, degree, seed)
    found = all_neighbours(Graph(members, degree, seed))
    assert [set(near) for near in found] == list(expected.values())


def test_every_ring_is_as_likely():
    # five members have 4! / 2 = 12 rings; chi-squared of 11 degrees of freedom, 1 - 1e-6: 48.2
    seeds = 6000
    rings = Counter(
        tuple(all_neighbours(Graph(5, 2, number.to_bytes(4, "big")))) for number in range(seeds)
    )
    assert len(rings) == 12
    expected = seeds / 12
    assert sum((found - expected) ** 2 / expected for found in rings.values()) < 48.2


def test_a_draw_that_would_favour_some_is_drawn_again(monkeypatch):
    # 2^64 is 1 more than a multiple of 5, so the highest draw of all is one too many
    def ring(*draws: int) -> list[tuple[int, ...]]:
        monkeypatch.setattr(Graph, "_draws", lambda graph: iter(draws))
        return all_neighbours(Graph(5, 2, b""))

    assert ring(2**64 - 1, 1, 0, 2, 1) == ring(1, 0, 2, 1)
    assert ring(2**64 - 2, 0, 2, 1) == ring(4, 0, 2, 1)


@pytest.mark.parametrize(
    ("members", "degree", "reason"),
    [
        (0, 0, "at least one member"),
        (5, 5, "5 neighbours, of 4 other members"),
        (5, -2, "-2 neighbours"),
        (9, 3, "either side of a ring"),
    ],
)
def test_a_graph_that_does_not_exist(members, degree, reason):
    with pytest.raises(ValueError, match=reason):
        Graph(members, degree, b"")


@pytest.mark.parametrize("position", [-1, 9])
@pytest.mark.parametrize("degree", [0, 4])
def test_a_position_outside_the_roster(degree, position):
    with pytest.raises(ValueError, match=f"position {position} of 9"):
        Graph(9, degree, b"").neighbours(position)
