"""Whether a model answers differently: the distribution of its output values, from a histogram over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from modelway_runtime.detection.evidence import FEWEST_PODS, Array, Buckets
from modelway_runtime.detection.numerics import scale, tail_share, tail_value

_BIN = 5
_FEWEST = 60
_SWAPS = 1999
_SEED = 20_260_101
"""Of the swaps: the same evidence must give the same verdict."""


@dataclass(frozen=True, slots=True)
class Shift:
    """``effect`` is the population stability index; ``p`` is that of the Kolmogorov-Smirnov distance, whose
    null is empirical (a histogram's observations are not independent); ``null`` holds the indices of it.
    For a canary ``usual`` is the index that pods of one version give, with ``freedom`` degrees."""

    effect: float
    p: float
    null: Array
    usual: float = 0.0
    freedom: float = 1.0

    @property
    def deviation(self) -> float:
        """Standard deviation of the index by chance."""
        return max(scale(self.null), self.usual)

    def threshold(self, share: float) -> float:
        """The index whose p is ``share``."""
        of_pods = float(stats.t.isf(share / 2, self.freedom)) ** 2 * self.usual if self.usual else 0.0
        return max(tail_value(share, self.null), of_pods)


def stability_index(expected: Array, actual: Array) -> Array:
    """Population stability index of histograms along the last axis: sum of (a - e) log(a / e) over shares.

    Half an observation is added to each bucket. 0.1 is often called a small change, 0.25 a large one
    (Siddiqi, Credit Risk Scorecards, 2006).
    """
    e = (expected + 0.5) / (expected + 0.5).sum(axis=-1, keepdims=True)
    a = (actual + 0.5) / (actual + 0.5).sum(axis=-1, keepdims=True)
    return np.asarray(((a - e) * np.log(a / e)).sum(axis=-1))


def distance(one: Array, other: Array) -> Array:
    """Kolmogorov-Smirnov distance of histograms along the last axis; 0 where one is empty."""
    with np.errstate(invalid="ignore", divide="ignore"):
        a = np.cumsum(one, axis=-1) / one.sum(axis=-1, keepdims=True)
        b = np.cumsum(other, axis=-1) / other.sum(axis=-1, keepdims=True)
    return np.asarray(np.nan_to_num(np.abs(a - b).max(axis=-1)))


def placebo(
    buckets: Buckets, before: float, start: float, end: float, releases: Sequence[float] = ()
) -> Shift | None:
    """The window [start, end) against [before, start), with the same at all moments as the null whose windows
    hold none of the earlier ``releases``. Times are Unix seconds. None where there is too little."""
    step = buckets.step
    first = round((start - buckets.start) / step)
    low = first % _BIN
    last = min(round((end - buckets.start) / step), len(buckets.counts))
    high = low + (last - low) // _BIN * _BIN
    if high <= first or first <= low:
        return None
    counts = np.nan_to_num(buckets.counts[low:high]).reshape(-1, _BIN, buckets.counts.shape[1]).sum(axis=1)
    at, width, back = (first - low) // _BIN, (high - first) // _BIN, round((start - before) / step / _BIN)
    sums = np.concatenate([np.zeros((1, counts.shape[1])), np.cumsum(counts, axis=0)])
    moments = np.arange(back, len(counts) - width + 1)
    if at not in moments:
        return None
    earlier, later = sums[moments] - sums[moments - back], sums[moments + width] - sums[moments]
    enough = (earlier.sum(axis=1) > 0) & (later.sum(axis=1) > 0)
    null = enough & (moments <= at - width)
    for release in releases:
        there = (release - buckets.start) / step / _BIN - low / _BIN
        null &= (moments + width <= there) | (moments - back >= there)
    now = moments == at
    if null.sum() < _FEWEST or not enough[now][0]:
        return None
    distances, indices = distance(earlier, later), stability_index(earlier, later)
    p = tail_share(float(distances[now][0]), distances[null])
    return Shift(float(indices[now][0]), p, indices[null])


def paired(
    stable: Buckets, canary: Buckets, first: int, last: int, pods: Sequence[Buckets], canary_pods: int
) -> Shift | None:
    """Canary against stable over the samples [first, last): minutes of both are swapped at random for the
    null, so that what both vary by cancels. Then against what each of the stable ``pods`` differs from the
    others: pods get other callers. None with fewer than three of them."""
    s, c = np.nan_to_num(stable.counts[first:last]), np.nan_to_num(canary.counts[first:last])
    with np.errstate(invalid="ignore", divide="ignore"):
        share_s, share_c = s / s.sum(axis=1, keepdims=True), c / c.sum(axis=1, keepdims=True)
    both = np.isfinite(share_s).all(axis=1) & np.isfinite(share_c).all(axis=1)
    share_s, share_c = share_s[both], share_c[both]
    if len(share_s) < 8:
        return None
    signs = np.random.default_rng(_SEED).integers(0, 2, (_SWAPS, len(share_s)))
    mean, half = (share_s + share_c) / 2, (share_c - share_s) / 2
    turned = (2.0 * signs - 1.0) @ half
    distances = distance(mean.sum(axis=0) - turned, mean.sum(axis=0) + turned)
    seen = float(distance(share_s.sum(axis=0), share_c.sum(axis=0)))
    p = float((np.count_nonzero(distances >= seen - 1e-12) + 1) / (_SWAPS + 1))
    per_minute = (s[both].sum() + c[both].sum()) / 2 / len(share_s)
    null = stability_index((mean.sum(axis=0) - turned) * per_minute, (mean.sum(axis=0) + turned) * per_minute)
    among = _among(pods, first, last, canary_pods)
    if among is None:
        return None
    usual_distance, usual, freedom = among
    far = float(distance(s[both].sum(axis=0), c[both].sum(axis=0))) / max(usual_distance, 1e-12)
    p = max(p, float(2 * stats.t.sf(far, freedom)))
    return Shift(float(stability_index(s[both].sum(axis=0), c[both].sum(axis=0))), p, null, usual, freedom)


def _among(
    pods: Sequence[Buckets], first: int, last: int, canary_pods: int
) -> tuple[float, float, float] | None:
    """The distance and the index of new pods by what pods of one version differ by, and degrees of freedom.

    Root mean squares of each pod against the others. A distance grows with the root of the variance of both
    sides, the index with that variance: 1 + 1/(k-1) for one against the others, 1/m + 1/k for m new pods.
    """
    whole = np.array([np.nan_to_num(pod.counts[first:last]).sum(axis=0) for pod in pods])
    whole = whole[whole.sum(axis=1) > 0] if len(whole) else whole
    k = len(whole)
    if k < FEWEST_PODS or not canary_pods:
        return None
    others = whole.sum(axis=0) - whole
    factor = (1 / canary_pods + 1 / k) * (k - 1) / k
    usual = float(np.sqrt(np.mean(distance(whole, others) ** 2) * factor))
    return usual, float(np.mean(stability_index(whole, others)) * factor), k - 1.0
