import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cloister_client.shuffle import mix, row_order, row_orders

MASK = (1 << 64) - 1


def splitmix64(state: int) -> int:
    """Steele, Lea and Flood's generator in Python integers: the oracle."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_mix_gives_the_published_first_numbers_of_seed_0() -> None:
    states = np.array([0, 0x9E3779B97F4A7C15], dtype=np.uint64)
    assert mix(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@given(st.integers(0, MASK), st.integers(0, 1000), st.integers(0, 50))
def test_order_is_the_sort_by_hashed_position(seed: int, epoch: int, rows: int) -> None:
    key = splitmix64((splitmix64(seed) + epoch * 0x9E3779B97F4A7C15) & MASK)
    keys = [splitmix64((key + row) & MASK) for row in range(rows)]
    expected = sorted(range(rows), key=keys.__getitem__)
    order = row_order(seed, epoch, rows)
    assert order.dtype == np.int64
    assert order.tolist() == expected


@given(
    st.lists(st.tuples(st.integers(0, MASK), st.integers(0, 40)), max_size=30),
    st.integers(0, 1000),
)
def test_many_orders_at_once_equal_one_by_one(clients: list[tuple[int, int]], epoch: int) -> None:
    seeds = np.array([seed for seed, _ in clients], dtype=np.uint64)
    counts = np.array([rows for _, rows in clients], dtype=np.int64)
    expected = [row for seed, rows in clients for row in row_order(seed, epoch, rows)]
    assert row_orders(seeds, counts, epoch).tolist() == expected


def test_orders_differ_between_epochs_and_seeds() -> None:
    orders = {tuple(row_order(seed, epoch, 20)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100
