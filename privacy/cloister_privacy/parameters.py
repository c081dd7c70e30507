"""How many neighbours and shares make secure aggregation safe, and likely to succeed.

With a complete graph the threshold follows by counting alone: any two sets of t members have an
honest one in common, so the members never confirm two different survivor sets (Bonawitz et al.,
CCS 2017, theorem 6.5). On a ring the neighbours of a member are a random sample of the others, and
the bounds are tails of hypergeometric distributions (Bell et al., CCS 2020, section 3.2). They hold
for a coordinator that follows the protocol, and for members that are corrupt or drop out
independently of the order on the ring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LARGEST_COMPLETE = 1000
"""Members up to which "auto" is a complete graph; a ring costs each of them less beyond."""
LEAST_THRESHOLD = 2
"""A single share must never be the secret itself."""

_SLACK = 1e-6
"""Nats by which a tail must be below its bound; sums of logarithms err by less than 1e-8."""

Shape = Literal["auto", "complete", "ring"]


@dataclass(frozen=True)
class Plan:
    """Who shares secrets with how many, and how many shares bring one back."""

    members: int
    degree: int
    """Neighbours of each member; all the others in a complete graph."""
    threshold: int
    """Shares that bring back a secret, out of `degree` + 1: a member keeps one of its own."""
    complete: bool
    corrupt: int
    """Members that may collude with the coordinator."""
    drop_outs: int
    """Members that may be gone by the end."""
    security_bits: int
    correctness_bits: int


def complete_threshold(members: int, corrupt_fraction: float) -> int:
    """Shares that must bring back a secret in a complete graph: over half of members + corrupt."""
    return (members + _part(corrupt_fraction, members)) // 2 + 1


def plan(
    members: int,
    corrupt_fraction: float,
    drop_out_fraction: float,
    security_bits: int = 40,
    correctness_bits: int = 30,
    graph: Shape = "auto",
) -> Plan:
    """The sparsest graph that is safe, with the highest threshold that is likely to succeed.

    Args:
        members: of the roster, at least 2.
        corrupt_fraction: share of them that may collude, in [0, 1); rounded down to members.
        drop_out_fraction: share of them that may be gone, in [0, 1); rounded down to members.
        security_bits: a ring fails to hide an update with a chance of at most 2^-security_bits.
        correctness_bits: a ring fails to give a sum with a chance of at most 2^-correctness_bits.

    Raises:
        ValueError: no parameters exist, and why.
    """
    _check(members, corrupt_fraction, security_bits)
    _check(members, drop_out_fraction, correctness_bits)
    if graph not in ("auto", "complete", "ring"):
        raise ValueError(f"the graph is complete, ring or auto, not {graph}")
    corrupt, drop_outs = _part(corrupt_fraction, members), _part(drop_out_fraction, members)
    complete = graph == "complete" or (graph == "auto" and members <= LARGEST_COMPLETE)
    if complete:
        degree, threshold = members - 1, complete_threshold(members, corrupt_fraction)
        if members - drop_outs < threshold:
            raise ValueError(
                f"{members - drop_outs} survivors of {members} members are fewer than the"
                f" {threshold} shares it takes against {corrupt} corrupt ones:"
                " assume fewer drop-outs or fewer corrupt members"
            )
    else:
        degree, threshold = _ring(members, corrupt, drop_outs, security_bits, correctness_bits)
    return Plan(
        members,
        degree,
        threshold,
        complete,
        corrupt,
        drop_outs,
        security_bits,
        correctness_bits,
    )


def secure(
    members: int, degree: int, threshold: int, corrupt_fraction: float, security_bits: int
) -> bool:
    """Whether a graph hides every honest member's update; what a member checks for itself.

    On a ring two events are each rarer than 2^-(security_bits + 1): that some member has as many
    corrupt neighbours as bring back its secrets, and that the honest survivors fall into two parts,
    whose sums would show. A member cannot know how many will drop out, so as many are assumed as
    leave neighbourhoods `threshold` members on average; with more there is no sum.

    Nonsense is not secure and raises nothing: all but the last two arguments may be a stranger's.

    Raises:
        ValueError: a fraction or bits out of bounds.
    """
    _check(max(members, 2), corrupt_fraction, security_bits)
    if members < 2 or not LEAST_THRESHOLD <= threshold <= degree + 1 <= members:
        return False
    if degree == members - 1:
        return threshold >= complete_threshold(members, corrupt_fraction)
    if degree % 2:
        return False
    corrupt = _part(corrupt_fraction, members)
    return _ring_secure(_log_factorials(members), degree, threshold, corrupt, security_bits)


def _ring(
    members: int, corrupt: int, drop_outs: int, security_bits: int, correctness_bits: int
) -> tuple[int, int]:
    """The least degree, and its threshold.

    Security only gains from a higher threshold, so the highest one that is correct decides.
    """
    logs = _log_factorials(members)
    for degree in range(2, members - 1, 2):
        threshold = _highest_threshold(logs, degree, drop_outs, correctness_bits)
        if threshold >= LEAST_THRESHOLD and _ring_secure(
            logs, degree, threshold, corrupt, security_bits
        ):
            return degree, threshold
    raise ValueError(
        f"no ring of {members} members withstands {corrupt} corrupt ones and {drop_outs} drop-outs"
        f" with {security_bits} bits of security and {correctness_bits} of correctness:"
        " assume fewer, ask for more members, or use the complete graph"
    )


def _ring_secure(
    logs: NDArray[np.float64], degree: int, threshold: int, corrupt: int, security_bits: int
) -> bool:
    members = len(logs) - 1
    bound = -(security_bits + 1) * math.log(2) - _SLACK
    first, chances = _neighbours(logs, degree, corrupt)
    tail = chances[max(0, threshold - first) :]
    if tail.size and math.log(members) + np.logaddexp.reduce(tail) > bound:
        return False
    drop_outs = members * (degree + 1 - threshold) // (degree + 1)
    return _log_split(logs, degree, min(members, corrupt + drop_outs)) <= bound


def _highest_threshold(
    logs: NDArray[np.float64], degree: int, drop_outs: int, correctness_bits: int
) -> int:
    """The most survivors that every member has among its neighbours, but for a rare event."""
    members = len(logs) - 1
    first, chances = _neighbours(logs, degree, members - 1 - drop_outs)
    below = math.log(members) + np.logaddexp.accumulate(chances)
    rare = below <= -correctness_bits * math.log(2) - _SLACK
    return min(degree, first + int(np.count_nonzero(rare)))


def _neighbours(
    logs: NDArray[np.float64], degree: int, marked: int
) -> tuple[int, NDArray[np.float64]]:
    """How many of a member's neighbours are among `marked` of the others.

    Returns:
        The least number possible, and for it and each one above the logarithm of its chance.
    """
    others = len(logs) - 2
    first, last = max(0, degree - (others - marked)), min(degree, marked)
    found = np.arange(first, last + 1)
    return first, (
        _log_choose(logs, marked, found)
        + _log_choose(logs, others - marked, degree - found)
        - _log_choose(logs, others, np.int64(degree))
    )


def _log_split(logs: NDArray[np.float64], degree: int, gone: int) -> float:
    """Logarithm of a bound on the chance that a ring without `gone` members is in two parts.

    That takes two runs of degree / 2 of them, with somebody left on either side in between.
    """
    members = len(logs) - 1
    pairs = members * (members - degree - 1) // 2
    if gone < degree or not pairs:
        return -math.inf
    all_gone = logs[gone] - logs[gone - degree] + logs[members - degree] - logs[members]
    return math.log(pairs) + float(all_gone)


def _log_choose(
    logs: NDArray[np.float64], whole: int, parts: NDArray[np.int64] | np.int64
) -> NDArray[np.float64]:
    return np.asarray(logs[whole] - logs[parts] - logs[whole - parts])


def _log_factorials(largest: int) -> NDArray[np.float64]:
    """log(k!) for k = 0 to `largest`."""
    return np.array([math.lgamma(k + 1) for k in range(largest + 1)])


def _part(fraction: float, members: int) -> int:
    """Whole members in a share of them; 0.1 of 30 is 3, whatever 0.1 is in binary."""
    return math.floor(fraction * members + 1e-9)


def _check(members: int, fraction: float, bits: int) -> None:
    if members < 2:
        raise ValueError(f"{members} members; a sum hides nothing below 2")
    if not 0 <= fraction < 1:
        raise ValueError(f"a share of {fraction:g} of the members; at least 0 and below 1")
    if bits < 1:
        raise ValueError(f"{bits} bits; at least 1")


__all__ = [
    "LARGEST_COMPLETE",
    "LEAST_THRESHOLD",
    "Plan",
    "Shape",
    "complete_threshold",
    "plan",
    "secure",
]
