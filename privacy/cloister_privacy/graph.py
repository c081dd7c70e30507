"""Which members share secrets with each other.

All of them (Bonawitz et al., CCS 2017), or those near each other on a ring in random order: the
Harary graph of Bell et al., "Secure single-server aggregation with (poly)logarithmic overhead"
(CCS 2020), section 3. The order follows from a seed, by SHA-256 and whole numbers only, so that
any program in any language finds the same neighbours.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

PREFIX = b"cloister graph v1\0"

_DRAWS = 1 << 64


@dataclass(frozen=True)
class Graph:
    """Neighbours of each member, which is named by its position in the roster.

    Raises:
        ValueError: there is no such graph.
    """

    members: int
    degree: int
    """Neighbours of each member: even; or 0 or `members` - 1 for all the others."""
    seed: bytes
    """Of the order on the ring."""

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ValueError("a graph has at least one member")
        if not 0 <= self.degree < self.members:
            raise ValueError(f"{self.degree} neighbours, of {self.members - 1} other members")
        if not self.complete and self.degree % 2:
            raise ValueError(f"{self.degree} neighbours are not as many on either side of a ring")

    @property
    def complete(self) -> bool:
        """Whether all are neighbours of all."""
        return self.degree in (0, self.members - 1)

    def neighbours(self, position: int) -> tuple[int, ...]:
        """Positions of a member's neighbours, ascending, without its own.

        Raises:
            ValueError: no member has this position.
        """
        if not 0 <= position < self.members:
            raise ValueError(f"position {position} of {self.members}")
        if self.complete:
            return (*range(position), *range(position + 1, self.members))
        order, places = self._order, self._places
        place, side = places[position], self.degree // 2
        steps = (*range(-side, 0), *range(1, side + 1))
        return tuple(sorted(order[(place + step) % self.members] for step in steps))

    @cached_property
    def _order(self) -> tuple[int, ...]:
        """The members along the ring: Fisher and Yates' shuffle, from the last place down."""
        order = list(range(self.members))
        draws = self._draws()
        for last in range(self.members - 1, 0, -1):
            choices = last + 1
            # the largest multiple of `choices`: draws at or past it would favour the first ones
            fair = _DRAWS - _DRAWS % choices
            draw = next(draw for draw in draws if draw < fair) % choices
            order[last], order[draw] = order[draw], order[last]
        return tuple(order)

    @cached_property
    def _places(self) -> tuple[int, ...]:
        """Where on the ring each member is: the inverse of the order."""
        places = [0] * self.members
        for place, position in enumerate(self._order):
            places[position] = place
        return tuple(places)

    def _draws(self) -> Iterator[int]:
        """The first 8 bytes, little-endian, of SHA-256(prefix, seed, counter as u64)."""
        begun = hashlib.sha256(PREFIX + self.seed)
        for counter in range(_DRAWS):
            digest = begun.copy()
            digest.update(struct.pack("<Q", counter))
            yield int.from_bytes(digest.digest()[:8], "little")


__all__ = ["PREFIX", "Graph"]
