"""Fills the page on the command line from the commands themselves, while the site is built."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer

from cloister.commands.app import app
from cloister.commands.exit_code import MEANINGS

_PAGE = "command-line.md"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """What mkdocs calls for each page."""
    if page.file.src_uri != _PAGE:
        return markdown
    codes = [
        "| code | meaning |",
        "|---|---|",
        *(f"| {c.value} | {m} |" for c, m in MEANINGS.items()),
    ]
    root = typer.main.get_command(app)
    sections = "\n\n".join(_section(path, command) for path, command in _leaves("cloister", root))
    return markdown.replace("<!-- exit codes -->", "\n".join(codes)).replace(
        "<!-- commands -->", sections
    )


def _leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with the words that call it."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from _leaves(f"{path} {name}", inner)


def _section(path: str, command: Any) -> str:
    context = typer.Context(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    parts = [f"### {path}", inspect.cleandoc(command.help or ""), f"```text\n{usage}\n```"]
    records = [p.get_help_record(context) for p in command.get_params(context) if not p.hidden]
    rows = [f"| `{name}` | {_cell(text)} |" for name, text in filter(None, records)]
    parts.append("\n".join(["| option | meaning |", "|---|---|", *rows]))
    if command.epilog:
        parts.append(f"```text\n{_close(command.epilog)}\n```")
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    """Fit for a table: `[default: x]` is no link, and a bar no column."""
    return text.replace("[", "\\[").replace("|", "\\|")


def _close(epilog: str) -> str:
    """Without the empty lines that a terminal's formatter needs between examples."""
    return "\n".join(line for line in inspect.cleandoc(epilog).splitlines() if line.strip())
