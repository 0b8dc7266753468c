"""Traces: one span a request, exported over OTLP where the standard variables of OpenTelemetry say so.

``OTEL_EXPORTER_OTLP_ENDPOINT`` (or ``…_TRACES_ENDPOINT``) switches it on; the other ``OTEL_*`` variables
(service name, sampler, headers) mean what OpenTelemetry says. Nothing of it is imported otherwise.
"""

from __future__ import annotations

import os
import time
from typing import Any

from modelway_runtime import __version__
from modelway_runtime.serving.values import Call


class Tracer:
    """Records requests after they ended; sampling follows the caller's ``traceparent``."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "modelway-runtime")})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("modelway_runtime", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._kind = SpanKind.SERVER
        self._failed = Status(StatusCode.ERROR)

    def record(self, model: str, version: str, call: Call, status: int, seconds: float) -> None:
        """One request that has just ended, after this many seconds."""
        end = time.time_ns()
        parent = self._propagator.extract({"traceparent": call.traceparent}) if call.traceparent else None
        attributes: dict[str, Any] = {
            "modelway.model": model,
            "modelway.version": version,
            "modelway.protocol": call.protocol,
            "modelway.client": call.client.name,
            "modelway.request_id": call.request_id,
            "http.response.status_code": status,
        }
        span = self._tracer.start_span(
            f"{call.method} {model}",
            context=parent,
            kind=self._kind,
            attributes=attributes,
            start_time=end - int(seconds * 1e9),
        )
        if status >= 500:
            span.set_status(self._failed)
        span.end(end)

    def close(self) -> None:
        """Export what waits; at most the exporter's own time-out."""
        self._provider.shutdown()


def tracer() -> Tracer | None:
    """A tracer where the environment asks for one."""
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return Tracer() if any(os.environ.get(name) for name in names) else None
