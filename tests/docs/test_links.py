from __future__ import annotations

from pathlib import Path

import pytest

from .pages import PAGES, ROOT, anchors, links, name


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Within the checkout; mkdocs checks the built site's own."""
    for target in links(page):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), f"{name(page)} links to {target}"
        assert file.is_relative_to(ROOT), f"{name(page)} links out of the checkout: {target}"
        if anchor:
            assert anchor in anchors(file), f"{name(page)} links to {target}"
