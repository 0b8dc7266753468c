"""A small HTTP server on a port: uvicorn, with the limits that our own protocol class adds.

That class is the inference server's, so that headers, pipelines and slow connections are treated alike;
what is behind it is a bare ASGI application of a few routes, for which a framework would be more code.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

from modelway_runtime.process import listener
from modelway_runtime.serving.http_protocol import Limits, Uvicorn

App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
LIMITS = Limits(
    connections=256, headers_s=6.0, request_s=6.0, send_s=10.0, idle_s=30, unsent_bytes=64 * 2**20
)
_STOP_S = 3


class CannotListen(Exception):
    """The port cannot be had; the text says which and why."""


@contextlib.asynccontextmanager
async def listening(app: App, host: str, port: int) -> AsyncIterator[int]:
    """Serve ``app`` inside the block; the port is given, which for port 0 is a free one.

    Raises CannotListen.
    """
    try:
        socket = listener(host, port)
    except OSError as error:
        raise CannotListen(f"port {port} of {host} cannot be opened: {error.strerror or error}") from None
    server = Uvicorn(app, LIMITS, timeout_graceful_shutdown=_STOP_S)
    serving = asyncio.create_task(server.serve(sockets=[socket]))
    try:
        yield int(socket.getsockname()[1])
    finally:
        server.should_exit = True
        await serving
