"""A canary against the stable version: all tests of one metric over the minutes that both have."""

from __future__ import annotations

import numpy as np

from modelway_runtime.detection import distribution, paired
from modelway_runtime.detection.evidence import Measured, Series
from modelway_runtime.detection.finding import Context, Finding, Span
from modelway_runtime.detection.history import STEP_S
from modelway_runtime.detection.release import form_of, load_change, typical
from modelway_runtime.detection.verdict import Counts, Test

SHORTEST_S = 600.0
"""Seconds that both must have run until anything is said."""
_WEIGHTS = {"level": 1.6, "spread": 0.4}
_FEWEST_KNOWN = 0.5


def findings(
    one: Measured, load: Series, stable_load: Series, start: float, end: float
) -> tuple[Finding, ...]:
    """``load`` is the canary's; the time is [start, end) in Unix seconds."""
    assert one.stable is not None
    first, last = one.series.index(start), one.series.index(end)
    canary, stable = one.series.values[first:last], one.stable.values[first:last]
    loads = load.values[first:last], stable_load.values[first:last]
    if one.pattern.quantile is not None:
        # The tail of a minute must hold a request in both: a quantile of fewer is lower for chance alone.
        fewest = (1 - one.pattern.quantile) * STEP_S * np.fmin(*loads)
        canary, stable = np.where(fewest >= 1, [canary, stable], np.nan)
    form = form_of(one)
    context = _context(one, load, stable_load, first, last, Span(None, start, start, end))
    # How many requests a canary gets is the weight of its step: no evidence, for better or worse.
    unlike = one.pattern.metric == "throughput"
    if unlike or not context.counts.before or not context.counts.after:
        return (Finding(one, "level", form, context, reason="no_data"),)
    if np.mean(np.isfinite(canary) & np.isfinite(stable)) < _FEWEST_KNOWN:
        return (Finding(one, "level", form, context, reason="too_many_gaps"),)
    if form == "share":
        sizes: list[tuple[Test, paired.Paired | None, float]] = [
            ("level", paired.errors(stable, canary, loads[1], loads[0]), 1.0)
        ]
    else:
        unit = float(np.nanmedian(np.abs(stable))) or 1.0
        sizes = [
            ("level", paired.level(stable, canary, unit if form == "linear" else None), _WEIGHTS["level"])
        ]
        size = paired.spread(stable, canary, loads[1], loads[0], logs=form == "log")
        sizes.append(("spread", size, _WEIGHTS["spread"]))
    found = []
    for test, size, weight in sizes:
        if size is None and test == "level":
            found.append(Finding(one, "level", form, context, reason="too_many_gaps"))
        elif size is not None:
            # A canary that varies less is no news: its noise was scaled by what sampling explains at most.
            lasts = test == "level" or size.effect > 0
            found.append(Finding(one, test, form, context, size, lasts=lasts, weight=weight))
    if one.buckets is not None and one.stable_buckets is not None:
        shift = distribution.paired(one.stable_buckets, one.buckets, first, last)
        found += [Finding(one, "distribution", form, context, shift)] if shift else []
    return tuple(found)


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
