"""Uploads on their way: what has arrived stays, over broken connections and restarts.

A part is a file named by what it is for and the digest it is to have. After a restart its
length says where to go on. Updates stay here until their round has ended; blobs of operators
move to the blob folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np

from cloister_coordinator.blobs import sync_folder
from cloister_coordinator.errors import Invalid
from cloister_protos import MAX_CHUNK_BYTES, Blob

Check: TypeAlias = Callable[[bytes], None]
"""Looks at each chunk before it is kept; raises Invalid."""

DIGEST_BYTES = 32
MAX_BLOB_BYTES = 1 << 32
_READ_BYTES = 1 << 20


def check_blob(blob: Blob, what: str) -> None:
    """Refuse what cannot be the name of a blob.

    Raises:
        Invalid: no digest, or too large.
    """
    if len(blob.digest) != DIGEST_BYTES or not 0 < blob.size <= MAX_BLOB_BYTES:
        raise Invalid(
            "BAD_BLOB",
            f"{what} names a blob with a digest of {len(blob.digest)} bytes and a size of"
            f" {blob.size}; a digest has {DIGEST_BYTES}, a size is from 1 to {MAX_BLOB_BYTES}",
        )


def check_finite(chunk: bytes) -> None:
    """Refuse f32 values that are no numbers.

    Raises:
        Invalid: the chunk cuts a value in two, or one is not finite.
    """
    if len(chunk) % 4:
        raise Invalid(
            "BAD_CHUNK",
            f"a chunk of {len(chunk)} bytes cuts a value in two",
            "Send chunks of a multiple of 4 bytes.",
        )
    if not np.isfinite(np.frombuffer(chunk, "<f4")).all():
        raise Invalid(
            "UPDATE_NOT_FINITE",
            "the update has values that are not finite",
            "Lower the learning rate, or look for broken rows in the data.",
        )


class Part:
    """One upload; its calls run one after the other."""

    def __init__(self, path: Path, blob: Blob, check: Check | None) -> None:
        self.path = path
        self.blob = blob
        self.complete = False
        self._check = check
        self._lock = asyncio.Lock()
        self._received: int | None = None
        self._hash = hashlib.sha256()

    async def take(self, offset: int, data: bytes) -> int:
        """Keep a chunk if it is the next; bytes held.

        When that is all of them they are durable and have the digest.

        Raises:
            Invalid: too long, refused by the check, or not what the digest names: then
                everything that arrived is gone.
        """
        if len(data) > MAX_CHUNK_BYTES:
            raise Invalid(
                "BAD_CHUNK",
                f"a chunk of {len(data)} bytes",
                f"Send at most {MAX_CHUNK_BYTES} bytes at once.",
            )
        async with self._lock:
            return await asyncio.to_thread(self._take, offset, data)

    def _take(self, offset: int, data: bytes) -> int:
        if self._received is None:
            self._recover()
        assert self._received is not None
        if self.complete or offset != self._received or not data:
            return self._received
        if offset + len(data) > self.blob.size:
            raise Invalid(
                "BAD_CHUNK", f"the chunk ends after the {self.blob.size} bytes of the blob"
            )
        if self._check is not None:
            self._check(data)
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(data)
            file.flush()
            self._hash.update(data)
            self._received += len(data)
            if self._received == self.blob.size:
                self._finish(file.fileno())
        return self._received

    def _recover(self) -> None:
        """Take up what an earlier process left, or begin."""
        self.path.touch()
        received = 0
        with self.path.open("r+b") as file:
            whole = self.path.stat().st_size // 4 * 4
            if whole > self.blob.size:
                whole = 0
            while data := file.read(min(_READ_BYTES, whole - received)):
                # What was refused then was not kept, so only broken disks fail here.
                self._hash.update(data)
                received += len(data)
            file.truncate(received)
            self._received = received
            if received == self.blob.size:
                self._finish(file.fileno())

    def _finish(self, descriptor: int) -> None:
        if self._hash.digest() != self.blob.digest:
            os.ftruncate(descriptor, 0)
            self._received = 0
            self._hash = hashlib.sha256()
            raise Invalid(
                "DIGEST_MISMATCH",
                "the bytes that arrived do not have the digest they were announced with",
                "Send them again from the first byte.",
            )
        os.fdatasync(descriptor)
        sync_folder(self.path.parent)
        self.complete = True


class Spool:
    """The folder of parts; made if missing."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._parts: dict[str, dict[str, Part]] = {}

    def path(self, group: str, name: str, digest: bytes) -> Path:
        """Where a part lies. A group is discarded as one."""
        return self._folder / f"{group}.{name}.{digest.hex()}"

    def part(self, group: str, name: str, blob: Blob, check: Check | None = None) -> Part:
        """The upload for this purpose; another blob than before begins anew."""
        parts = self._parts.setdefault(group, {})
        part = parts.get(name)
        if part is None or part.blob != blob:
            if part is not None:
                part.path.unlink(missing_ok=True)
            path = self.path(group, name, blob.digest)
            part = parts[name] = Part(path, Blob(digest=blob.digest, size=blob.size), check)
        return part

    def forget(self, group: str, name: str) -> None:
        """A part was taken over by somebody else."""
        self._parts.get(group, {}).pop(name, None)

    def discard(self, group: str) -> list[Path]:
        """Forget a group; the files to delete (which may take its time)."""
        return [part.path for part in self._parts.pop(group, {}).values()]

    def sweep(self, groups: Iterable[str]) -> None:
        """Delete what belongs to none of these groups; for the start."""
        keep = set(groups)
        for path in self._folder.iterdir():
            if path.name.split(".")[0] not in keep:
                path.unlink()
