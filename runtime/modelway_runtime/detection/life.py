"""The life of a detector that stays: listen, look by the schedule, read settings again, stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO

from modelway_runtime.detection import settings as detector_settings
from modelway_runtime.detection.anomaly_log import AnomalyLog
from modelway_runtime.detection.gate import Gate
from modelway_runtime.detection.listening import listening
from modelway_runtime.detection.memory import Memory
from modelway_runtime.detection.monitoring import Monitoring
from modelway_runtime.detection.service import Service
from modelway_runtime.detection.settings import Gate as GateSettings
from modelway_runtime.detection.settings import Settings
from modelway_runtime.detection.tokens import list_troubles
from modelway_runtime.detection.watcher import Watcher, next_time
from modelway_runtime.process import stop_on_signals
from modelway_runtime.settings import WrongSettings

log = logging.getLogger(__name__)

STOP_S = 5.0
"""How long a look that runs may take to end; what it would have published is published after the restart."""
_BEAT_S = 5.0
Ports = dict[str, int]


def once(settings: Settings, output: IO[str]) -> bool:
    """One look at each model, for a CronJob. Whether all went well. Raises MemoryFailed."""
    memory = Memory(settings.memory_file)
    try:
        watcher = Watcher(settings, memory, Monitoring(), AnomalyLog(output))
        return watcher.look(datetime.now(UTC).timestamp())
    finally:
        memory.close()


def run(
    path: str, *, host: str, watch: bool, output: IO[str], started: Callable[[Ports], None] | None = None
) -> None:
    """Until SIGTERM or SIGINT; SIGHUP reads the settings again. With ``watch`` looks by the schedule.

    ``started`` is told the ports. Raises WrongSettings, OSError, MemoryFailed and CannotListen.
    """
    asyncio.run(_live(path, host, watch, output, started))


async def _live(
    path: str, host: str, watch: bool, output: IO[str], started: Callable[[Ports], None] | None
) -> None:
    stop = stop_on_signals()
    settings = detector_settings.read(path)
    next_time(settings, datetime.now(UTC))
    memory, monitoring, anomalies = Memory(settings.memory_file), Monitoring(), AnomalyLog(output)
    monitoring.expect(settings.watched)
    gate = Gate(settings, memory, monitoring, anomalies)
    watcher = Watcher(settings, memory, monitoring, anomalies)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, path, gate, watcher, monitoring)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(memory.close)
        stack.callback(gate.close)
        ports = {
            "metrics": await stack.enter_async_context(listening(monitoring.app, host, settings.metrics.port))
        }
        if settings.gate:
            _check_tokens(settings.gate)
            service = Service(gate)
            stack.callback(service.close)
            ports["gate"] = await stack.enter_async_context(listening(service, host, settings.gate.port))
        if started:
            started(ports)
        if watch:
            await _watching(watcher, stop)
        else:
            await _beating(monitoring, stop)
        log.info("stopping")


async def _watching(watcher: Watcher, stop: asyncio.Event) -> None:
    """Looks are in a thread of their own, so that the gate answers meanwhile."""
    thread = threading.Thread(target=watcher.run, name="watch", daemon=True)
    thread.start()
    await stop.wait()
    watcher.stop.set()
    await asyncio.to_thread(thread.join, STOP_S)


async def _beating(monitoring: Monitoring, stop: asyncio.Event) -> None:
    while not stop.is_set():
        monitoring.beat()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _BEAT_S)


def _check_tokens(gate: GateSettings) -> None:
    """Say at the start what a team would see at its first release."""
    for trouble in list_troubles(gate.token_files):
        log.warning("%s", trouble)


def _reload(path: str, gate: Gate, watcher: Watcher, monitoring: Monitoring) -> None:
    """SIGHUP: what is wrong with the new settings is logged and changes nothing."""
    old = watcher.settings
    try:
        new = detector_settings.read(path)
        next_time(new, datetime.now(UTC))
    except (WrongSettings, OSError) as error:
        log.error("the settings were not read again: %s", error)  # noqa: TRY400
        return
    fixed = (old.memory_file, old.metrics, old.gate and old.gate.port)
    if fixed != (new.memory_file, new.metrics, new.gate and new.gate.port):
        log.error("the settings were not read again: memory_file and ports change with a restart only")
        return
    gate.settings = watcher.settings = new
    if new.gate:
        _check_tokens(new.gate)
    monitoring.expect(new.watched)
    log.info("the settings were read again: %d models are watched", len(new.watched))
