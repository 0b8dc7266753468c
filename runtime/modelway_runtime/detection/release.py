"""A release against the time before it: placebo tests of the level, the spread and the distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from modelway_runtime.detection import distribution, placebo, prepare
from modelway_runtime.detection.evidence import Array, Index, Mask, Measured, Series
from modelway_runtime.detection.finding import POWER, SPREAD_EFFECT, Context, Finding, Shown, Span
from modelway_runtime.detection.numerics import means_before, median, scale
from modelway_runtime.detection.placebo import BEFORE, Contrast
from modelway_runtime.detection.prepare import BIN, Adjusted, Bins, Form
from modelway_runtime.detection.resolution import nothing_shared
from modelway_runtime.detection.verdict import Counts, Reason, Test

BEFORE_S = BEFORE * BIN * 60.0
"""Seconds before a release that it is compared with: four hours."""
LASTS: dict[Test, float] = {"level": 0.6, "spread": 0.4}
"""Share of the effect that the second half of the window must still have."""
_DEPARTS = 0.35
"""Share of the effect by which the level must be another than just before, and than usual."""
_WEIGHTS: dict[Test, float] = {"level": 1.2, "spread": 0.8}
_OUTSIDE = 0.17
"""Share of the bins after a release whose load may lie outside what the history has seen: one of six."""
_FEWEST_KNOWN = 0.5
_LONG_S = 9 * 86400.0
"""A history that is long enough; with less, what is not clear is inconclusive."""
_STEEPEST = (1.25, 0.05)
"""How much the load may rise or fall: times the most in a short history, and more (of its log)."""
_CLEAR = 0.005
"""A p from which a change is clear even so."""
_SHORTEST_S = 26 * 3600.0
"""A history that says nothing: not even a day, with the hours that a release is compared with."""
_FINEST_SHARE = 0.5
"""Of the log of a share of failed requests: where none failed before, any failure were an outlier else."""
_SPREAD_CLIP = 4.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """A metric's bins until the end of the window, and what time of day and load leave of them."""

    measured: Measured
    form: Form
    bins: Bins
    level: Adjusted
    past: Mask
    usable: Mask
    blocks: Index
    unit: float
    earlier: tuple[float, ...]


def form_of(measured: Measured) -> Form:
    """Output values may be negative and have no log."""
    if measured.pattern.metric == "error_ratio":
        return "share"
    if measured.pattern.metric != "output_value":
        return "log"
    both = (measured.series,) if measured.stable is None else (measured.series, measured.stable)
    return "linear" if any(bool(np.any(one.values <= 0)) for one in both) else "log"


def prepared(
    measured: Measured, load: Series, start: float, end: float, earlier: Sequence[float]
) -> Prepared:
    """``start`` and ``end`` of the window after the release and ``earlier`` releases, in Unix seconds."""
    series = measured.series
    first, last = series.index(start), series.index(end)
    form = form_of(measured)
    past_values = series.values[:first]
    unit = 1.0
    if form == "linear" and np.isfinite(past_values).any():
        unit = float(np.nanmedian(np.abs(past_values))) or 1.0
    values = _not_nothing(measured, first)[:last] / unit
    bins = prepare.binned(series.times[:last], values, load.values[:last], first, form)
    past = np.arange(len(bins.level)) < bins.first
    blocks = _blocks(bins.times, earlier)
    level = prepare.adjust(bins.level, bins.times, _load_of(measured, bins), past, blocks)
    level = replace(level, rest=prepare.levelled(level.rest, _releases(bins.times, earlier), past))
    return Prepared(measured, form, bins, level, past, _usable(bins, earlier), blocks, unit, tuple(earlier))


def _not_nothing(measured: Measured, first: int) -> Array:
    """No requests and an idle GPU are values, and need a log: a hundredth of what is usual."""
    values = measured.series.values
    if measured.pattern.metric not in ("throughput", "gpu_utilization"):
        return values
    usual = values[:first][values[:first] > 0]
    return np.maximum(values, 0.01 * np.median(usual)) if len(usual) else values


def _load_of(measured: Measured, bins: Bins) -> Array | None:
    """The throughput is the load, and is not explained by itself."""
    return None if measured.pattern.metric == "throughput" else bins.load


