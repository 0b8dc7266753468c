"""What the buckets of a histogram leave open: within its bucket a quantile is drawn, and not measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from modelway_runtime.detection.evidence import Array, Measured, Resolution, Series
from modelway_runtime.detection.finding import Span
from modelway_runtime.detection.prepare import Form

_QUARTERS = (0.25, 0.75)


@dataclass(frozen=True, slots=True)
class Range:
    """The buckets that a value is in; infinite where there is no bound."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Ranges:
    """Of the two compared values; ``changed``: a bound that only one side has, or had for a while, is
    between these."""

    before: Range
    after: Range
    changed: bool

    def widened(
        self, form: Form, before: float | None, after: float | None, low: float, high: float
    ) -> tuple[float, float]:
        """An interval of the effect (of logs, or in units of ``before``) with what the buckets leave open.
        Each value may be as far from where it was drawn."""
        if before is None or after is None:
            return low, high
        down_before, up_before = _away(form, before, self.before, before)
        down_after, up_after = _away(form, after, self.after, before)
        return low + down_after - up_before, high + up_after - down_before


def ranges(measured: Measured, span: Span) -> Ranges | None:
    """None where the values are of no histogram, or are not there."""
    after = measured.resolution
    before = after if measured.stable is None else measured.stable_resolution
    if before is None or after is None:
        return None
    # Of a canary both are of the same time.
    end = span.end if span.history is None else span.start
    sides = _range(before, span.before, end), _range(after, span.start, span.end)
    if sides[0] is None or sides[1] is None:
        return None
    unshared = {*before.unshared, *after.unshared}
    changed = any(side.low < bound < side.high for side in sides if side for bound in unshared)
    return Ranges(sides[0], sides[1], changed)


def nothing_shared(measured: Measured) -> bool:
    """Whether bounds changed so that no quantile could be read at all."""
    both = (measured.resolution, measured.stable_resolution)
    return any(each is not None and each.unshared and not len(each.low.values) for each in both)


def _range(resolution: Resolution, start: float, end: float) -> Range | None:
    """The middle half of the buckets over a time: a value near a bound is on either side of it by turns."""
    low, high = (_within(series, start, end) for series in (resolution.low, resolution.high))
    there = np.isfinite(low) | np.isfinite(high)
    if not there.any():
        return None
    lows = np.where(np.isnan(low), -np.inf, low)[there]
    highs = np.where(np.isnan(high), np.inf, high)[there]
    return Range(
        float(np.quantile(lows, _QUARTERS[0], method="lower")),
        float(np.quantile(highs, _QUARTERS[1], method="higher")),
    )


def _within(series: Series, start: float, end: float) -> Array:
    return series.values[series.index(start) : series.index(end)]


def _away(form: Form, value: float, side: Range, unit: float) -> tuple[float, float]:
    """How far down and up the true value may be: of its log, or in units."""
    low, high = min(side.low, value), max(side.high, value)
    if form == "linear":
        return (low - value) / (abs(unit) or 1.0), (high - value) / (abs(unit) or 1.0)
    if value <= 0:
        return -math.inf, math.inf
    return (math.log(low / value) if low > 0 else -math.inf), math.log(
        high / value
    ) if high < math.inf else math.inf
