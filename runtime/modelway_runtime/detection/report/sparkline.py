"""A series in one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BARS = "▁▂▃▄▅▆▇█"
_CONSTANT = BARS[3]
_TOO_LARGE = 1e100


def sparkline(values: Sequence[float] | NDArray[np.float64], width: int = 60) -> str:
    """The values from the lowest bar (their minimum) to the highest (their maximum).

    At most ``width`` characters: where there are more values, each character is the median of as many
    neighbours. A space is a missing value (not finite); a series without any value is empty.
    """
    points = _scaled(binned(_scaled(np.asarray(values, np.float64).ravel()), width))
    known = np.isfinite(points)
    if not known.any():
        return ""
    low, high = float(points[known].min()), float(points[known].max())
    if high - low <= 1e-9:
        return "".join(_CONSTANT if one else " " for one in known)
    levels = np.zeros(len(points), np.int64)
    levels[known] = np.rint((points[known] - low) / (high - low) * (len(BARS) - 1)).astype(np.int64)
    return "".join(BARS[level] if one else " " for level, one in zip(levels, known, strict=True))


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Within -1 and 1, so that neither a sum nor a difference of two overflows."""
    known = np.isfinite(values)
    largest = float(np.abs(values[known]).max()) if known.any() else 0.0
    return np.asarray(np.where(known, values, np.nan) / (largest or 1.0))


def drawable(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN for what is not finite, and for what overflows when a picture scales it."""
    return np.where(np.abs(values) < _TOO_LARGE, values, np.nan)


def binned(values: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """At most ``most`` medians of neighbours; NaN where none of them is finite."""
    values = np.where(np.isfinite(values), values, np.nan)
    if len(values) <= most:
        return values
    size = -(-len(values) // most)
    filled = np.full(size * -(-len(values) // size), np.nan)
    filled[: len(values)] = values
    rows = filled.reshape(-1, size)
    medians = np.full(len(rows), np.nan)
    some = ~np.isnan(rows).all(axis=1)
    medians[some] = np.nanmedian(rows[some], axis=1)
    return medians


def shortened(line: str, width: int) -> str:
    """A sparkline in at most ``width`` characters; what is no bar counts as missing."""
    levels = np.array([BARS.find(char) if char in BARS else math.nan for char in line], np.float64)
    points = binned(levels, width)
    return "".join(BARS[int(level)] if math.isfinite(level) else " " for level in points)
