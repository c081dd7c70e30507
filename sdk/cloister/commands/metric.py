"""How the mean of a metric is shown."""

from __future__ import annotations

SHARES = ("accuracy", "correct")
"""Metrics that are shares of rows; the second is what compiled tasks call it."""


def shown(name: str, value: float) -> str:
    """Shares in percent, all else as a number that stays short when training diverges."""
    if name in SHARES:
        return f"{100 * value:.2f} %"
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"
