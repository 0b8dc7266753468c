"""The standard health service of gRPC, which follows readiness."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelway_runtime.serving.grpc.messages import SERVICE

_Status = health_pb2.HealthCheckResponse
_SERVICES = ("", SERVICE)


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc comes without types
    """Answers for the server as a whole and for its one service.

    The library's own servicer keeps each watcher until the end of the grace period; this one lets them
    go as soon as the server stops.
    """

    def __init__(self) -> None:
        self._ready = False
        self._stopped = False
        self._changed = asyncio.Event()

    def set_ready(self, ready: bool) -> None:
        self._ready = ready and not self._stopped
        self._notify()

    def stop(self) -> None:
        """Tell every watcher that the service has ended, and let it go."""
        self._ready = False
        self._stopped = True
        self._notify()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802  # the protocol's name
        if request.service not in _SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _Status(status=self._status())

    async def Watch(self, request: Any, _context: Any) -> AsyncIterator[Any]:  # noqa: N802
        known = request.service in _SERVICES
        told: object = None
        while True:
            changed = self._changed
            status = self._status() if known else _Status.SERVICE_UNKNOWN
            if status != told:
                yield _Status(status=status)
                told = status
            if self._stopped:
                return
            if changed is self._changed:
                await changed.wait()

    def _status(self) -> Any:
        return _Status.SERVING if self._ready else _Status.NOT_SERVING

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
