"""uvicorn's HTTP protocol with limits that it lacks: headers, and the time a request may take to come."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from modelway_runtime.process import BACKLOG

MAX_HEADER_BYTES = 32 * 1024
"""All headers of a request with its URL, counted by what was read at once; a JWT takes a few KiB."""
REQUEST_S = 60.0
"""How long a request's headers and body may take to arrive in full."""


class Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def config(app: Any, **own: Any) -> uvicorn.Config:
    """What all HTTP servers here have in common; ``own`` are further settings of uvicorn."""
    return uvicorn.Config(
        app,
        http=LimitedProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        **own,
    )


_HOP = frozenset({b"upgrade", b"connection", b"http2-settings"})  # what asks for another protocol


class LimitedProtocol(HttpToolsProtocol):
    """One connection. ``began`` is when a request began that has not arrived in full; else None."""

    began: float | None = None
    _in_headers = True
    _header_bytes = 0
    _fresh = False  # whether the present read began a request
    _trailer_bytes = 0
    _asked_for_upgrade = False
    _earlier: tuple[Any, ...] = ()  # pipelined requests before the newest that are not answered yet

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(OneWrite(transport))  # type: ignore[arg-type]  # all that uvicorn uses of one
        self.began = time.monotonic()  # a connection that says nothing is one that is slow

    def data_received(self, data: bytes) -> None:
        self._fresh = False
        self._feed(data)
        if self._in_headers and not self._fresh:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                self.send_400_response("The headers are too large.")

    def _feed(self, data: bytes) -> None:
        """Upgrades are ignored, which the parser cannot: it would drop the body. It reads again without."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            lines = [self.parser.get_method() + b" " + self.url + b" HTTP/1.1"]
            lines += [name + b": " + value for name, value in self.headers if name not in _HOP]
            self.parser = httptools.HttpRequestParser(self)
            self._asked_for_upgrade = False
            self._feed(b"\r\n".join(lines) + b"\r\n\r\n" + data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_headers:
            HttpToolsProtocol.on_header(self, name, value)
            return
        self._trailer_bytes += len(name) + len(value)
        if self._trailer_bytes > MAX_HEADER_BYTES:
            raise ValueError("the trailers are too large")  # the parser stops, and the caller is told 400

    def connection_lost(self, exc: Exception | None) -> None:
        for cycle in self._earlier:  # uvicorn tells the newest only
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self.transport.flush()  # type: ignore[attr-defined]  # an answer without a body
        super().on_response_complete()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.began = time.monotonic()
        self._in_headers = True
        self._fresh = True  # what came before it with the same read is no part of it
        self._header_bytes = 0
        self._trailer_bytes = 0

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._asked_for_upgrade = True
            return
        before = self.cycle
        super().on_headers_complete()
        if before is not None and not before.response_complete:
            self._earlier = (*(cycle for cycle in self._earlier if not cycle.response_complete), before)
        self._in_headers = False
        self._header_bytes = 0

    def on_message_complete(self) -> None:
        if self._asked_for_upgrade:
            return
        self.began = None
        super().on_message_complete()


class OneWrite:
    """A transport that sends the head of an answer together with the body that follows it.

    uvicorn writes them one after the other, and each write is a system call and a packet that wakes the
    caller.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.get_extra_info = transport.get_extra_info
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n") and data[9:12] != b"100":
            self._head = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        self.flush()
        self._transport.close()


def close_slow(connections: set[Any]) -> None:
    """Close the connections whose request takes too long to arrive; called every few seconds."""
    limit = time.monotonic() - REQUEST_S
    for connection in list(connections):
        if connection.began is not None and connection.began < limit:
            connection.transport.close()
