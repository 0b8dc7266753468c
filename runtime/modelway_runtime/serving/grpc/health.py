"""The standard health service of gRPC, which follows readiness."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from modelway_runtime.serving.admission import ByteBudget
from modelway_runtime.serving.errors import InferenceError
from modelway_runtime.serving.grpc.messages import SERVICE, HealthCheckRequest, HealthCheckResponse
from modelway_runtime.serving.grpc.reading import Reader

_SERVICES = ("", SERVICE)
_READING = 16


class Health:
    """Answers for the server as a whole and for its one service.

    The servicer of grpcio-health-checking keeps each watcher until the end of the grace period; this one
    lets them go as soon as the server stops. That package is also generated for a newer protobuf than the
    clients of the protocol allow.
    """

    def __init__(self, receiving: ByteBudget) -> None:
        self._ready = False
        self._stopped = False
        self._changed = asyncio.Event()
        self._reader = Reader(
            _READING, receiving
        )  # its own: others' large messages do not keep a probe waiting

    def handlers(self) -> Any:
        """The RPCs, by name."""
        write = HealthCheckResponse.SerializeToString
        methods = {
            "Check": grpc.stream_stream_rpc_method_handler(self._check, None, write),
            "Watch": grpc.stream_stream_rpc_method_handler(self._watch, None, write),
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

    async def _read(self, requests: AsyncIterator[bytes], context: Any) -> Any:
        try:
            return HealthCheckRequest.FromString(await self._reader.read(requests))
        except (InferenceError, DecodeError):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no HealthCheckRequest")

    async def _check(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        request = await self._read(requests, context)
        if request.service not in _SERVICES:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        yield HealthCheckResponse(status=self._status())

    async def _watch(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        request = await self._read(requests, context)
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
