"""The standard health service of gRPC, which follows readiness."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from modelway_runtime.serving.grpc.messages import SERVICE, HealthCheckRequest, HealthCheckResponse

_SERVICES = ("", SERVICE)


class Health:
    """Answers for the server as a whole and for its one service.

    The servicer of grpcio-health-checking keeps each watcher until the end of the grace period; this one
    lets them go as soon as the server stops. That package is also generated for a newer protobuf than the
    clients of the protocol allow.
    """

    def __init__(self) -> None:
        self._ready = False
        self._stopped = False
        self._changed = asyncio.Event()

    def handlers(self) -> Any:
        """The RPCs, by name."""
        read, write = HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, read, write),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, read, write),
        }
        return grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods)

    def set_ready(self, ready: bool) -> None:
        self._ready = ready and not self._stopped
        self._notify()

    def stop(self) -> None:
        """Tell every watcher that the service has ended, and let it go."""
        self._ready = False
        self._stopped = True
        self._notify()

    async def _check(self, request: Any, context: Any) -> Any:
        if request.service not in _SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return HealthCheckResponse(status=self._status())

    async def _watch(self, request: Any, _context: Any) -> AsyncIterator[Any]:
        known = request.service in _SERVICES
        told: object = None
        while True:
            changed = self._changed
            status = self._status() if known else HealthCheckResponse.SERVICE_UNKNOWN
            if status != told:
                yield HealthCheckResponse(status=status)
                told = status
            if self._stopped:
                return
            if changed is self._changed:
                await changed.wait()

    def _status(self) -> Any:
        return HealthCheckResponse.SERVING if self._ready else HealthCheckResponse.NOT_SERVING

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
