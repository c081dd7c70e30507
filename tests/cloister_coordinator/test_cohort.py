from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister_coordinator.cohort import client_seed, select, size

ids = st.sets(st.text("abcdef0123456789", min_size=1, max_size=8), max_size=30)


@given(ids, st.integers(1, 20), st.floats(1.0, 3.0), st.integers(0, 2**64 - 1), st.integers(1, 99))
def test_a_cohort_is_a_sorted_subset_of_the_wanted_size(
    available: set[str], target: int, over: float, seed: int, number: int
) -> None:
    chosen = select(available, target, over, seed, number)
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= available
    assert len(chosen) == min(len(available), size(target, over))
    assert chosen == select(sorted(available, reverse=True), target, over, seed, number)


def test_who_is_away_does_not_change_the_order_of_the_others() -> None:
    everybody = {f"{i:02}" for i in range(40)}
    chosen = select(everybody, 10, 1.0, 7, 3)
    gone = chosen[0]
    without = select(everybody - {gone}, 10, 1.0, 7, 3)
    assert set(chosen) - {gone} < set(without)


def test_every_client_is_drawn_about_as_often() -> None:
    everybody = [f"{i:02}" for i in range(20)]
    counts = dict.fromkeys(everybody, 0)
    for number in range(1, 1001):
        for client in select(everybody, 5, 1.0, 1, number):
            counts[client] += 1
    # 250 expected, standard deviation 13.7
    assert all(190 < count < 310 for count in counts.values()), counts


@pytest.mark.parametrize(
    ("target", "over", "wanted"), [(10, 1.1, 11), (10, 1.11, 12), (1, 1, 1), (3, 1.5, 5)]
)
def test_size_rounds_up(target: int, over: float, wanted: int) -> None:
    assert size(target, over) == wanted


def test_seeds_differ_by_round_client_and_job() -> None:
    seeds = {client_seed(s, r, c) for s in (0, 1) for r in (1, 2) for c in ("a", "b")}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**64 for seed in seeds)
    # Pinned: a change would silently change every run.
    assert client_seed(0, 1, "a") == 6188180194244810518
