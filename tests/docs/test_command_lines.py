from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from cloister.commands.app import app

from .pages import PAGES, ROOT, name
from .pages import blocks as all_blocks

_INDENTED = re.compile(r"^ {4}(cloister .+)$", re.MULTILINE)


def command_lines() -> Iterator[tuple[str, str]]:
    """Every line a reader may type, with where it stands."""
    for block in all_blocks("console"):
        for line in block.text.splitlines():
            if line.startswith("$ "):
                yield str(block), line[2:]
    for block in all_blocks("sh"):
        for line in block.text.splitlines():
            yield str(block), line
    for page in PAGES:
        for match in _INDENTED.finditer(page.read_text()):
            yield name(page), match[1]


LINES = list(command_lines())


def starting_with(word: str) -> list[object]:
    return [
        pytest.param(line, id=f"{place} {line}"[:90])
        for place, line in LINES
        if line.split()[0] == word
    ]


def test_every_line_begins_with_a_word_that_is_checked() -> None:
    known = {"cloister", "make", "pip", "docker"}
    assert {line.split()[0] for _, line in LINES} <= known


@pytest.mark.parametrize("line", starting_with("cloister"))
def test_cloister_takes_what_the_docs_tell_people_to_type(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = typer.main.get_command(app)
    words = shlex.split(line)[1:]
    monkeypatch.chdir(tmp_path)
    for word in words:
        if word.endswith(".wasm"):
            Path(word).touch()  # made by a line before
    while subcommands := getattr(command, "commands", None):
        assert words, f"{line!r} names no command"
        assert words[0] in subcommands, f"{line!r}: there is no command {words[0]!r}"
        command = subcommands[words.pop(0)]
    command.make_context(line, words)  # raises a usage error for what it does not take


@pytest.mark.parametrize("line", starting_with("make"))
def test_make_has_the_targets(line: str) -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert line.split()[1] in targets


@pytest.mark.parametrize("line", starting_with("pip"))
def test_the_extras_exist(line: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    match = re.fullmatch(r"pip install '(?:\.|cloister)\[([a-z,]+)\]'", line)
    assert match is not None
    assert set(match[1].split(",")) <= project["optional-dependencies"].keys()
