from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from cloister.job_file import load_job
from cloister_client import parse_config

from .pages import Block, blocks

ALL = list(blocks("toml"))


def is_device(block: Block) -> bool:
    return "policy" in tomllib.loads(block.text)


@pytest.mark.parametrize("block", [b for b in ALL if is_device(b)], ids=str)
def test_the_client_takes_the_settings(block: Block, tmp_path: Path) -> None:
    parse_config(block.text, tmp_path)


@pytest.mark.parametrize("block", [b for b in ALL if not is_device(b)], ids=str)
def test_the_coordinator_is_sent_the_job(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text(block.text)
    assert load_job(file)["rounds"] > 0
