"""Histograms of pods or revisions together, on the bounds that all of them have.

The compiler derives bounds from objectives and gates, so a release may change them. Between bounds a quantile
is drawn in a straight line: read from other bounds it is another number though nothing changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.quantiles import Quantiles, quantiles

Histogram: TypeAlias = Mapping[float, Array]
"""Observations up to each bound (infinity among them) over time; NaN is missing."""

_LASTING = 5
"""Steps from which a set of bounds is one: a pod that starts shows some of them first."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Ascending; infinity is among the shared ones. ``unshared`` has those that some lack."""

    shared: tuple[float, ...]
    unshared: tuple[float, ...]


def bounds_of(histograms: Sequence[Histogram], first: int = 0) -> Bounds:
    """What is compared is what they show from the step ``first`` on."""
    sets = [each for histogram in histograms for each in _sets(histogram, first)]
    if not sets:
        return Bounds((), ())
    shared = frozenset.intersection(*sets)
    return Bounds(tuple(sorted(shared)), tuple(sorted(frozenset.union(*sets) - shared)))


def _sets(histogram: Histogram, first: int) -> Iterator[frozenset[float]]:
    """The sets of bounds that one histogram had for a while, one after the other."""
    if math.inf not in histogram:
        return
    bounds = sorted(histogram)
    present = ~np.isnan(np.stack([histogram[bound][first:] for bound in bounds]))
    present = present[:, present[-1]]
    if not present.shape[1]:
        return
    kinds, times = np.unique(present, axis=1, return_counts=True)
    lasting = times >= min(_LASTING, times.max())
    for kind in kinds[:, lasting].T:
        yield frozenset(bound for bound, has in zip(bounds, kind, strict=True) if has)


def together(histograms: Sequence[Histogram], shared: Sequence[float], count: int) -> dict[float, Array]:
    """Their sum on the shared bounds; NaN where one that is there lacks the bound."""
    total: dict[float, Array] = {}
    there = [~np.isnan(histogram.get(math.inf, np.full(count, np.nan))) for histogram in histograms]
    some = np.any(there, axis=0) if there else np.zeros(count, bool)
    for bound in shared:
        upto = np.where(some, 0.0, np.nan)
        for histogram, present in zip(histograms, there, strict=True):
            upto[present] += histogram.get(bound, np.full(count, np.nan))[present]
        total[bound] = upto
    return total


def quantiles_on(shared: Sequence[float], histogram: Histogram, quantile: float, count: int) -> Quantiles:
    """A quantile at the times at which it is read as from the shared bounds: times that lack one of the two
    around it are missing, as they cannot be compared."""
    read = quantiles(quantile, histogram, count)
    with np.errstate(invalid="ignore"):
        within = np.searchsorted(shared, read.high, "left") - np.searchsorted(shared, read.low, "right")
    rows = np.where(within <= 0, np.stack([read.values, read.low, read.high]), np.nan)
    return Quantiles(*rows)


def new_in(histogram: Histogram, shared: Sequence[float]) -> Array:
    """Observations of each bucket, a row for each time; NaN where a bucket is missing."""
    upto = np.stack([histogram[bound] for bound in shared])
    partial = np.isnan(upto).any(axis=0)
    counts = np.diff(np.maximum.accumulate(upto, axis=0), axis=0, prepend=0.0).T
    counts[partial] = np.nan
    return np.where(np.isfinite(counts), counts, np.nan)
