"""Files in memory of a fixed size, to share bytes with a child process."""

from __future__ import annotations

import fcntl
import os


def create(name: str, nbytes: int) -> int:
    """A zeroed file whose size nobody can change: shrinking it would kill whoever maps it.

    Pages take memory only once they are touched.

    Returns:
        Its descriptor, to be closed by the caller.
    """
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, nbytes)
    fcntl.fcntl(
        descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    )
    return descriptor


def create_from(name: str, data: bytes) -> int:
    """A file that holds bytes which nobody can change."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(data)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor
