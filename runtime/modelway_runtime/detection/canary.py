"""A canary against the stable version: all tests of one metric, pod by pod."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelway_runtime.detection import among_pods, distribution
from modelway_runtime.detection.among_pods import AmongPods
from modelway_runtime.detection.evidence import FEWEST_PODS, Array, Measured, Pod, Series
from modelway_runtime.detection.finding import Context, Finding, Span
from modelway_runtime.detection.history import STEP_S
from modelway_runtime.detection.prepare import Form
from modelway_runtime.detection.release import form_of, load_change, typical
from modelway_runtime.detection.resolution import nothing_shared
from modelway_runtime.detection.verdict import Counts, Reason, Test

SHORTEST_S = 600.0
"""Seconds that both must have run until anything is said."""
_WEIGHTS = {"level": 1.6, "spread": 0.4}
_FEWEST_KNOWN = 0.5
_USUAL_S = 1800.0
"""Seconds after which a look may have the whole share of false discoveries."""


def share_of_look(share: float, start: float, now: float) -> float:
    """What one look of many may have of a share: a canary is looked at every minute for as long as it runs.

    Less before and after half an hour. Looks at the same minutes say nearly the same; each doubling of the
    time is about one look more, and half of the share before it keeps their sum finite.
    """
    passed = max(now - start, 1.0) / _USUAL_S
    return share * min(passed**2, 1 / passed)


@dataclass(frozen=True, slots=True)
class _Rows:
    """A version's pods as rows, minutes as columns; a quantile only where its tail has a request."""

    values: Array
    loads: Array


def findings(
    one: Measured, load: Series, stable_load: Series, start: float, end: float
) -> tuple[Finding, ...]:
    """``load`` is the canary's; the time is [start, end) in Unix seconds."""
    assert one.stable is not None
    first, last = one.series.index(start), one.series.index(end)
    form = form_of(one)
    context = _context(one, load, stable_load, first, last, Span(None, start, start, end))
    canary, stable = _rows(one, one.pods, first, last), _rows(one, one.stable_pods, first, last)
    reason = _reason(one, context, canary, stable, first, last)
    if reason:
        return (Finding(one, "level", form, context, reason=reason),)
    sizes = _sizes(form, canary, stable)
    if sizes["level"] is None:
        return (Finding(one, "level", form, context, reason="too_few_pods"),)
    found = [
        # A canary that varies less is no news: its noise was scaled by what sampling explains at most.
        Finding(
            one,
            test,
            form,
            context,
            size,
            lasts=test == "level" or size.effect > 0,
            weight=_weight(test, form),
        )
        for test, size in sizes.items()
        if size is not None
    ]
    if one.buckets is not None and one.stable_buckets is not None:
        pods = [pod.buckets for pod in one.stable_pods if pod.buckets is not None]
        many = sum(pod.buckets is not None for pod in one.pods)
        shift = distribution.paired(one.stable_buckets, one.buckets, first, last, pods, many)
        found += [Finding(one, "distribution", form, context, shift)] if shift else []
    return tuple(found)


def _weight(test: Test, form: Form) -> float:
    return 1.0 if form == "share" else _WEIGHTS[test]


def _rows(one: Measured, pods: Sequence[Pod], first: int, last: int) -> _Rows:
    values, loads = (
        np.array(each, np.float64).reshape(len(pods), last - first)
        for each in (
            [pod.series.values[first:last] for pod in pods],
            [pod.load.values[first:last] for pod in pods],
        )
    )
    if one.pattern.quantile is not None:
        # A quantile of fewer requests is lower for chance alone.
        values = np.where((1 - one.pattern.quantile) * STEP_S * loads >= 1, values, np.nan)
    return _Rows(values, loads)


def _reason(
    one: Measured, context: Context, canary: _Rows, stable: _Rows, first: int, last: int
) -> Reason | None:
    if nothing_shared(one):
        return "buckets_changed"
    # How many requests a canary gets is the weight of its step: no evidence, for better or worse.
    unlike = one.pattern.metric == "throughput"
    if unlike or not context.counts.before or not context.counts.after:
        return "no_data"
    assert one.stable is not None
    both = np.isfinite(one.series.values[first:last]) & np.isfinite(one.stable.values[first:last])
    if not len(canary.values) or len(stable.values) < FEWEST_PODS:
        return "too_many_gaps" if np.mean(both) < _FEWEST_KNOWN else "too_few_pods"
    known = np.isfinite(canary.values).any(axis=0) & np.isfinite(stable.values).any(axis=0)
    return "too_many_gaps" if np.mean(known) < _FEWEST_KNOWN else None


def _sizes(form: Form, canary: _Rows, stable: _Rows) -> dict[Test, AmongPods | None]:
    if form == "share":
        return {"level": among_pods.errors(stable.values, canary.values, stable.loads, canary.loads)}
    known = stable.values[np.isfinite(stable.values)]
    unit = (float(np.median(np.abs(known))) or 1.0) if form == "linear" else None
    return {
        "level": among_pods.level(stable.values, canary.values, unit),
        "spread": among_pods.spread(
            stable.values, canary.values, stable.loads, canary.loads, logs=form == "log"
        ),
    }


def _context(one: Measured, load: Series, stable_load: Series, first: int, last: int, span: Span) -> Context:
    assert one.stable is not None
    canary, stable, form = one.series.values[first:last], one.stable.values[first:last], form_of(one)
    counts = Counts(history=0, before=int(np.isfinite(stable).sum()), after=int(np.isfinite(canary).sum()))
    missing = 1.0 - (counts.before + counts.after) / max(2 * (last - first), 1)
    return Context(
        typical(stable, stable_load.values[first:last], form),
        typical(canary, load.values[first:last], form),
        span,
        counts,
        min(max(missing, 0.0), 1.0),
        load_change(stable_load.values[first:last], load.values[first:last]),
    )
