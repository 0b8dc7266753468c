"""uvicorn's HTTP protocol with limits that it lacks: headers, and the time a request may take to come."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 32 * 1024
"""All headers of a request with its URL, counted by what was read at once; a JWT takes a few KiB."""
REQUEST_S = 60.0
"""How long a request's headers and body may take to arrive in full."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection. ``began`` is when a request began that has not arrived in full; else None."""

    began: float | None = None
    _in_headers = True
    _header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.began = time.monotonic()  # a connection that says nothing is one that is slow

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                self.send_400_response("The headers are too large.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.began = time.monotonic()
        self._in_headers = True

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_headers = False
        self._header_bytes = 0

    def on_message_complete(self) -> None:
        self.began = None
        super().on_message_complete()


def close_slow(connections: set[Any]) -> None:
    """Close the connections whose request takes too long to arrive; called every few seconds."""
    limit = time.monotonic() - REQUEST_S
    for connection in list(connections):
        if connection.began is not None and connection.began < limit:
            connection.transport.close()
