"""Placebo in time: the same comparison at every earlier moment is the null.

After a release the level is compared with what the bins just before it let expect. How much the last
five minutes, quarter of an hour, hour and four hours say of the next ones is learnt from the history
itself, by regression over all earlier moments; what that regression misses there is the null.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from modelway_runtime.detection.evidence import Array, Mask
from modelway_runtime.detection.numerics import (
    locations,
    means_before,
    robust_fit,
    row_medians,
    scale,
    tail_share,
    tail_value,
    windows_of,
)

BEFORE = 48
"""Bins before a moment that are looked at: four hours."""
_LOOKS = (1, 3, 12, BEFORE)
_CLIP = 5.0
_AROUND = 13
FEWEST = 60
"""Earlier moments that a null needs; they overlap, so this is a handful of independent ones."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """``effect`` is on the scale of the values, ``later`` that of the second half of the window; ``null`` the
    same at all earlier moments, worth ``independent`` of them; ``p`` two-sided."""

    effect: float
    later: float
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
        return bool(
            np.sign(self.later) == np.sign(self.effect) and abs(self.later) >= share * abs(self.effect)
        )


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
    looks[: len(load) - width + 1, -2] = _load_change(load, width)
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
    effect, null = float(missed[first]), missed[fit]
    independent = max(len(null) / width, 2.0)
    return Contrast(effect, later, null, independent, _share(effect, null, independent))


def _share(effect: float, null: Array, independent: float) -> float:
    """Two-sided p: by the null itself, but never less than Student's t with as many degrees of freedom as
    the null has windows that do not overlap: with a long history the first decides, else the second."""
    deviation = max(scale(null), 1e-9)
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


def _load_change(load: Array, width: int) -> Array:
    """Of the log, from the hour before to the window; none where it is not known."""
    after = means_before(load, width)[width:]
    return np.nan_to_num(after - means_before(load, 12)[: len(after)])
