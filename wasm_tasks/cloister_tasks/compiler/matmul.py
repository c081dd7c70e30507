"""What ``kernels/matmul.h`` does with a product of matrices, as far as a caller must know it.

The numbers and the formula are those of the header; a test holds the two together.
"""

from __future__ import annotations

MC, NC, KC = 128, 512, 192
"""Most rows, columns and depth of a block."""
PANELS = 2
"""Panels of B packed at a time."""

_TILE_ROWS, _TILE_COLUMNS = 4, 8


def workspace(m: int, n: int, k: int) -> int:
    """Scratch memory of one product, whatever its strides.

    Args:
        m: rows of A and C, at least 1.
        n: columns of B and C, at least 1.
        k: columns of A and rows of B; may be 0.

    Returns:
        The number of floats that the argument ``work`` of the kernel must have.
    """
    return max(_one_way(m, n, k), _one_way(n, m, k)) if k else 0


def _one_way(m: int, n: int, k: int) -> int:
    """A block of A, the panels of B beside it, and a column of tiles that hangs over the edge."""
    mc, kc = _block(m, MC, _TILE_ROWS), _block(k, KC, 4)
    group = _block(n, PANELS * _TILE_COLUMNS, _TILE_COLUMNS)
    return mc * kc + group * kc + _TILE_COLUMNS * mc


def _block(size: int, most: int, unit: int) -> int:
    """How much of ``size`` is done at a time: equal parts in multiples of ``unit``."""
    parts = -(-size // most)
    part = -(-size // parts)
    return -(-part // unit) * unit
