"""Robust statistics on arrays with missing values (NaN)."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from modelway_runtime.detection.evidence import Array, Mask

NORMAL_MAD = 1.4826
"""Standard deviation of a normal variable over its median absolute deviation: 1 / quantile(3/4)."""
_HUBER = 1.5
_NEAR = 1.3
"""Deviations from the median within which a value counts in full: 95 % efficient were all normal, and a few
bins with spikes hardly move it."""
_TINY = 1e-12


def median(values: Array) -> float:
    """Of the known values; NaN without one. A verdict takes a thousand, which numpy's own would make the most
    of its time."""
    known = values[np.isfinite(values)]
    half = len(known) // 2
    if not len(known):
        return float("nan")
    if len(known) % 2:
        return float(np.partition(known, half)[half])
    parted = np.partition(known, (half - 1, half))
    return float((parted[half - 1] + parted[half]) / 2)


def scale(values: Array) -> float:
    """Standard deviation by the median absolute deviation; 0 for a constant, NaN without values."""
    return NORMAL_MAD * median(np.abs(values - median(values)))


def robust_fit(columns: Array, values: Array, rounds: int = 3) -> Array:
    """Coefficients of a linear model with Huber weights (columns: n x k, all finite; values: n).

    Iteratively reweighted least squares, Huber and Ronchetti, Robust Statistics, 2nd ed., section 7.8; a
    ridge of 1e-8 keeps columns apart that say the same.
    """
    weights = np.ones(len(values))
    ridge = 1e-8 * max(len(values), 1) * np.eye(columns.shape[1])
    coefficients: Array = np.zeros(columns.shape[1])
    for _ in range(rounds):
        weighted = columns * weights[:, None]
        coefficients = np.asarray(
            np.linalg.solve(weighted.T @ columns + ridge, weighted.T @ values), np.float64
        )
        rest = np.abs(values - columns @ coefficients)
        spread = NORMAL_MAD * median(rest) + _TINY
        weights = 1.0 / np.maximum(1.0, rest / (_HUBER * spread))
    return coefficients


def means_before(values: Array, width: int) -> Array:
    """For each index i of 0..n the mean of the ``width`` values before it; NaN where none is known."""
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    index = np.arange(len(values) + 1)
    first = np.maximum(index - width, 0)
    number = counts[index] - counts[first]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(number > 0, (sums[index] - sums[first]) / number, np.nan))


def locations(windows: Array, deviation: float) -> Array:
    """A robust mean of each row: the median, moved by the mean of what lies near it.

    One step of Huber's M-estimator from the median. Rows without a value give NaN.
    """
    middle = row_medians(windows)
    near = np.clip(windows - middle[:, None], -_NEAR * deviation, _NEAR * deviation)
    known = np.isfinite(near)
    number = known.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(middle + np.where(known, near, 0.0).sum(axis=1) / number)


def row_medians(windows: Array) -> Array:
    """The median of each row's known values; NaN where there is none (numpy's nanmedian, not by loop)."""
    ordered = np.sort(windows, axis=1)  # NaN last
    number = np.isfinite(windows).sum(axis=1)
    rows = np.arange(len(windows))
    low, high = np.maximum((number - 1) // 2, 0), np.maximum(number // 2, 0)
    high = np.minimum(high, windows.shape[1] - 1)
    middle = (ordered[rows, low] + ordered[rows, high]) / 2
    return np.where(number > 0, middle, np.nan)


def without_spikes(values: Array, around: int = 7, reach: float = 3.0) -> Array:
    """Values no farther than ``reach`` deviations from the median of those around: Hampel's filter."""
    if len(values) < around:
        return values
    padded = np.pad(values, around // 2, constant_values=np.nan)
    middle = row_medians(windows_of(padded, around))
    bound = reach * scale(values - middle)
    return np.asarray(np.clip(values, middle - bound, middle + bound))


def windows_of(values: Array, width: int) -> Array:
    """All windows of a width as rows (a view): row i holds the values from i on."""
    return sliding_window_view(values, width)


def tail_share(value: float, null: Array) -> float:
    """Share of a null distribution that is at least as far from zero as ``value``; never 0.

    Empirical up to the 90 % quantile; beyond it the exceedances are taken as exponential, the peaks over
    threshold of Pickands, Annals of Statistics 3 (1975), with shape 0: a few thousand overlapping windows
    say little of one in a thousand by counting alone.
    """
    sizes = np.abs(null[np.isfinite(null)])
    if not len(sizes):
        return 1.0
    far = abs(value)
    high = float(np.quantile(sizes, 0.9))
    if far <= high:
        return float((np.count_nonzero(sizes >= far) + 1) / (len(sizes) + 1))
    excess = float(np.mean(sizes[sizes > high] - high)) if np.any(sizes > high) else 0.0
    return max(0.1 * float(np.exp(-(far - high) / max(excess, _TINY))), 1e-9)


def tail_value(share: float, null: Array) -> float:
    """The distance from zero whose ``tail_share`` is ``share``, below 0.1."""
    sizes = np.abs(null[np.isfinite(null)])
    if not len(sizes):
        return float("inf")
    high = float(np.quantile(sizes, 0.9))
    excess = float(np.mean(sizes[sizes > high] - high)) if np.any(sizes > high) else 0.0
    return high + excess * float(np.log(0.1 / share))


def false_discoveries(shares: Array, level: float) -> Mask:
    """Which of some p-values count as discoveries: Benjamini and Hochberg, JRSS B 57 (1995)."""
    number = len(shares)
    if not number:
        return np.zeros(0, bool)
    order = np.argsort(shares)
    passed = shares[order] <= level * np.arange(1, number + 1) / number
    last = int(np.max(np.nonzero(passed)[0])) + 1 if passed.any() else 0
    found = np.zeros(number, bool)
    found[order[:last]] = True
    return found
