"""What loading a large model does to the other requests, and to memory; and what onnxruntime alone can."""

from __future__ import annotations

import http.client
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measure import FailedError
from own_server import Key, OwnServer, own_server, repository_arguments
from processes import HOST, resident_mb
from serving_models import MODELS, session, write_big

MEGABYTES = 200
TIMES, RELOADS = 5, 20
SETTLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Reload:
    """Gaps are the longest that one of a stream of requests for ``/v2/health/live`` took, each the median."""

    megabytes: float
    gap_ms: float
    control_gap_ms: float
    load_s: float
    before_mb: float
    after_mb: float
    reloads: int


@dataclass(frozen=True, slots=True)
class Floor:
    """onnxruntime in this process, one call after the other."""

    model: str
    rows: int
    calls_per_s: float
    rows_per_s: float
    p50_ms: float
    p99_ms: float


def measure_floor(folder: Path, seconds: float, say: Callable[[str], None]) -> list[Floor]:
    """Each model with one thread and 1, 8 and 32 rows."""
    found = []
    for make in MODELS.values():
        model = make(folder)
        alone = session(model.path)
        for rows in (1, 8, 32):
            say(f"onnxruntime alone: {model.name}, {rows} rows")
            inputs = {"input": np.repeat(model.row, rows, 0)}
            for _ in range(20):
                alone.run(["output"], inputs)
            took = []
            end = time.perf_counter() + seconds
            while (begin := time.perf_counter()) < end:
                alone.run(["output"], inputs)
                took.append(time.perf_counter() - begin)
            each = statistics.fmean(took)
            p50, p99 = np.percentile(took, (50, 99)) * 1e3
            found.append(Floor(model.name, rows, 1 / each, rows / each, float(p50), float(p99)))
    return found


def measure_reload(folder: Path, say: Callable[[str], None]) -> Reload:
    """Reload a model while a caller asks whether the server lives. Raises FailedError."""
    models = folder / "models"
    weights = models / "big" / "1" / "model.onnx"
    weights.parent.mkdir(parents=True)
    say(f"writing a model of {MEGABYTES} MB")
    write_big(weights, MEGABYTES)
    key = Key()
    arguments = repository_arguments(folder, models, key)
    with own_server(folder, *arguments, stdout=subprocess.DEVNULL) as server:
        before = resident_mb(server.process.pid)
        gaps, controls, took = [], [], []
        for number in range(RELOADS):
            say(f"reload {number + 1} of {RELOADS}")
            if number >= TIMES:
                _load(server, key)
                continue
            begin = time.monotonic()
            gaps.append(_worst_gap(server, lambda: _load(server, key)))
            took.append(time.monotonic() - begin)
            controls.append(_worst_gap(server, lambda: time.sleep(took[-1])))
        time.sleep(SETTLE_S)
        after = resident_mb(server.process.pid)
    size = weights.stat().st_size / 1e6
    shutil.rmtree(models)
    median = statistics.median
    return Reload(size, median(gaps), median(controls), median(took), before, after, RELOADS)


def _load(server: OwnServer, key: Key) -> None:
    status, text = server.load("big", key)
    if status != 200:
        raise FailedError(f"the model was not loaded: {status} {text}")


def _worst_gap(server: OwnServer, meanwhile: Callable[[], None]) -> float:
    """Milliseconds of the slowest answer while ``meanwhile`` runs in another thread."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            meanwhile()
        except FailedError as error:
            failed.append(error)

    connection = http.client.HTTPConnection(HOST, server.address.http, timeout=30)
    other = threading.Thread(target=run)
    worst = 0.0
    other.start()
    while other.is_alive():
        begin = time.perf_counter()
        connection.request("GET", "/v2/health/live")
        response = connection.getresponse()
        response.read()
        worst = max(worst, time.perf_counter() - begin)
        if response.status != 200:
            failed.append(FailedError(f"/v2/health/live answered {response.status}"))
    connection.close()
    if failed:
        raise failed[0]
    return worst * 1e3
