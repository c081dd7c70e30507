from __future__ import annotations

import ast
import importlib
from itertools import groupby
from pathlib import Path

import pytest

from .pages import Block, blocks, name

ALL = list(blocks("python"))
RUN = [block for block in ALL if ".needs-coordinator" not in block.info]
BY_PAGE = {page: list(group) for page, group in groupby(RUN, key=lambda block: block.page)}


@pytest.mark.parametrize("page", BY_PAGE, ids=name)
def test_the_blocks_of_a_page_run_one_after_the_other(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "example"}
    for block in BY_PAGE[page]:
        exec(compile("\n" * (block.line - 1) + block.text, str(block.page), "exec"), namespace)


@pytest.mark.parametrize("block", [b for b in ALL if b not in RUN], ids=str)
def test_what_a_block_that_needs_a_coordinator_imports_is_there(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{block}: no {alias.name} in {node.module}"
