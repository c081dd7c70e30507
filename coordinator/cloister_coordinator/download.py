"""Sending blobs in chunks."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from cloister_coordinator.blobs import Blobs
from cloister_coordinator.errors import Invalid, NotFound
from cloister_protos import Chunk

IN_FLIGHT_BYTES = 8 * 1024 * 1024
"""Bytes of all chunks on their way at once: the more downloads, the smaller their chunks."""
MIN_CHUNK_BYTES = 64 * 1024
BEST_CHUNK_BYTES = 1024 * 1024
"""Larger ones were no faster; it is at most `cloister_protos.MAX_CHUNK_BYTES`."""


class Downloads:
    """All downloads under way."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._active = 0

    async def send(
        self, digest: bytes, offset: int, context: grpc.aio.ServicerContext[Any, Chunk]
    ) -> None:
        """Write a blob from an offset on to a stream.

        Raises:
            NotFound: there is no such blob.
            Invalid: the offset lies after its end.
        """
        size = await asyncio.to_thread(self._blobs.size, digest)
        if size is None:
            raise NotFound("NO_BLOB", f"there is no blob {digest.hex()[:64]}")
        if offset > size:
            raise Invalid("BAD_OFFSET", f"offset {offset} of a blob of {size} bytes")
        self._active += 1
        try:
            while offset < size:
                fair = IN_FLIGHT_BYTES // self._active
                count = min(max(fair, MIN_CHUNK_BYTES), BEST_CHUNK_BYTES)
                data = await asyncio.to_thread(self._blobs.read, digest, offset, count)
                offset += len(data)
                await context.write(Chunk(data=data))
        finally:
            self._active -= 1
