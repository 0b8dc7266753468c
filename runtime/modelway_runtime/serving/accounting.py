"""What is recorded of an inference request, once, when it is known what its caller got.

A transport opens an account with the first byte that it understands and closes it with the status that it
has sent, or with the reason why nothing could be sent. Metrics, statistics, audit log and traces all take
that status, so they cannot disagree with each other or with the caller.
"""

from __future__ import annotations

import time
from typing import Protocol

from modelway_runtime.serving.audit import AuditEntry, AuditLog
from modelway_runtime.serving.errors import InferenceError, Reason
from modelway_runtime.serving.metrics import ServerMetrics
from modelway_runtime.serving.repository import Repository
from modelway_runtime.serving.servable import Servable
from modelway_runtime.serving.telemetry import Tracer
from modelway_runtime.serving.values import Call, InferenceRequest, InferenceResponse

clock = time.monotonic


class Account:
    """One inference request. ``model`` and ``version`` are the caller's words; "" and None: not known yet.

    The core fills ``request``, ``servable``, ``response`` and ``stood_in`` (why the standby answers) as far
    as it gets.
    """

    __slots__ = (
        "_answered_at",
        "_began_at",
        "_books",
        "_closed",
        "_received_at",
        "call",
        "model",
        "request",
        "response",
        "servable",
        "stood_in",
        "version",
    )

    def __init__(self, books: Books, call: Call, model: str, version: str | None) -> None:
        self._books = books
        self._began_at = clock()
        self._received_at = 0.0
        self._answered_at = 0.0
        self._closed = False
        self.call = call
        self.model = model
        self.version = version
        self.request: InferenceRequest | None = None
        self.servable: Servable | None = None
        self.response: InferenceResponse | None = None
        self.stood_in: str | None = None

    @property
    def received(self) -> bool:
        """Whether the request was understood, so that its time is the model's and not the caller's."""
        return self.request is not None

    @property
    def seconds(self) -> float:
        """From the request, as soon as it was understood, to the answer; without its way to the caller."""
        began = self._received_at if self.received else self._began_at
        return (self._answered_at or clock()) - began

    def receive(self, request: InferenceRequest) -> None:
        """The request has come in full and was understood."""
        self._received_at = clock()
        self.request = request
        self.model = request.model
        self.version = request.version

    def answer(self) -> None:
        """The answer is about to be sent. How fast the caller reads it is not the model's time."""
        self._answered_at = clock()

    def close(self, status: int, reason: Reason | None = None) -> None:
        """The caller got this status; the first call counts."""
        if not self._closed:
            self._closed = True
            self._books.record(self, status, reason)


class Books(Protocol):
    """Where a closed account is recorded."""

    def record(self, account: Account, status: int, reason: Reason | None) -> None: ...


class ServerBooks:
    """Metrics, statistics, audit log and traces of one server."""

    def __init__(
        self, repository: Repository, metrics: ServerMetrics, audit: AuditLog | None, tracer: Tracer | None
    ) -> None:
        self._repository = repository
        self._metrics = metrics
        self._audit = audit
        self._tracer = tracer

    def record(self, account: Account, status: int, reason: Reason | None) -> None:
        call, seconds = account.call, account.seconds
        servable = account.servable or self._servable(account)
        if servable is not None:
            version = servable.version
            servable.metrics.answered(call.method, status, seconds, timed=account.received)
            if reason is not None:
                servable.metrics.rejected(reason)
        else:
            version = self._without_servable(account, status, reason, seconds)
        if account.stood_in is not None and status == 200:
            self._metrics.standby.labels(account.model, account.stood_in).inc()
        if self._audit is not None:
            entry = _entry(account, version, status, reason, seconds)
            self._audit.record(entry, account.request, account.response if status == 200 else None)
        if self._tracer is not None:
            self._tracer.record(account.model, version, call, status, seconds)

    def _servable(self, account: Account) -> Servable | None:
        """The model version that a request names which was refused before it was looked for."""
        try:
            return self._repository.find(account.model, account.version)
        except InferenceError:
            return None

    def _without_servable(self, account: Account, status: int, reason: Reason | None, seconds: float) -> str:
        """Count where no version answers; the version of the labels."""
        model, version = self._labels(account.model)
        self._metrics.requests.labels(model, version, account.call.method, str(status)).inc()
        if model and account.received:
            self._metrics.duration.labels(model, version).observe(seconds)
        if reason is not None:
            self._metrics.rejected.labels(model, version, reason).inc()
        return version

    def _labels(self, model: str) -> tuple[str, str]:
        """A name that the server does not know makes no series."""
        for entry in self._repository.entries():
            if entry.spec.name == model:
                return model, entry.spec.version
        return "", ""


def _entry(account: Account, version: str, status: int, reason: Reason | None, seconds: float) -> AuditEntry:
    call = account.call
    return AuditEntry(
        request_id=call.request_id,
        client=call.client.name,
        model=account.model,
        version=version,
        protocol=call.protocol,
        method=call.method,
        status=status,
        reason=reason,
        duration_s=seconds,
        traceparent=call.traceparent,
    )
