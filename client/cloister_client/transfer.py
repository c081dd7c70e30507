"""Bytes on their way in or out, which a broken connection interrupts but does not undo."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cloister_client.errors import DigestMismatch
from cloister_protos import Blob


class Download:
    """A blob that arrives in order; hashed as it comes, in one pass."""

    def __init__(self, blob: Blob, into: memoryview, what: str):
        """`into` is a writable view of blob.size bytes; `what` names the blob in errors."""
        assert into.nbytes == blob.size
        self.digest, self.what = blob.digest, what
        self.held = 0
        self._into, self._hash = into, hashlib.sha256()

    @property
    def missing(self) -> int:
        """Bytes still to come."""
        return self._into.nbytes - self.held

    def take(self, data: bytes) -> None:
        """Append a chunk. Raises DigestMismatch for more bytes than announced."""
        end = self.held + len(data)
        if end > self._into.nbytes:
            raise DigestMismatch(f"the {self.what} has more bytes than the assignment names")
        self._into[self.held : end] = data
        self._hash.update(data)
        self.held = end

    def verify(self) -> None:
        """Raises DigestMismatch if the complete bytes are others than those named."""
        assert not self.missing
        if self._hash.digest() != self.digest:
            raise DigestMismatch(f"the {self.what} does not have the digest the assignment names")


@dataclass
class Upload:
    """A blob that leaves from memory."""

    blob: Blob
    data: memoryview
    sent: int = 0
    """Bytes the coordinator acknowledged."""

    @classmethod
    def of(cls, data: memoryview) -> Upload:
        """All of `data` (contiguous bytes), hashed in one pass."""
        return cls(Blob(digest=hashlib.sha256(data).digest(), size=data.nbytes), data)
