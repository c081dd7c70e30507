from __future__ import annotations

import re

from cloister_client.errors import AssignmentFailure
from cloister_privacy.errors import Aborted
from cloister_sandbox import SandboxError

from .pages import ROOT, rows


def kinds(base: type) -> set[str]:
    found = {base.__dict__["kind"]} if "kind" in base.__dict__ else set()
    return found.union(*(kinds(sub) for sub in base.__subclasses__()))


def test_the_owner_is_told_of_every_kind_of_failure() -> None:
    page = ROOT / "docs" / "start" / "device-owner.md"
    shown = {kind for row in rows(page) for kind in re.findall(r"`(\w+)`", row[0])}
    aborted = kinds(Aborted) - {Aborted.kind}  # which is the event
    assert kinds(SandboxError) | kinds(AssignmentFailure) | aborted <= shown
