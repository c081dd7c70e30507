"""Secrets in shares: so many bring one back, and one fewer say nothing about it.

Shamir, "How to share a secret" (CACM 1979). A secret of 32 bytes is 16 limbs of 16 bits,
little-endian, each shared by itself in the field of 65,537 elements: a share of a limb is the
value, at the holder's point, of a random polynomial whose value at 0 is the limb.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cloister_privacy import field
from cloister_privacy.field import I64
from cloister_privacy.keystream import Entropy

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]

SECRET_BYTES = 32
LIMBS = SECRET_BYTES // 2
SHARE_BYTES = SECRET_BYTES + LIMBS // 8
"""Of an encoded share: the low 16 bits of each limb, then a bit for each that is 65536."""

COMBINED_AT_ONCE = 64
"""Secrets whose shares are float64 at the same time, 128 bytes a share."""


def split(secrets: Sequence[bytes], threshold: int, points: I64, entropy: Entropy) -> U32:
    """Shares of secrets for the holders at `points`; any `threshold` of them bring one back.

    Args:
        secrets: s of 32 bytes each.
        threshold: from 1 to the number of points.
        points: int64 (n,), from 1 to 65536, each different.
        entropy: where the polynomials' other coefficients come from.

    Returns:
        uint32 (n, s, 16), limbs from 0 to 65536.

    Raises:
        ValueError: a secret of another length, or a threshold or points that cannot be.
    """
    if any(len(secret) != SECRET_BYTES for secret in secrets):
        raise ValueError(f"a secret has {SECRET_BYTES} bytes")
    if points.ndim != 1 or not 1 <= threshold <= len(points):
        raise ValueError(f"{threshold} shares out of {points.size} cannot bring back a secret")
    field.check_points(points)
    limbs = np.frombuffer(b"".join(secrets), "<u2")
    random = _elements((threshold - 1) * len(limbs), entropy)
    coefficients = np.concatenate([limbs, random]).reshape(threshold, len(limbs))
    shares = field.multiply(field.vandermonde(points, threshold), coefficients)
    return shares.astype(np.uint32).reshape(len(points), len(secrets), LIMBS)


def combine(points: I64, shares: U32) -> bytes:
    """The secret of 32 bytes that shares at `points` make up.

    More shares than the threshold do as well. Wrong ones go unnoticed: what comes out is then
    something else, and the caller compares it with a commitment.

    Args:
        points: int64 (t,), the holders'.
        shares: uint32 (t, 16).

    Raises:
        ValueError: a point that cannot be or occurs twice, or shares that make up no secret.
    """
    return to_bytes(combine_many(points, shares))


def combine_many(points: I64, shares: U32) -> U32:
    """`combine` for many secrets of which the same holders' shares are there.

    Args:
        points: int64 (t,).
        shares: uint32 (..., t, 16), for example (m, t, 16) for m secrets.

    Returns:
        uint32 (..., 16), limbs for `to_bytes`.

    Raises:
        ValueError: another shape, no field elements, or a point that cannot be or occurs twice.
    """
    if points.ndim != 1 or not points.size or shares.shape[-2:] != (len(points), LIMBS):
        raise ValueError(f"shares of shape {shares.shape} for {points.size} points")
    _check_limbs(shares)
    weights = field.lagrange_at_zero(points)[np.newaxis]
    flat = shares.reshape(-1, len(points), LIMBS)
    limbs = np.empty((len(flat), LIMBS), np.uint32)
    for first in range(0, len(flat), COMBINED_AT_ONCE):
        several = slice(first, first + COMBINED_AT_ONCE)
        limbs[several] = field.multiply(weights, flat[several])[:, 0]
    return limbs.reshape(*shares.shape[:-2], LIMBS)


def to_bytes(limbs: U32) -> bytes:
    """The secret of 32 bytes with these limbs, uint32 (16,).

    Raises:
        ValueError: a limb above 65535, which no secret has: shares were wrong.
    """
    if limbs.shape != (LIMBS,):
        raise ValueError(f"a secret has {LIMBS} limbs, not {limbs.shape}")
    if (limbs >= 1 << 16).any():
        raise ValueError("the shares make up no secret")
    return limbs.astype("<u2").tobytes()


def encode(shares: U32) -> U8:
    """Shares as they travel: uint8 (n, 34) for uint32 (n, 16).

    Raises:
        ValueError: another shape, or a limb above 65536.
    """
    if shares.ndim != 2 or shares.shape[1] != LIMBS:
        raise ValueError(f"shares of shape {shares.shape} instead of (n, {LIMBS})")
    _check_limbs(shares)
    data = np.empty((len(shares), SHARE_BYTES), np.uint8)
    data[:, :SECRET_BYTES] = (shares & 0xFFFF).astype("<u2").view(np.uint8)
    data[:, SECRET_BYTES:] = np.packbits(shares == 1 << 16, axis=1, bitorder="little")
    return data


def decode(data: U8) -> U32:
    """Shares as they were before `encode`: uint32 (n, 16) for uint8 (n, 34).

    Raises:
        ValueError: another shape, or bytes that `encode` never makes, so that each share has one
            form only.
    """
    if data.ndim != 2 or data.shape[1] != SHARE_BYTES:
        raise ValueError(f"shares of shape {data.shape} instead of (n, {SHARE_BYTES})")
    low = np.ascontiguousarray(data[:, :SECRET_BYTES]).view("<u2")
    whole = np.unpackbits(data[:, SECRET_BYTES:], axis=1, bitorder="little")
    if (low[whole == 1] != 0).any():
        raise ValueError("a share has a limb above 65536")
    return low.astype(np.uint32) | whole.astype(np.uint32) << np.uint32(16)


def _elements(count: int, entropy: Entropy) -> I64:
    """Uniform elements of the field, (count,).

    2^32 - 1 = 65535 P, so of all 32-bit numbers one has to be drawn again, and of the others each
    remainder has 65535.
    """
    drawn = entropy.uint32(count)
    while (again := drawn == 0xFFFFFFFF).any():
        drawn[again] = entropy.uint32(int(again.sum()))
    return drawn.astype(np.int64) % field.P


def _check_limbs(shares: U32) -> None:
    if shares.size and shares.max() >= field.P:
        raise ValueError(f"a limb of a share is at most {field.P - 1}")


__all__ = [
    "COMBINED_AT_ONCE",
    "LIMBS",
    "SECRET_BYTES",
    "SHARE_BYTES",
    "combine",
    "combine_many",
    "decode",
    "encode",
    "split",
    "to_bytes",
]
