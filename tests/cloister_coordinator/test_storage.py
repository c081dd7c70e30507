"""Database, journal, blobs and spool on a real disk."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, text

from cloister_coordinator import ledger
from cloister_coordinator.blobs import Blobs
from cloister_coordinator.database import open_database
from cloister_coordinator.errors import ConfigurationError, Invalid, StorageFailed
from cloister_coordinator.journal import Journal
from cloister_coordinator.ledger import NewVersion
from cloister_coordinator.schema import Base
from cloister_coordinator.spool import Spool, check_finite
from cloister_protos import Blob

from .loopback import blob_of


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(f"sqlite:///{tmp_path / 'test.db'}")


def test_the_migrations_make_the_tables_of_the_schema(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
    engine.dispose()


def test_a_database_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "broken.db").write_bytes(b"this is no database" * 100)
    for url in (f"sqlite:///{tmp_path / 'broken.db'}", "nonsense://", "sqlite:////no/such/x.db"):
        with pytest.raises(ConfigurationError, match="cannot be opened"):
            open_database(url)


async def test_the_journal_keeps_the_order_and_shares_transactions(engine: Engine) -> None:
    journal = Journal(engine)
    connections: list[Connection] = []
    order: list[int] = []

    def write(number: int) -> None:
        def statement(connection: Connection) -> None:
            order.append(number)
            connections.append(connection)

        futures.append(journal.write(statement))

    futures: list[asyncio.Future[None]] = []
    for number in range(1000):
        write(number)
    await asyncio.gather(*futures)
    assert order == list(range(1000))
    assert len({id(connection) for connection in connections}) < 1000
    await journal.close()
    engine.dispose()


async def test_after_a_failure_nothing_is_written_any_more(engine: Engine) -> None:
    journal = Journal(engine)
    await journal.flush()
    with pytest.raises(StorageFailed):
        await journal.write(lambda c: c.execute(text("INSERT INTO nothing VALUES (1)")) and None)
    assert journal.failed.is_set()
    with pytest.raises(StorageFailed):
        await journal.flush()
    await journal.close()
    engine.dispose()


def test_a_blob_has_its_name_only_when_it_is_whole(tmp_path: Path, engine: Engine) -> None:
    blobs = Blobs(tmp_path / "blobs", engine)
    abandoned = blobs.writer()
    abandoned.write(b"half")
    values = np.arange(1000, dtype="<f4")
    writer = blobs.writer()
    writer.write_from(0, values[:600])
    writer.write_from(600, values[600:])
    digest = writer.commit()
    writer.discard()
    abandoned.discard()
    assert digest == hashlib.sha256(values.tobytes()).digest()
    assert blobs.size(digest) == 4000
    assert blobs.read(digest, 3990) == values.tobytes()[3990:]
    assert blobs.size(bytes(32)) is None
    with pytest.raises(FileNotFoundError):
        blobs.read(bytes(32))
    part = np.empty(5, np.float32)
    blobs.vector(digest).read_into(995, part)
    assert part.tolist() == [995, 996, 997, 998, 999]
    (tmp_path / "blobs" / "unfinished" / "left").write_bytes(b"over")
    Blobs(tmp_path / "blobs", engine)
    assert not list((tmp_path / "blobs" / "unfinished").iterdir())
    engine.dispose()


def test_small_blobs_come_out_of_the_database(tmp_path: Path, engine: Engine) -> None:
    content = np.arange(4, dtype="<f4").tobytes()
    digest = hashlib.sha256(content).digest()
    with engine.begin() as connection:
        for version in (0, 1):  # the same content twice
            new = NewVersion(version, digest, 16, 0, None, content)
            if version == 0:
                ledger.add_job(connection, "j", b"", "", new, 0)
            else:
                ledger.add_version(connection, "j", new, 0)
    blobs = Blobs(tmp_path / "blobs", engine)
    assert blobs.size(digest) == 16
    assert blobs.read(digest, 4, 8) == content[4:12]
    part = np.empty(2, np.float32)
    blobs.vector(digest).read_into(2, part)
    assert part.tolist() == [2, 3]
    engine.dispose()


async def test_a_part_survives_its_process(tmp_path: Path) -> None:
    content = np.arange(5000, dtype="<f4").tobytes()
    blob = blob_of(content)
    before = Spool(tmp_path).part("group", "name", blob, check_finite)
    assert await before.take(0, content[:8000]) == 8000
    with before.path.open("ab") as file:
        file.write(b"to")  # a torn write
    after = Spool(tmp_path).part("group", "name", blob, check_finite)
    assert await after.take(0, b"") == 8000
    assert await after.take(8000, content[8000:]) == len(content)
    assert after.complete
    again = Spool(tmp_path).part("group", "name", blob, check_finite)
    assert await again.take(0, b"") == len(content)
    assert again.complete


async def test_another_update_begins_anew(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first = spool.part("group", "name", blob_of(b"12345678"))
    await first.take(0, b"1234")
    second = spool.part("group", "name", blob_of(b"87654321"))
    assert await second.take(0, b"8765") == 4
    assert not first.path.exists()
    assert spool.discard("group") == [second.path]


async def test_what_a_broken_disk_left_is_found_out(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    part = spool.part("group", "name", blob_of(b"12345678"))
    await part.take(0, b"1234")
    part.path.write_bytes(b"4321")
    part = Spool(tmp_path).part("group", "name", blob_of(b"12345678"))
    assert await part.take(0, b"") == 4
    with pytest.raises(Invalid, match="do not have the digest"):
        await part.take(4, b"5678")
    assert await part.take(0, b"12345678") == 8


async def test_chunks_are_bounded(tmp_path: Path) -> None:
    part = Spool(tmp_path).part("group", "name", Blob(digest=bytes(32), size=8))
    with pytest.raises(Invalid, match="ends after"):
        await part.take(0, bytes(9))
    with pytest.raises(Invalid, match="a chunk of 3000000"):
        await part.take(0, bytes(3_000_000))
    assert await part.take(0, b"") == 0


def test_the_sweep_keeps_what_is_wanted(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for group in ("job-1", "job-2", "operator"):
        spool.path(group, "name", bytes(32)).touch()
    spool.sweep(["job-2", "operator"])
    assert sorted(p.name.split(".")[0] for p in tmp_path.iterdir()) == ["job-2", "operator"]
