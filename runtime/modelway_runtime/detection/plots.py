"""The series around a release as a person looks at them: measured, expected, and the usual range."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelway_runtime.detection.evidence import Array, Evidence
from modelway_runtime.detection.finding import Finding, Shown
from modelway_runtime.detection.judgement import Plot
from modelway_runtime.detection.numerics import scale
from modelway_runtime.detection.verdict import UNITS, MetricVerdict

_SHOWN_CANARY_S = 2 * 3600.0
_REACH = 2.58
"""Standard deviations that hold 99 of 100 normal values."""


def plots(
    evidence: Evidence, findings: Sequence[Finding], found: Sequence[MetricVerdict]
) -> tuple[Plot, ...]:
    """One for each metric's level."""
    return tuple(
        _plot(evidence, finding, metric)
        for finding, metric in zip(findings, found, strict=True)
        if finding.test == "level"
    )


def _plot(evidence: Evidence, finding: Finding, metric: MetricVerdict) -> Plot:
    span = finding.context.span
    stable: Array | None = None
    if evidence.comparison == "canary":
        shown, stable = _live(finding)
    else:
        assert finding.shown is not None
        shown = finding.shown
    times = shown.times
    begin, end = (float(times[0]), span.end) if len(times) else (span.before, span.end)
    others = tuple(
        other.started_at.timestamp()
        for other in evidence.other_rollouts
        if begin <= other.started_at.timestamp() < end and other != evidence.rollout
    )
    return Plot(
        name=finding.measured.name,
        unit=UNITS[finding.measured.pattern.metric],
        times=times,
        values=shown.values,
        expected=shown.expected,
        low=shown.low,
        high=shown.high,
        stable=stable,
        change_points=tuple(at.timestamp() for at in metric.change_points),
        released_at=evidence.started_at,
        others_released_at=others,
    )


def _live(finding: Finding) -> tuple[Shown, Array]:
    """Both versions by the minute, from two hours before the canary."""
    one, span = finding.measured, finding.context.span
    assert one.stable is not None
    first, last = one.series.index(span.start - _SHOWN_CANARY_S), one.series.index(span.end)
    stable = one.stable.values[first:last]
    canary = one.series.values[first:last]
    with np.errstate(invalid="ignore", divide="ignore"):
        away = np.log(canary) - np.log(stable) if finding.logarithmic else canary - stable
    reach = _REACH * scale(away)
    low, high = (
        (stable * np.exp(-reach), stable * np.exp(reach))
        if finding.logarithmic
        else (stable - reach, stable + reach)
    )
    return Shown(one.series.times[first:last], canary, stable, low, high), stable
