"""Downloaded tasks and frozen parameters on disk, by digest, within a byte limit."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import threading
from collections import OrderedDict
from pathlib import Path

from cloister_client.errors import ConfigError

_log = logging.getLogger(__name__)


class BlobCache:
    """Files named by their SHA-256; the least recently used go first. Thread-safe.

    Content is verified at each read: a file that was altered or torn is deleted and counts as
    absent. A full or failing disk costs downloads, never a round.
    """

    def __init__(self, folder: Path, max_bytes: int):
        """Take over `folder` with what an earlier run left there; past `max_bytes` delete."""
        self._folder, self._max_bytes = folder, max_bytes
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files = [(file, file.stat()) for file in folder.iterdir()]
        except OSError as error:
            raise ConfigError(f"cannot use the cache folder {folder}: {error.strerror}") from error
        self._sizes: OrderedDict[str, int] = OrderedDict()  # least recently used first
        for file, stat in sorted(files, key=lambda entry: entry[1].st_mtime_ns):
            if len(file.name) == 64:
                self._sizes[file.name] = stat.st_size
            else:  # a draft of a run that was killed
                file.unlink(missing_ok=True)
        self._evict()

    def get(self, digest: bytes) -> bytes | None:
        """The blob, verified; None if it is not (or no longer) here."""
        name = digest.hex()
        with self._lock:
            if name not in self._sizes:
                return None
            self._sizes.move_to_end(name)
        path = self._folder / name
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).digest() == digest:
                os.utime(path)
                return data
            _log.warning("cached blob %s was altered on disk; deleted", name[:12])
        except OSError as error:
            _log.warning("cached blob %s is unreadable: %s", name[:12], error.strerror)
        self._forget(name)
        return None

    def put(self, digest: bytes, data: bytes | bytearray | memoryview) -> None:
        """Keep a verified blob, unless it alone exceeds the limit."""
        name = digest.hex()
        if len(data) > self._max_bytes or name in self._sizes:
            return
        draft = self._folder / f"draft-{secrets.token_hex(8)}"
        try:
            draft.write_bytes(data)
            draft.replace(self._folder / name)
        except OSError as error:
            _log.warning("cannot cache blob %s: %s", name[:12], error.strerror)
            draft.unlink(missing_ok=True)
            return
        with self._lock:
            self._sizes[name] = len(data)
            self._evict()

    def _evict(self) -> None:
        while sum(self._sizes.values()) > self._max_bytes:
            name, _ = self._sizes.popitem(last=False)
            (self._folder / name).unlink(missing_ok=True)

    def _forget(self, name: str) -> None:
        with self._lock:
            self._sizes.pop(name, None)
        (self._folder / name).unlink(missing_ok=True)
