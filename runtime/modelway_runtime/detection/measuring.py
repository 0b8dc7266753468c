"""From answers to queries to what the judge reads; the same for a server and for a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from modelway_runtime.detection import promql
from modelway_runtime.detection.evidence import Array, Buckets, Measured, Pod, Resolution, Series
from modelway_runtime.detection.histograms import Histogram, bounds_of, new_in, quantiles_on, together
from modelway_runtime.detection.history import STEP_S, HistoryFailed
from modelway_runtime.detection.promql import Query
from modelway_runtime.detection.quantiles import Quantiles
from modelway_runtime.detection.settings import Pattern, Watched

_MOST_STEPS = 20_000_000  # of 60 seconds: 38 years
MOST_PODS = 30
"""Of one version that are read one by one: as many tell how much pods differ."""


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

    def index(self, time: float) -> int:
        """Of the first time at or after a Unix time, within 0 and the count."""
        return min(max(math.ceil((time - self.start) / STEP_S), 0), self.count)

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
    ask: Ask,
    watched: Watched,
    patterns: Sequence[str],
    grid: Grid,
    window_s: float,
    compared_from: float | None = None,
) -> tuple[Series, tuple[Measured, ...]]:
    """``History.release`` by queries."""
    load = promql.load(watched, window_s)
    plans = {name: promql.queries(watched, pattern_of(watched, name), window_s) for name in patterns}
    answers = ask(_distinct([load, *(query for plan in plans.values() for query in plan)]), grid)
    first = 0 if compared_from is None else grid.index(compared_from)
    measured = []
    for name, plan in plans.items():
        pattern = watched.patterns[name]
        (side,) = _sides(pattern, [[answers[query] for query in plan]], [{}], grid, first)
        measured.append(
            Measured(
                name,
                pattern,
                grid.series(side.whole.values),
                buckets=side.whole.buckets,
                queries=tuple(map(str, plan)),
                resolution=_resolution(side, grid, first),
            )
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
    loads = [promql.load(watched, window_s, each) for each in hashes]
    plans = {
        name: [promql.queries(watched, pattern_of(watched, name), window_s, each) for each in hashes]
        for name in patterns
    }
    queries = [query for both in plans.values() for plan in both for query in plan]
    answers = ask(_distinct([*loads, *queries]), grid)
    by_pod = [{key[0]: values for key, values in answers[load].items()} for load in loads]
    measured = []
    for name, both in plans.items():
        pattern = watched.patterns[name]
        read = [[answers[query] for query in plan] for plan in both]
        one, other = _sides(pattern, read, by_pod, grid, 0)
        measured.append(
            Measured(
                name,
                pattern,
                grid.series(one.whole.values),
                grid.series(other.whole.values),
                one.whole.buckets,
                other.whole.buckets,
                tuple(str(query) for plan in both for query in plan),
                _resolution(one, grid, 0),
                _resolution(other, grid, 0),
                _pods(one, by_pod[0], grid),
                _pods(other, by_pod[1], grid),
            )
        )
    first, second = (grid.series(_summed(pods, grid)) for pods in by_pod)
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


@dataclass(frozen=True, slots=True)
class _Read:
    """A pattern's values at the times of the grid, and for a histogram what they were read from."""

    values: Array
    buckets: Buckets | None = None
    quantiles: Quantiles | None = None


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the compared versions: all its pods together, and each of them."""

    whole: _Read
    pods: Mapping[str, _Read]
    unshared: tuple[float, ...] = ()


def _sides(
    pattern: Pattern,
    answers: Sequence[Sequence[Answer]],
    loads: Sequence[Mapping[str, Array]],
    grid: Grid,
    first: int,
) -> list[_Side]:
    """Of each version by the answers to its queries and the loads of its pods. Versions share bounds of
    buckets, as they are from the step ``first`` on, and the order of classes."""
    if pattern.metric in promql.BUCKETS:
        assert pattern.quantile is not None
        return _histograms([_parts(each[0]) for each in answers], pattern.quantile, grid, first, False)
    if pattern.metric == "output_value":
        values, classes = ([each[index] for each in answers] for index in (0, 1))
        with np.errstate(over="ignore", invalid="ignore"):  # counts that no server has counted
            if any(classes) and not any(values):
                return _classes(classes, grid)
            return _histograms([_parts(each) for each in values], 0.5, grid, first, True)
    return [
        _plain(pattern, {key[-1] if key else "": values for key, values in each[0].items()}, load, grid)
        for each, load in zip(answers, loads, strict=True)
    ]


def _plain(pattern: Pattern, pods: Mapping[str, Array], loads: Mapping[str, Array], grid: Grid) -> _Side:
    """Rates add up, shares are weighed by requests, and what a machine has is averaged."""
    if pattern.metric == "throughput":
        whole = _summed(pods, grid)
    elif pattern.metric == "error_ratio" and loads:
        weights = {
            pod: np.where(np.isnan(values), np.nan, loads.get(pod, grid.nothing()))
            for pod, values in pods.items()
        }
        failed = {pod: values * weights[pod] for pod, values in pods.items()}
        total = _summed(weights, grid)
        whole = np.divide(_summed(failed, grid), total, out=grid.nothing(), where=total > 0)
    else:
        known = {pod: np.where(np.isnan(values), np.nan, 1.0) for pod, values in pods.items()}
        whole = _summed(pods, grid) / _summed(known, grid)
    return _Side(_Read(whole), {pod: _Read(values) for pod, values in pods.items()})


def _summed(pods: Mapping[str, Array], grid: Grid) -> Array:
    """Of what is there; missing where nothing is."""
    total = grid.nothing()
    for values in pods.values():
        total = np.where(np.isnan(total), values, total + np.nan_to_num(values))
    return total


def _parts(answer: Answer) -> dict[str, Histogram]:
    """A histogram for each pod or revision."""
    parts: dict[str, dict[tuple[str, ...], Array]] = {}
    for (bound, part), values in answer.items():
        parts.setdefault(part, {})[(bound,)] = values
    return {part: by_bound(each) for part, each in parts.items()}


def _histograms(
    sides: Sequence[Mapping[str, Histogram]], quantile: float, grid: Grid, first: int, counted: bool
) -> list[_Side]:
    """``counted``: with the new observations of each bucket, whose distribution is compared as well."""
    bounds = bounds_of([each for parts in sides for each in parts.values()], first)

    def of(parts: Sequence[Histogram]) -> _Read:
        if len(bounds.shared) < 2 or bounds.shared[-1] != math.inf:
            return _Read(grid.nothing())
        whole = together(parts, bounds.shared, grid.count)
        read = quantiles_on(bounds.shared, whole, quantile, grid.count)
        edges = np.array(bounds.shared[:-1], np.float64)
        new = Buckets(grid.start, STEP_S, edges, new_in(whole, bounds.shared)) if counted else None
        return _Read(read.values, new, read)

    return [
        _Side(of(list(parts.values())), {part: of([each]) for part, each in parts.items()}, bounds.unshared)
        for parts in sides
    ]


def _classes(answers: Sequence[Answer], grid: Grid) -> list[_Side]:
    """The share of the class that is the most frequent in all answers together, and new ones by class.

    Classes stand for buckets: numbers by size, then names by letters; the bounds are their places. A class
    that was not counted yet has no series: zero where another has one.
    """
    names = sorted({key[0] for answer in answers for key in answer}, key=_class_order)
    counted: list[dict[str, Array]] = []
    for answer in answers:
        pods: dict[str, Array] = {}
        for key, values in answer.items():
            table = pods.setdefault(key[1] if len(key) > 1 else "", np.full((grid.count, len(names)), np.nan))
            table[:, names.index(key[0])] = values
        counted.append(pods)
    frequent = int(
        np.sum([np.nansum(table, axis=0) for pods in counted for table in pods.values()], axis=0).argmax()
    )

    def read(tables: Sequence[Array]) -> _Read:
        table = np.full((grid.count, len(names)), np.nan)
        for each in tables:
            table = np.where(np.isnan(table), each, table + np.nan_to_num(each))
        some = ~np.isnan(table).all(axis=1, keepdims=True)
        table = np.where(some & np.isnan(table), 0.0, table)
        whole = table.sum(axis=1)
        share = np.divide(table[:, frequent], whole, out=grid.nothing(), where=whole > 0)
        places = np.arange(len(names) - 1, dtype=np.float64)
        return _Read(share, Buckets(grid.start, STEP_S, places, finite(table)))

    return [
        _Side(read(list(pods.values())), {pod: read([table]) for pod, table in pods.items()})
        for pods in counted
    ]


def _resolution(side: _Side, grid: Grid, first: int) -> Resolution | None:
    """Of what is compared: from the step ``first`` on."""
    if side.whole.quantiles is None:
        return Resolution(*_nowhere(grid), side.unshared) if side.unshared else None
    low, high = (
        Series(grid.start + first * STEP_S, STEP_S, finite(each[first:]))
        for each in (side.whole.quantiles.low, side.whole.quantiles.high)
    )
    return Resolution(low, high, side.unshared)


def _nowhere(grid: Grid) -> tuple[Series, Series]:
    nothing = Series(grid.start, STEP_S, np.zeros(0))
    return nothing, nothing


def _pods(side: _Side, loads: Mapping[str, Array], grid: Grid) -> tuple[Pod, ...]:
    """Those with the most samples, by name. Series without the label are of no pod that could be told."""
    names = [pod for pod in side.pods if pod]
    names = sorted(names, key=lambda pod: (-np.isfinite(side.pods[pod].values).sum(), pod))[:MOST_PODS]
    return tuple(
        Pod(
            pod,
            grid.series(loads.get(pod, grid.nothing())),
            grid.series(side.pods[pod].values),
            side.pods[pod].buckets,
        )
        for pod in sorted(names)
    )


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
