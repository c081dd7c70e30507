from __future__ import annotations

import math

import pytest

from cloister_sandbox import Limits


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory_bytes", 0),
        ("memory_bytes", (1 << 32) + 1),
        ("run_seconds", 0.0),
        ("run_seconds", math.inf),
        ("cpu_seconds", math.nan),
        ("compile_seconds", -1.0),
        ("stack_bytes", 1 << 30),
        ("module_bytes", 0),
    ],
)
def test_limits_have_ranges(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Limits(**{name: value})  # type: ignore[arg-type]


def test_the_largest_memory_is_allowed() -> None:
    assert Limits(memory_bytes=1 << 32).memory_bytes == 1 << 32
