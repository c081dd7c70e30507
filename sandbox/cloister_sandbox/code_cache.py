"""Native code of modules already compiled, in memory and on disk.

Native code runs with all the rights of the process that loads it, so the folder is as sensitive
as an executable. What keeps it honest, and what does not:

- The folder is 0700, its files are 0600, and neither may belong to somebody else.
- Each file carries a MAC under a key that lies in the folder: a file that was truncated, damaged,
  renamed, or put there by someone who can write files but not read them (a restored backup, a
  shared volume, another program's path traversal) is deleted and compiled anew.
- Who can read and write as this user can read the key and forge. He could as well replace the
  interpreter; and the code would still run in a confined child.
- A child hands over only what it compiled before any guest ran in it, and under the name of the
  module it is bound to: a module that subverts the compiler gains its own sandbox, no other's.
- In-process sandboxes never load what a child compiled: the two have names of their own.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import platform
import secrets
import stat
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from cloister_sandbox.limits import MIB

log = logging.getLogger(__name__)

_MAGIC = b"cloister code 1\n"
_KEY_BYTES = 32
_SUFFIX = ".code"


class CodeCache:
    """Native code by module and engine; thread-safe.

    Args:
        directory: where to keep it over restarts, made if it does not exist; None: only memory.
        settings: the engine's, and whatever else must never share code.
        memory_bytes: bytes kept in memory; beyond them the least recently used go.
        disk_bytes: bytes kept on disk; beyond them the oldest files go.

    Raises:
        PermissionError: the folder belongs to someone else.
    """

    def __init__(
        self,
        directory: Path | None,
        settings: Mapping[str, object],
        *,
        memory_bytes: int = 64 * MIB,
        disk_bytes: int = 512 * MIB,
    ) -> None:
        self._settings = dict(settings)
        self._memory_bytes = memory_bytes
        self._disk_bytes = disk_bytes
        self._recent: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._directory = directory
        if directory is not None:
            self._key = _open_directory(directory)
            self._fingerprint = _fingerprint(self._settings)

    def get(self, digest: bytes) -> bytes | None:
        """The native code of a module, if it is known and intact."""
        with self._lock:
            code = self._recent.get(digest)
            if code is None and self._directory is not None:
                code = self._read(digest)
                if code is not None:
                    self._remember(digest, code)
            elif code is not None:
                self._recent.move_to_end(digest)
            return code

    def put(self, digest: bytes, code: bytes) -> None:
        """Keep the native code of a module; a full disk is only logged."""
        with self._lock:
            self._remember(digest, code)
            if self._directory is not None:
                try:
                    self._write(self._directory, digest, code)
                except OSError as e:
                    log.warning("native code is not cached: %s", e)

    def forget(self, digest: bytes) -> None:
        """Drop what does not load."""
        with self._lock:
            self._recent.pop(digest, None)
            if self._directory is not None:
                self._path(self._directory, digest).unlink(missing_ok=True)

    def _remember(self, digest: bytes, code: bytes) -> None:
        self._recent[digest] = code
        self._recent.move_to_end(digest)
        while sum(map(len, self._recent.values())) > self._memory_bytes and len(self._recent) > 1:
            self._recent.popitem(last=False)

    def _path(self, directory: Path, digest: bytes) -> Path:
        name = hashlib.sha256(self._fingerprint + digest).hexdigest()
        return directory / (name + _SUFFIX)

    def _tag(self, path: Path, code: bytes) -> bytes:
        return hmac.digest(self._key, path.name.encode() + b"\0" + code, "sha256")

    def _read(self, digest: bytes) -> bytes | None:
        assert self._directory is not None
        path = self._path(self._directory, digest)
        try:
            content = _read_own(path)
        except FileNotFoundError:
            return None
        except OSError as e:
            log.warning("native code in %s cannot be used: %s", path, e)
            return None
        head = len(_MAGIC) + hashlib.sha256().digest_size
        tag, code = content[len(_MAGIC) : head], content[head:]
        if content[: len(_MAGIC)] == _MAGIC and hmac.compare_digest(tag, self._tag(path, code)):
            return code
        log.warning("native code in %s was damaged or forged; it is compiled anew", path)
        path.unlink(missing_ok=True)
        return None

    def _write(self, directory: Path, digest: bytes, code: bytes) -> None:
        path = self._path(directory, digest)
        _write_own(path, _MAGIC + self._tag(path, code) + code)
        files = sorted(directory.glob(f"*{_SUFFIX}"), key=lambda p: p.stat().st_mtime)
        excess = sum(p.stat().st_size for p in files) - self._disk_bytes
        for old in files[:-1]:
            if excess <= 0:
                break
            excess -= old.stat().st_size
            old.unlink(missing_ok=True)


def _open_directory(directory: Path) -> bytes:
    """Make the folder ours alone; its key."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_uid != os.geteuid():
        raise PermissionError(f"{directory} belongs to another user; name another cache folder")
    directory.chmod(0o700)
    path = directory / "key"
    with suppress(FileExistsError):
        temporary = directory / f".key.{secrets.token_hex(8)}"
        _write_own(temporary, secrets.token_bytes(_KEY_BYTES))
        try:
            os.link(temporary, path)  # fails if another process was first
        finally:
            temporary.unlink()
    key = _read_own(path)
    if len(key) != _KEY_BYTES:
        raise PermissionError(f"{path} is no key; remove it")
    return key


def _read_own(path: Path) -> bytes:
    """Read a plain file that nobody else could have written."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise PermissionError(f"{path} is no file of ours")
        if status.st_mode & 0o077:
            raise PermissionError(f"{path} is open to others")
        return file.read()


def _write_own(path: Path, content: bytes) -> None:
    """Replace a file at once, readable by nobody else. No fsync: damage is found by the MAC."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _fingerprint(settings: Mapping[str, object]) -> bytes:
    """32 bytes that change whenever native code made elsewhere might not run here."""
    facts = [version("wasmtime"), settings, platform.machine(), _cpu_features()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()


def _cpu_features() -> str:
    """The instruction sets of this machine, as the kernel names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
