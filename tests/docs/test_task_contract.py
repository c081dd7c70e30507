from __future__ import annotations

import re

from cloister_protos import Kind, Role
from cloister_tasks import ENTRY_POINTS, OWN, Manifest, Status
from cloister_tasks.contract import ROLES

from .pages import ROOT, blocks, rows

PAGE = ROOT / "docs" / "task-contract.md"


def test_the_manifest_shown_is_one() -> None:
    (block,) = (b for b in blocks("json") if b.page == PAGE)
    manifest = Manifest.from_json(block.text.encode())
    assert manifest.capacity == 4096


def test_every_entry_point_is_shown_with_its_signature() -> None:
    shown = {row[0]: re.findall(r"(\w+)\(([^)]*)\)", row[1]) for row in rows(PAGE) if len(row) == 2}
    for kind, functions in ENTRY_POINTS.items():
        signatures = {
            function: tuple(re.findall(r": (\w+)", parameters))
            for function, parameters in shown[Kind.Name(kind).removeprefix("KIND_").lower()]
        }
        assert signatures == dict(functions)


def test_every_role_is_shown_for_its_kinds() -> None:
    text = PAGE.read_text()
    on_client, on_server = text.split("### Roles of an aggregation")
    for role, rule in ROLES.items():
        row = f"| `{Role.Name(role).removeprefix('ROLE_')}` |"
        assert (row in on_client) == (Kind.KIND_TRAINING in rule.kinds)
        assert (row in on_server) == (Kind.KIND_AGGREGATION in rule.kinds)


def test_every_status_is_shown() -> None:
    codes = {row[0] for row in rows(PAGE)}
    assert {str(int(status)) for status in Status} <= codes
    assert f"{max(Status) + 1} to {OWN - 1}" in codes
