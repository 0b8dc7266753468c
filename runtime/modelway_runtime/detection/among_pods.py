"""A canary's pods among the stable ones: whether it differs by more than pods of one version do.

Minutes of one pod are no independent samples of a version: a pod on a slower node is slower all day. So the
pods are the sample. The mean of m new pods is predicted from k old ones with the error s sqrt(1/k + 1/m) and
Student's t of k - 1 degrees of freedom; what the canary's minutes vary more than the old pods' comes on top.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from modelway_runtime.detection import paired
from modelway_runtime.detection.evidence import FEWEST_PODS, Array
from modelway_runtime.detection.paired import FEWEST, Paired

_LEAST_P = 1e-12
_MANY = 30
"""Failures of each stable pod from which their logs are compared, and not their counts."""


@dataclass(frozen=True, slots=True)
class AmongPods:
    """``within`` is the difference minute by minute, as if all pods were alike. ``spread`` is
    what one pod differs by, ``error`` the standard error that this gives, with ``freedom`` degrees; ``noise``
    is that of the canary's own minutes beyond it. ``ratio``: the error is of the ratio, as counts have it,
    and not of its log."""

    within: Paired
    stable: int
    canary: int
    spread: float
    error: float
    freedom: float
    noise: float = 0.0
    ratio: bool = False

    @property
    def effect(self) -> float:
        """Canary less stable, of logs or in units."""
        return self.within.effect

    @property
    def deviation(self) -> float:
        """The standard error."""
        return max(float(np.hypot(self.error, self.noise)), self.within.error)

    @property
    def p(self) -> float:
        """Two-sided; that of the minutes where they say less than the pods."""
        return max(self.within.p, self._p())

    def threshold(self, share: float) -> float:
        """The size of an effect whose p is ``share``."""
        return max(self.within.threshold(share), self._reach(share))

    def _p(self) -> float:
        size = abs(self.effect)
        if size == 0 or size <= self._reach(1.0):
            return 1.0
        if size >= self._reach(_LEAST_P):
            return _LEAST_P
        root = brentq(lambda log: self._reach(np.exp(log)) - size, np.log(_LEAST_P), 0.0, xtol=1e-6)
        return float(np.exp(root))

    def _reach(self, share: float) -> float:
        """The two errors have quantiles of their own: a few pods make long tails, many minutes do not (Howe,
        JASA 69, 1974). Degrees of freedom of their sum would be many where the spread is small by luck."""
        of_pods = float(stats.t.isf(share / 2, self.freedom)) * self.error
        of_minutes = float(stats.t.isf(share / 2, self.within.freedom)) * self.noise
        reach = float(np.hypot(of_pods, of_minutes))
        return float(np.log1p(reach)) if self.ratio else reach


def level(stable: Array, canary: Array, unit: float | None = None) -> AmongPods | None:
    """Rows are pods, columns minutes: the difference of logs of positive values, or of values in a ``unit``.

    None where fewer than ``FEWEST_PODS`` stable pods, or no canary's, have ``paired.FEWEST`` minutes.
    """
    if unit is not None:
        return _difference(stable / unit, canary / unit)
    return _difference(_logs(stable), _logs(canary))


def spread(
    stable: Array, canary: Array, stable_load: Array, canary_load: Array, logs: bool = True
) -> AmongPods | None:
    """Whether the canary's pods vary more from minute to minute than the stable ones, beside what their load
    explains: the noise of a quantile falls with the root of the requests."""
    return _difference(_rough(stable, stable_load, logs), _rough(canary, canary_load, logs))


def errors(stable: Array, canary: Array, stable_load: Array, canary_load: Array) -> AmongPods | None:
    """Shares of requests: failures are counted by pod. How much more they vary than chance is Pearson's
    statistic over the stable pods (McCullagh and Nelder, Generalized Linear Models, 2nd ed., section 4.5)."""
    failed, requests = _counted(stable, stable_load)
    failed_c, requests_c = _counted(canary, canary_load)
    k, m = len(failed), len(failed_c)
    if k < FEWEST_PODS or not m:
        return None
    within = paired.errors(
        _pooled(stable, stable_load),
        _pooled(canary, canary_load),
        np.nansum(_both(stable, stable_load), axis=0),
        np.nansum(_both(canary, canary_load), axis=0),
    )
    if within is None:
        return None
    share = (failed.sum() + 0.5) / (requests.sum() + 1.0)
    if min(failed.min(), share * requests_c.min()) >= _MANY:
        own, noise = float(np.std(np.log(failed / requests), ddof=1)), float(np.mean(1 / failed))
        own_noise = float(1 / (failed_c.sum() + 0.5) + 1 / failed.sum())
        return _predicted(within, k, m, own, noise, own_noise)
    expected = share * requests
    beyond = float(np.sum((failed - expected) ** 2 / expected)) / (k - 1)
    # A pod with more requests than the stable ones shows more of what pods differ by.
    larger = max(float(requests_c.mean() / requests.mean()), 1.0)
    variance = 1.0 + max(beyond - 1.0, 0.0) * larger
    mean = share * float(requests_c.sum())
    error = float(np.sqrt(variance * mean * (1.0 + requests_c.sum() / requests.sum()))) / mean
    own = float(np.sqrt(max(beyond - 1.0, 0.0) / expected.mean()))
    return AmongPods(within, k, m, own, error, k - 1.0, ratio=True)


def _difference(stable: Array, canary: Array) -> AmongPods | None:
    with np.errstate(invalid="ignore"):
        common = _row_mean(stable)
        rest, means, noises = _centred(stable - common)
        rest_c, means_c, _ = _centred(canary - common)
    k, m = len(means), len(means_c)
    if k < FEWEST_PODS or not m:
        return None
    # Pods come and go: each minute has the pods' noise, and their means stay.
    difference = _row_mean(rest_c) - _row_mean(rest) + (means_c.mean() - means.mean())
    within = paired.mean_of(difference)
    if within is None:
        return None
    own = float(np.std(means, ddof=1))
    return _predicted(within, k, m, own, float(np.mean(noises**2)), within.error**2)


def _predicted(
    within: Paired, stable: int, canary: int, spread: float, noise: float, whole: float
) -> AmongPods:
    """``noise`` is the variance of one stable pod's mean by its own minutes, which ``spread`` has in it;
    ``whole`` that of the difference."""
    reach = 1.0 / stable + 1.0 / canary
    beyond = max(whole - noise * reach, 0.0)
    error = spread * float(np.sqrt(reach))
    return AmongPods(within, stable, canary, spread, error, stable - 1.0, float(np.sqrt(beyond)))


def _centred(pods: Array) -> tuple[Array, Array, Array]:
    """Of the pods with minutes enough: their values less their mean, the means, and their standard errors."""
    rows, means, errors_ = [], [], []
    for values in pods:
        mean = paired.mean_of(values)
        if mean is not None:
            rows.append(values - mean.effect)
            means.append(mean.effect)
            errors_.append(mean.error)
    return np.array(rows).reshape(len(rows), pods.shape[1]), np.array(means), np.array(errors_)


def _row_mean(pods: Array) -> Array:
    """Over the pods that a minute has."""
    known = np.isfinite(pods)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(known, pods, 0.0).sum(axis=0) / known.sum(axis=0))


def _logs(values: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.log(np.where(values > 0, values, np.nan)))


def _rough(pods: Array, loads: Array, logs: bool) -> Array:
    """Roughness, with what sampling takes off it at this load; NaN for a pod without a load."""
    rows = np.full(pods.shape, np.nan)
    for row, values, load in zip(rows, pods, loads, strict=True):
        served = load[np.isfinite(load) & (load > 0)]
        if len(served):
            row[:] = paired.roughness(values, logs) + 0.5 * np.log(served.mean())
    return rows


def _both(shares: Array, loads: Array) -> Array:
    """Loads of the minutes with a share."""
    return np.asarray(np.where(np.isfinite(shares) & (loads > 0), loads, np.nan))


def _counted(shares: Array, loads: Array) -> tuple[Array, Array]:
    """Failed and all requests of each pod that has minutes enough."""
    requests = 60 * _both(shares, loads)
    enough = np.isfinite(requests).sum(axis=1) >= FEWEST
    return np.nansum(shares * requests, axis=1)[enough], np.nansum(requests, axis=1)[enough]


def _pooled(shares: Array, loads: Array) -> Array:
    """The share of all pods' requests in each minute."""
    served = _both(shares, loads)
    total = np.nansum(served, axis=0)
    failed = np.nansum(shares * served, axis=0)
    return np.asarray(np.divide(failed, total, out=np.full(len(total), np.nan), where=total > 0))
