"""The life of a server: listen, load, warm up, be ready, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import uvicorn
import uvloop

from modelway_runtime.process import listener, stop_on_signals
from modelway_runtime.serving import telemetry, tls
from modelway_runtime.serving.audit import AuditLog
from modelway_runtime.serving.auth import Authenticator, make_authenticator
from modelway_runtime.serving.gpu import watch_gpus
from modelway_runtime.serving.grpc.server import GrpcServer, make_server
from modelway_runtime.serving.http_protocol import Limits, Uvicorn
from modelway_runtime.serving.inference import InferenceService
from modelway_runtime.serving.metrics import ServerMetrics
from modelway_runtime.serving.metrics_port import MetricsPort
from modelway_runtime.serving.repository import Repository, give_back
from modelway_runtime.serving.rest_server import RestApp
from modelway_runtime.serving.standby import StandbyClient
from modelway_runtime.serving.watch import ConfigError
from modelway_runtime.settings import Served, Settings, Tls, WrongSettings

log = logging.getLogger(__name__)

REFRESH_S = 2.0
"""How often files that may change are looked at: keys, certificates."""
QUIET_S = 0.5
"""Draining ends when no request has been in flight for so long."""
LARGEST_AT_ONCE = 16
"""Requests of the largest size that may be received, or wait for their answer, at a time."""
GC_THRESHOLDS = (20_000, 50, 50)
"""A request leaves no cycles behind; the default looks for them some twenty times a thousand requests."""


class NotServed(Exception):
    """The server cannot start; the text says why and what to do."""


class Ports(NamedTuple):
    """Where the server listens; None: that protocol is off."""

    http: int
    grpc: int | None
    metrics: int


def run(
    settings: Settings,
    *,
    host: str,
    trusted: bool = False,
    rescan: Callable[[], Sequence[Served]] | None = None,
    reread: Callable[[], Sequence[Served]] | None = None,
    started: Callable[[Ports], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT. Raises NotServed.

    ``rescan`` gives what a folder of models holds now, for loading on request; ``reread`` what the
    settings say now, for SIGHUP. ``started`` is told the ports as soon as the server listens.
    """
    uvloop.run(_serve(settings, host, trusted, rescan, reread, started))


async def _serve(
    settings: Settings,
    host: str,
    trusted: bool,
    rescan: Callable[[], Sequence[Served]] | None,
    reread: Callable[[], Sequence[Served]] | None,
    started: Callable[[Ports], None] | None,
) -> None:
    stop = stop_on_signals()
    metrics = ServerMetrics(settings.metrics.latency_buckets_s)
    watch_gpus(metrics)
    authenticator = make_authenticator(settings.auth)
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory(prefix="modelway-") as folder:
        audit = None
        if settings.audit.enabled:
            audit = AuditLog(sys.stdout.fileno(), frozenset(settings.audit.mask))
            stack.callback(audit.close, 5.0)
        tracer = telemetry.tracer()
        if tracer is not None:
            stack.callback(tracer.close)
        standby = StandbyClient(settings.standby, settings.limits.request_bytes) if settings.standby else None
        repository = Repository(settings.device, metrics, folder=Path(folder), trusted=trusted)
        core = InferenceService(
            settings.model,
            repository,
            metrics,
            authenticator,
            in_flight=settings.limits.in_flight,
            receiving_bytes=LARGEST_AT_ONCE * settings.limits.request_bytes,
            audit=audit,
            standby=standby,
            tracer=tracer,
            rescan=rescan,
        )
        async with _listening(settings, host, core, metrics) as (ports, servers):
            if started:
                started(ports)
            keep = asyncio.create_task(_keep_fresh(core, authenticator, settings, servers))
            await _live(core, repository, settings, servers, stop, reread)
            keep.cancel()
        if standby:
            await standby.close()
        await repository.close()


class Servers(NamedTuple):
    http: uvicorn.Server
    grpc: GrpcServer | None


async def _live(
    core: InferenceService,
    repository: Repository,
    settings: Settings,
    servers: Servers,
    stop: asyncio.Event,
    reread: Callable[[], Sequence[Served]] | None,
) -> None:
    """From the first model's loading to the last request's answer."""
    loading = asyncio.create_task(repository.apply(settings.served))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    if loading.done():
        loading.result()
        _all_loaded(core, repository, settings)
        if reread is not None:  # before, a SIGHUP is ignored: what is being loaded was just read
            reloads: set[asyncio.Task[None]] = set()
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, _reload, repository, reread, reloads)
        gc.collect()
        gc.freeze()  # what is there now stays: the collector need not look at it again
        gc.set_threshold(*GC_THRESHOLDS)
        if servers.grpc:
            servers.grpc.set_ready(core.ready)
        log.info("ready")
        await stopping
    loading.cancel()
    await _drain(core, settings.drain_s, servers)


