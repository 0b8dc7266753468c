"""The queries of the detector, as values: ``str`` gives the PromQL that a Prometheus is asked, and
``samples`` computes the same from a file.

They aggregate away pods and versions, so that a release is a change within one series; a ``pod_hash`` keeps
to the pods of one revision, and to each of them: pods differ, so a canary is compared pod by pod. Histograms
keep revisions apart, since two revisions may have different bounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from modelway_runtime.detection.history import STEP_S
from modelway_runtime.detection.settings import MetricName, Pattern, Watched

REQUESTS = "inference_requests_total"
VALUES = "inference_output_value_bucket"
CLASSES = "inference_output_class_total"
READY = "model_ready"
UP = "up"
MEMORY = "container_memory_working_set_bytes"
BUCKETS: dict[MetricName, str] = {
    "latency": "inference_request_duration_seconds_bucket",
    "queue_time": "inference_queue_duration_seconds_bucket",
    "compute_time": "inference_compute_duration_seconds_bucket",
}
GAUGES: dict[MetricName, str] = {
    "gpu_memory": "inference_gpu_memory_used_bytes",
    "gpu_utilization": "inference_gpu_utilization_ratio",
}
METRICS = frozenset({REQUESTS, VALUES, CLASSES, READY, UP, MEMORY, *BUCKETS.values(), *GAUGES.values()})

HASH = "rollouts_pod_template_hash"
POD = "pod"
CONTAINER = "server"
BAD_CODES = "5..|429"
"""Codes that the caller could not use: bad for availability (``docs/contract.md``)."""

_LEAST_WINDOW_S = 60.0
_LEAST_MEMORY_WINDOW_S = 120.0  # the kubelet is scraped at its own interval, up to once a minute
_METACHARACTER = re.compile(r"[\\.+*?()|\[\]{}^$]")


def quote(text: str) -> str:
    """A string literal of PromQL, whatever the text holds."""
    text = text.encode("utf-8", "replace").decode()  # half of a surrogate pair cannot be sent
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def one_of(values: Iterable[str]) -> str:
    """A regular expression (RE2 and Python's) that takes these values alone."""
    return "|".join(_METACHARACTER.sub(r"\\\g<0>", value) for value in values)


def rate_window(scrape_interval_s: float) -> float:
    """Seconds over which rates are taken: enough for two samples when every other scrape fails."""
    return max(_LEAST_WINDOW_S, 4 * scrape_interval_s)


@dataclass(frozen=True, slots=True)
class Matcher:
    """Of one label; ``pattern`` says that the value is a regular expression, which must match all of it."""

    label: str
    value: str
    pattern: bool = False

    def __str__(self) -> str:
        return f"{self.label}{'=~' if self.pattern else '='}{quote(self.value)}"


@dataclass(frozen=True, slots=True)
class Selector:
    metric: str
    matchers: tuple[Matcher, ...]

    def __str__(self) -> str:
        return f"{self.metric}{{{','.join(map(str, self.matchers))}}}"


@dataclass(frozen=True, slots=True)
class Rate:
    """Sum of the rates of counters, for each value of the labels ``by``; ``times`` seconds of it."""

    selector: Selector
    window_s: float
    by: tuple[str, ...] = ()
    times: float = 1.0

    def __str__(self) -> str:
        by = f" by ({', '.join(self.by)}) " if self.by else ""
        factor = f"{self.times:g} * " if self.times != 1 else ""
        return f"{factor}sum{by}(rate({self.selector}[{_duration(self.window_s)}]))"


@dataclass(frozen=True, slots=True)
class Ratio:
    """Share of ``part`` in ``whole``. Nothing where nothing was counted in ``whole``; 0 where ``part``
    has no series, since a counter of errors begins with the first one."""

    part: Rate
    whole: Rate
    by: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"({self.part} or 0 * {self.whole}) / ({self.whole} > 0)"


@dataclass(frozen=True, slots=True)
class Mean:
    """Of a gauge over pods and GPUs, or over the GPUs of each pod; ``of`` keeps to the pods that it finds."""

    selector: Selector
    window_s: float
    of: Selector | None = None
    by: tuple[str, ...] = ()

    def __str__(self) -> str:
        each = f"max by (pod, gpu) (avg_over_time({self.selector}[{_duration(self.window_s)}]))"
        by = f" by ({', '.join(self.by)}) " if self.by else ""
        return f"avg{by}({each} and on (pod) {self.of})" if self.of else f"avg{by}({each})"


@dataclass(frozen=True, slots=True)
class Running:
    """1 where a version has a server that is ready."""

    selector: Selector
    by: tuple[str, ...] = ("namespace", "model", "version", HASH)

    def __str__(self) -> str:
        return f"max by ({', '.join(self.by)}) ({self.selector}) == 1"


Query: TypeAlias = Rate | Ratio | Mean | Running


def load(watched: Watched, window_s: float, pod_hash: str | None = None) -> Rate:
    """Requests a second; of each pod of the revision ``pod_hash``."""
    return Rate(_of_model(REQUESTS, watched, pod_hash), window_s, _by(pod_hash))


def queries(
    watched: Watched, pattern: Pattern, window_s: float, pod_hash: str | None = None
) -> tuple[Query, ...]:
    """What a pattern is measured by: one query, or for ``output_value`` two, of which one has an answer
    (buckets of values or counts of classes, new ones in each step)."""
    metric = pattern.metric
    parts = _by(pod_hash) or (HASH,)
    if metric in BUCKETS:
        return (Rate(_of_model(BUCKETS[metric], watched, pod_hash), window_s, ("le", *parts)),)
    if metric == "throughput":
        return (load(watched, window_s, pod_hash),)
    if metric == "error_ratio":
        whole = load(watched, window_s, pod_hash)
        bad = (*whole.selector.matchers, Matcher("code", BAD_CODES, pattern=True))
        return (Ratio(Rate(Selector(REQUESTS, bad), window_s, whole.by), whole, whole.by),)
    if metric == "memory":
        return (_memory(watched, window_s, pod_hash),)
    if metric in GAUGES:
        return (Mean(_of_workload(GAUGES[metric], watched, pod_hash), window_s, by=_by(pod_hash)),)
    return (
        Rate(_of_model(VALUES, watched, pod_hash), window_s, ("le", *parts), STEP_S),
        Rate(_of_model(CLASSES, watched, pod_hash), window_s, ("class", *_by(pod_hash)), STEP_S),
    )


def _by(pod_hash: str | None) -> tuple[str, ...]:
    return () if pod_hash is None else (POD,)


def running(namespaces: Iterable[str]) -> Running:
    """What runs in these namespaces."""
    wanted = Matcher("namespace", one_of(sorted(set(namespaces))), pattern=True)
    return Running(Selector(READY, (wanted,)))


def _of_model(metric: str, watched: Watched, pod_hash: str | None) -> Selector:
    model = (Matcher("namespace", watched.namespace), Matcher("model", watched.model))
    return Selector(metric, (*model, *_of_hash(pod_hash)))


def _of_workload(metric: str, watched: Watched, pod_hash: str | None) -> Selector:
    """By the names of its pods: what ``job`` says depends on how a cluster is scraped. Without a cluster
    there are no pods, and it is the job."""
    if watched.workload is None:
        which = Matcher("job", watched.job)
    else:
        which = Matcher("pod", _pods_of(watched.job), pattern=True)
    return Selector(metric, (Matcher("namespace", watched.namespace), which, *_of_hash(pod_hash)))


def _of_hash(pod_hash: str | None) -> tuple[Matcher, ...]:
    return () if pod_hash is None else (Matcher(HASH, pod_hash),)


def _memory(watched: Watched, window_s: float, pod_hash: str | None) -> Mean:
    """The kubelet knows no template hash, and a long pod name does not hold it: ``up`` tells."""
    pods = (
        Matcher("namespace", watched.namespace),
        Matcher("pod", _pods_of(watched.job), pattern=True),
        Matcher("container", CONTAINER),
    )
    of = None if pod_hash is None else _of_workload(UP, watched, pod_hash)
    return Mean(Selector(MEMORY, pods), max(window_s, _LEAST_MEMORY_WINDOW_S), of, _by(pod_hash))


def _pods_of(job: str) -> str:
    """Names of a workload's pods, ``<job>-<hash>-<five characters>``; Kubernetes cuts a generated name to
    58 characters before the last five."""
    if len(job) >= 58:
        return f"{job[:58]}[a-z0-9]+"
    return f"{job}-[a-z0-9]+(-[a-z0-9]+)?" if len(job) > 46 else f"{job}-[a-z0-9]+-[a-z0-9]+"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f}s" if seconds == round(seconds) else f"{round(1000 * seconds)}ms"
