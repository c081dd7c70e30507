from __future__ import annotations

import dataclasses
import importlib
import re

import pytest

from .pages import ROOT, rows

UNITS = {"": 1, "s": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "characters": 1}
UNITS["KiB a second"] = 1 << 10
_NUMBER = re.compile(
    r"(?P<number>[\d.]+)(?: (?P<unit>(?:KiB|MiB|GiB|s|characters)(?: a second)?))?"
)

LIMITS = [
    pytest.param(row[1], row[-1].strip("`"), id=row[-1].strip("`"))
    for row in rows(ROOT / "docs" / "limits.md")
    if row[-1].startswith("`cloister")
]


def in_code(path: str) -> object:
    """The constant, or the default of the field, at a dotted path."""
    head, last = path.rsplit(".", 1)
    try:
        owner = importlib.import_module(head)
    except ModuleNotFoundError:
        module, kind = head.rsplit(".", 1)
        owner = getattr(importlib.import_module(module), kind)
        return {field.name: field.default for field in dataclasses.fields(owner)}[last]
    return getattr(owner, last)


@pytest.mark.parametrize(("shown", "path"), LIMITS)
def test_the_page_says_what_the_code_does(shown: str, path: str) -> None:
    value = in_code(path)
    if shown == "none" or shown.startswith("as "):
        assert value is None
        return
    shown = shown.rpartition(" to ")[2] if re.match(r"[\d.]+( s)? to ", shown) else shown
    match = _NUMBER.match(shown)
    assert match is not None, f"{shown!r} is no figure"
    # keys of the device's TOML are in MiB themselves
    unit = 1 if path.endswith("_mb") else UNITS[match["unit"] or ""]
    assert value == float(match["number"]) * unit


def test_the_page_has_every_limit_of_a_sandbox_and_a_policy() -> None:
    from cloister_client import Policy, SecureConfig
    from cloister_sandbox import Limits

    text = (ROOT / "docs" / "limits.md").read_text()
    shown_as = {"memory_bytes": "memory_mb", "run_seconds": "seconds_per_round"}
    for field in dataclasses.fields(Limits):
        assert shown_as.get(field.name, field.name) in text
    for field in dataclasses.fields(Policy):
        if field.name not in ("any_task", "publishers", "digests", "aggregations"):
            assert f"`{field.name}`" in text
    for field in dataclasses.fields(SecureConfig):
        if field.name not in ("authority", "certificate", "required", "ring"):
            assert f"`{field.name}`" in text
