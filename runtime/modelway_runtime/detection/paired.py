"""A canary against the stable version, both live: what hits both, load and incidents, cancels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.numerics import row_medians, scale

FEWEST = 8
"""Minutes that both must have."""
_NEAR = 1.7
"""Deviations within which a minute counts in full: Huber's constant, 97 % efficient for normal noise."""
_PRIOR = (0.15, 15)
"""Autocorrelation of a twin's difference from minute to minute, and the minutes that this is worth."""
_BURSTS = (2.0, 10.0)
"""Failures come in bursts: variance of their counts over that of chance, and how many blocks it is worth."""
_ANECDOTE = 3
"""Failed requests, of both versions together, below which nothing is said."""
_BLOCK = 5
"""Minutes over which counts of errors are pooled to see how much they vary beyond chance."""


@dataclass(frozen=True, slots=True)
class Paired:
    """``effect`` is the difference, canary less stable, of logs or in units; ``error`` its standard error
    with ``freedom`` degrees of freedom; ``p`` is two-sided; ``minutes`` were compared."""

    effect: float
    error: float
    freedom: float
    p: float
    minutes: int

    @property
    def deviation(self) -> float:
        """The standard error."""
        return self.error

    def threshold(self, share: float) -> float:
        """The size of an effect whose p is ``share``."""
        return float(self.error * stats.t.isf(share / 2, self.freedom))


def errors(stable: Array, canary: Array, stable_load: Array, canary_load: Array) -> Paired | None:
    """Shares of requests, pooled over the time: a score test of two rates, its variance never less than that
    of counts, and more where the counts of five minutes vary more than chance (Pearson's statistic)."""
    both = np.isfinite(stable) & np.isfinite(canary) & (stable_load > 0) & (canary_load > 0)
    minutes = int(both.sum())
    if minutes < FEWEST:
        return None
    requests_s, requests_c = 60 * stable_load[both], 60 * canary_load[both]
    failed_s, failed_c = stable[both] * requests_s, canary[both] * requests_c
    part = requests_c.sum() / (requests_c.sum() + requests_s.sum())
    failed = failed_s.sum() + failed_c.sum()
    if failed <= 0:
        return Paired(0.0, float(1 / np.sqrt(0.5 * part * (1 - part))), float(minutes - 1), 1.0, minutes)
    effect = float(
        np.log((failed_c.sum() + 0.5) / (requests_c.sum() + 1))
        - np.log((failed_s.sum() + 0.5) / (requests_s.sum() + 1))
    )
    beyond, blocks = _beyond_chance(failed_s, failed_c, requests_s, requests_c)
    deviation = np.sqrt(beyond * failed * part * (1 - part))
    score = (failed_c.sum() - failed * part) / deviation
    freedom = blocks - 1 + _BURSTS[1]
    if failed < _ANECDOTE:
        return Paired(
            effect, float(1 / np.sqrt(failed * part * (1 - part))), float(minutes - 1), 1.0, minutes
        )
    by_chance = stats.binomtest(round(failed_c.sum()), max(round(failed), round(failed_c.sum())), part).pvalue
    # Few failures are no normal variable.
    p = max(float(2 * stats.t.sf(abs(score), freedom)), float(by_chance))
    error = float(deviation / (failed * part * (1 - part)))
    return Paired(effect, error, freedom, p, minutes)


def _beyond_chance(
    failed_s: Array, failed_c: Array, requests_s: Array, requests_c: Array
) -> tuple[float, int]:
    """Variance of the counts over that of chance, at least 1, and the number of blocks it was seen in:
    Pearson's statistic, drawn to what failures usually show. Within a block the canary's failures are
    binomial given those of both; what hits both alike is not in it."""
    blocks = max(len(failed_s) // _BLOCK, 1)

    def by_block(values: Array) -> Array:
        return np.asarray(values[: blocks * _BLOCK].reshape(blocks, _BLOCK).sum(axis=1))

    s, c, many_s, many_c = by_block(failed_s), by_block(failed_c), by_block(requests_s), by_block(requests_c)
    ratio = (c.sum() + 0.5) / (many_c.sum() + 1) / ((s.sum() + 0.5) / (many_s.sum() + 1))
    part = many_c * ratio / (many_c * ratio + many_s)
    variance = np.maximum((s + c) * part * (1 - part), 1e-9)
    used = s + c > 0
    statistic = float(np.sum((c - (s + c) * part)[used] ** 2 / variance[used]))
    usual, weight = _BURSTS
    return max(1.0, (statistic + weight * usual) / (blocks - 1 + weight)), blocks


def roughness(values: Array, logs: bool) -> Array:
    """Log of how far each minute lies from the median of the four around it."""
    if logs:
        values = np.log(np.where(values > 0, values, np.nan))
    if len(values) < _BLOCK:
        return np.full(len(values), np.nan)
    padded = np.pad(values, _BLOCK // 2, constant_values=np.nan)
    around = np.delete(np.lib.stride_tricks.sliding_window_view(padded, _BLOCK), _BLOCK // 2, axis=1)
    return np.asarray(np.log(np.abs(values - row_medians(around)) + 1e-4))


def mean_of(difference: Array) -> Paired | None:
    """A robust mean of what is known, against zero.

    Its standard error counts only as many minutes as an AR(1) series of the same autocorrelation is worth
    (Zwiers and von Storch, Journal of Climate 8, 1995). None with fewer than ``FEWEST`` minutes.
    """
    known = difference[np.isfinite(difference)]
    number = len(known)
    if number < FEWEST:
        return None
    deviation = max(scale(known), 1e-9)
    middle = float(np.median(known))
    for _ in range(3):
        middle += float(np.mean(np.clip(known - middle, -_NEAR * deviation, _NEAR * deviation)))
    rest = np.clip(known - middle, -_NEAR * deviation, _NEAR * deviation)
    within = float(np.mean(np.abs(known - middle) < _NEAR * deviation))
    worth, freedom = _worth(rest)
    error = float(np.sqrt(np.sum(rest**2) / (number - 1) / worth)) / within  # Huber's sandwich
    p = float(2 * stats.t.sf(abs(middle) / max(error, 1e-12), freedom))
    return Paired(middle, error, freedom, p, number)


def _worth(rest: Array) -> tuple[float, float]:
    """How many independent values the series is worth for its mean, and degrees of freedom for its variance,
    were it AR(1) (Bayley and Hammersley, JRSS supplement 8, 1946). The autocorrelation at lag 1 is corrected
    for the bias of short series (Kendall, Biometrika 41, 1954)."""
    number, total = len(rest), float(rest @ rest)
    if total <= 0:
        return float(number), float(number - 1)
    first = float(rest[1:] @ rest[:-1]) / total
    first += (1 + 4 * first) / number
    first = (number * first + _PRIOR[1] * _PRIOR[0]) / (number + _PRIOR[1])
    first = min(max(first, 0.0), 0.95)
    mean = max(number * (1 - first) / (1 + first), 2.0)
    return mean, max(number * (1 - first**2) / (1 + first**2) - 1.0, 1.0)
