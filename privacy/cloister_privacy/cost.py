"""What a round of secure aggregation costs a member, in bytes, by counting.

Sizes are those of the protocol's messages while everybody is there: those who drop out make all but
the first smaller. What carries a message, and the task and the model, come on top.
"""

from __future__ import annotations

from dataclasses import dataclass

from cloister_privacy.packing import packed_bytes
from cloister_privacy.shamir import SHARE_BYTES
from cloister_privacy.statements import (
    COMMITTED_BYTES,
    HASH_BYTES,
    KEY_BYTES,
    SEALED_BYTES,
    SIGNATURE_BYTES,
)

CERTIFICATE_BYTES = 340
"""Of an identity certificate with a short name; there may be up to 1024."""


@dataclass(frozen=True)
class Step:
    """One exchange of a member with its coordinator."""

    name: str
    up: int
    """Bytes of the member's message."""
    down: int
    """Bytes of the answer to it."""


def steps(
    members: int,
    degree: int,
    threshold: int,
    vector_bytes: int,
    certificate_bytes: int = CERTIFICATE_BYTES,
) -> tuple[Step, ...]:
    """Those of one member in a round, in order.

    Args:
        members: of the roster.
        degree: neighbours of each.
        threshold: shares that bring back a secret.
        vector_bytes: see `vector_bytes`.
        certificate_bytes: of each member's certificate.
    """
    near = degree + 1
    keys = _field(certificate_bytes) + 2 * _field(KEY_BYTES) + _field(SIGNATURE_BYTES)
    return (
        Step("keys", keys, members * _field(keys) + _number(degree) + _number(threshold)),
        Step(
            "shares",
            _field(SEALED_BYTES * degree)
            + _field(COMMITTED_BYTES * near)
            + _field(HASH_BYTES)
            + _field(SIGNATURE_BYTES),
            _places(members, members)
            + _field(SEALED_BYTES * degree)
            + _field(COMMITTED_BYTES * degree),
        ),
        Step("masked vector", vector_bytes, _places(members, members)),
        Step(
            "confirmation",
            _field(SIGNATURE_BYTES),
            _places(near, members) + _field(SIGNATURE_BYTES * near),
        ),
        Step("unmasking", _field(SHARE_BYTES * near), 0),
    )


def vector_bytes(parameters: int, ring_bits: int, counters: int) -> int:
    """Of a masked vector: a word for each counter, then the parameters, packed."""
    return 8 * counters + (packed_bytes(parameters, ring_bits) if parameters else 0)


def mask_bytes(parameters: int, ring_bits: int, counters: int, degree: int) -> int:
    """Of key stream that a member makes: one for each neighbour and its own."""
    return (degree + 1) * (8 * counters + (4 if ring_bits <= 32 else 8) * parameters)


def _field(size: int) -> int:
    """A field of so many bytes in a message, its tag and length included."""
    return 1 + _varint(size) + size


def _number(value: int) -> int:
    return 1 + _varint(value)


def _places(count: int, members: int) -> int:
    """A list of `count` places in the roster, taken to be the last ones."""
    return _field(sum(_varint(place) for place in range(members - count, members)))


def _varint(value: int) -> int:
    return max(1, -(-value.bit_length() // 7))


__all__ = ["CERTIFICATE_BYTES", "Step", "mask_bytes", "steps", "vector_bytes"]
