"""Builds kept on disk by what went into them, so that a template is compiled once."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

_DIGEST_BYTES = 32


def folder() -> Path:
    """Where builds are kept: ``$CLOISTER_CACHE``, or ``cloister`` in the user's cache folder."""
    if own := os.environ.get("CLOISTER_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cloister"


def cached(key: bytes, build: Callable[[], bytes]) -> bytes:
    """What was built for this key, or what ``build`` gives, which is then kept.

    A file is the content's SHA-256 and the content; a damaged one is built anew. Where nothing
    can be kept (read-only disk) nothing is, and every call builds.
    """
    path = folder() / "modules" / f"{hashlib.sha256(key).hexdigest()}.wasm"
    try:
        digest, content = _split(path.read_bytes())
        if hashlib.sha256(content).digest() == digest:
            return content
    except OSError:
        pass
    content = build()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, hashlib.sha256(content).digest() + content)
    except OSError:
        pass
    return content


def _split(data: bytes) -> tuple[bytes, bytes]:
    return data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, whoever else writes at the same time."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
