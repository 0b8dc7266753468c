"""uvicorn with the limits that it lacks: what connections of strangers may cost, in number, time and memory.

Of a connection at most ``PIPELINED`` requests wait for their answers, and each costs the same; what follows
is not read before they are answered. Headers, a body, an answer that is not taken, and silence have an end.
A port that is full closes its oldest idle connections for new ones, so that a probe of health gets in.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from modelway_runtime.process import BACKLOG

clock = time.monotonic
MAX_HEADER_BYTES = 32 * 1024
"""All headers of a request with its URL, counted by what was read at once; a JWT takes a few KiB."""
PIPELINED = 8
"""Requests of one connection that wait behind the one that is being answered."""
_SLICE = 2048  # bytes that are parsed at once: requests of 18 bytes are not more than a hundred
_AT_ONCE = struct.pack("ii", 1, 0)  # for SO_LINGER
_TICKS = 10  # of uvicorn's loop: a second


@dataclass(frozen=True, slots=True)
class Limits:
    """What the connections to one port may cost; times are in seconds.

    ``headers_s`` counts from a request's first byte, ``request_s`` until its last one or from the
    connection's beginning to its first; ``send_s`` is for an answer that the caller does not take, and
    what it takes at ``send_rate`` bytes a second. ``unsent_bytes`` bounds all such answers together.
    """

    connections: int = 1024
    headers_s: float = 10.0
    request_s: float = 60.0
    send_s: float = 30.0
    send_rate: int = 128 * 1024
    idle_s: int = 75
    unsent_bytes: int = 256 * 1024 * 1024


class Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers (the process has its own), which looks after its connections."""

    def __init__(self, app: Any, limits: Limits, **own: Any) -> None:
        """``own`` are further settings of uvicorn."""
        self._limits = limits
        config = uvicorn.Config(
            app,
            http=partial(LimitedProtocol, limits=limits),  # type: ignore[arg-type]  # whatever makes one
            ws="none",
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=limits.idle_s,
            **own,
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does for sockets that listen, with an end for handshakes of TLS."""
        loop = asyncio.get_running_loop()
        make: Any = partial(
            self.config.http_protocol_class,  # type: ignore[call-arg]  # of any protocol
            config=self.config,
            server_state=self.server_state,
            app_state={},
        )
        tls = self.config.ssl
        ends = self._limits.headers_s if tls else None
        self.servers = [
            await loop.create_server(make, sock=one, backlog=BACKLOG, ssl=tls, ssl_handshake_timeout=ends)
            for one in sockets or ()
        ]
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS == 0:
            connections: set[Any] = self.server_state.connections
            end_late(connections, self._limits)
        return await super().on_tick(counter)


_HOP = frozenset({b"upgrade", b"connection", b"http2-settings"})  # what asks for another protocol


class LimitedProtocol(HttpToolsProtocol):
    """One connection.

    ``began`` is when a request began that has not arrived in full; else None. ``active_at`` is when it last
    began or ended something. ``send_until`` is set while the caller does not take what it is sent.
    """

    began: float | None = None
    active_at = 0.0
    in_headers = True
    send_until: float | None = None
    closing_at: float | None = None
    _header_bytes = 0
    _fresh = False  # whether the present read began a request
    _trailer_bytes = 0
    _asked_for_upgrade = False
    _answering: Any = None  # the request that is being answered
    _body_left = 0  # of the request that is being read, where its length is known

    def __init__(self, *positional: Any, limits: Limits, **named: Any) -> None:
        super().__init__(*positional, **named)
        self._limits = limits
        self._held = memoryview(b"")  # read, not parsed yet

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(OneWrite(transport))  # type: ignore[arg-type]  # all that uvicorn uses of one
        self.flow = HoldingFlow(self.transport)
        self.began = self.active_at = clock()  # a connection that says nothing is one that is slow
        connections: set[Any] = self.connections
        if len(connections) > self._limits.connections:
            make_room(connections, self._limits)

    def data_received(self, data: bytes) -> None:
        self._held = memoryview(bytes(self._held) + data) if self._held else memoryview(data)
        self._unset_keepalive_if_required()
        self._parse_held()

    def _parse_held(self) -> None:
        """Parse what was read, as long as few requests wait for their answers."""
        held, at = self._held, 0
        while at < len(held) and len(self.pipeline) < PIPELINED and not self.transport.is_closing():
            part = held[at : at + max(_SLICE, self._body_left)]
            at += len(part)
            self._parse(part)
        self._held = held[at:] if not self.transport.is_closing() else held[:0]
        self.flow.hold(bool(self._held))  # type: ignore[attr-defined]

    def _parse(self, data: memoryview) -> None:
        self._fresh = False
        self._feed(data)
        if self.in_headers and not self._fresh:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
                self.send_400_response("The headers are too large.")

    def _feed(self, data: memoryview | bytes) -> None:
        """Upgrades are ignored, which the parser cannot: it would drop the body. It reads again without."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            lines = [self.parser.get_method() + b" " + self.url + b" HTTP/1.1"]
            lines += [name + b": " + value for name, value in self.headers if name not in _HOP]
            self.parser = httptools.HttpRequestParser(self)
            self._asked_for_upgrade = False
            self._feed(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(data[upgrade.args[0] :]))
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.in_headers:
            HttpToolsProtocol.on_header(self, name, value)
            return
        self._trailer_bytes += len(name) + len(value)
        if self._trailer_bytes > MAX_HEADER_BYTES:
            raise ValueError("the trailers are too large")  # the parser stops, and the caller is told 400

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.began = self.active_at = clock()
        self.in_headers = True
        self._fresh = True  # what came before it with the same read is no part of it
        self._header_bytes = 0
        self._trailer_bytes = 0

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._asked_for_upgrade = True
            return
        super().on_headers_complete()
        self._body_left = _length(self.headers)
        self.in_headers = False
        self._header_bytes = 0

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._body_left -= min(len(body), self._body_left)

    def on_message_complete(self) -> None:
        if self._asked_for_upgrade:
            return
        self.began = None
        self._body_left = 0
        super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self.transport.flush()  # type: ignore[attr-defined]  # an answer without a body
        self.active_at = clock()
        super().on_response_complete()
        if self._held:
            self._unset_keepalive_if_required()
            self._parse_held()

    def connection_lost(self, exc: Exception | None) -> None:
        self._held = self._held[:0]
        if self._answering is not None:  # uvicorn tells the newest only
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.send_until = clock() + self._limits.send_s + self.unsent / self._limits.send_rate
        connections: set[Any] = self.connections
        drop_unread(connections, self._limits)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.send_until = None

    @property
    def unsent(self) -> int:
        """Bytes of answers that the caller has not taken."""
        return self.transport.get_write_buffer_size()

    @property
    def answering(self) -> bool:
        """Whether the server has to do, not the caller."""
        cycle = self._answering
        return cycle is not None and not cycle.response_complete and not self.began and not self.send_until

    def end(self) -> None:
        """Close the connection; what its caller does not take is dropped."""
        self.connections.discard(self)
        if self.send_until is not None or self.closing_at is not None:  # nor does the system keep it
            connected: socket.socket = self.transport.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.transport.abort()


class HoldingFlow(FlowControl):
    """Nothing more is read while something that was read is held, whatever a request asks for."""

    _holding = False

    def hold(self, holding: bool) -> None:
        if holding != self._holding:
            self._holding = holding
            if holding:
                self.pause_reading()
            else:
                self.resume_reading()

    def resume_reading(self) -> None:
        if not self._holding:
            super().resume_reading()


class OneWrite:
    """A transport that sends the head of an answer together with the body that follows it.

    uvicorn writes them one after the other, and each write is a system call and a packet that wakes the
    caller.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.get_extra_info = transport.get_extra_info
        self.get_write_buffer_size = transport.get_write_buffer_size
        self.is_closing = transport.is_closing
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.abort = transport.abort

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


def end_late(connections: Iterable[Any], limits: Limits) -> None:
    """End the connections whose caller takes too long; called every second."""
    now = clock()
    for connection in list(connections):
        if connection.transport.is_closing() and connection.closing_at is None:
            connection.closing_at = now
        slow = limits.headers_s if connection.in_headers and connection.scope else limits.request_s
        late = (
            (connection.began is not None and connection.began + slow < now)
            or (connection.send_until is not None and connection.send_until < now)
            or (connection.closing_at is not None and connection.closing_at + limits.send_s < now)
        )
        if late:
            connection.end()


def make_room(connections: Iterable[Any], limits: Limits) -> None:
    """End some connections that only their callers need: silent ones first, then idle ones, the oldest first.

    A request that is being answered is not one, so that the newest goes where there are only such.
    """

    def order(connection: Any) -> tuple[int, float]:
        if connection.began and connection.in_headers:
            return 0, connection.active_at
        return 2 if connection.began or connection.send_until else 1, connection.active_at

    waiting = sorted((c for c in connections if not c.answering), key=order)
    for connection in waiting[: max(1, limits.connections // 16)]:
        connection.end()


def drop_unread(connections: Iterable[Any], limits: Limits) -> None:
    """End connections whose answers are not taken while these are too large together, the oldest first."""
    unread = sorted((c for c in connections if c.send_until is not None), key=lambda c: c.send_until)
    total = sum(connection.unsent for connection in unread)
    for connection in unread[:-1]:
        if total <= limits.unsent_bytes:
            return
        total -= connection.unsent
        connection.end()


def _length(headers: list[tuple[bytes, bytes]]) -> int:
    """Of a body; 0 where it is sent in chunks."""
    declared = next((value for name, value in headers if name == b"content-length"), b"0")
    return int(declared) if declared.isdigit() else 0
