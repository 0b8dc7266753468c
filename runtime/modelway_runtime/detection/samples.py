"""What PromQL would answer, from samples of a file.

Rules of Prometheus: a range has the samples after its start up to its end (left-open, as since 3.0); rates
are extrapolated as ``promql/functions.go`` does; an instant sees the newest sample of five minutes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.history import STEP_S
from modelway_runtime.detection.measuring import Answer, Grid, finite
from modelway_runtime.detection.openmetrics import Recorded
from modelway_runtime.detection.promql import Matcher, Mean, Query, Rate, Ratio, Running, Selector

LOOKBACK_MS = 300_000
"""How long a sample answers for its series."""
_STEP_MS = round(1000 * STEP_S)
Labels = Mapping[str, str]
Indexes = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Samples:
    """Series by metric."""

    by_metric: Mapping[str, Sequence[Recorded]]

    def last(self) -> float:
        """Unix seconds of the newest sample; 0 without any."""
        every = (
            one.times_ms[-1] for series in self.by_metric.values() for one in series if len(one.times_ms)
        )
        return max(every, default=0) / 1000

    def ask(self, queries: Sequence[Query], grid: Grid) -> Mapping[Query, Answer]:
        """``measuring.Ask``."""
        return {query: self.answer(query, grid) for query in queries}

    def answer(self, query: Query, grid: Grid) -> Answer:
        """Infinities and NaN are missing values; a series of nothing else is none."""
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            found = self._answer(query, grid)
            return {key: finite(values) for key, values in found.items() if np.isfinite(values).any()}

    def _answer(self, query: Query, grid: Grid) -> Answer:
        match query:
            case Rate():
                return self._rate(query, grid)
            case Ratio():
                parts = self._rate(query.part, grid)
                return {
                    key: _share(parts.get(key, grid.nothing()), whole)
                    for key, whole in self._rate(query.whole, grid).items()
                }
            case Mean():
                return self._mean(query, grid)
            case Running():
                pieces = ((one.labels, _newest(one, grid)) for one in self._select(query.selector))
                found = _greatest(pieces, query.by, grid)
                return {key: np.where(values == 1, values, np.nan) for key, values in found.items()}

    def _select(self, selector: Selector) -> Iterator[Recorded]:
        for one in self.by_metric.get(selector.metric, ()):
            if all(_matches(matcher, one.labels.get(matcher.label, "")) for matcher in selector.matchers):
                yield one

    def _rate(self, query: Rate, grid: Grid) -> dict[tuple[str, ...], Array]:
        totals: dict[tuple[str, ...], Array] = {}
        counts: dict[tuple[str, ...], NDArray[np.int64]] = defaultdict(lambda: np.zeros(grid.count, np.int64))
        for one in self._select(query.selector):
            at, rates = _rates(one, grid, round(1000 * query.window_s))
            key = tuple(one.labels.get(label, "") for label in query.by)
            totals.setdefault(key, np.zeros(grid.count))[at] += query.times * rates
            counts[key][at] += 1
        return {key: np.where(counts[key] > 0, total, np.nan) for key, total in totals.items()}

    def _mean(self, query: Mean, grid: Grid) -> dict[tuple[str, ...], Array]:
        window_ms = round(1000 * query.window_s)
        pieces = ((one.labels, _averages(one, grid, window_ms)) for one in self._select(query.selector))
        found = _greatest(pieces, ("pod", "gpu"), grid)
        if query.of is not None:
            present = ((one.labels, _newest(one, grid)) for one in self._select(query.of))
            up = _greatest(present, ("pod",), grid)
            there = {key: ~np.isnan(up.get(key[:1], grid.nothing())) for key in found}
            found = {key: np.where(there[key], values, np.nan) for key, values in found.items()}
        groups: dict[tuple[str, ...], list[Array]] = defaultdict(list)
        for key, values in found.items():
            groups[key[: len(query.by)]].append(values)
        return {key: _average(values, grid) for key, values in groups.items()}


def _share(part: Array, whole: Array) -> Array:
    return np.where(whole > 0, np.where(np.isnan(part), 0.0, part) / whole, np.nan)


def _average(group: Sequence[Array], grid: Grid) -> Array:
    """``avg``: of what is there."""
    total, count = np.zeros(grid.count), np.zeros(grid.count, np.int64)
    for values in group:
        missing = np.isnan(values)
        total += np.where(missing, 0.0, values)
        count += ~missing
    return np.divide(total, count, out=grid.nothing(), where=count > 0)


def _matches(matcher: Matcher, value: str) -> bool:
    if matcher.pattern:
        return re.fullmatch(matcher.value, value, re.DOTALL) is not None
    return matcher.value == value


def _greatest(
    pieces: Iterable[tuple[Labels, tuple[Indexes, Array]]], by: tuple[str, ...], grid: Grid
) -> dict[tuple[str, ...], Array]:
    """``max by``."""
    found: dict[tuple[str, ...], Array] = {}
    for labels, (at, values) in pieces:
        whole = found.setdefault(tuple(labels.get(label, "") for label in by), grid.nothing())
        whole[at] = np.fmax(whole[at], values)
    return found


def _ranges(
    one: Recorded, grid: Grid, window_ms: int, least: int
) -> tuple[Indexes, NDArray[np.int64], Indexes, Indexes]:
    """Where in the grid the window before a time holds ``least`` samples: the indexes of these times, the
    times (ms), and the first and last sample of each."""
    start_ms = round(1000 * grid.start)
    first = max(0, -(-(int(one.times_ms[0]) - start_ms) // _STEP_MS))
    last = min(grid.count, (int(one.times_ms[-1]) + window_ms - start_ms) // _STEP_MS + 1)
    at = np.arange(first, max(first, last))
    times = start_ms + _STEP_MS * at
    low = np.searchsorted(one.times_ms, times - window_ms, side="right")
    high = np.searchsorted(one.times_ms, times, side="right") - 1
    enough = high - low + 1 >= least
    return at[enough], times[enough], low[enough], high[enough]


def _newest(one: Recorded, grid: Grid) -> tuple[Indexes, Array]:
    at, _, _, high = _ranges(one, grid, LOOKBACK_MS, 1)
    return at, one.values[high]


def _averages(one: Recorded, grid: Grid, window_ms: int) -> tuple[Indexes, Array]:
    """``avg_over_time``; a value in it that is no number makes it none."""
    at, _, low, high = _ranges(one, grid, window_ms, 1)
    good = np.isfinite(one.values)
    base = float(one.values[good][0]) if good.any() else 0.0  # keeps the digits of large numbers
    sums = np.concatenate([[0.0], np.cumsum(np.where(good, one.values - base, 0.0))])
    bad = np.concatenate([[0], np.cumsum(~good)])
    means = base + (sums[high + 1] - sums[low]) / (high + 1 - low)
    return at, np.where(bad[high + 1] > bad[low], np.nan, means)


def _rates(one: Recorded, grid: Grid, window_ms: int) -> tuple[Indexes, Array]:
    """``rate``: the increase with resets of the counter undone, extrapolated to the ends of the window
    unless they are further away than 1.1 intervals between samples, and never below zero."""
    at, times, low, high = _ranges(one, grid, window_ms, 2)
    values = one.values
    lost = np.concatenate([[0.0], np.where(values[1:] < values[:-1], values[:-1], 0.0)]).cumsum()
    increase = values[high] - values[low] + lost[high] - lost[low]
    sampled = (one.times_ms[high] - one.times_ms[low]).astype(np.float64)
    between = sampled / (high - low)
    to_start = (one.times_ms[low] - (times - window_ms)).astype(np.float64)
    to_end = (times - one.times_ms[high]).astype(np.float64)
    rising = (increase > 0) & (values[low] >= 0)
    to_zero = np.divide(values[low], increase, out=np.full(len(at), np.inf), where=rising) * sampled
    to_start = np.minimum(to_start, to_zero)
    covered = sampled
    for edge in (to_start, to_end):
        covered = covered + np.where(edge < 1.1 * between, edge, between / 2)
    return at, increase * (covered / sampled) / (window_ms / 1000)
