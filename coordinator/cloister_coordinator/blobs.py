"""Content-addressed files, durable before they are named.

A blob is written to a temporary file, synced, renamed to its digest, and the folder is synced.
What a round brings forth and is small lies in the database instead (`ledger.NewVersion`), so
that one fsync makes both durable.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

import numpy as np
from sqlalchemy import Engine

from cloister_coordinator import ledger
from cloister_coordinator.blocks import F32, ArrayBlocks, Blocks, FileBlocks


class Blobs:
    """The folder of blobs; any thread may use it.

    Args:
        folder: made if missing; unfinished files of an earlier process are removed.
        engine: database of the small blobs.
    """

    def __init__(self, folder: Path, engine: Engine) -> None:
        self._folder = folder
        self._engine = engine
        self._unfinished = folder / "unfinished"
        self._unfinished.mkdir(parents=True, exist_ok=True)
        for left_over in self._unfinished.iterdir():
            left_over.unlink()

    def path(self, digest: bytes) -> Path:
        """Where a blob lies, if it is a file."""
        name = digest.hex()
        return self._folder / name[:2] / name

    def size(self, digest: bytes) -> int | None:
        """Bytes of a blob; None if there is none."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            small = self._small(digest)
            return None if small is None else len(small)

    def read(self, digest: bytes, offset: int = 0, count: int = -1) -> bytes:
        """Bytes of a blob from an offset on; all of them for -1.

        Raises:
            FileNotFoundError: there is no such blob.
        """
        try:
            with self.path(digest).open("rb") as file:
                file.seek(offset)
                return file.read(count)
        except FileNotFoundError:
            small = self._small(digest)
            if small is None:
                raise
            return small[offset : None if count < 0 else offset + count]

    def vector(self, digest: bytes) -> Blocks:
        """A blob of f32 as a vector."""
        small = self._small(digest)
        if small is None:
            return FileBlocks(self.path(digest))
        return ArrayBlocks(np.frombuffer(small, "<f4"))

    def writer(self) -> BlobWriter:
        """Begin a blob."""
        return BlobWriter(self, self._unfinished / secrets.token_hex(16))

    def adopt(self, path: Path, digest: bytes) -> None:
        """Make a complete and synced file on the same file system a blob."""
        target = self.path(digest)
        if not target.parent.is_dir():
            target.parent.mkdir(exist_ok=True)
            sync_folder(self._folder)
        path.replace(target)
        sync_folder(target.parent)

    def _small(self, digest: bytes) -> bytes | None:
        with self._engine.connect() as connection:
            return ledger.small_blob(connection, digest)


class BlobWriter:
    """A blob in the making, hashed on its way; a `blocks.Sink` too."""

    def __init__(self, blobs: Blobs, path: Path) -> None:
        self.size = 0
        self._blobs = blobs
        self._path = path
        self._hash = hashlib.sha256()
        self._file = path.open("wb", buffering=0)

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        rest = memoryview(data)
        self._hash.update(rest)
        self.size += rest.nbytes
        while rest:
            rest = rest[self._file.write(rest) :]

    def write_from(self, start: int, values: F32) -> None:
        """See blocks.Sink."""
        assert 4 * start == self.size
        self.write(np.ascontiguousarray(values, "<f4").data.cast("B"))

    def commit(self) -> bytes:
        """Make it durable; its digest."""
        os.fdatasync(self._file.fileno())
        self._file.close()
        digest = self._hash.digest()
        self._blobs.adopt(self._path, digest)
        return digest

    def discard(self) -> None:
        """Forget it; harmless after a commit."""
        self._file.close()
        with suppress(FileNotFoundError):
            self._path.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
