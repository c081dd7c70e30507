from __future__ import annotations

import re
import shlex
import subprocess
import sys

from .pages import ROOT


def test_the_demo_ends_as_the_readme_shows() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    match = re.search(r"^DEMO := (.+)$", makefile, re.MULTILINE)
    assert match is not None
    done = subprocess.run(
        [sys.executable, "-m", "cloister", *shlex.split(match[1])],
        capture_output=True,
        text=True,
        check=True,
    )
    line = next(line for line in done.stdout.splitlines() if "trained centrally" in line)
    assert line.strip() in (ROOT / "README.md").read_text()
    federated, central = (float(n) for n in re.findall(r"([\d.]+) %", line))
    assert federated > central - 1.5
