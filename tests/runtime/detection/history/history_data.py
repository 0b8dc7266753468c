"""A model's past as OpenMetrics: two revisions, a reset, gaps, errors that begin late, neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from modelway_runtime.detection.settings import MetricName, Pattern, Prometheus, Watched
from tests.support.prometheus import series, text

T0 = 1_790_000_040.0  # a whole minute
HOUR = 3600.0
STABLE, CANARY = "7d9f8c6b5", "5c4b3a2f1"
BOUNDS = (0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
VALUES = (-1.0, 0.0, 0.5, 1.0)
Labels = dict[str, str]


def pattern(metric: MetricName, quantile: float | None = None) -> Pattern:
    return Pattern(
        metric=metric,
        quantile=quantile,
        worse="up",
        minimum_effect=0.05,
        window_s=3600.0,
        sensitivity="normal",
    )


ALL: dict[str, Pattern] = {
    "latency-p99": pattern("latency", 0.99),
    "latency-p50": pattern("latency", 0.5),
    "queue": pattern("queue_time", 0.9),
    "compute": pattern("compute_time", 0.75),
    "throughput": pattern("throughput"),
    "errors": pattern("error_ratio"),
    "memory": pattern("memory"),
    "gpu-memory": pattern("gpu_memory"),
    "gpu-use": pattern("gpu_utilization"),
    "scores": pattern("output_value"),
}


def watched(
    model: str = "ranker", patterns: Mapping[str, Pattern] | None = None, job: str = "ranker"
) -> Watched:
    return Watched(
        namespace="search-prod",
        team="search",
        model=model,
        job=job,
        workload="Rollout",
        standby=None,
        patterns=dict(ALL if patterns is None else patterns),
        severity="warning",
        response=("notify",),
    )


def server(url: str, **changes: Any) -> Prometheus:
    told: dict[str, Any] = {
        "timeout_s": 20.0,
        "history_s": 86400.0,
        "scrape_interval_s": 15.0,
        "token_file": None,
        "tls": None,
        "tenant": None,
    }
    return Prometheus(url=url, **{**told, **changes})


def past(seed: int = 0) -> str:
    """Three hours: the stable pods run all the time, the canary's from the middle on."""
    random = np.random.default_rng(seed)
    pods = [
        ("1.0.0", STABLE, f"ranker-{STABLE}-aaaaa", 0.0, 3 * HOUR),
        ("1.0.0", STABLE, f"ranker-{STABLE}-bbbbb", 0.0, 2.5 * HOUR),
        ("1.1.0", CANARY, f"ranker-{CANARY}-ccccc", 1.5 * HOUR, 3 * HOUR),
    ]
    lines: list[str] = []
    for index, (version, pod_hash, name, first, last) in enumerate(pods):
        scraped = {"namespace": "search-prod", "pod": name, "job": "kubernetes-pods"}
        target = {**scraped, "rollouts_pod_template_hash": pod_hash}
        model = {**target, "model": "ranker", "version": version}
        times = np.arange(first + 7.3 + index, last, 15.0)
        times = times[(times < 4000) | (times > 4000 + 300 * (index + 1))]  # a gap: Prometheus was away
        lines += _pod(random, times + T0, target, model, slow=1.0 + index)
        lines += series(
            "container_memory_working_set_bytes",
            {**scraped, "container": "server"},
            [(T0 + t, 1e9 + 1e6 * index + 100 * t) for t in np.arange(first, last, 30.0) + 3.1],
        )
        lines += series(
            "container_memory_working_set_bytes",
            {**scraped, "container": "proxy"},
            [(T0 + t, 5e9) for t in np.arange(first, last, 30.0) + 3.1],
        )
    for namespace, name in (("search-prod", "ranker-lite"), ("ads-prod", "ranker")):
        other = {"namespace": namespace, "pod": f"{name}-{STABLE}-ddddd", "job": name}
        lines += _pod(
            random, np.arange(7.3, 3 * HOUR, 15.0) + T0, other, {**other, "model": name, "version": "9"}, 1
        )
    return text(lines)


def _pod(
    random: np.random.Generator, times: np.ndarray, target: Labels, model: Labels, slow: float
) -> Iterator[str]:
    """All metrics of one server; counters begin again after an hour, and nothing is asked for a while."""
    count = len(times)
    quiet = (times > T0 + 5000) & (times < T0 + 5900)
    requests = np.where(quiet, 0, random.poisson(40, count))
    restart = np.searchsorted(times, T0 + 3025)  # within a minute: at its end no window would see it fall
    late = times > T0 + 8000
    failed = np.where(late, random.binomial(requests, 0.1), 0)
    infer = {**model, "method": "infer"}
    yield from _counter(
        "inference_requests_total", {**infer, "code": "200"}, times, requests - failed, restart
    )
    for code, share in (("503", failed), ("429", failed // 3)):
        yield from _counter("inference_requests_total", {**infer, "code": code}, times[late], share[late], 0)
    for name in ("request", "queue", "compute"):
        metric = f"inference_{name}_duration_seconds_bucket"
        spread = random.lognormal(math.log(0.02 * slow), 1.0, (count, 40))
        yield from _histogram(metric, model, times, requests, spread, BOUNDS, restart)
    scores = random.normal(0.3 * slow, 0.5, (count, 40))
    for output in ("score", "extra"):
        labels = {**model, "output": output}
        yield from _histogram(
            "inference_output_value_bucket", labels, times, requests, scores, VALUES, restart
        )
    yield from series("model_ready", model, [(t, 1.0) for t in times])
    yield from series("up", target, [(t, 1.0) for t in times])
    for gpu in ("0", "1"):
        yield from series(
            "inference_gpu_memory_used_bytes", {**target, "gpu": gpu}, [(t, 2e9 * slow) for t in times]
        )
        yield from series(
            "inference_gpu_utilization_ratio",
            {**target, "gpu": gpu},
            zip(times, random.random(count), strict=True),
        )


def _counter(metric: str, labels: Labels, times: np.ndarray, new: np.ndarray, restart: int) -> list[str]:
    total = np.cumsum(new)
    if 0 < restart < len(total):
        total[restart:] -= total[restart - 1]
    return series(metric, labels, zip(times.tolist(), total.tolist(), strict=True))


def _histogram(
    metric: str, labels: Labels, times: np.ndarray, requests: np.ndarray, seen: np.ndarray,
    bounds: tuple[float, ...], restart: int,
) -> Iterator[str]:  # fmt: skip
    for bound in (*bounds, math.inf):
        share = (seen <= bound).mean(axis=1)
        le = "+Inf" if bound == math.inf else repr(bound)
        yield from _counter(
            metric, {**labels, "le": le}, times, np.round(requests * share).astype(int), restart
        )
