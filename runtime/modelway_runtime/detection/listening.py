"""A small HTTP server on a port: uvicorn, with the limits that our own protocol class adds.

That class is the inference server's, so that headers, pipelines and slow connections are treated alike;
what is behind it is a bare ASGI application of a few routes, for which a framework would be more code.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import uvicorn

from modelway_runtime.process import listener
from modelway_runtime.serving.http_protocol import Uvicorn, config

App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
CONNECTIONS = 256
"""At a time; more are told 503."""
SLOW_S = 6.0
"""How long a request may take to arrive."""
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
    own = {"loop": "asyncio", "limit_concurrency": CONNECTIONS, "timeout_keep_alive": 30}
    server = Uvicorn(config(app, **own, timeout_graceful_shutdown=_STOP_S))
    serving = asyncio.create_task(server.serve(sockets=[socket]))
    closing = asyncio.create_task(_close_slow(server))
    try:
        yield int(socket.getsockname()[1])
    finally:
        closing.cancel()
        server.should_exit = True
        await serving


async def _close_slow(server: uvicorn.Server) -> None:
    while True:
        await asyncio.sleep(1.0)
        limit = time.monotonic() - SLOW_S
        connections: list[Any] = list(server.server_state.connections)
        for connection in connections:
            if connection.began is not None and connection.began < limit:
                connection.transport.close()
