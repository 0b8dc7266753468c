"""The metrics of ``docs/contract.md`` and the statistics that Triton's clients ask for.

``prometheus_client`` keeps and exposes them; children are bound once, since looking labels up costs more
than counting. Values of outputs are gathered and counted in bulk: one answer costs an append.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from modelway_runtime.serving.errors import Reason
from modelway_runtime.serving.values import Array, Arrays
from modelway_runtime.serving.work import Work
from modelway_runtime.settings import TensorSpec

disable_created_metrics()  # type: ignore[no-untyped-call]  # the contract's metrics and no others
_FAST = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
)  # fmt: skip
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# Scores lie between 0 and 1, logits and sums around zero: fine steps there, powers of ten outside.
_VALUES = (
    -1000, -100, -10, -5, -2, -1, -0.5, -0.1, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 2, 5,
    10, 100, 1000,
)  # fmt: skip
MAX_CLASSES = 100
"""More classes than this would be more series than a Prometheus wants from one model."""
_FLUSH_AT = 256  # gathered answers
_MODEL = ("model", "version")
Item = TypeVar("Item")


class ServerMetrics:
    """All metrics of one server, in a registry of its own."""

    def __init__(self, latency_buckets_s: Sequence[float]) -> None:
        self.registry = registry = CollectorRegistry()
        self._before_scrape: list[Callable[[], None]] = []
        registry.register(_BeforeScrape(self._before_scrape))  # the first: it runs before the others
        name = "inference_requests"
        self.requests = Counter(name, "Requests.", (*_MODEL, "method", "code"), registry=registry)
        self.duration = Histogram(
            "inference_request_duration_seconds",
            "From the first byte understood to the answer.",
            _MODEL,
            buckets=latency_buckets_s,
            registry=registry,
        )
        self.queued = Histogram(
            "inference_queue_duration_seconds", "In the queue.", _MODEL, buckets=_FAST, registry=registry
        )
        self.compute = Histogram(
            "inference_compute_duration_seconds", "One batch.", _MODEL, buckets=_FAST, registry=registry
        )
        self.rows = Histogram(
            "inference_batch_rows", "Rows of a batch.", _MODEL, buckets=_ROWS, registry=registry
        )
        self.in_flight = Gauge("inference_requests_in_flight", "Inside.", ("model",), registry=registry)
        self.queue_rows = Gauge("inference_queue_rows", "Rows that wait.", ("model",), registry=registry)
        self.rejected = Counter("inference_rejected", "Not computed.", (*_MODEL, "reason"), registry=registry)
        self.standby = Counter(
            "inference_standby_requests", "Answered by the standby.", ("model", "reason"), registry=registry
        )
        self.cache = Counter("inference_cache_requests", "Asked.", ("model", "result"), registry=registry)
        self.values = Histogram(
            "inference_output_value",
            "Values of an output.",
            (*_MODEL, "output"),
            buckets=_VALUES,
            registry=registry,
        )
        self.classes = Counter(
            "inference_output_class", "Classes.", (*_MODEL, "output", "class"), registry=registry
        )
        self.ready = Gauge("model_ready", "Serves.", _MODEL, registry=registry)
        self.load_s = Gauge("model_load_duration_seconds", "Fetch, load, warm-up.", _MODEL, registry=registry)
        self.info = Gauge(
            "model_info",
            "What is served.",
            (*_MODEL, "format", "provider", "digest", "lineage_digest"),
            registry=registry,
        )

    def before_scrape(self, callback: Callable[[], None]) -> None:
        """Have something brought up to date before each scrape, in the scraper's thread."""
        self._before_scrape.append(callback)

    def no_more(self, callback: Callable[[], None]) -> None:
        """End what ``before_scrape`` began."""
        self._before_scrape.remove(callback)


class _BeforeScrape(Collector):
    """Exposes nothing itself."""

    def __init__(self, callbacks: list[Callable[[], None]]) -> None:
        self._callbacks = callbacks

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        for callback in tuple(self._callbacks):
            callback()
        return ()


