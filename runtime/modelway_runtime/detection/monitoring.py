"""The detector's own metrics (``docs/contract.md``), and whether it is alive: ``/metrics``, ``/healthz``."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    make_asgi_app,
)

from modelway_runtime.detection.settings import Watched
from modelway_runtime.detection.verdict import State, Verdict

disable_created_metrics()  # type: ignore[no-untyped-call]  # the contract's metrics and no others
_RUN_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
STUCK_S = 900.0
"""Without a sign of life for so long the process is not well: one look is bounded to less."""


class Monitoring:
    """Metrics in a registry of their own; ``app`` serves them as ASGI."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        model = ("model",)
        self._verdicts = Counter(
            "modelway_detector_verdicts", "Verdicts.", (*model, "state"), registry=registry
        )
        self._last_success = Gauge(
            "modelway_detector_last_success_timestamp_seconds",
            "When a look last ended in a verdict.",
            model,
            registry=registry,
        )
        self._duration = Histogram(
            "modelway_detector_run_duration_seconds", "Of one look.", model, buckets=_RUN_S, registry=registry
        )
        self._missing = Gauge(
            "modelway_detector_missing_ratio",
            "Share of the samples that the last look missed, of its worst metric.",
            model,
            registry=registry,
        )
        self._metrics = make_asgi_app(registry)
        self._beat = time.monotonic()

    def expect(self, watched: Iterable[Watched]) -> None:
        """Begin all counters of these models at zero: a first verdict is then a rise that a rule sees."""
        for one in watched:
            for state in get_args(State):
                self._verdicts.labels(one.model, state)

    def looked(self, verdict: Verdict, seconds: float) -> None:
        """A look ended in a verdict."""
        model = verdict.model
        self._verdicts.labels(model, verdict.state).inc()
        self._last_success.labels(model).set_to_current_time()
        self._duration.labels(model).observe(seconds)
        self._missing.labels(model).set(max((one.missing_ratio for one in verdict.metrics), default=0.0))

    def failed(self, watched: Watched, seconds: float) -> None:
        """A look ended without one."""
        self._duration.labels(watched.model).observe(seconds)

    def beat(self) -> None:
        """A sign of life of the loop that looks."""
        self._beat = time.monotonic()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        path, method = scope["path"], scope["method"]
        if path == "/metrics" and method in ("GET", "HEAD"):
            await self._metrics(scope, receive, send)
            return
        status, text = 404, b"not found\n"
        if path == "/healthz":
            well = time.monotonic() - self._beat < STUCK_S
            status, text = (200, b"ok\n") if well else (503, b"the detector does not look any more\n")
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": text})
