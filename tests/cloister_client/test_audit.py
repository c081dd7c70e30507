import json
import stat
from pathlib import Path

import pytest

from cloister_client.audit import AuditLog
from cloister_client.errors import ConfigError


def test_lines_are_appended_across_restarts(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for number in range(2):
        log = AuditLog(path)
        log.write("started", number=number)
        log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event"], line["number"]) for line in lines] == [("started", 0), ("started", 1)]
    assert lines[0]["time"].endswith("+00:00")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_rotation_keeps_the_newest_files(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", file_bytes=100, kept_files=2)
    for number in range(20):
        log.write("event", number=number)
    log.close()
    assert len(list(tmp_path.iterdir())) == 3
    files = [tmp_path / f"audit.jsonl{suffix}" for suffix in (".2", ".1", "")]
    kept = [json.loads(line)["number"] for f in files for line in f.read_text().splitlines()]
    assert kept == list(range(kept[0], 20))


def test_an_unusable_path_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="audit log"):
        AuditLog(tmp_path / "absent" / "audit.jsonl")
