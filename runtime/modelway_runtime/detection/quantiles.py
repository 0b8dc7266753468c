"""Quantiles of classic histograms, as Prometheus computes them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from modelway_runtime.detection.evidence import Array


def histogram_quantile(quantile: float, buckets: Mapping[float, Array], count: int) -> Array:
    """The quantile at each of ``count`` times; NaN where nothing was observed.

    ``buckets`` gives for each upper bound (infinity among them) the observations that were at most so
    large; NaN is a bucket that is missing at that time. Prometheus' rule (``promql/quantile.go``): linear
    within a bucket, the highest finite bound for what lies above it, zero as the lower bound of a first
    bucket that is positive.
    """
    result = np.full(count, np.nan)
    bounds = np.array(sorted(buckets), np.float64)
    if len(bounds) < 2 or bounds[-1] != np.inf or count == 0:
        return result
    upto = np.stack([buckets[bound] for bound in bounds.tolist()])
    present = ~np.isnan(upto)
    kinds, kind = np.unique(np.packbits(present, axis=0), axis=1, return_inverse=True)
    for index in range(kinds.shape[1]):  # as many as there are sets of buckets: few
        at = np.flatnonzero(kind.reshape(-1) == index)
        rows = present[:, at[0]]
        if rows[-1] and rows.sum() >= 2:
            result[at] = _quantile(quantile, bounds[rows], upto[np.ix_(rows, at)])
    return result


def _quantile(quantile: float, bounds: Array, upto: Array) -> Array:
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
    return np.where((upto[-1] > 0) & np.isfinite(value), value, np.nan)
