"""From answers to queries to what the judge reads; the same for a server and for a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from modelway_runtime.detection import promql
from modelway_runtime.detection.evidence import Array, Buckets, Measured, Series
from modelway_runtime.detection.history import STEP_S, HistoryFailed
from modelway_runtime.detection.promql import Query
from modelway_runtime.detection.quantiles import histogram_quantile
from modelway_runtime.detection.settings import Pattern, Watched

_MOST_STEPS = 20_000_000  # of 60 seconds: 38 years


@dataclass(frozen=True, slots=True)
class Grid:
    """Times of samples: ``count`` multiples of the step, from ``start`` (Unix seconds) on."""

    start: float
    count: int

    @classmethod
    def within(cls, start: float, end: float) -> Grid:
        """All multiples of the step in [start, end). Raises HistoryFailed for no such time."""
        if not (math.isfinite(start) and math.isfinite(end)) or abs(end - start) > _MOST_STEPS * STEP_S:
            raise HistoryFailed(f"No history is read from {start} to {end}: give two Unix times in seconds.")
        first = math.ceil(start / STEP_S)
        return cls(first * STEP_S, max(0, math.ceil(end / STEP_S) - first))

    def series(self, values: Array) -> Series:
        """What is not finite is missing."""
        return Series(self.start, STEP_S, finite(values))

    def nothing(self) -> Array:
        """As many missing values."""
        return np.full(self.count, np.nan)


def finite(values: Array) -> Array:
    """The values with NaN for infinities."""
    return np.where(np.isfinite(values), values, np.nan)


Answer: TypeAlias = Mapping[tuple[str, ...], Array]
"""Values at the times of a grid (NaN is missing), by the values of the labels that the query keeps."""
Ask: TypeAlias = Callable[[Sequence[Query], Grid], Mapping[Query, Answer]]


def release(
    ask: Ask, watched: Watched, patterns: Sequence[str], grid: Grid, window_s: float
) -> tuple[Series, tuple[Measured, ...]]:
    """``History.release`` by queries."""
    load = promql.load(watched, window_s)
    plans = {name: promql.queries(watched, pattern_of(watched, name), window_s) for name in patterns}
    answers = ask(_distinct([load, *(query for plan in plans.values() for query in plan)]), grid)
    measured = []
    for name, plan in plans.items():
        (series, buckets), *_ = _read(plan, [answers], grid)
        measured.append(
            Measured(name, watched.patterns[name], series, buckets=buckets, queries=tuple(map(str, plan)))
        )
    return grid.series(_one(answers[load], grid)), tuple(measured)


def canary(
    ask: Ask,
    watched: Watched,
    patterns: Sequence[str],
    grid: Grid,
    window_s: float,
    hashes: tuple[str, str],
) -> tuple[Series, Series, tuple[Measured, ...]]:
    """``History.canary`` by queries; the hashes are the canary's and the stable pods'."""
    loads = [promql.load(watched, window_s, one) for one in hashes]
    plans = {
        name: [promql.queries(watched, pattern_of(watched, name), window_s, one) for one in hashes]
        for name in patterns
    }
    wanted = [query for both in plans.values() for plan in both for query in plan]
    answers = ask(_distinct([*loads, *wanted]), grid)
    measured = []
    for name, both in plans.items():
        renamed = [
            {query: answers[other] for query, other in zip(both[0], plan, strict=True)} for plan in both
        ]
        (series, buckets), (stable, stable_buckets) = _read(both[0], renamed, grid)
        asked = tuple(str(query) for plan in both for query in plan)
        pattern = watched.patterns[name]
        measured.append(Measured(name, pattern, series, stable, buckets, stable_buckets, asked))
    first, second = (grid.series(_one(answers[load], grid)) for load in loads)
    return first, second, tuple(measured)


def pattern_of(watched: Watched, name: str) -> Pattern:
    """Raises HistoryFailed for a name that the settings do not have."""
    if name not in watched.patterns:
        known = ", ".join(f"`{one}`" for one in watched.patterns)
        raise HistoryFailed(f"{watched.model} has no pattern {name!r}: name one of {known}.")
    return watched.patterns[name]


def told_apart(canary: str, stable: str) -> tuple[str, str]:
    """Both hashes. Raises HistoryFailed where they tell no pods apart."""
    if not canary or not stable or canary == stable:
        raise HistoryFailed(
            f"Canary {canary!r} and stable {stable!r} are not two pod template hashes: "
            f"pods are told apart by their label {promql.HASH}."
        )
    return canary, stable


def _distinct(queries: Sequence[Query]) -> list[Query]:
    return list(dict.fromkeys(queries))


def _one(answer: Answer, grid: Grid) -> Array:
    return answer.get((), grid.nothing())


def _read(
    plan: tuple[Query, ...], answers: Sequence[Mapping[Query, Answer]], grid: Grid
) -> list[tuple[Series, Buckets | None]]:
    """A series for each of the answers, which share bounds of buckets and order of classes."""
    if len(plan) == 1:
        return [(grid.series(_one(answer[plan[0]], grid)), None) for answer in answers]
    values, classes = ([answer[query] for answer in answers] for query in plan)
    with np.errstate(over="ignore", invalid="ignore"):  # counts that no server has counted
        if any(classes) and not any(values):
            return _classes(classes, grid)
        return [_values(one, _bounds(values), grid) for one in values]


def _bounds(answers: Sequence[Answer]) -> list[float]:
    """The bounds that at least half of the histograms have, ascending, infinity among them: a version
    with other buckets, or a partial answer, costs some steps and not the whole history."""
    times: dict[float, int] = {}
    for answer in answers:
        for bound, values in by_bound(answer).items():
            times[bound] = times.get(bound, 0) + int(np.isfinite(values).sum())
    return sorted(bound for bound, count in times.items() if 2 * count >= times.get(math.inf, 0) and count)


def _values(answer: Answer, bounds: list[float], grid: Grid) -> tuple[Series, Buckets | None]:
    """The median, and new observations by bucket."""
    found = by_bound(answer)
    if math.inf not in bounds:
        return grid.series(grid.nothing()), None
    upto = np.stack([found.get(bound, grid.nothing()) for bound in bounds])
    partial = np.isnan(upto).any(axis=0)
    rising = np.maximum.accumulate(upto, axis=0)
    counts = np.diff(rising, axis=0, prepend=0.0).T
    counts[partial] = np.nan
    median = histogram_quantile(0.5, found, grid.count)
    edges = np.array(bounds[:-1], np.float64)
    return grid.series(median), Buckets(grid.start, STEP_S, edges, finite(counts))


def _classes(answers: Sequence[Answer], grid: Grid) -> list[tuple[Series, Buckets | None]]:
    """The share of the class that is the most frequent in all answers together, and new ones by class.

    Classes stand for buckets: numbers by size, then names by letters; the bounds are their places. A class
    that was not counted yet has no series: zero where another has one.
    """
    names = sorted({key[0] for answer in answers for key in answer}, key=_class_order)
    tables = []
    for answer in answers:
        table = np.stack([answer.get((name,), grid.nothing()) for name in names], axis=1)
        missing = np.isnan(table)
        some = ~missing.all(axis=1, keepdims=True)
        tables.append(np.where(some & missing, 0.0, table))
    frequent = int(np.nansum(np.concatenate(tables), axis=0).argmax())
    read: list[tuple[Series, Buckets | None]] = []
    for table in tables:
        whole = table.sum(axis=1)
        share = np.divide(table[:, frequent], whole, out=grid.nothing(), where=whole > 0)
        places = np.arange(len(names) - 1, dtype=np.float64)
        read.append((grid.series(share), Buckets(grid.start, STEP_S, places, finite(table))))
    return read


def _class_order(name: str) -> tuple[bool, float, str]:
    number = name.isascii() and name.isdigit()
    return (not number, float(name) if number else 0.0, name)


def by_bound(answer: Answer) -> dict[float, Array]:
    """Buckets by their upper bound; what is no number is left out, as Prometheus does. Two ways to write
    one bound add up."""
    found: dict[float, Array] = {}
    for (text,), values in answer.items():
        try:
            bound = float(text)
        except ValueError:
            continue
        if not math.isnan(bound):
            found[bound] = found[bound] + values if bound in found else values
    return found
