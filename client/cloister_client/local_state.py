"""What jobs keep on this device between rounds: the LOCAL buffers of their tasks.

One file for each job of a coordinator and task. It holds two states: the newest, and the one that
the round of the newest began from. A state is written once the coordinator has taken the round's
report, so a round that failed, was withdrawn or died with the client leaves the file as it was. A
round that begins from the same model version as the last one reported (which was abandoned, then)
begins from the same local state as that one did.

A file is a line of JSON, the states' bytes (little-endian, in manifest order) and the SHA-256 of
both. One that was truncated or altered is deleted, and the job begins anew with the task's own
values.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cloister_client.audit import AuditLog
from cloister_client.errors import ConfigError, UnfitAssignment
from cloister_protos import Assignment

_log = logging.getLogger(__name__)

MAX_KEPT_JOBS = 1000
"""Jobs asked about at a check-in; of more, those written last."""
_DIGEST_BYTES = 32
_HEADER_BYTES = 16384
"""Bytes a header takes at most: its texts are bounded by the assignment's own bounds."""
_SUFFIX = ".local"


@dataclass(frozen=True)
class Kept:
    """What the header of a file says."""

    coordinator: str
    """Its address, as in the configuration."""
    job: str
    job_name: str
    task: str
    """SHA-256 of the module, hexadecimal."""
    version: int
    """Model version that the round of the newest state began from."""
    state_bytes: int
    """Bytes of one state."""
    states: int
    """1: the round began with the task's own values; 2: the state it began from is there too."""
    saved: str
    """UTC, ISO 8601."""


class LocalStore:
    """The files of one device for one coordinator. Used by one thread, but for `forget`."""

    def __init__(self, folder: Path, coordinator: str, max_bytes: int, audit: AuditLog):
        """Take over `folder` with what earlier runs left there.

        `max_bytes` is what all files together may take; a job that needs more is refused.
        """
        self._folder, self._coordinator = folder, coordinator
        self._max_bytes, self._audit = max_bytes, audit
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            for draft in folder.glob("draft-*"):  # of a run that was killed
                draft.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot use the folder {folder}: {error.strerror}") from error

    def begin(self, assignment: Assignment, state_bytes: int) -> bytes | None:
        """The state this assignment begins with; None: the task's own values.

        Raises UnfitAssignment when there is no room for what the job will keep.
        """
        path = self._path(assignment)
        self._check_room(path, state_bytes)
        found = self._read(path, assignment)
        if found is None:
            return None
        kept, states = found
        if kept.state_bytes != state_bytes:
            self._discard(path, assignment, f"it holds {kept.state_bytes} bytes a state")
            return None
        again = assignment.base_version <= kept.version
        if again and kept.states == 1:
            return None
        state = states[:state_bytes] if again else states[-state_bytes:]
        self._record("local_read", assignment, state_bytes, repeated=again)
        return state

    def keep(self, assignment: Assignment, before: bytes | None, newest: bytes) -> None:
        """Write what the round of `assignment` ended with; `before` is what `begin` gave it.

        A failing disk is logged and audited: the job goes on from the older state.
        """
        kept = Kept(
            coordinator=self._coordinator,
            job=assignment.job_id,
            job_name=assignment.job_name,
            task=assignment.task.blob.digest.hex(),
            version=assignment.base_version,
            state_bytes=len(newest),
            states=1 if before is None else 2,
            saved=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        content = json.dumps(asdict(kept)).encode() + b"\n" + (before or b"") + newest
        try:
            _write(self._path(assignment), content + hashlib.sha256(content).digest())
        except OSError as error:
            _log.error("cannot keep the local state of job %.64r: %s", kept.job, error.strerror)
            self._record("local_not_written", assignment, len(newest), reason=error.strerror)
        else:
            self._record("local_written", assignment, len(newest))

    def jobs(self) -> list[str]:
        """Ids of the coordinator's jobs that keep something here, at most MAX_KEPT_JOBS."""
        found = sorted(
            (kept for _, kept in listed(self._folder) if kept.coordinator == self._coordinator),
            key=lambda kept: kept.saved,
        )
        return list(dict.fromkeys(kept.job for kept in reversed(found)))[:MAX_KEPT_JOBS]

    def forget(self, job_ids: Collection[str], reason: str) -> int:
        """Delete what the coordinator's jobs of these ids keep; how many files that was."""
        wanted, count = set(job_ids), 0
        for path, kept in listed(self._folder):
            if kept.coordinator == self._coordinator and kept.job in wanted:
                path.unlink(missing_ok=True)
                self._audit.write("local_deleted", job=kept.job_name, id=kept.job, reason=reason)
                count += 1
        return count

    def _path(self, assignment: Assignment) -> Path:
        key = [self._coordinator, assignment.job_id, assignment.task.blob.digest.hex()]
        return self._folder / (hashlib.sha256(json.dumps(key).encode()).hexdigest() + _SUFFIX)

    def _check_room(self, path: Path, state_bytes: int) -> None:
        others = sum(
            file.stat().st_size for file in self._folder.glob(f"*{_SUFFIX}") if file != path
        )
        needed = 2 * state_bytes + _HEADER_BYTES + _DIGEST_BYTES
        if others + needed > self._max_bytes:
            raise UnfitAssignment(
                f"the task keeps {state_bytes} bytes on the device, twice; with the {others} bytes "
                f"of other jobs that is more than the {self._max_bytes} that local_mb allows"
            )

    def _read(self, path: Path, assignment: Assignment) -> tuple[Kept, bytes] | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._discard(path, assignment, error.strerror or "unreadable")
            return None
        content, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            self._discard(path, assignment, "it was truncated or altered")
            return None
        header, _, states = content.partition(b"\n")
        kept = _parse(header)
        if kept is None or len(states) != kept.states * kept.state_bytes:
            self._discard(path, assignment, "it is of another version of the format")
            return None
        return kept, states

    def _discard(self, path: Path, assignment: Assignment, reason: str) -> None:
        _log.error("%s: %s; deleted, and job %.64r begins anew", path, reason, assignment.job_name)
        path.unlink(missing_ok=True)
        self._record("local_discarded", assignment, 0, file=path.name, reason=reason)

    def _record(self, event: str, assignment: Assignment, nbytes: int, **fields: Any) -> None:
        name = assignment.assignment_id[:256]
        self._audit.write(event, assignment=name, bytes=nbytes, **fields)


def listed(folder: Path) -> Iterator[tuple[Path, Kept]]:
    """The files of a folder with what their headers say; those without a header are left out."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            with path.open("rb") as file:
                kept = _parse(file.readline(_HEADER_BYTES))
        except OSError:
            continue
        if kept is not None:
            yield path, kept


def _parse(header: bytes) -> Kept | None:
    try:
        kept = Kept(**json.loads(header))
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (kept.coordinator, kept.job, kept.job_name, kept.task, kept.saved)
    numbers = (kept.version, kept.state_bytes, kept.states)
    typed = all(isinstance(t, str) for t in texts) and all(isinstance(n, int) for n in numbers)
    return kept if typed else None


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing, also when the power fails."""
    draft = path.with_name(f"draft-{secrets.token_hex(8)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
