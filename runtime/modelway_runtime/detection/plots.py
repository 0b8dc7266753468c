"""The series around a release as a person looks at them: measured, expected, and the band of the null."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelway_runtime.detection.evidence import Array, Evidence
from modelway_runtime.detection.finding import Finding, Shown
from modelway_runtime.detection.judgement import Plot
from modelway_runtime.detection.verdict import UNITS, MetricVerdict

_SHOWN_CANARY_S = 2 * 3600.0


def plots(
    evidence: Evidence, findings: Sequence[Finding], found: Sequence[MetricVerdict], share: float
) -> tuple[Plot, ...]:
    """One for each metric's level."""
    return tuple(
        _plot(evidence, finding, metric, share)
        for finding, metric in zip(findings, found, strict=True)
        if finding.test == "level"
    )


def _plot(evidence: Evidence, finding: Finding, metric: MetricVerdict, share: float) -> Plot:
    span = finding.context.span
    stable: Array | None = None
    if evidence.comparison == "canary":
        shown, stable = _live(finding)
    else:
        assert finding.shown is not None
        shown = finding.shown
    times, expected = shown.times, shown.expected
    reach = finding.size.threshold(min(share * finding.weight, 0.1)) if finding.size else np.nan
    unit = np.nanmedian(np.abs(expected)) if len(expected) and np.isfinite(expected).any() else np.nan
    low, high = (
        (expected * np.exp(-reach), expected * np.exp(reach))
        if finding.logarithmic
        else (expected - reach * unit, expected + reach * unit)
    )
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
        expected=expected,
        low=low,
        high=high,
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
    return Shown(one.series.times[first:last], one.series.values[first:last], stable), stable
