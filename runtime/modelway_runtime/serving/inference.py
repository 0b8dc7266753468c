"""The core of the server, behind every transport: who may ask, which model answers, what is counted.

A transport opens an account (``begin``), decodes a request, calls ``infer``, encodes and sends the answer,
and closes the account with what its caller got. Nothing here knows HTTP or gRPC but for the numbers of the
statuses, which the contract uses for both.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from modelway_runtime import __version__
from modelway_runtime.serving.accounting import Account, ServerBooks
from modelway_runtime.serving.admission import ByteBudget
from modelway_runtime.serving.audit import AuditLog
from modelway_runtime.serving.auth import Authenticator
from modelway_runtime.serving.errors import InferenceError, not_found
from modelway_runtime.serving.metrics import ServerMetrics
from modelway_runtime.serving.repository import Repository
from modelway_runtime.serving.servable import Servable, served_outputs
from modelway_runtime.serving.standby import StandbyClient, Why
from modelway_runtime.serving.telemetry import Tracer
from modelway_runtime.serving.tensors import shown
from modelway_runtime.serving.values import Call, Client, InferenceRequest, InferenceResponse
from modelway_runtime.settings import Served, WrongSettings

log = logging.getLogger(__name__)
clock = time.monotonic

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
_OWN_FAILURES: dict[int, Why] = {500: "failed", 503: "not_loaded", 504: "timeout"}
"""Statuses of the own model for which the standby stands in."""


class InferenceService:
    """Answers requests with the models of a repository."""

    def __init__(
        self,
        model: str,
        repository: Repository,
        metrics: ServerMetrics,
        authenticator: Authenticator,
        *,
        in_flight: int,
        receiving_bytes: int,
        audit: AuditLog | None = None,
        standby: StandbyClient | None = None,
        tracer: Tracer | None = None,
        rescan: Callable[[], Sequence[Served]] | None = None,
    ) -> None:
        self._model = model
        self._repository = repository
        self._metrics = metrics
        self._authenticator = authenticator
        self._limit = in_flight
        self.receiving = ByteBudget(receiving_bytes)
        self._books = ServerBooks(repository, metrics, audit, tracer)
        self._standby = standby
        self._rescan = rescan
        self._in_flight = 0
        self.started = False
        self.draining = False
        metrics.before_scrape(self._gauges)

    # Health

    @property
    def live(self) -> bool:
        """False when a restart is the remedy: an instance has died or computes far too long."""
        return not any(servable.batcher.stuck() for servable in self._repository.servables())

    @property
    def ready(self) -> bool:
        """Whether requests may come: everything has been loaded and warmed up, or the standby covers it."""
        if not self.started or self.draining:
            return False
        names = {entry.spec.name for entry in self._repository.entries()}
        if self._standby is not None:
            names.discard(self._model)
        return all(self._repository.versions(name) for name in names)

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def model_ready(self, name: str, version: str | None = None) -> bool:
        try:
            self._repository.find(name, version)
        except InferenceError:
            return False
        return not self.draining

    # Inference

    def authenticate(self, authorization: bytes | str | None) -> Client:
        """Who calls, by the header ``Authorization``. Raises InferenceError (401)."""
        return self._authenticator.authenticate(authorization)

    def begin(self, call: Call, model: str = "", version: str | None = None) -> Account:
        """The account of an inference request, which the transport closes with what its caller got."""
        return Account(self._books, call, model, version)

    async def infer(self, request: InferenceRequest, account: Account) -> InferenceResponse:
        """The answer. Raises InferenceError, and asyncio.CancelledError when the transport gives up."""
        account.receive(request)
        call = account.call
        if request.timeout_s is not None:
            wanted = clock() + request.timeout_s
            call.deadline = wanted if call.deadline is None else min(wanted, call.deadline)
        servable: Servable | None = None
        self._in_flight += 1
        try:
            if self._in_flight > self._limit:
                raise _too_many()
            servable = account.servable = self._allowed(account)
            if servable is not None:
                servable.in_flight += 1
            if servable is None or self._standby is not None:
                response = await self._or_standby(servable, request, account)
            else:
                response = await self._own(servable, request, call)
            account.response = response
            return response
        finally:
            self._in_flight -= 1
            if servable is not None:
                servable.in_flight -= 1

    def admit(self, client: Client) -> None:
        """Take one of what a client may ask, before anything of it is read. Raises InferenceError (429)."""
        if self._in_flight >= self._limit:
            raise _too_many()
        if client.rate is not None and (wait := client.rate.take()) > 0:
            raise InferenceError(
                429, f"{shown(client.name)} calls too often", reason="limit", retry_after_s=wait
            )

    def allow(self, account: Account) -> None:
        """Raises InferenceError (403, 404, 503) where the account's model gives its client no answer."""
        self._allowed(account)

    def _allowed(self, account: Account) -> Servable | None:
        """The model version; None: only the standby can answer. Raises InferenceError (403, 404, 503)."""
        client, model = account.call.client, account.model
        if client.models is not None and model not in client.models:
            raise InferenceError(
                403, f"{shown(client.name)} may not use model {shown(model)}", reason="unauthorized"
            )
        try:
            return self._repository.find(model, account.version)
        except InferenceError as error:
            if error.status == 503 and self._standby is not None and model == self._model:
                return None
            raise

    async def _or_standby(
        self, servable: Servable | None, request: InferenceRequest, account: Account
    ) -> InferenceResponse:
        """The own model's answer, or the standby's where the contract gives it the word."""
        standby, call = self._standby, account.call
        if standby is None or not standby.covers(request, call, self._model):
            if servable is None:
                raise InferenceError(503, f"model {shown(request.model)} is not ready", retry_after_s=1)
            return await self._own(servable, request, call)
        if standby.settings.active:
            return await self._from_standby(standby, request, account, "active")
        if servable is None:
            return await self._from_standby(standby, request, account, "not_loaded")
        if not standby.breaker.allows():
            return await self._from_standby(standby, request, account, "tripped")
        try:
            response = await self._own(servable, request, call)
        except Exception as error:
            why = _why(error)
            if why is None:
                raise
            standby.breaker.failed()
            return await self._from_standby(standby, request, account, why)
        standby.breaker.succeeded()
        return response

    async def _own(self, servable: Servable, request: InferenceRequest, call: Call) -> InferenceResponse:
        outputs = await servable.submit(request, call)
        return InferenceResponse(servable.name, servable.version, served_outputs(outputs))

    async def _from_standby(
        self, standby: StandbyClient, request: InferenceRequest, account: Account, why: Why
    ) -> InferenceResponse:
        account.stood_in = why
        name = standby.settings.model
        if not self._repository.knows(name):
            return await standby.infer(request, account.call)
        # On a laptop the standby is a model of this process, whatever port the process got. Whether the
        # caller may ask was decided for the model that it named.
        own = msgspec.structs.replace(request, model=name, version=None)
        response = await self._own(self._repository.find(name), own, account.call)
        return InferenceResponse(request.model, response.version, response.outputs, name)

    def _gauges(self) -> None:
        """Brought up to date for a scrape."""
        in_flight: dict[str, int] = {}
        queued: dict[str, int] = {}
        for servable in self._repository.servables():
            in_flight[servable.name] = in_flight.get(servable.name, 0) + servable.in_flight
            queued[servable.name] = queued.get(servable.name, 0) + servable.batcher.queued_rows
        self._metrics.in_flight.clear()  # of models that were unloaded
        self._metrics.queue_rows.clear()
        for name, count in in_flight.items():
            self._metrics.in_flight.labels(name).set(count)
            self._metrics.queue_rows.labels(name).set(queued[name])

    # What there is

    def server_metadata(self) -> dict[str, Any]:
        return {"name": "modelway", "version": __version__, "extensions": list(EXTENSIONS)}

    def model_metadata(self, name: str, version: str | None = None) -> dict[str, Any]:
        """Raises InferenceError (404, 503)."""
        servable = self._repository.find(name, version)
        return {
            "name": servable.name,
            "versions": self._repository.versions(name),
            "platform": _PLATFORMS[servable.spec.format],
            **servable.metadata(),
        }

    def model_config(self, name: str, version: str | None = None) -> dict[str, Any]:
        """The configuration in the form of Triton's extension. Raises InferenceError (404, 503)."""
        servable = self._repository.find(name, version)
        batching = servable.spec.batching
        skipped = 1 if servable.batchable else 0  # Triton leaves the dimension of rows out
        config: dict[str, Any] = {
            "name": servable.name,
            "platform": _PLATFORMS[servable.spec.format],
            "backend": {"onnx": "onnxruntime", "torch": "pytorch"}[servable.spec.format],
            "max_batch_size": servable.max_rows if servable.batchable else 0,
            "version_policy": {"specific": {"versions": []}},
            "instance_group": [
                {
                    "name": servable.name,
                    "kind": "KIND_CPU" if servable.provider == "cpu" else "KIND_GPU",
                    "count": servable.spec.instances,
                }
            ],
            "parameters": {"rows": {"string_value": servable.rows.reason}},
        }
        for side in ("input", "output"):
            config[side] = [
                {
                    "name": tensor["name"],
                    "data_type": f"TYPE_{_TRITON.get(tensor['datatype'], tensor['datatype'])}",
                    "dims": tensor["shape"][skipped:],
                }
                for tensor in servable.metadata()[f"{side}s"]
            ]
        if servable.max_rows > 1:
            config["dynamic_batching"] = {
                "preferred_batch_size": list(batching.preferred_rows),
                "max_queue_delay_microseconds": int(batching.max_delay_ms * 1e3),
            }
        return config

    def model_statistics(self, name: str | None, version: str | None = None) -> list[dict[str, Any]]:
        """Statistics in the form of Triton's extension. Raises InferenceError (404, 503)."""
        if name:
            self._repository.find(name, version)
        return [
            servable.metrics.statistics.as_json(servable.name, servable.version)
            for servable in self._repository.servables()
            if (not name or servable.name == name) and version in (None, servable.version)
        ]

    def repository_index(self, *, ready_only: bool) -> list[dict[str, str]]:
        return [
            {
                "name": entry.spec.name,
                "version": entry.spec.version,
                "state": entry.state,
                "reason": "" if entry.state == "READY" else "see the server's log",
            }
            for entry in self._repository.entries()
            if entry.state == "READY" or not ready_only
        ]

    async def repository_load(self, name: str, client: Client) -> None:
        """Load a model of the folder anew. Raises InferenceError (403, 404, 400)."""
        try:
            wanted = [spec for spec in self._controlled(client)() if spec.name == name]
        except (WrongSettings, OSError) as error:
            log.error("the model repository was not read: %s", error)  # noqa: TRY400  # said, not shown
            raise InferenceError(400, "the model repository is not in order; see the server's log") from None
        if not wanted:
            raise not_found(f"the model repository has no model {shown(name)}")
        await self._repository.apply(wanted, only=name, again=True)
        failed = [e for e in self._repository.entries() if e.spec.name == name and e.reason]
        if failed:
            raise InferenceError(400, f"model {shown(name)} could not be loaded; see the server's log")

    async def repository_unload(self, name: str, client: Client) -> None:
        """Stop serving a model. Raises InferenceError (403, 404)."""
        self._controlled(client)
        if not self._repository.knows(name):
            raise not_found(f"there is no model {shown(name)}")
        await self._repository.unload(name)

    def _controlled(self, client: Client) -> Callable[[], Sequence[Served]]:
        if self._rescan is None:
            raise InferenceError(403, "this server serves what its settings say and nothing else")
        if not client.admin:
            raise InferenceError(403, f"{shown(client.name)} may not load or unload", reason="unauthorized")
        return self._rescan


def _too_many() -> InferenceError:
    return InferenceError(429, "too many requests are in flight", reason="limit", retry_after_s=1.0)


def _why(error: Exception) -> Why | None:
    """Why the standby stands in after the own model's failure; None where the request was at fault."""
    if isinstance(error, InferenceError):
        return _OWN_FAILURES.get(error.status)
    log.error("the model failed: %s", error, exc_info=error)
    return "failed"


_PLATFORMS = {"onnx": "onnxruntime_onnx", "torch": "pytorch"}
_TRITON = {"BYTES": "STRING"}
