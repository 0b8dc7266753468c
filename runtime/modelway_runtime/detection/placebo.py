"""Placebo in time: the same comparison at every earlier moment is the null.

After a release the level is compared with what the bins just before it let expect. How much the last
five minutes, quarter of an hour, hour and four hours say of the next ones is learnt from the history
itself, by regression over all earlier moments; what that regression misses there is the null, at the scale
of moments of like load.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from modelway_runtime.detection.evidence import Array, Mask
from modelway_runtime.detection.numerics import (
    locations,
    means_before,
    median,
    robust_fit,
    row_medians,
    scale,
    tail_share,
    tail_value,
    windows_of,
)
from modelway_runtime.detection.prepare import BINS_A_DAY

BEFORE = 48
"""Bins before a moment that are looked at: four hours."""
_LOOKS = (1, 3, 12, BEFORE)
_NEW_AGAINST = (6, BINS_A_DAY)
"""Bins before the moment from whose median a new level departs: half an hour and a day."""
_CLIP = 5.0
_TINY = 1e-9
_AROUND = 13
FEWEST = 60
"""Earlier moments that a null needs; they overlap, so this is a handful of independent ones."""
_LOADS = 6
"""Parts of the history, by load, each of which has a scale of its own."""
_PRIOR = 8.0
"""Windows that the scale of the whole history weighs in each of them."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """``effect`` is on the scale of the values, ``later`` that of the second half of the window.

    ``departures`` are from the medians of the last half hour and of the day before; ``null`` holds
    the effects at all earlier moments, worth ``independent`` of them; ``p`` is two-sided.
    """

    effect: float
    later: float
    departures: tuple[float, ...]
    null: Array
    independent: float
    p: float

    def threshold(self, share: float) -> float:
        """The size of an effect whose p is ``share``, at most 0.1."""
        by_count = float(stats.t.isf(share / 2, self.independent)) * self.deviation
        return max(tail_value(share, self.null), by_count)

    @property
    def deviation(self) -> float:
        """Robust standard deviation of the null."""
        return scale(self.null)

    def persists(self, share: float) -> bool:
        """Whether the second half of the window still has this share of the effect."""
        return self._has(share, self.later)

    def departs(self, share: float) -> bool:
        """Whether the level is new by this share of the effect. What goes back to what was usual, or was so
        already, comes from something before: an incident that ended, say."""
        return all(self._has(share, departure) for departure in self.departures)

    def _has(self, share: float, part: float) -> bool:
        return bool(np.sign(part) == np.sign(self.effect) and abs(part) >= share * abs(self.effect))


def contrast(rest: Array, load: Array, first: int, usable: Mask, finest: float = 0.0) -> Contrast | None:
    """Compare ``rest[first:]`` with what came before. ``usable`` marks the moments (0..n-1) that may serve as
    a placebo; ``load`` is its log, whose change may say what the adjustment left; what deviates by less than
    ``finest`` is no outlier. None where the past or the window says too little."""
    after = np.isfinite(rest[first:])
    width = len(after)
    if after.sum() < 2 or first < BEFORE:
        return None
    deviation = max(scale(rest[:first]), finest)
    looks = _before(_calm(rest, first, _CLIP * deviation))
    looks[: len(load) - width + 1, -2] = rise(load, width)
    windows = windows_of(rest, width)[:, after]  # the placebo lacks the same bins as the window
    level = locations(windows, deviation)
    moments = np.arange(len(level))
    columns = looks[: len(level)]
    fit = usable[: len(level)] & (moments >= BEFORE) & (moments <= first - width) & np.isfinite(level)
    fit &= (np.isfinite(windows).mean(axis=1) >= 0.7) & np.isfinite(columns).all(axis=1)
    if fit.sum() < FEWEST or not np.isfinite(columns[first]).all():
        return None
    weights = robust_fit(columns[fit], level[fit])
    missed = level - columns @ weights
    half = windows[first : first + 1, after.sum() // 2 :]
    later = float(locations(half, deviation)[0] - columns[first] @ weights)
    usual = [median(rest[max(first - bins, 0) : first]) for bins in _NEW_AGAINST]
    departures = tuple(float(level[first] - each) for each in usual if np.isfinite(each))
    scales = _scales(missed, means_before(load, width)[width:][: len(level)], fit, width)
    effect, null = float(missed[first]), missed[fit] / scales[fit] * scales[first]
    independent = max(len(null) / width, 2.0)
    p = _share(effect, null, independent)
    return Contrast(effect, later, departures, null, independent, p)


def _scales(missed: Array, load: Array, fit: Mask, width: int) -> Array:
    """How far chance reaches at each moment: the busy hours of a model may be its restless ones.

    Deviations of parts of the null by load, each drawn to that of the whole; between them by interpolation.
    """
    whole = max(scale(missed[fit]), _TINY)
    known = np.flatnonzero(fit & np.isfinite(load))
    if len(known) < _LOADS * FEWEST or np.ptp(load[known]) == 0:
        return np.full(len(missed), whole)
    parts = np.array_split(known[np.argsort(load[known], kind="stable")], _LOADS)
    windows = len(known) / _LOADS / width
    own = np.array([scale(missed[part]) for part in parts])
    drawn = np.sqrt((windows * own**2 + _PRIOR * whole**2) / (windows + _PRIOR))
    found = np.exp(np.interp(load, [median(load[part]) for part in parts], np.log(drawn)))
    return np.where(np.isfinite(load), found, whole)


def _share(effect: float, null: Array, independent: float) -> float:
    """Two-sided p: by the null itself, but never less than Student's t with as many degrees of freedom as
    the null has windows that do not overlap: with a long history the first decides, else the second."""
    deviation = max(scale(null), _TINY)
    return max(tail_share(effect, null), float(2 * stats.t.sf(abs(effect) / deviation, independent)))


def _calm(rest: Array, first: int, reach: float) -> Array:
    """The past without outliers: none is farther than ``reach`` from the median of the hour around it.

    A level that once changed is no outlier for ever.
    """
    past = np.pad(rest[:first], _AROUND // 2, constant_values=np.nan)
    middle = row_medians(windows_of(past, _AROUND))
    return np.concatenate([np.clip(rest[:first], middle - reach, middle + reach), rest[first:]])


def _before(rest: Array) -> Array:
    """Means of the bins before each moment; where the nearest are missing, of the wider window."""
    looks = [means_before(rest, width) for width in _LOOKS]
    for near in range(len(looks) - 2, -1, -1):
        looks[near] = np.where(np.isfinite(looks[near]), looks[near], looks[near + 1])
    return np.column_stack([*looks, np.zeros(len(rest) + 1), np.ones(len(rest) + 1)])


def rise(load: Array, width: int) -> Array:
    """Of the log of the load, from the hour before each moment to its window; none where it is not known."""
    after = means_before(load, width)[width:]
    return np.nan_to_num(after - means_before(load, 12)[: len(after)])
