"""What happened on this device: an append-only log for its owner.

One JSON object per line with `time` (UTC, ISO 8601), `event` and the event's own fields. It
names assignments, decisions with their reasons and outcomes; it never holds data, parameters or
updates.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from cloister_client.errors import ConfigError

_log = logging.getLogger(__name__)

FILE_BYTES = 16 * 1024 * 1024
"""Size at which the file is set aside as `audit.jsonl.1` and a new one begun."""

KEPT_FILES = 9
"""Files set aside before the oldest is deleted."""


class AuditLog:
    """Writes `path`; thread-safe. A full disk is logged and stops no work."""

    def __init__(self, path: Path, file_bytes: int = FILE_BYTES, kept_files: int = KEPT_FILES):
        self._path, self._file_bytes, self._kept_files = path, file_bytes, kept_files
        self._lock = threading.Lock()
        try:
            self._file = self._open()
        except OSError as error:
            raise ConfigError(f"cannot write the audit log {path}: {error.strerror}") from error

    def write(self, event: str, **fields: Any) -> None:
        """Append one line; on its way to the disk when this returns."""
        line = json.dumps({"time": _now(), "event": event, **fields}, separators=(",", ":"))
        with self._lock:
            try:
                self._file.write(line.encode() + b"\n")
                if self._file.tell() >= self._file_bytes:
                    self._rotate()
            except (OSError, ValueError) as error:
                _log.error("cannot write the audit log %s: %s", self._path, error)

    def close(self) -> None:
        """Close the file; later writes are lost, with an error in the ordinary log."""
        with self._lock:
            self._file.close()

    def _open(self) -> IO[bytes]:
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return os.fdopen(handle, "ab", buffering=0)

    def _rotate(self) -> None:
        self._file.close()
        for number in range(self._kept_files - 1, -1, -1):
            older = self._path.with_name(f"{self._path.name}.{number + 1}")
            newer = self._path.with_name(f"{self._path.name}.{number}") if number else self._path
            if newer.exists():
                newer.replace(older)
        self._file = self._open()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
