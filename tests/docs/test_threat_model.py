from __future__ import annotations

import re

import pytest

from .pages import ROOT

PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([a-z_/]+\.py)::(\w+)`", PAGE)))


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_the_tests_it_names_exist(file: str, test: str) -> None:
    text = (ROOT / "tests" / file).read_text(encoding="utf-8")
    assert re.search(rf"^(async )?def {test}\(", text, re.MULTILINE), f"{file} has no {test}"


def test_every_line_has_its_test() -> None:
    lies, faults = PAGE.split("## Lies of a coordinator")[1].split("## Members that err or lie")
    faults = faults.split("## What is not prevented")[0]
    rows = [line for part in (lies, faults) for line in part.splitlines() if line.startswith("| ")]
    for row in rows:
        assert "::" in row or row.startswith(("| lie |", "| fault |")), row
