"""In which order rows are visited: a seeded permutation that any host can recompute.

Each row gets the key `splitmix64(epoch key + row index)` (Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014) and rows are visited by ascending key,
ties in stored order. Only 64-bit integer arithmetic, so the order never depends on the library
or machine, and many clients' orders can be drawn in one numpy pass.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def mix(states: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64 of each state, element by element."""
    z = states + np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def epoch_keys(seeds: NDArray[np.uint64], epoch: int) -> NDArray[np.uint64]:
    """One key for each client's epoch: mixed twice, so that near seeds lie far apart."""
    return mix(mix(seeds) + np.uint64(epoch * _GOLDEN & _MASK))


def row_order(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    """Rows 0..rows-1 of one client in the order epoch `epoch` (from 0) visits them.

    `seed` is the assignment's, any integer modulo 2**64.
    """
    key = epoch_keys(np.array([seed & _MASK], dtype=np.uint64), epoch)
    positions: NDArray[np.uint64] = np.arange(rows, dtype=np.uint64)
    keys = mix(key + positions)
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)


def row_orders(
    seeds: NDArray[np.uint64], counts: NDArray[np.integer[Any]], epoch: int
) -> NDArray[np.int64]:
    """`row_order` of many clients at once, one after the other: int64[sum of counts].

    `seeds` is uint64[n], `counts` the rows of each of the n clients (0 is allowed). Clients of
    similar size are sorted as the rows of one padded matrix, some ten times as fast as sorting
    all rows by (client, key).
    """
    counts = np.asarray(counts, dtype=np.int64)
    keys = epoch_keys(np.asarray(seeds, dtype=np.uint64), epoch)
    starts = np.cumsum(counts) - counts
    orders = np.empty(int(counts.sum()), dtype=np.int64)
    sizes = np.frexp(counts)[1]  # number of bits: padding at most doubles the work
    for size in np.unique(sizes[counts > 0]):
        group = np.flatnonzero(sizes == size)
        columns = np.arange(int(counts[group].max()), dtype=np.int64)
        real = columns < counts[group][:, None]  # (clients, rows)
        matrix = mix(keys[group][:, None] + columns.astype(np.uint64))
        matrix[~real] = _MASK  # sorts last: a real row of this key stands before the padding
        slots = starts[group][:, None] + columns
        orders[slots[real]] = np.argsort(matrix, axis=1, kind="stable")[real]
    return orders
