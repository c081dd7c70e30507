"""How a data set is spread over virtual clients: evenly, by Dirichlet draws, or by label."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


def iid(labels: NDArray[np.generic], clients: int, seed: int = 0) -> list[Index]:
    """Deal shuffled rows out evenly; sizes differ by at most one row."""
    _check(len(labels), clients)
    order = np.random.default_rng(seed).permutation(len(labels))
    return [np.sort(part) for part in np.array_split(order, clients)]


def dirichlet(
    labels: NDArray[np.generic], clients: int, seed: int = 0, *, alpha: float = 0.5
) -> list[Index]:
    """Draw each label's split over the clients from Dirichlet(alpha): small alpha, skewed clients.

    Follows Hsu, Qi and Brown (2019), section 3, with one addition: a client that would end
    without rows is given one from the client that has most.
    """
    _check(len(labels), clients)
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, not {alpha}")
    random = np.random.default_rng(seed)
    parts: list[list[Index]] = [[] for _ in range(clients)]
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        shares = random.dirichlet(np.full(clients, alpha))
        cuts = np.round(np.cumsum(shares)[:-1] * len(rows)).astype(np.int64)
        for part, piece in zip(parts, np.split(rows, cuts), strict=True):
            part.append(piece)
    held = [np.sort(np.concatenate(part)) for part in parts]
    return _fill_empty(held)


def by_label(
    labels: NDArray[np.generic], clients: int, seed: int = 0, *, labels_per_client: int = 2
) -> list[Index]:
    """Sort rows by label, cut them into shards, deal each client `labels_per_client` shards.

    The pathological split of McMahan et al. (2017), section 3.
    """
    shards = clients * labels_per_client
    _check(len(labels), shards)
    random = np.random.default_rng(seed)
    rows = random.permutation(len(labels))
    by_value = rows[np.argsort(labels[rows], kind="stable")]
    pieces = np.array_split(by_value, shards)
    deal = random.permutation(shards).reshape(clients, labels_per_client)
    return [np.sort(np.concatenate([pieces[shard] for shard in hand])) for hand in deal]


PARTITIONS: dict[str, Callable[..., list[Index]]] = {
    "iid": iid,
    "dirichlet": dirichlet,
    "by-label": by_label,
}
"""Every way to spread rows, by the name the command line uses."""


def _check(rows: int, shares: int) -> None:
    if shares < 1:
        raise ValueError("there must be at least one client")
    if rows < shares:
        raise ValueError(f"{rows} rows cannot be spread over {shares} shares: ask for fewer")


def _fill_empty(parts: list[Index]) -> list[Index]:
    for place, part in enumerate(parts):
        if len(part) == 0:
            richest = max(range(len(parts)), key=lambda i: len(parts[i]))
            parts[place], parts[richest] = parts[richest][:1], parts[richest][1:]
    return parts
