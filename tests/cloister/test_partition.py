import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.partition import PARTITIONS, by_label, dirichlet, iid

LABELS = np.repeat(np.arange(10), 30)


@pytest.mark.parametrize("name", PARTITIONS)
@given(clients=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_every_row_goes_to_exactly_one_client(name: str, clients: int, seed: int) -> None:
    parts = PARTITIONS[name](LABELS, clients, seed)
    assert len(parts) == clients
    assert all(len(part) for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(LABELS)))


@pytest.mark.parametrize("name", PARTITIONS)
def test_the_seed_decides(name: str) -> None:
    one, two, other = (PARTITIONS[name](LABELS, 7, seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_iid_sizes_differ_by_one_row_at_most() -> None:
    sizes = [len(part) for part in iid(LABELS, 7)]
    assert max(sizes) - min(sizes) <= 1


def test_by_label_gives_a_client_its_number_of_labels() -> None:
    # 300 rows in 20 shards of 15: no shard crosses a label
    for part in by_label(LABELS, 10, labels_per_client=2):
        assert len(np.unique(LABELS[part])) <= 2


def test_small_alpha_is_more_skewed_than_large() -> None:
    def largest_share(alpha: float) -> float:
        parts = dirichlet(LABELS, 10, 3, alpha=alpha)
        return float(np.mean([np.bincount(LABELS[p]).max() / len(p) for p in parts]))

    assert largest_share(0.05) > 0.6 > 0.25 > largest_share(100.0)


@pytest.mark.parametrize("name", PARTITIONS)
def test_more_shares_than_rows_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="rows cannot be spread"):
        PARTITIONS[name](LABELS[:5], 6)


def test_alpha_must_be_positive() -> None:
    with pytest.raises(ValueError, match="alpha"):
        dirichlet(LABELS, 3, alpha=0.0)
