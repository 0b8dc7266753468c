"""A finding as the verdict says it."""

from __future__ import annotations

import msgspec
import numpy as np

from modelway_runtime.detection.among_pods import AmongPods
from modelway_runtime.detection.changepoints import change_points
from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.finding import POWER, Finding
from modelway_runtime.detection.numerics import without_spikes
from modelway_runtime.detection.report.sparkline import sparkline
from modelway_runtime.detection.resolution import ranges
from modelway_runtime.detection.verdict import (
    UNITS,
    BucketRange,
    Effect,
    MetricVerdict,
    Pods,
    Resolved,
    State,
    Window,
    Windows,
    moment,
)

CONFIDENCE = 0.95


def metric_verdict(finding: Finding, counts: bool, share: float, tests: int) -> MetricVerdict:
    """``share`` of false discoveries among ``tests``: the threshold is that of the hardest rung."""
    pattern, context, size = finding.measured.pattern, finding.context, finding.size
    state = _state(finding, counts)
    threshold = smallest = effect = p = None
    if size is not None:
        reach = size.threshold(min(share * finding.weight / tests, 0.1))
        threshold = max(finding.relative(reach), finding.minimum)
        smallest = max(finding.relative(reach + POWER * size.deviation), finding.minimum)
        effect, p = _effect(finding), size.p
    return MetricVerdict(
        name=finding.measured.name,
        metric=pattern.metric,
        quantile=pattern.quantile,
        unit=UNITS[pattern.metric],
        test=finding.test,
        state=state,
        reason=finding.reason if finding.reason is not None else msgspec.UNSET,
        before=context.before,
        after=context.after,
        effect=effect,
        p=p,
        smallest_effect=_finite(smallest),
        threshold=_finite(threshold),
        windows=_windows(finding),
        counts=context.counts,
        missing_ratio=context.missing_ratio,
        load_change=context.load_change,
        change_points=tuple(moment(at) for at in _changes(finding)) if counts else (),
        queries=finding.measured.queries,
        sparkline=sparkline(_around(finding)),
        pods=_pods(finding),
        buckets=_buckets(finding),
    )


def _buckets(finding: Finding) -> Resolved | msgspec.UnsetType:
    """Of the level of a quantile."""
    known = ranges(finding.measured, finding.context.span) if finding.test == "level" else None
    if known is None:
        return msgspec.UNSET
    before, after = (
        BucketRange(low=_finite(side.low), high=_finite(side.high)) for side in (known.before, known.after)
    )
    return Resolved(before=before, after=after)


def _pods(finding: Finding) -> Pods | msgspec.UnsetType:
    """Of a canary. The spread is that of the pods that a test has used."""
    measured, size = finding.measured, finding.size
    if measured.stable is None:
        return msgspec.UNSET
    if not isinstance(size, AmongPods):
        return Pods(stable=len(measured.stable_pods), canary=len(measured.pods), spread=None)
    return Pods(stable=size.stable, canary=size.canary, spread=_finite(finding.relative(size.spread)))


def _state(finding: Finding, counts: bool) -> State:
    if finding.pending:
        return "pending"
    if finding.size is None:
        return "inconclusive"
    if not counts:
        return "unchanged"
    worse = finding.measured.pattern.worse
    if finding.test == "distribution" or worse == "both":
        return "regressed"
    rises = finding.size.effect > 0
    if finding.test == "spread":  # more of it is worse, whichever way the level is
        return "regressed" if rises else "improved"
    return "regressed" if rises == (worse == "up") else "improved"


def _effect(finding: Finding) -> Effect:
    assert finding.size is not None
    size, before = finding.size, finding.context.before
    after = finding.context.after
    reach = size.threshold(1 - CONFIDENCE)
    ends = size.effect - reach, size.effect + reach
    buckets = ranges(finding.measured, finding.context.span) if finding.test == "level" else None
    if buckets is not None:
        ends = buckets.widened(finding.form, before, after, *ends)
    relative, low, high = (
        _finite(finding.relative(value)) if np.isfinite(value) or value < 0 else None
        for value in (size.effect, *ends)
    )
    if finding.test == "level" and finding.form == "log" and before is not None and relative is not None:
        absolute = relative * abs(before) if before else (after or 0.0) - before
    else:
        absolute = (after or 0.0) - (before or 0.0)
    known = before != 0 or finding.test != "level"
    return Effect(
        absolute=absolute,
        relative=relative if known else None,
        low=low if known else None,
        high=high if known else None,
        confidence=CONFIDENCE,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _windows(finding: Finding) -> Windows:
    span = finding.context.span
    before_end = span.end if span.history is None else span.start
    history = None
    if span.history is not None and span.history < span.before:
        history = Window(start=moment(span.history), end=moment(span.before))
    return Windows(
        history=history,
        before=Window(start=moment(span.before), end=moment(before_end)),
        after=Window(start=moment(span.start), end=moment(span.end)),
    )


def _around(finding: Finding) -> Array:
    series, span = finding.measured.series, finding.context.span
    return series.values[series.index(span.before) : series.index(span.end)]


def _changes(finding: Finding) -> list[float]:
    """Unix seconds at which what time of day and load leave was cut, from four hours before, by bins."""
    shown, span = finding.shown, finding.context.span
    if shown is None:
        return []
    near = shown.times >= span.before
    rest = shown.values[near] - shown.expected[near]
    if finding.logarithmic:
        rest = np.log(shown.values[near]) - np.log(shown.expected[near])
    return [float(shown.times[near][at]) for at in change_points(without_spikes(rest))]
