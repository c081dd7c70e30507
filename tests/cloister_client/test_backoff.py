import random
from itertools import islice

from cloister_client.backoff import pauses


def test_pauses_are_uniform_up_to_a_doubling_bound() -> None:
    samples = [list(islice(pauses(4.0, random.Random(seed).uniform), 6)) for seed in range(500)]
    for column, bound in zip(zip(*samples, strict=True), [0.5, 1, 2, 4, 4, 4], strict=True):
        assert 0 <= min(column) < 0.05 * bound
        assert 0.95 * bound < max(column) <= bound
