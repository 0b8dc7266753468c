"""The port that a Prometheus scrapes, in a thread of its own: a scrape never waits for requests."""

from __future__ import annotations

import asyncio
from threading import Thread

from prometheus_client import CollectorRegistry, make_asgi_app

from modelway_runtime.process import listener
from modelway_runtime.serving.http_protocol import Limits, Uvicorn

LIMITS = Limits(connections=64, headers_s=5.0, request_s=10.0, send_s=10.0, unsent_bytes=64 * 2**20)
"""A few Prometheis, each with one connection that it keeps."""


class MetricsPort:
    """Answers scrapes from when it is made until it is closed; one at a time is computed."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        """Port 0 is a free one. Raises OSError."""
        self._socket = listener(host, port)
        self.number = int(self._socket.getsockname()[1])
        self._server = Uvicorn(make_asgi_app(registry), LIMITS, timeout_graceful_shutdown=1)
        self._thread = Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(5.0)

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))
