"""Releases, canaries and days of watching from the simulator here, judged as the detector judges them.

Each work is a function of seeds that gives counts by cell, so that it may run in any process.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runtime"))

import numpy as np
from detection_results import Cell, Counts
from detection_simulator import DAY, METRICS, MONDAY, QUIET, Array, Trace, simulate, twins

from modelway_runtime.detection import canary, judge, release, rolling
from modelway_runtime.detection.evidence import Evidence, Measured, Pod, Series
from modelway_runtime.detection.finding import Finding
from modelway_runtime.detection.history import STEP_S
from modelway_runtime.detection.settings import MetricName, Pattern
from modelway_runtime.detection.verdict import Rollout

SOURCE = "own"
MINUTES = (30, 60)
LOUD = ("step+10", "step+20", "step+100")
HISTORY = 9
_STRIDE, _MERGED, _LEARNT, _WATCHED = 30, 60, 7, 3
_KINDS: Mapping[str, tuple[MetricName, float | None]] = {
    "p50": ("latency", 0.5),
    "p99": ("latency", 0.99),
    "err": ("error_ratio", None),
    "gpu": ("gpu_utilization", None),
    "memory": ("memory", None),
    "score": ("output_value", None),
}
_LIVE = ("p50", "p99", "err", "score")
"""What tells canary and stable apart: gauges of a machine depend on the share of the traffic."""


def releases(event: str, first: int, number: int) -> Counts:
    """Releases judged by T minutes, as for comments and as at gates."""
    counts: Counts = {}
    for seed in range(first, first + number):
        t0 = _working_hour(seed, HISTORY)
        trace = simulate(seed, event, t0, t0 // DAY + 1)
        for minutes in MINUTES:
            found = {name: _findings(trace, name, t0 + minutes) for name in _metrics(event)}
            for setting, sensitivity in (("comment", "normal"), ("gate", "low")):
                share = judge.SHARES["release"][sensitivity]  # type: ignore[index]
                _count(counts, ("release", setting, event, minutes, trace.size), found, share)
    return counts


def canaries(event: str, first: int, number: int) -> Counts:
    """Canaries with a fifth of the traffic."""
    counts: Counts = {}
    share = judge.SHARES["canary"]["low"]
    for seed in range(first, first + number):
        t0 = _working_hour(seed, 3)
        stable, other = twins(seed, event, t0, t0 // DAY + 1)
        for minutes in MINUTES:
            found = {
                name: _live(stable, other, name, t0 + minutes) for name in _metrics(event) if name in _LIVE
            }
            _count(counts, ("canary", "gate", event, minutes, stable.size), found, share)
    return counts


def watching(event: str, first: int, number: int) -> Counts:
    """Days of looks with no release: alarms a series and day, or the share of changes found in time."""
    counts: Counts = {}
    for seed in range(first, first + number):
        if event == "none":
            trace = simulate(seed, event, _LEARNT * DAY, _LEARNT + _WATCHED)
            for name in METRICS:
                alarms = len(list(_alarms(trace, name, _LEARNT * DAY, (_LEARNT + _WATCHED) * DAY)))
                cell = Cell(SOURCE, "watch", "comment", event, 0, name, trace.size)
                _add(counts, cell, alarms, _WATCHED)
            continue
        t0 = _working_hour(seed, HISTORY)
        trace = simulate(seed, event, t0, t0 // DAY + 1)
        for name in _metrics(event):
            delays = [at - t0 for at in _alarms(trace, name, t0 + _STRIDE, t0 + 181)]
            for minutes in (60, 180):
                cell = Cell(SOURCE, "watch", "comment", event, minutes, name, trace.size)
                _add(counts, cell, any(delay <= minutes for delay in delays), 1)
    return counts


def verdict_cpu(seed: int) -> tuple[float, float]:
    """CPU seconds of ``judge`` over 8 metrics and 14 days, and of its first call: medians of 5."""
    t0 = 14 * DAY
    trace, more = (simulate(number, "step+20", t0, 15) for number in (seed, seed + 3))
    series = {**trace.values, "queue": more.values["p99"], "compute": more.values["p50"]}
    start = MONDAY + STEP_S * t0
    rollout = Rollout(
        namespace="search-prod",
        model="ranker",
        version="47.0.0",
        hash="7d9f6c5b84",
        previous_hash="6c5b847d9f",
        started_at=datetime.fromtimestamp(start, UTC),
    )
    now = t0 + 60
    evidence = Evidence(
        environment="prod",
        team="search",
        namespace="search-prod",
        model="ranker",
        severity="warning",
        comparison="release",
        sensitivity="normal",
        now=MONDAY + STEP_S * now,
        rollout=rollout,
        other_rollouts=(),
        load=_series(trace.traffic[:now] / STEP_S),
        measured=tuple(
            Measured(name, _pattern(name if name in _KINDS else "p50"), _series(values[:now]))
            for name, values in series.items()
        ),
    )
    taken = []
    for _ in range(6):
        began = time.process_time()
        judge.judge(evidence)
        taken.append(time.process_time() - began)
    return statistics.median(taken[1:]), taken[0]


def _metrics(event: str) -> Sequence[str]:
    """What an event is judged by: errors double, all else gets slower or larger by a tenth or fifth."""
    if event in QUIET:
        return METRICS
    return ("err",) if event == "step+100" else tuple(name for name in METRICS if name != "err")


def _findings(trace: Trace, name: str, now: int) -> Sequence[Finding]:
    start, end = MONDAY + STEP_S * trace.t0, MONDAY + STEP_S * now
    one, load = _measured(trace, name, now)
    return release.findings(release.prepared(one, load, start, end, ()), load, start, end)


def _live(stable: Trace, other: Trace, name: str, now: int) -> Sequence[Finding]:
    loads = [_series(trace.traffic[:now] / STEP_S) for trace in (other, stable)]
    series = [_series(trace.values[name][:now]) for trace in (other, stable)]
    # Failures are counted: the pods share them. Of all else each pod shows what the whole version does.
    part = replace(loads[1], values=loads[1].values / (8 if name == "err" else 1))
    one = Measured(
        name,
        _pattern(name),
        *series,
        pods=(Pod("canary", loads[0], series[0]),),
        # Pods that do not differ; detection_pods.py has such that do.
        stable_pods=tuple(Pod(f"stable-{k}", part, series[1]) for k in range(8)),
    )
    return canary.findings(one, loads[0], loads[1], MONDAY + STEP_S * other.t0, MONDAY + STEP_S * now)


def _alarms(trace: Trace, name: str, start: int, end: int) -> Iterator[int]:
    """As the harness counts: those within an hour of the last, or of the same change, are one."""
    share, last, seen = judge.SHARES["watch"]["normal"], -DAY, list[float]()
    for now in range(start, end, _STRIDE):
        if now - last < _MERGED:
            continue
        one, load = _measured(trace, name, now)
        found = rolling.latest(one, load, MONDAY + STEP_S * now, ())
        at = (found.context.span.start - MONDAY) / STEP_S
        if judge.discoveries([found], share)[0] and all(abs(at - other) > _MERGED for other in seen):
            seen.append(at)
            last = now
            yield now


def _count(
    counts: Counts,
    what: tuple[str, str, str, int, str],
    found: Mapping[str, Sequence[Finding]],
    share: float,
) -> None:
    """By metric, and as one verdict over all of them."""
    comparison, setting, event, minutes, size = what
    together = [finding for findings in found.values() for finding in findings]
    for name, findings in {**found, "verdict": together}.items():
        which = judge.discoveries(findings, share)
        _add(counts, Cell(SOURCE, comparison, setting, event, minutes, name, size), any(which), 1)
        tests = Counter(finding.test for finding, flagged in zip(findings, which, strict=True) if flagged)
        for test, number in tests.items():
            _add(
                counts,
                Cell(SOURCE, comparison, setting, event, minutes, f"{name} by {test}", size),
                number,
                0,
            )
    for name, findings in found.items():
        undecided = findings[0].size is None
        cell = Cell(SOURCE, comparison, f"{setting} undecided", event, minutes, name, size)
        _add(counts, cell, undecided, 1)


def _add(counts: Counts, cell: Cell, hits: int, of: int) -> None:
    before = counts.get(cell, (0, 0))
    counts[cell] = (before[0] + int(hits), before[1] + of)


def _working_hour(seed: int, days: int) -> int:
    """A minute of a working day after ``days``, from 8 to 20 o'clock."""
    random = np.random.default_rng([seed, 17])
    day = days + int(random.integers(0, 3))
    while day % 7 >= 5:
        day += 1
    return day * DAY + int(random.integers(8 * 60, 20 * 60))


def _measured(trace: Trace, name: str, now: int) -> tuple[Measured, Series]:
    one = Measured(name, _pattern(name), _series(trace.values[name][:now]))
    return one, _series(trace.traffic[:now] / STEP_S)


def _series(values: Array) -> Series:
    return Series(MONDAY, STEP_S, values)


def _pattern(name: str) -> Pattern:
    """A change of a twentieth matters everywhere, of errors a fifth."""
    metric, quantile = _KINDS[name]
    least = 0.2 if name == "err" else 0.05
    return Pattern(
        metric=metric,
        quantile=quantile,
        worse="up",
        minimum_effect=least,
        window_s=3600.0,
        sensitivity="normal",
    )
