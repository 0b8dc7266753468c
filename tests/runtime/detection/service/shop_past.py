"""Ten days of a small shop in a real Prometheus, up to now, and settings of a detector that watches it.

``ranker`` got slower with a release two hours ago, ``encoder`` never changes, ``sorter`` has a slow canary
and ``mixer`` a good one since 40 minutes, ``reader`` was released ten minutes ago.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.prometheus import series, text

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
NOW = math.floor(time.time() / MINUTE) * MINUTE
RELEASED = NOW - 2 * HOUR
CANARY_SINCE = NOW - 40 * MINUTE
OLD, NEW = "7d9f8c6b5", "5c4b3a2f1"
BOUNDS = (0.005, 0.01, 0.02, 0.05, 0.5)
TOKEN = "let-me-ask-1234"
TOKENS = {"search-prod": TOKEN, "ads-prod": "ask-for-the-ads-5678"}
Json = dict[str, Any]
# Of each model: how far back it goes, and its revisions as (version, hash, first, last, how slow, share of the load).
Revision = tuple[str, str, float, float, float, float]
MODELS: dict[str, Sequence[Revision]] = {
    "ranker": (("1.0.0", OLD, 10 * DAY, 2 * HOUR, 1.0, 1.0), ("2.0.0", NEW, 2 * HOUR, 0, 1.6, 1.0)),
    "encoder": (("1.0.0", OLD, 10 * DAY, 0, 1.0, 1.0),),
    "sorter": (
        ("1.0.0", OLD, 5 * HOUR, 0, 1.0, 0.8),
        ("2.0.0", NEW, 40 * MINUTE, 0, 1.6, 0.2),
    ),
    "mixer": (
        ("1.0.0", OLD, 5 * HOUR, 0, 1.0, 0.8),
        ("2.0.0", NEW, 40 * MINUTE, 0, 1.0, 0.2),
    ),
    "reader": (("1.0.0", OLD, 5 * HOUR, 10 * MINUTE, 1.0, 1.0), ("2.0.0", NEW, 10 * MINUTE, 0, 1.0, 1.0)),
}


def past(*models: str, seed: int = 0) -> str:
    """OpenMetrics of these models, or of all."""
    random = np.random.default_rng(seed)
    lines: list[str] = []
    for model in models or MODELS:
        for revision in MODELS[model]:
            lines += _revision(random, model, revision)
    return text(lines)


def _revision(random: np.random.Generator, model: str, revision: Revision) -> Iterator[str]:
    """A canary has one pod, all else four, that share its load."""
    *same, share = revision
    pods = ("aaaaa",) if share < 0.5 else ("aaaaa", "bbbbb", "ccccc", "ddddd")
    for pod in pods:
        yield from _pod(random, model, pod, (*same, share / len(pods)))


def _pod(random: np.random.Generator, model: str, pod: str, revision: Revision) -> Iterator[str]:
    version, pod_hash, first, last, slow, share = revision
    # A server is scraped until its end and a little into the future: the tests take minutes.
    end = NOW - last + (30 * MINUTE if last == 0 else 0)
    long_ago = np.arange(NOW - first, min(NOW - 6 * HOUR, end), 2 * MINUTE)  # fewer samples, a faster test
    times = np.concatenate([long_ago, np.arange(max(NOW - 6 * HOUR, NOW - first), end, MINUTE)])
    target = {
        "namespace": "search-prod",
        "pod": f"{model}-{pod_hash}-{pod}",
        "job": model,
        "rollouts_pod_template_hash": pod_hash,
    }
    labels = {**target, "model": model, "version": version}
    day = 1 + 0.3 * np.sin(2 * np.pi * times / DAY)
    requests = random.poisson(100 * share * day * np.diff(times, prepend=times[0] - MINUTE))
    failed = random.binomial(requests, 0.01)
    infer = {**labels, "method": "infer"}
    yield from _counter("inference_requests_total", {**infer, "code": "200"}, times, requests - failed)
    yield from _counter("inference_requests_total", {**infer, "code": "503"}, times, failed)
    middle = math.log(0.012 * slow) + 0.03 * random.standard_normal(len(times))
    name = "inference_request_duration_seconds_bucket"
    for bound in (*BOUNDS, math.inf):
        part = np.array([_below(math.log(bound) - m) for m in middle]) if bound < math.inf else 1.0
        le = repr(bound) if bound < math.inf else "+Inf"
        yield from _counter(name, {**labels, "le": le}, times, np.round(requests * part))
    yield from series("model_ready", labels, [(t, 1.0) for t in times.tolist()])


def _below(distance: float) -> float:
    """Share of a lognormal latency below a bound."""
    return 0.5 * (1 + math.erf(distance / 0.7 / math.sqrt(2)))


def _counter(metric: str, labels: dict[str, str], times: np.ndarray, new: np.ndarray) -> list[str]:
    return series(metric, labels, zip(times.tolist(), np.cumsum(new).tolist(), strict=True))


def pattern(metric: str, quantile: float | None = None, effect: float = 0.05) -> Json:
    return {
        "metric": metric,
        "quantile": quantile,
        "worse": "up",
        "minimum_effect": effect,
        "window_s": 3600,
        "sensitivity": "normal",
    }


def watched(model: str, **changes: Any) -> Json:
    return {
        "namespace": "search-prod",
        "team": "search",
        "model": model,
        "job": model,
        "workload": "Rollout",
        "standby": None,
        "patterns": {"latency-p50": pattern("latency", 0.5), "errors": pattern("error_ratio", None, 0.2)},
        "severity": "warning",
        "response": ["notify"],
        **changes,
    }


def settings(folder: Path, url: str, models: Sequence[str] = tuple(MODELS), **changes: Any) -> Json:
    """As the compiler writes them; files lie in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for namespace, token in TOKENS.items():
        (folder / f"{namespace}-token").write_text(f"{token}\n")
        files[namespace] = str(folder / f"{namespace}-token")
    return {
        "schema": 1,
        "environment": "prod",
        "prometheus": {
            "url": url,
            "timeout_s": 10,
            "history_s": 10 * DAY,
            "scrape_interval_s": 60,
            "token_file": None,
            "tls": None,
            "tenant": None,
        },
        "schedule": None,
        "watched": [watched(model) for model in models],
        "gate": {"port": 0, "token_files": files, "public_url": "https://detector.shop.example"},
        "publish": None,
        "argocd": None,
        "memory_file": str(folder / "memory" / "detector.sqlite"),
        "metrics": {"port": 0},
        **changes,
    }


def write(folder: Path, document: Json) -> Path:
    file = folder / "settings.json"
    file.write_text(json.dumps(document))
    return file
