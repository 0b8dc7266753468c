"""Quantiles of classic histograms, as Prometheus computes them, and what they are worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from modelway_runtime.detection.evidence import Array


@dataclass(frozen=True, slots=True)
class Quantiles:
    """A quantile at each time, and the bounds of the bucket that it is in: the value is drawn between them in
    a straight line, and is not measured. NaN where nothing was observed; infinite where there is no bound."""

    values: Array
    low: Array
    high: Array


def histogram_quantile(quantile: float, buckets: Mapping[float, Array], count: int) -> Array:
    """The values of ``quantiles`` alone."""
    return quantiles(quantile, buckets, count).values


def quantiles(quantile: float, buckets: Mapping[float, Array], count: int) -> Quantiles:
    """The quantile at each of ``count`` times.

    ``buckets`` gives for each upper bound (infinity among them) the observations that were at most so
    large; NaN is a bucket that is missing at that time. Prometheus' rule (``promql/quantile.go``): linear
    within a bucket, the highest finite bound for what lies above it, zero as the lower bound of a first
    bucket that is positive.
    """
    result = np.full((3, count), np.nan)
    bounds = np.array(sorted(buckets), np.float64)
    if len(bounds) < 2 or bounds[-1] != np.inf or count == 0:
        return Quantiles(*result)
    upto = np.stack([buckets[bound] for bound in bounds.tolist()])
    present = ~np.isnan(upto)
    kinds, kind = np.unique(np.packbits(present, axis=0), axis=1, return_inverse=True)
    for index in range(kinds.shape[1]):  # as many as there are sets of buckets: few
        times = np.flatnonzero(kind.reshape(-1) == index)
        rows = present[:, times[0]]
        if rows[-1] and rows.sum() >= 2:
            result[:, times] = _quantile(quantile, bounds[rows], upto[np.ix_(rows, times)])
    return Quantiles(*result)


def _quantile(quantile: float, bounds: Array, upto: Array) -> Array:
    """Three rows: values, lower and upper bounds."""
    upto = np.maximum.accumulate(upto, axis=0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        rank = quantile * upto[-1]
        chosen = np.minimum((upto < rank).sum(axis=0), len(bounds) - 1)
        column = np.arange(upto.shape[1])
        below = np.maximum(chosen - 1, 0)
        first = chosen == 0
        low = np.where(first, 0.0, bounds[below])
        before = np.where(first, 0.0, upto[below, column])
        high = np.where(chosen == len(bounds) - 1, bounds[-2], bounds[chosen])
        value = low + (high - low) * (rank - before) / (upto[chosen, column] - before)
    value = np.where(first & (bounds[0] <= 0), bounds[0], value)
    value = np.where(chosen == len(bounds) - 1, bounds[-2], value)
    rows = np.stack([value, np.where(first, -np.inf, bounds[below]), bounds[chosen]])
    return np.where((upto[-1] > 0) & np.isfinite(value), rows, np.nan)
