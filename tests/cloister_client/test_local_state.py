from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cloister_client.audit import AuditLog
from cloister_client.errors import UnfitAssignment
from cloister_client.local_state import LocalStore, listed
from cloister_protos import Assignment, Blob, Module

MIB = 1 << 20


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[AuditLog]:
    with closing(AuditLog(tmp_path / "audit.jsonl")) as log:
        yield log


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "local"


@pytest.fixture
def store(folder: Path, audit: AuditLog) -> LocalStore:
    return LocalStore(folder, "host:1", MIB, audit)


def assignment(version: int, job: str = "j", task: bytes = bytes(32)) -> Assignment:
    return Assignment(
        assignment_id=f"{job}/{version + 1}/c",
        job_id=job,
        job_name=f"name of {job}",
        base_version=version,
        task=Module(blob=Blob(digest=task)),
    )


def events(tmp_path: Path) -> list[str]:
    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


def test_rounds_go_on_from_what_was_kept(store: LocalStore, tmp_path: Path) -> None:
    assert store.begin(assignment(0), 2) is None
    store.keep(assignment(0), None, b"v0")
    assert store.begin(assignment(1), 2) == b"v0"
    store.keep(assignment(1), b"v0", b"v1")
    assert store.begin(assignment(5), 2) == b"v1"
    assert events(tmp_path) == ["local_written", "local_read", "local_written", "local_read"]


def test_a_repeated_round_begins_from_the_same_state(store: LocalStore) -> None:
    store.keep(assignment(0), None, b"v0")
    assert store.begin(assignment(0), 2) is None  # the task's own values, as before
    store.keep(assignment(1), b"v0", b"v1")
    for _ in range(2):
        assert store.begin(assignment(1), 2) == b"v0"
        store.keep(assignment(1), b"v0", b"v1")
    assert store.begin(assignment(2), 2) == b"v1"


def test_a_round_that_is_not_reported_changes_nothing(store: LocalStore, folder: Path) -> None:
    store.keep(assignment(0), None, b"v0")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert store.begin(assignment(1), 2) == b"v0"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_coordinators_jobs_and_tasks_are_kept_apart(
    store: LocalStore, folder: Path, audit: AuditLog
) -> None:
    other = LocalStore(folder, "host:2", MIB, audit)
    keys = [
        (store, assignment(1, "a")),
        (store, assignment(1, "b")),
        (store, assignment(1, "a", b"t" * 32)),
        (other, assignment(1, "a")),
    ]
    for number, (where, work) in enumerate(keys):
        where.keep(work, None, b"%d" % number)
    for number, (where, work) in enumerate(keys):
        again = Assignment()
        again.CopyFrom(work)
        again.base_version = 2
        assert where.begin(again, 1) == b"%d" % number
    assert sorted(store.jobs()) == ["a", "b"]
    assert store.forget(["a", "unknown"], "over") == 2
    assert store.jobs() == ["b"]
    assert other.jobs() == ["a"]


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_named_deleted_and_the_job_begins_anew(
    store: LocalStore, folder: Path, tmp_path: Path, data: st.DataObject
) -> None:
    store.keep(assignment(0), b"before", b"newest")
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    assert store.begin(assignment(1), 6) is None
    assert not path.exists()
    line = json.loads((tmp_path / "audit.jsonl").read_text().splitlines()[-1])
    assert (line["event"], line["file"]) == ("local_discarded", path.name)


def test_another_size_than_the_tasks_is_not_used(store: LocalStore) -> None:
    store.keep(assignment(0), None, b"1234")
    assert store.begin(assignment(1), 3) is None
    assert store.jobs() == []


def test_more_than_the_owner_allows_is_refused(folder: Path, audit: AuditLog) -> None:
    store = LocalStore(folder, "host:1", 40_000, audit)
    store.keep(assignment(0, "a"), None, bytes(10_000))
    assert store.begin(assignment(1, "a"), 10_000) == bytes(10_000)
    with pytest.raises(UnfitAssignment, match=r"10000 bytes .* local_mb"):
        store.begin(assignment(1, "b"), 10_000)


def test_a_disk_that_fails_keeps_the_older_state(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.keep(assignment(0), None, b"v0")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    store.keep(assignment(1), b"v0", b"v1")
    monkeypatch.undo()
    assert events(tmp_path)[-1] == "local_not_written"
    assert store.begin(assignment(2), 2) == b"v0"
    assert len(list((tmp_path / "local").iterdir())) == 1


def test_drafts_of_a_killed_run_are_swept(folder: Path, audit: AuditLog) -> None:
    folder.mkdir()
    (folder / "draft-1").write_bytes(b"half")
    LocalStore(folder, "host:1", MIB, audit)
    assert list(folder.iterdir()) == []


def test_what_is_listed_fits_any_name(store: LocalStore, folder: Path) -> None:
    given = assignment(3, "\U0001f9ea" * 256)
    store.keep(given, None, b"x")
    ((_, kept),) = listed(folder)
    assert (kept.job, kept.version, kept.state_bytes, kept.states) == (given.job_id, 3, 1, 1)
    (folder / "junk.local").write_bytes(b"\xff\n")
    assert len(list(listed(folder))) == 1
