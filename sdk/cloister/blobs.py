"""Content-addressed bytes on their way to and from a coordinator, in resumable chunks."""

from __future__ import annotations

import hashlib

from cloister.connection import Connection
from cloister.errors import CoordinatorFault, Unreachable
from cloister_protos import MAX_CHUNK_BYTES, Blob, GetBlobRequest, PutBlobRequest

CHUNK_SECONDS = 60.0
"""Deadline of one chunk up, and of each attempt to go on with a download that brought nothing;
past it: Unreachable."""
SLOWEST_BYTES_PER_SECOND = 128 * 1024
"""A download slower than this is broken off and taken up again where it stopped."""


def put(connection: Connection, data: bytes | memoryview) -> Blob:
    """Give the coordinator bytes; what it already holds of them is not sent again.

    Raises OperatorError. Calling it again after an error goes on where the first call stopped.
    """
    view = memoryview(data).cast("B")
    blob = Blob(digest=hashlib.sha256(view).digest(), size=view.nbytes)
    # an empty chunk asks how much is there
    offset = _put_chunk(connection, blob, 0, b"")
    while offset < view.nbytes:
        received = _put_chunk(
            connection, blob, offset, bytes(view[offset : offset + MAX_CHUNK_BYTES])
        )
        if received <= offset:
            raise CoordinatorFault(
                f"the coordinator holds {received} bytes after a chunk at {offset}"
            )
        offset = received
    return blob


def _put_chunk(connection: Connection, blob: Blob, offset: int, data: bytes) -> int:
    request = PutBlobRequest(blob=blob, offset=offset, data=data)
    received = connection.call(connection.stub.PutBlob, request, CHUNK_SECONDS).received
    if received > blob.size:
        raise CoordinatorFault(f"the coordinator holds {received} of {blob.size} bytes")
    return int(received)


def get(connection: Connection, blob: Blob) -> bytearray:
    """Fetch bytes by digest and check them; a broken stream goes on where it stopped.

    Raises OperatorError; Unreachable after an attempt that brought nothing.
    """
    data = bytearray(blob.size)
    held = 0
    while held < blob.size:
        before = held
        seconds = CHUNK_SECONDS + (blob.size - held) / SLOWEST_BYTES_PER_SECOND
        request = GetBlobRequest(digest=blob.digest, offset=held)
        try:
            for chunk in connection.stream(connection.stub.GetBlob, request, seconds):
                end = held + len(chunk.data)
                if end > blob.size:
                    raise CoordinatorFault(f"the blob has more than the {blob.size} bytes it names")
                data[held:end] = chunk.data
                held = end
        except Unreachable:
            if held == before:
                raise
        else:
            if held < blob.size:
                raise CoordinatorFault(f"the blob ends after {held} of {blob.size} bytes")
    if hashlib.sha256(data).digest() != blob.digest:
        raise CoordinatorFault("the coordinator sent bytes of another digest than was asked for")
    return data
