"""The detector by the names and arguments of change-point yardsticks: plain arrays by the minute.

detect(values, timestamps) -> indices; comment, gate(values, timestamps, traffic, t0, now) -> object with
``change``; canary(stable, canary, t0, now) -> bool; monitor(trace, now) -> list of change points. Times t0
and now are indices of minutes, traffic is in requests a minute.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runtime"))

from modelway_runtime.detection import canary as live
from modelway_runtime.detection import judge, release, rolling
from modelway_runtime.detection.changepoints import change_points
from modelway_runtime.detection.evidence import Array, Measured, Pod, Series
from modelway_runtime.detection.history import STEP_S
from modelway_runtime.detection.settings import Pattern


def detect(values: Array, timestamps: Array) -> list[int]:  # noqa: ARG001  # the yardstick's signature
    return change_points(np.asarray(values, np.float64))


def comment(values: Array, timestamps: Array, traffic: Array, t0: int, now: int) -> SimpleNamespace:
    return _judged(values, timestamps, traffic, t0, now, judge.SHARES["release"]["normal"])


def gate(values: Array, timestamps: Array, traffic: Array, t0: int, now: int) -> SimpleNamespace:
    return _judged(values, timestamps, traffic, t0, now, judge.SHARES["release"]["low"])


def canary(stable: Any, candidate: Any, t0: int, now: int) -> bool:
    loads = [Series(0.0, STEP_S, trace.traffic[:now] / STEP_S) for trace in (candidate, stable)]
    series = [Series(0.0, STEP_S, trace.values[:now]) for trace in (candidate, stable)]
    pattern = _pattern(stable.values[:now], stable.traffic[:now])
    # Failures are counted: the pods share them. Of all else each pod shows what the whole version does.
    part = replace(loads[1], values=loads[1].values / (8 if pattern.metric == "error_ratio" else 1))
    one = Measured(
        "metric",
        pattern,
        *series,
        pods=(Pod("canary", loads[0], series[0]),),
        # The harness has no pods: its stable version counts as some that do not differ.
        stable_pods=tuple(Pod(f"stable-{k}", part, series[1]) for k in range(8)),
    )
    found = live.findings(one, loads[0], loads[1], STEP_S * t0, STEP_S * now)
    return any(judge.discoveries(found, judge.SHARES["canary"]["low"]))


def monitor(trace: Any, now: int) -> list[int]:
    one, load = _measured(trace.values[:now], trace.timestamps, trace.traffic[:now])
    start = load.start
    found = rolling.latest(one, load, start + STEP_S * now, ())
    if not judge.discoveries([found], judge.SHARES["watch"]["normal"])[0]:
        return []
    return [round((found.context.span.start - start) / STEP_S)]


def _judged(
    values: Array, timestamps: Array, traffic: Array, t0: int, now: int, share: float
) -> SimpleNamespace:
    one, load = _measured(values, timestamps, traffic)
    start, end = load.start + STEP_S * t0, load.start + STEP_S * now
    found = release.findings(release.prepared(one, load, start, end, ()), load, start, end)
    return SimpleNamespace(change=any(judge.discoveries(found, share)), findings=found)


def _measured(values: Array, timestamps: Array, traffic: Array) -> tuple[Measured, Series]:
    start = float(timestamps[0])
    series = Series(start, STEP_S, np.asarray(values, np.float64))
    return Measured("metric", _pattern(values, traffic), series), Series(start, STEP_S, traffic / STEP_S)


def _pattern(values: Array, traffic: Array) -> Pattern:
    """A yardstick does not say what its metric is; the settings do. Shares of whole requests are errors."""
    failed = (values * traffic)[np.isfinite(values)]
    share = (
        bool(len(failed))
        and np.nanmax(values) <= 1
        and bool(np.all(np.abs(failed - np.round(failed)) < 1e-6))
    )
    return Pattern(
        metric="error_ratio" if share else "latency",
        quantile=None if share else 0.5,
        worse="up",
        minimum_effect=0.2 if share else 0.05,
        window_s=3600.0,
        sensitivity="normal",
    )
