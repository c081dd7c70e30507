from __future__ import annotations

import runpy

from .pages import ROOT


def test_the_page_is_what_the_compilers_tables_say() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "operator_tables.py"))
    page = (ROOT / "docs" / "operators.md").read_text()
    assert page == made["page"](), "run `make operators`"
