"""Where a series changed: segments with a level or a trend each, under white or autocorrelated noise.

For each kind of noise the best places of 0, 1, 2, … changes are found exactly: levels by the dynamic
programme of ``ruptures`` (KernelCPD, linear kernel), trends by the same recursion with a cost of our own,
which ``ruptures`` has no fast form of. Which of them holds is decided by the length of the description of
the series (Davis, Lee and Rodriguez-Yam, JASA 101, 2006): one setting for every series.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.numerics import row_medians

MEMORY = (0.0, 0.3, 0.6, 0.8, 0.9)
"""Autocorrelations at lag 1 that the noise is tried with."""
_EXACT, _BINS = 1000, 240
"""A series of more samples is looked at through as many bins; the recursion is quadratic."""
_SHORTEST, _SHORTEST_SHARE = 5, 0.05
"""Samples of a segment at least: a last spike is no change."""
_MOST = 3
"""Changes at most, and one more for each thousand samples: a series that would be cut more often comes and
goes, and every run of it would count as a change."""


def change_points(values: Array) -> list[int]:
    """Indices of the first samples of new segments, rising; NaN is missing. Without a change: empty."""
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < 2 * _SHORTEST:
        return []
    middle = np.median(values[known])
    width_of = (
        np.max(np.abs(values[known] - middle)) or 1.0
    )  # sums of squares must not lose a change in an offset
    filled = np.interp(np.arange(len(values)), known, (values[known] - middle) / width_of)
    if len(filled) <= _EXACT:
        return _segmented(filled, most=_MOST)
    width = math.ceil(len(filled) / _BINS)
    coarse = row_medians(filled[: len(filled) // width * width].reshape(-1, width))
    most = min(_MOST + len(filled) // 1000, 20)
    return _refined(filled, [width * at for at in _segmented(coarse, most)], width)


@dataclass(frozen=True, slots=True)
class _Cut:
    """Change points, and the sum of squares that the segments leave."""

    places: list[int]
    rest: float


def _segmented(values: Array, most: int) -> list[int]:
    """The cut with the shortest description, over all kinds of noise and numbers of changes."""
    number = len(values)
    shortest = max(_SHORTEST, math.ceil(_SHORTEST_SHARE * number))
    most = min(most, number // shortest - 1)
    floor = _resolution(values) ** 2 / 12  # the variance of rounding
    best, best_length = [], math.inf
    for memory in MEMORY:
        for degree, cuts in enumerate(
            (_levels(values, memory, shortest, most), _trends(values, memory, shortest, most))
        ):
            for cut in cuts:
                length = _description(cut, number, degree, memory, floor)
                if length < best_length:
                    best, best_length = cut.places, length
    return best


def _description(cut: _Cut, number: int, degree: int, memory: float, floor: float) -> float:
    """In nats, but for a constant: the noise, half a log of n for each number, a log of n for each place."""
    segments = len(cut.places) + 1
    used = number - (segments if memory else 0)
    numbers = (degree + 1) * segments + 1 + (1 if memory else 0)
    noise = number / 2 * math.log(max(cut.rest / used, floor))
    return noise + (numbers / 2 + len(cut.places)) * math.log(number)


def _resolution(values: Array) -> float:
    """The smallest step between two values: what they were rounded to, or less; a hundredth of their range
    where they are hardly more than two."""
    steps = np.diff(np.unique(values))
    steps = steps[steps > 1e-9]
    return float(min(steps.min(), 0.01 * np.ptp(values))) if len(steps) else 1e-6


def _innovations(values: Array, memory: float) -> Array:
    """What an AR(1) series says anew at each sample."""
    new = values.copy()
    new[1:] -= memory * values[:-1]
    return new


def _levels(values: Array, memory: float, shortest: int, most: int) -> Iterator[_Cut]:
    import ruptures

    new = _innovations(values, memory)
    search = ruptures.KernelCPD(kernel="linear", min_size=shortest, jump=1).fit(new)
    if most:
        search.predict(n_bkps=most)  # which keeps the solutions with fewer
    for changes in range(most + 1):
        places = [int(at) for at in search.predict(n_bkps=changes)[:-1]] if changes else []
        yield _Cut(places, _left_by_levels(new, places, skip=1 if memory else 0))


def _left_by_levels(new: Array, places: Sequence[int], skip: int) -> float:
    """The first innovation of a segment spans two of them and is left out."""
    edges = [0, *places, len(new)]
    parts = [new[start + skip : end] for start, end in pairwise(edges)]
    return float(sum(((part - part.mean()) ** 2).sum() for part in parts if len(part)))


def _trends(values: Array, memory: float, shortest: int, most: int) -> Iterator[_Cut]:
    """Bellman's recursion over all ends at once: best[e] = min over s of best[s] + cost[s, e]."""
    number = len(values)
    costs = _costs_of_trends(_innovations(values, memory), skip=1 if memory else 0)
    ends = np.arange(number + 1)
    costs[ends[None, :] - ends[:, None] < shortest] = np.inf
    best, froms = costs[0].copy(), []
    yield _Cut([], float(best[number]))
    for _ in range(most):
        totals = best[:, None] + costs
        start = np.argmin(totals, axis=0)
        best = totals[start, ends]
        froms.append(start)
        if not np.isfinite(best[number]):
            return
        yield _Cut(_places(froms, number), float(best[number]))


def _places(froms: Sequence[Array], end: int) -> list[int]:
    places: list[int] = []
    for start in reversed(froms):
        end = int(start[end])
        places.append(end)
    return places[::-1]


def _costs_of_trends(new: Array, skip: int) -> Array:
    """cost[s, e]: sum of squares that a line leaves of new[s:e]; infinite where none can be drawn."""
    number = len(new)
    time = np.arange(number, dtype=np.float64) - (number - 1) / 2
    sums = [np.concatenate([[0.0], np.cumsum(part)]) for part in (time, time**2, new, new**2, time * new)]
    start, end = np.arange(number + 1)[:, None], np.arange(number + 1)[None, :]
    first = np.minimum(start + skip, number)
    count = end - first
    with np.errstate(invalid="ignore", divide="ignore"):
        t, tt, y, yy, ty = (part[end] - part[first] for part in sums)
        around = yy - y * y / count
        slope = ty - t * y / count
        spread = tt - t * t / count
        left = np.maximum(around - np.where(spread > 0, slope**2 / spread, 0.0), 0.0)
    return np.where(count > 2, left, np.inf)


def _refined(values: Array, places: Sequence[int], width: int) -> list[int]:
    """Each place of a coarse series to the sample: where two levels around it fit best."""
    edges = [0, *places, len(values)]
    found: list[int] = []
    for before, at, after in zip(edges[:-2], edges[1:-1], edges[2:], strict=True):
        low, high = max(at - width, before + 1), min(at + width, after - 1)
        left, right = np.median(values[before:at]), np.median(values[at:after])
        away = np.abs(values[low:high] - left) - np.abs(values[low:high] - right)
        costs = np.concatenate([[0.0], np.cumsum(away)])  # of a change at low + i
        place = low + int(np.argmin(costs))
        if place > (found[-1] if found else 0):
            found.append(place)
    return found