class Gathered:
    """Answers of one model version that still have to be counted: the distribution of its predictions."""

    def __init__(
        self, metrics: ServerMetrics, model: str, version: str, outputs: dict[str, TensorSpec]
    ) -> None:
        self._waiting: deque[Arrays] = deque()
        self._lock = threading.Lock()
        self._count: dict[str, Callable[[list[Array]], None]] = {}
        for name, spec in outputs.items():
            if spec.datatype in ("BYTES", "BOOL"):
                continue
            if classes := _classes(spec):
                self._count[name] = _ClassCounter(metrics.classes, (model, version, name), classes)
            else:
                self._count[name] = _ValueCounter(metrics.values.labels(model, version, name))

    def add(self, outputs: Arrays) -> None:
        self._waiting.append(outputs)
        if len(self._waiting) >= _FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        with self._lock:  # a scrape and the event loop
            answers = _taken(self._waiting)
            for name, count in self._count.items():
                arrays = [answer[name] for answer in answers if name in answer and answer[name].size]
                if arrays:
                    count(arrays)


class _ValueCounter:
    """Every number of an output that is a score; of a wide one the Euclidean length of each row."""

    def __init__(self, child: Histogram) -> None:
        self._child = child

    def __call__(self, arrays: list[Array]) -> None:
        values = np.concatenate([_scores(array) for array in _joined(arrays)])
        observe(self._child, values[np.isfinite(values)])


def observe(child: Histogram, values: npt.NDArray[np.float64]) -> None:
    """As many observations at once, through the child's own cells: its ``observe`` takes one at a time."""
    at = np.searchsorted(child._upper_bounds, values)
    for index, count in enumerate(np.bincount(at).tolist()):
        if count:
            child._buckets[index].inc(count)
    child._sum.inc(float(values.sum()))


class _ClassCounter:
    """The class of each row: the output itself where it is whole numbers, else the largest score's place."""

    def __init__(self, counter: Counter, labels: tuple[str, str, str], classes: int) -> None:
        self._counter = counter
        self._labels = labels
        self._classes = classes

    def __call__(self, arrays: list[Array]) -> None:
        chosen = np.concatenate([_chosen(array) for array in _joined(arrays)])
        for value, count in zip(*np.unique(chosen, return_counts=True), strict=True):
            label = str(int(value)) if 0 <= value < self._classes else "other"
            self._counter.labels(*self._labels, label).inc(int(count))


def _joined(arrays: list[Array]) -> list[Array]:
    """The rows of all answers in one array, where their other dimensions are the same."""
    tail = arrays[0].shape[1:]
    if arrays[0].ndim and all(array.ndim and array.shape[1:] == tail for array in arrays):
        return [np.concatenate(arrays)]
    return arrays


def _classes(spec: TensorSpec) -> int:
    """How many classes an output tells apart; 0 for one of values."""
    width = spec.shape[-1] if len(spec.shape) == 2 else 1 if len(spec.shape) == 1 else 0
    if spec.datatype.startswith(("INT", "UINT")):
        return MAX_CLASSES if width == 1 else 0
    return width if 2 <= width <= MAX_CLASSES else 0


def _chosen(array: Array) -> Array:
    if array.dtype.kind in "iu":
        return array.ravel()
    best: Array = array.reshape(-1, array.shape[-1]).astype(np.float32, copy=False).argmax(axis=1)
    return best


def _scores(array: Array) -> Array:
    rows = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
    if rows.shape[1] == 1:
        return rows.ravel().astype(np.float64)
    length: Array = np.linalg.norm(rows.astype(np.float64), axis=1)
    return length


class Statistics:
    """Totals of one model version since it was loaded, in nanoseconds, as Triton's extension names them."""

    def __init__(self) -> None:
        self.success = self.fail = self.cache_hit = self.cache_miss = 0
        self.success_ns = self.fail_ns = self.queue_ns = self.compute_ns = 0
        self.rows = self.batches = self.last_ms = 0
        self.by_rows: dict[int, tuple[int, int]] = {}

    def batch(self, rows: int, requests: int, compute_s: float) -> None:
        compute_ns = int(compute_s * 1e9)
        self.rows += rows
        self.batches += 1
        self.compute_ns += compute_ns * requests
        count, total = self.by_rows.get(rows, (0, 0))
        if count or len(self.by_rows) < 1024:
            self.by_rows[rows] = count + 1, total + compute_ns

    def as_json(self, name: str, version: str) -> dict[str, Any]:
        def duration(count: int, ns: int = 0) -> dict[str, int]:
            return {"count": count, "ns": ns}

        return {
            "name": name,
            "version": version,
            "last_inference": self.last_ms,
            "inference_count": self.rows,
            "execution_count": self.batches,
            "inference_stats": {
                "success": duration(self.success, self.success_ns),
                "fail": duration(self.fail, self.fail_ns),
                "queue": duration(self.success, self.queue_ns),
                "compute_input": duration(self.success),
                "compute_infer": duration(self.success, self.compute_ns),
                "compute_output": duration(self.success),
                "cache_hit": duration(self.cache_hit),
                "cache_miss": duration(self.cache_miss),
            },
            "batch_stats": [
                {
                    "batch_size": rows,
                    "compute_input": duration(count),
                    "compute_infer": duration(count, ns),
                    "compute_output": duration(count),
                }
                for rows, (count, ns) in sorted(self.by_rows.items())
            ],
        }


