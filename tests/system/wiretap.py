"""A relay on loopback that keeps all that clients send to a coordinator."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class Wiretap:
    """Listens at `address` and relays to a coordinator; ends with its context.

    Args:
        target: host and port of the coordinator.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._streams: list[bytearray] = []
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def stop(self) -> bytes:
        """Relay no more; what was sent, one connection after the other."""
        self._end(self._listener)
        for end in self._sockets:
            self._end(end)
        for thread in self._threads:
            thread.join()
        return b"\0".join(bytes(stream) for stream in self._streams)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # the listener was closed
                return
            coordinator = socket.create_connection(self._target)
            kept = bytearray()
            self._streams.append(kept)
            self._sockets += [client, coordinator]
            for source, sink, copy in ((client, coordinator, kept), (coordinator, client, None)):
                thread = threading.Thread(target=self._relay, args=(source, sink, copy))
                self._threads.append(thread)
                thread.start()

    def _relay(self, source: socket.socket, sink: socket.socket, copy: bytearray | None) -> None:
        try:
            while data := source.recv(1 << 16):
                if copy is not None:
                    copy += data
                sink.sendall(data)
        except OSError:
            pass
        self._end(source)
        self._end(sink)

    @staticmethod
    def _end(end: socket.socket) -> None:
        with suppress(OSError):  # whose other end is gone
            end.shutdown(socket.SHUT_RDWR)
        end.close()
