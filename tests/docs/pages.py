"""The pages for people, and what can be checked in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")],
    key=lambda page: page.relative_to(ROOT).as_posix(),
)

_FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
_ROW = re.compile(r"^\|(?P<cells>.+)\|$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    """Of its first line of text, from 1."""
    info: str
    """What stands behind the opening fence."""
    text: str

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"


def name(page: Path) -> str:
    """A page's path below the root."""
    return page.relative_to(ROOT).as_posix()


def blocks(*languages: str) -> Iterator[Block]:
    """All fenced blocks in these languages, page by page."""
    for page in PAGES:
        text = page.read_text()
        for match in _FENCE.finditer(text):
            info = match["info"].strip()
            if info.strip("{}").lstrip(".").split(" ")[0] in languages:
                line = text.count("\n", 0, match.start()) + 2
                yield Block(page, line, info, match["text"])


def links(page: Path) -> Iterator[str]:
    """Targets of all links and pictures outside code."""
    for match in _LINK.finditer(_FENCE.sub("", page.read_text())):
        yield match["target"]


def anchors(page: Path) -> set[str]:
    """Names under which a page's headings can be linked to."""
    headings = (match["text"] for match in _HEADING.finditer(_FENCE.sub("", page.read_text())))
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def rows(page: Path) -> Iterator[list[str]]:
    """Cells of all table rows of a page, headings and rules included."""
    for match in _ROW.finditer(page.read_text()):
        yield [cell.strip() for cell in re.split(r"(?<!\\)\|", match["cells"])]
