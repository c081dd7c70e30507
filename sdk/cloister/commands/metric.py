"""How the mean of a metric is shown."""

from __future__ import annotations


def shown(name: str, value: float) -> str:
    """Accuracy in percent, all else as a number that stays short when training diverges."""
    if name == "accuracy":
        return f"{100 * value:.2f} %"
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"