def _all_loaded(core: InferenceService, repository: Repository, settings: Settings) -> None:
    """Raises NotServed for a model that is missing, unless the standby answers for it."""
    core.started = True
    covered = settings.model if settings.standby else None
    missing = [e for e in repository.entries() if e.servable is None and e.spec.name != covered]
    if missing:
        raise NotServed("\n".join(f"{e.spec.name} {e.spec.version}: {e.reason}" for e in missing))


def _reload(
    repository: Repository, reread: Callable[[], Sequence[Served]], reloads: set[asyncio.Task[None]]
) -> None:
    """SIGHUP: serve what the settings say now; what is wrong with them is logged and changes nothing."""
    try:
        wanted = reread()
    except (WrongSettings, OSError) as error:
        log.error("the settings were not read again: %s", error)  # noqa: TRY400
        return
    task = asyncio.get_running_loop().create_task(repository.apply(wanted))
    reloads.add(task)  # the loop itself holds a task but weakly
    task.add_done_callback(reloads.discard)


async def _drain(core: InferenceService, drain_s: float, servers: Servers) -> None:
    """Not ready at once; connections are asked to close; what is in flight is answered."""
    log.info("draining for at most %g s", drain_s)
    core.draining = True
    if servers.grpc:
        servers.grpc.set_ready(False)
    loop = asyncio.get_running_loop()
    end = loop.time() + drain_s
    quiet_since = loop.time()
    while (now := loop.time()) < end and now - quiet_since < min(QUIET_S, drain_s):
        await asyncio.sleep(0.05)
        if core.in_flight:
            quiet_since = loop.time()
    if servers.grpc:
        await servers.grpc.stop(max(0.0, end - loop.time()))
    servers.http.config.timeout_graceful_shutdown = max(1, round(end - loop.time()))


@contextlib.asynccontextmanager
async def _listening(
    settings: Settings, host: str, core: InferenceService, metrics: ServerMetrics
) -> AsyncIterator[tuple[Ports, Servers]]:
    """All ports are taken before anything is loaded: health can be asked from the beginning."""
    http_port = settings.http.port if settings.http else 0
    try:
        socket = listener(host, http_port)
    except OSError as error:
        raise NotServed(f"port {http_port} of {host} cannot be opened: {error.strerror}") from None
    http = _http_server(settings, RestApp(core, settings.limits.request_bytes))
    serving = asyncio.create_task(http.serve(sockets=[socket]))
    grpc = None
    grpc_port = None
    if settings.grpc:
        credentials = tls.grpc_credentials(settings.tls) if settings.tls else None
        grpc = make_server(core, credentials=credentials, max_bytes=settings.limits.request_bytes)
        try:
            grpc_port = await grpc.start(host, settings.grpc.port)
        except OSError as error:
            raise NotServed(f"port {settings.grpc.port} of {host}: {error}") from None
    try:
        metrics_port = MetricsPort(host, settings.metrics.port, metrics.registry)
    except OSError as error:
        raise NotServed(
            f"port {settings.metrics.port} of {host} cannot be opened for metrics: {error.strerror}"
        ) from None
    ports = Ports(socket.getsockname()[1], grpc_port, metrics_port.number)
    try:
        yield ports, Servers(http, grpc)
    finally:
        if grpc:
            await grpc.stop(0.0)
        http.should_exit = True
        await serving
        metrics_port.close()


def _http_server(settings: Settings, app: RestApp) -> Uvicorn:
    server = Uvicorn(app, Limits())
    server.config.load()
    if settings.tls:
        server.config.ssl = tls.server_context(settings.tls)
    return server


async def _keep_fresh(
    core: InferenceService, authenticator: Authenticator, settings: Settings, servers: Servers
) -> None:
    """Keys and certificates that were replaced are read again; memory of large requests is given back."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(REFRESH_S)
        if core.receiving.has_calmed():
            await loop.run_in_executor(None, give_back)
        message = await loop.run_in_executor(None, authenticator.refresh)
        if message:
            log.warning(message)
        if settings.tls and servers.http.config.ssl:
            await loop.run_in_executor(None, _reload_tls, servers.http.config.ssl, settings.tls)


def _reload_tls(context: ssl.SSLContext, settings: Tls) -> None:
    try:
        tls.reload(context, settings)
    except ConfigError as error:
        log.warning("%s", error)