class ModelMetrics:
    """The bound metrics of one model version; what the batcher and the accounts tell goes through it.

    What every request tells is gathered and counted in bulk, at the latest by ``flush``.
    """

    def __init__(
        self, metrics: ServerMetrics, model: str, version: str, outputs: dict[str, TensorSpec]
    ) -> None:
        self._metrics = metrics
        self._labels = (model, version)
        self._totals = Statistics()
        self._closed = False
        self._lock = threading.Lock()
        self._answers: deque[float] = deque()
        self._waits: deque[float] = deque()
        self._batches: deque[tuple[int, int, float]] = deque()
        self._duration = metrics.duration.labels(model, version)
        self._queued = metrics.queued.labels(model, version)
        self._compute = metrics.compute.labels(model, version)
        self._rows = metrics.rows.labels(model, version)
        self._ok = metrics.requests.labels(model, version, "infer", "200")
        self._cache = {result: metrics.cache.labels(model, result) for result in ("hit", "miss")}
        self._gathered = Gathered(metrics, model, version, outputs)
        metrics.before_scrape(self.flush)

    @property
    def statistics(self) -> Statistics:
        self.flush()
        return self._totals

    def answered(self, method: str, code: int, seconds: float, *, timed: bool = True) -> None:
        """One request for this model version, by what its caller got.

        ``timed``: the seconds are the model's, not those of a caller whose request was never understood.
        """
        if code == 200 and method == "infer":
            self._answers.append(seconds)
            if self._closed or len(self._answers) >= _FLUSH_AT:
                self.flush()
            return
        self._metrics.requests.labels(*self._labels, method, str(code)).inc()
        if timed:
            self._duration.observe(seconds)
        totals = self._totals
        if code == 200:
            totals.success += 1
            totals.success_ns += int(seconds * 1e9)
        else:
            totals.fail += 1
            totals.fail_ns += int(seconds * 1e9)

    def batch(self, batch: Sequence[Work], results: Sequence[object], compute_s: float) -> None:
        rows = 0
        for work, result in zip(batch, results, strict=True):
            rows += work.rows
            self._waits.append(work.started_at - work.queued_at)
            if isinstance(result, dict):
                self._gathered.add(result)
        self._batches.append((rows, len(batch), compute_s))

    def rejected(self, reason: Reason) -> None:
        self._metrics.rejected.labels(*self._labels, reason).inc()

    def cached(self, *, hit: bool) -> None:
        self._cache["hit" if hit else "miss"].inc()
        if hit:
            self._totals.cache_hit += 1
        else:
            self._totals.cache_miss += 1

    def flush(self) -> None:
        """Count what was gathered."""
        with self._lock:  # a scrape and the event loop
            totals = self._totals
            if answers := _taken(self._answers):
                seconds = np.array(answers)
                self._ok.inc(len(answers))
                observe(self._duration, seconds)
                totals.success += len(answers)
                totals.success_ns += int(seconds.sum() * 1e9)
                totals.last_ms = int(time.time() * 1e3)
            if waits := _taken(self._waits):
                seconds = np.array(waits)
                observe(self._queued, seconds)
                totals.queue_ns += int(seconds.sum() * 1e9)
            if batches := _taken(self._batches):
                observe(self._rows, np.array([rows for rows, _, _ in batches], float))
                observe(self._compute, np.array([compute_s for _, _, compute_s in batches]))
                for told in batches:
                    totals.batch(*told)
        self._gathered.flush()

    def close(self) -> None:
        """Answers that are still being sent are counted one by one."""
        self._closed = True
        self.flush()
        self._metrics.no_more(self.flush)


def _taken(waiting: deque[Item]) -> list[Item]:
    """What waits now; another thread may append meanwhile."""
    return [waiting.popleft() for _ in range(len(waiting))]