def _blocks(times: Array, earlier: Sequence[float]) -> Index:
    """Days, cut at earlier releases: the level may differ from one to the next."""
    if not len(times):
        return np.zeros(0, np.int64)
    day = ((times - times[0]) // 86400).astype(np.int64)
    since = _releases(times, earlier)
    changed = np.concatenate([[False], (np.diff(day) != 0) | (np.diff(since) != 0)])
    return np.asarray(np.cumsum(changed), np.int64)


def _releases(times: Array, earlier: Sequence[float]) -> Index:
    """How many earlier releases came before each bin. Each begins a level of its own, to which nothing before
    it says a thing; the window after this release has the level of the last."""
    return np.asarray(
        np.searchsorted(np.sort(np.asarray(earlier, np.float64)), times, side="right"), np.int64
    )


def _usable(bins: Bins, earlier: Sequence[float]) -> Mask:
    """Moments whose windows hold no earlier release: they are no placebo."""
    usable = np.ones(len(bins.level), bool)
    width = len(bins.level) - bins.first
    for release in earlier:
        at = int(np.searchsorted(bins.times, release))
        usable[max(at - width, 0) : at + BEFORE] = False
    return usable


def findings(
    one: Prepared, load: Series, start: float, end: float, only_level: bool = False
) -> tuple[Finding, ...]:
    """The tests of one metric over a window that is over: of the level, then of spread and distribution."""
    span = Span(one.measured.series.start, start - BEFORE_S, start, end)
    context = context_of(one.measured.series, load, span, one.form)
    reason = _reason(one, context)
    if reason:
        return (Finding(one.measured, "level", one.form, context, reason=reason, shown=shown(one)),)
    finest = _FINEST_SHARE if one.form == "share" else 0.0
    level = placebo.contrast(one.level.rest, _load_before(one), one.bins.first, one.usable, finest)
    if level is None:
        reason = "history_too_short"
        return (Finding(one.measured, "level", one.form, context, reason=reason, shown=shown(one)),)
    if one.form == "share":
        level = _not_beyond_counts(level, one, load)
    found = [_finding(one, "level", context, level)]
    if only_level:
        return tuple(found)
    spread = _spread(one) if one.form != "share" else None
    if spread is not None and not _unclear(one, spread, "spread"):
        found.append(_finding(one, "spread", context, spread))
    if one.measured.buckets is not None:
        shift = distribution.placebo(one.measured.buckets, start - BEFORE_S, start, end, one.earlier)
        found += [Finding(one.measured, "distribution", one.form, context, shift)] if shift else []
    return tuple(found)


def _finding(one: Prepared, test: Test, context: Context, contrast: Contrast) -> Finding:
    weight = _WEIGHTS[test] if one.form != "share" else 1.0
    picture = shown(one) if test == "level" else None
    if test == "level" and _unclear(one, contrast, test):
        return Finding(one.measured, test, one.form, context, reason="history_too_short", shown=picture)
    lasts = contrast.persists(LASTS[test]) and (test != "level" or contrast.departs(_DEPARTS))
    return Finding(one.measured, test, one.form, context, contrast, lasts=lasts, weight=weight, shown=picture)


def shown(one: Prepared) -> Shown:
    """A day before the release and the window after it, by bins. What is expected is time of day and load at
    the level of the four hours before."""
    bins = one.bins
    level = np.nan_to_num(median(one.level.rest[max(bins.first - BEFORE, 0) : bins.first]))
    at = slice(max(bins.first - prepare.BINS_A_DAY, 0), None)
    values, expected = bins.level[at], one.level.expected[at] + level
    before = one.level.rest[: bins.first]
    away = np.abs(before - means_before(before, BEFORE)[:-1])
    reach = float(np.quantile(away[np.isfinite(away)], 0.99)) if np.isfinite(away).any() else np.nan
    rows = np.stack([values, expected, expected - reach, expected + reach])
    return Shown(bins.times[at], *(rows * one.unit if one.form == "linear" else np.exp(rows)))


def _history_s(one: Prepared) -> float:
    """From the first known bin on: a server may have less than it was asked for."""
    known = np.flatnonzero(np.isfinite(one.bins.level[: one.bins.first]))
    return float(one.bins.first - known[0]) * BIN * 60.0 if len(known) else 0.0


def _unclear(one: Prepared, contrast: Contrast, test: Test) -> bool:
    """With a short history a clear change is said; that there is none only where one would have been seen."""
    if _history_s(one) >= _LONG_S or contrast.p < _CLEAR:
        return False
    visible = contrast.threshold(_CLEAR) + POWER * contrast.deviation
    enough = SPREAD_EFFECT if test == "spread" else max(0.2, 2 * one.measured.pattern.minimum_effect)
    return visible > float(np.log1p(enough))


def _reason(one: Prepared, context: Context) -> Reason | None:
    if nothing_shared(one.measured):
        return "buckets_changed"
    after = np.isfinite(one.bins.level[one.bins.first :])
    before = np.isfinite(one.bins.level[max(one.bins.first - BEFORE, 0) : one.bins.first])
    if not context.counts.after or not context.counts.before + context.counts.history:
        return "no_data"
    if _history_s(one) < _SHORTEST_S:
        return "history_too_short"
    if len(after) < 2 or after.mean() < _FEWEST_KNOWN or before.mean() < _FEWEST_KNOWN:
        return "too_many_gaps"
    outside = prepare.load_outside(one.bins.load, one.past, ~one.past)
    if one.measured.pattern.metric != "throughput" and (outside > _OUTSIDE or _leaps(one)):
        return "load_outside_history"
    return None


def _leaps(one: Prepared) -> bool:
    """Whether the load changes more than ever, and the history is too short to tell what comes of that."""
    first = one.bins.first
    if _history_s(one) >= _LONG_S:
        return False
    rises = placebo.rise(one.bins.load, len(one.bins.load) - first)
    past = rises[: max(2 * first - len(one.bins.load), 0) + 1]  # whose windows end before the release
    times, more = _STEEPEST
    low, high = min(past.min(), 0.0), max(past.max(), 0.0)
    return bool(not times * low - more <= rises[first] <= times * high + more)


def _spread(one: Prepared) -> Contrast | None:
    """Noise within bins falls with the root of the load: one power of its log is enough."""
    middle, deviation = median(one.bins.spread[one.past]), scale(one.bins.spread[one.past])
    if not np.isfinite(middle):
        return None
    reach = _SPREAD_CLIP * deviation or np.inf
    clipped = np.clip(one.bins.spread, middle - reach, middle + reach)
    load = _load_of(one.measured, one.bins)
    rest = prepare.adjust(clipped, one.bins.times, load, one.past, one.blocks, powers=1).rest
    rest = prepare.levelled(rest, _releases(one.bins.times, one.earlier), one.past)
    return placebo.contrast(rest, _load_before(one), one.bins.first, one.usable)


def _load_before(one: Prepared) -> Array:
    """Zeros where there is no load to tell of."""
    load = _load_of(one.measured, one.bins)
    return load if load is not None and np.isfinite(load).any() else np.zeros(len(one.bins.level))


def _not_beyond_counts(contrast: Contrast, one: Prepared, load: Series) -> Contrast:
    """Few failures are few whatever the past looked like: p is at least that of the counts before and after,
    the exact binomial test of two Poisson rates (Przyborowski and Wilenski, Biometrika 31, 1940)."""
    series, width = one.measured.series, len(one.bins.level) - one.bins.first
    first = series.index(float(one.bins.times[one.bins.first]))
    requests = 60 * np.where(np.isfinite(series.values), load.values[: len(series.values)], np.nan)
    failed = series.values * requests
    before = slice(max(first - BEFORE * BIN, 0), first)
    after = slice(first, first + width * BIN)
    failed_after, failed_before = (round(float(np.nansum(failed[part]))) for part in (after, before))
    many_after, many_before = float(np.nansum(requests[after])), float(np.nansum(requests[before]))
    if failed_after + failed_before == 0 or many_after + many_before <= 0:
        p = 1.0
    else:
        share = many_after / (many_after + many_before)
        p = float(stats.binomtest(failed_after, failed_after + failed_before, share).pvalue)
    return replace(contrast, p=max(p, contrast.p))


def context_of(series: Series, load: Series, span: Span, form: Form) -> Context:
    """Medians (for shares of requests: pooled), counts of minutes, and the change of load."""
    first, start, end = series.index(span.before), series.index(span.start), series.index(span.end)
    known = np.isfinite(series.values)
    history = int(known[:first].sum()) if span.history is not None else 0
    counts = Counts(history=history, before=int(known[first:start].sum()), after=int(known[start:end].sum()))
    begin = int(np.argmax(known)) if span.history is not None and known.any() else 0
    expected = (end - begin if span.history is not None else end - first) or 1  # from the first sample on
    seen = counts.history + counts.before + counts.after
    before = typical(series.values[first:start], load.values[first:start], form)
    after = typical(series.values[start:end], load.values[start:end], form)
    change = load_change(load.values[first:start], load.values[start:end])
    return Context(before, after, span, counts, min(max(1.0 - seen / expected, 0.0), 1.0), change)


def typical(values: Array, load: Array, form: Form) -> float | None:
    """The median, or the share of all requests; None without a value."""
    known = np.isfinite(values)
    if not known.any():
        return None
    if form == "share":
        weight = np.where(known & np.isfinite(load), load, 0.0)
        if weight.sum() > 0:
            return float((np.where(known, values, 0.0) * weight).sum() / weight.sum())
    return median(values)


def load_change(before: Array, after: Array) -> float | None:
    """Relative change of the mean load; None where it is not known or was zero."""
    known_before, known_after = before[np.isfinite(before)], after[np.isfinite(after)]
    if not len(known_before) or not len(known_after) or known_before.mean() <= 0:
        return None
    return float(known_after.mean() / known_before.mean() - 1)
