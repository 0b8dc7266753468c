"""Verdicts and plots to write reports of; all numbers by arithmetic, so that they are the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np

from modelway_runtime.detection.judgement import Plot
from modelway_runtime.detection.verdict import (
    OUTCOMES,
    UNITS,
    Commit,
    Counts,
    Effect,
    MetricVerdict,
    PullRequest,
    Rollout,
    State,
    Unit,
    Verdict,
    Window,
    Windows,
)

RELEASED = datetime(2026, 11, 21, 10, tzinfo=UTC)
WINDOWS = Windows(
    history=Window(start=RELEASED - timedelta(days=14), end=RELEASED - timedelta(hours=4)),
    before=Window(start=RELEASED - timedelta(hours=4), end=RELEASED),
    after=Window(start=RELEASED, end=RELEASED + timedelta(hours=1)),
)
ROLLOUT = Rollout(
    namespace="search-prod",
    model="ranker",
    version="46.1.0",
    hash="6d4b75cb6d",
    previous_hash="7f9c8b5d4f",
    started_at=RELEASED,
)
OTHER = msgspec.structs.replace(
    ROLLOUT, model="encoder", version="9.0.2", hash="5c9f7d6b88", started_at=RELEASED - timedelta(minutes=48)
)
QUERY = 'histogram_quantile(0.99, sum by (le) (rate(inference_request_duration_seconds_bucket{model="ranker"}[5m])))'


def metric(
    name: str, state: State, before: float | None, relative: float | None, **changes: Any
) -> MetricVerdict:
    """One with an effect of ``relative``; without a value or an effect where these are None."""
    after = before * (1 + relative) if before is not None and relative is not None else None
    effect = (
        Effect(
            absolute=after - before,
            relative=relative,
            low=relative - 0.05,
            high=relative + 0.06,
            confidence=0.95,
        )
        if before is not None and after is not None and relative is not None
        else None
    )
    values: dict[str, Any] = {
        "metric": "latency", "quantile": None, "test": "level", "before": before, "after": after, "effect": effect,
        "p": None if effect is None else 0.0021 if state != "unchanged" else 0.31,
        "smallest_effect": 0.072 if effect else None, "threshold": 0.068 if effect else None, "windows": WINDOWS,
        "counts": Counts(history=3968, before=48, after=12), "missing_ratio": 0.004, "load_change": 0.031,
        "change_points": (), "queries": (QUERY,), "sparkline": "▂▂▁▂▂▂▁▂▂▆▇▆▆",
    }  # fmt: skip
    values |= changes
    return MetricVerdict(name=name, state=state, unit=values.pop("unit", UNITS[values["metric"]]), **values)


def verdict(state: State, metrics: Sequence[MetricVerdict], **changes: Any) -> Verdict:
    values: dict[str, Any] = {
        "id": "prod-search-ranker-6d4b75cb6d-1795258800", "environment": "prod", "team": "search",
        "namespace": "search-prod", "model": "ranker", "comparison": "release", "severity": "warning",
        "sensitivity": "normal", "judged_at": RELEASED + timedelta(hours=1), "detector_version": "0.4.0",
        "series_digest": "sha256:" + "ab" * 32, "rollout": ROLLOUT,
        "commit": Commit(sha="8c1d2e7f9ab045118c1d2e7f9ab045118c1d2e7f", found_by="argocd"),
        "pull_request": PullRequest(number=412, url="https://github.com/shop/models/pull/412"),
        "other_rollouts": (),
    }  # fmt: skip
    values |= changes
    return Verdict(state=state, outcome=OUTCOMES[state], metrics=tuple(metrics), **values)


def plot(name: str, unit: Unit = "s", base: float = 0.041, up: float = 0.27, **changes: Any) -> Plot:
    """Seven minutes-wise hours around the release, with a gap and a spike."""
    released = RELEASED.timestamp()
    times = np.arange(released - 6 * 3600, released + 3600, 60.0)
    steps = np.arange(len(times))
    expected = base * (1 + steps / 4200)
    values = expected * (1 + ((steps * 7919) % 97 - 48) / 700) * np.where(times >= released, 1 + up, 1)
    values[40:52] = np.nan
    values[200] = base * 3
    drawn: dict[str, Any] = {
        "times": times, "values": values, "expected": expected, "low": expected * 0.88, "high": expected * 1.13,
        "stable": None, "change_points": (released + 300,), "released_at": released,
        "others_released_at": (released - 2880,),
    }  # fmt: skip
    return Plot(name=name, unit=unit, **(drawn | changes))


def regressed() -> tuple[Verdict, tuple[Plot, ...]]:
    metrics = (
        metric(
            "errors",
            "inconclusive",
            0.0004,
            None,
            metric="error_ratio",
            reason="too_many_gaps",
            missing_ratio=0.47,
        ),
        metric("latency-p99", "regressed", 0.041, 0.268, quantile=0.99, change_points=(RELEASED,)),
        metric("latency-p99", "regressed", 0.002, 1.9, quantile=0.99, test="spread"),
        metric("throughput", "improved", 420.0, 0.09, metric="throughput", queries=()),
        metric("memory", "unchanged", 3.2e9, -0.021, metric="memory"),
        metric("scores", "unchanged", 0.08, 0.03, metric="output_value", test="distribution"),
    )
    plots = (plot("latency-p99"), plot("errors", "ratio", 0.0004, 0.0), plot("memory", "bytes", 3.2e9, -0.02))
    return verdict("regressed", metrics, other_rollouts=(OTHER,)), plots


def improved() -> tuple[Verdict, tuple[Plot, ...]]:
    metrics = (
        metric("errors", "unchanged", 0.0, None, metric="error_ratio"),
        metric("queue-p50", "improved", 0.0009, -0.4),
    )
    return verdict("improved", metrics, commit=None, pull_request=None), (
        plot("queue-p50", base=0.0009, up=-0.4),
    )


def unchanged() -> tuple[Verdict, tuple[Plot, ...]]:
    zero = Effect(absolute=0.0, relative=None, low=None, high=None, confidence=0.95)
    metrics = (
        metric("latency-p99", "unchanged", 0.041, 0.012),
        metric("errors", "unchanged", 0.0, 0.0, metric="error_ratio", effect=zero, smallest_effect=0.31),
    )
    return verdict("unchanged", metrics), (plot("latency-p99", up=0.012),)


def pending() -> tuple[Verdict, tuple[Plot, ...]]:
    metrics = (metric("latency-p99", "pending", 0.041, 0.03, p=None, smallest_effect=None),)
    return verdict("pending", metrics, decided_at=RELEASED + timedelta(minutes=90)), (plot("latency-p99"),)


def canary() -> tuple[Verdict, tuple[Plot, ...]]:
    both = Windows(history=None, before=WINDOWS.after, after=WINDOWS.after)
    metrics = (metric("latency-p99", "regressed", 0.041, 0.268, windows=both),)
    nothing = np.full(420, np.nan)
    drawn = plot("latency-p99", stable=plot("x", up=0.0).values, expected=nothing, low=nothing, high=nothing)
    return verdict("regressed", metrics, comparison="canary", sensitivity="low"), (drawn,)


def watch() -> tuple[Verdict, tuple[Plot, ...]]:
    metrics = (metric("latency-p99", "inconclusive", None, None, reason="no_data", queries=(), sparkline=""),)
    drawn = plot("latency-p99", values=np.full(420, np.nan), released_at=None, others_released_at=())
    nothing = {"rollout": None, "commit": None, "pull_request": None}
    return verdict("inconclusive", metrics, comparison="watch", reason="no_data", **nothing), (drawn,)


CASES = {case.__name__: case for case in (regressed, improved, unchanged, pending, canary, watch)}
