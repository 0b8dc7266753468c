"""A second simulator of served models' metrics, by another idea than that of the harness.

The harness multiplies a level by seasons and noise. Here requests come, wait and are computed, and what
Prometheus would show is counted from them:

- load: one of three kinds of caller (office, evening, services with jobs on the hour) and of three sizes
  (120, 12 and 0.8 requests/s), other hours at weekends, days that differ, counts that vary more than chance;
- latency: replicas follow the load late; waiting by the formula of M/G/k queues of Sakasegawa (Annals of the
  Institute of Statistical Mathematics 29, 1977) on log-normal computing with a slow class; requests are dealt
  to the buckets of the runtime's histogram, and quantiles are read from those of two minutes, as ``rate`` and
  ``histogram_quantile`` do;
- what no release did: hiccups of 1 to 3 minutes (4 a day), incidents of 10 to 60 (one in two weeks), bursts
  of failures;
- utilisation in whole per cent, memory that keeps what it once needed, scores of two kinds of user.

Traces begin on a Monday, 00:00 UTC, a value a minute; NaN is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, uniform_filter1d
from scipy.signal import lfilter
from scipy.special import ndtr

from modelway_runtime.detection.quantiles import histogram_quantile

Array: TypeAlias = NDArray[np.float64]
DAY = 1440
MONDAY = 1_767_571_200.0
METRICS = ("p50", "p99", "err", "gpu", "memory", "score")
QUIET = ("none", "restart", "missing", "campaign", "recovery")
"""Events that are no change of the model: nothing; pods that warm up and miss a scrape; scrapes that fail;
twice the load; an incident that ends before the release."""
_BOUNDS = np.array([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10])
_HOURS = {
    "office": "12 10 10 10 12 18 35 60 85 100 98 90 75 85 98 100 92 75 55 40 30 25 20 15",
    "evening": "35 22 14 10 9 10 16 26 34 40 44 50 56 54 52 54 60 70 82 95 100 94 76 55",
    "services": "60 58 58 58 60 64 70 80 90 96 100 98 96 98 100 98 94 88 80 74 70 66 64 62",
}
"""Requests of each hour, in per cent of the busiest."""
_WEEKEND = {"office": 0.3, "evening": 1.2, "services": 0.85}
_RATES = (120.0, 12.0, 0.8)
_SERVICE_S, _SIGMA, _SLOW, _SLOWER, _SLOW_SIGMA = 0.03, 0.35, 0.015, 5.0, 0.6


@dataclass(frozen=True)
class Trace:
    """One version's metrics by name and its requests a minute; the release is at index ``t0``."""

    values: Mapping[str, Array]
    traffic: Array
    t0: int
    size: str


@dataclass(frozen=True)
class _World:
    """What all versions share: expected requests a minute, replicas' utilisation, waiting (s), a factor of
    computing time, the share of failures, and the share of one kind of user."""

    requests: Array
    busy: Array
    wait_s: Array
    slow: Array
    failing: Array
    kind: Array


def simulate(seed: int, event: str, t0: int, days: int) -> Trace:
    """A release at minute ``t0``; ``event`` is one of QUIET, or ``step+20``: from then on the model takes (or
    answers, or fails) 20 % more."""
    random = np.random.default_rng([seed, 11])
    world = _world(seed, event, t0, days, random)
    return _seen(world, seed, event, t0, random, share=1.0)


def twins(seed: int, event: str, t0: int, days: int, share: float = 0.2) -> tuple[Trace, Trace]:
    """Stable and canary: the same world, each with noise of its own. The change hits the canary."""
    world = _world(seed, event, t0, days, np.random.default_rng([seed, 11]))
    common = event if event in QUIET else "none"
    stable = _seen(world, seed, common, t0, np.random.default_rng([seed, 12]), 1 - share)
    return stable, _seen(world, seed, event, t0, np.random.default_rng([seed, 13]), share)


def _world(seed: int, event: str, t0: int, days: int, random: np.random.Generator) -> _World:
    number = days * DAY
    requests = _requests(seed, number, random)
    if event == "campaign":
        requests[t0 : t0 + 180] *= 2.0
    erlangs = requests / 60 * _SERVICE_S
    wanted = np.ceil(
        maximum_filter1d(np.roll(erlangs, 3), 31, origin=15) / 0.65
    )  # 3 minutes late, down slowly
    replicas = np.maximum(wanted, 1.0)
    busy = np.clip(erlangs / replicas, 0.0, 0.95)
    power = np.sqrt(2 * (replicas + 1)) - 1
    varies = (1 + np.expm1(_SIGMA**2)) / 2  # of arrivals and of computing
    wait = _SERVICE_S * varies * busy**power / (replicas * (1 - busy))
    slow = np.exp(_wander(random, number, 0.99, 0.015) + 0.02 * random.standard_normal(number))
    failing = 0.003 * np.exp(_wander(random, number, 0.9, 0.3))
    for start in random.integers(0, number, random.poisson(4 * days)):
        slow[start : start + random.integers(1, 4)] *= random.uniform(1.5, 4.0)
    for start in random.integers(0, number, random.poisson(days / 14)):
        slow[start : start + random.integers(10, 61)] *= random.uniform(1.15, 1.6)
    for start in random.integers(0, number, random.poisson(2 * days)):
        failing[start : start + random.integers(1, 6)] += random.uniform(0.01, 0.08)
    if event == "recovery":
        slow[t0 - 150 : t0 - 20] *= 1.3
    kind = 0.5 + 0.3 * np.sin(2 * np.pi * (np.arange(number) % DAY - 500) / DAY)
    kind = kind + np.where(np.arange(number) // DAY % 7 >= 5, 0.2, 0.0)
    return _World(requests, busy, wait, slow, failing, kind)


def _requests(seed: int, number: int, random: np.random.Generator) -> Array:
    """Expected requests of each minute."""
    name = list(_HOURS)[seed % 3]
    minute, day = np.arange(number) % DAY, np.arange(number) // DAY
    hours = np.array([float(share) / 100 for share in _HOURS[name].split()])
    late = np.where(day % 7 >= 5, 90, 0) if name != "services" else 0  # people get up later
    load = np.interp((minute - late) % DAY / 60, np.arange(25), [*hours, hours[0]])
    load = load * np.where(day % 7 >= 5, _WEEKEND[name], 1.0) * 1.02 ** (day / 7)
    load = load * np.exp(random.normal(0, 0.06, number // DAY + 1))[day]
    if name == "services":
        load = load * np.where(minute % 60 < 3, 1.5, 1.0)
    load = load * np.exp(_wander(random, number, 0.99, 0.06))
    return np.asarray(60 * _RATES[seed // 3 % 3] * load)


def _seen(world: _World, seed: int, event: str, t0: int, random: np.random.Generator, share: float) -> Trace:
    number = len(world.requests)
    many = random.poisson(world.requests * share * random.gamma(200, 1 / 200, number))
    factor = np.ones(number)
    if event.startswith("step"):
        factor[t0:] += float(event[4:]) / 100
    own = np.exp(_wander(random, number, 0.9, 0.008))
    warming = np.ones(number)
    if event == "restart":
        warming[t0 : t0 + 4] = [2.0, 1.6, 1.3, 1.1]
    counts = _dealt(many, _SERVICE_S * world.slow * own * warming * factor, world.wait_s, random)
    both = {float(bound): _window(counts[:, at]) for at, bound in enumerate([*_BOUNDS, np.inf])}
    failed = _window(random.binomial(many, np.clip(world.failing * factor, 0, 0.9)).astype(np.float64))
    requests = _window(many.astype(np.float64))
    values = {
        "p50": histogram_quantile(0.5, both, number),
        "p99": histogram_quantile(0.99, both, number),
        "err": np.divide(failed, requests, out=np.full(number, np.nan), where=requests > 0),
        "gpu": _utilisation(world.busy * factor, random),
        "memory": _memory(world.requests, factor, random),
        "score": _score(world.kind, factor, requests, random),
    }
    traffic = requests / 2
    lost = _lost(event, t0, number, random)
    size = f"{_RATES[seed // 3 % 3]:g}/s"
    missing: dict[str, Array] = {name: np.where(lost, np.nan, series) for name, series in values.items()}
    return Trace(missing, np.where(lost, np.nan, traffic), t0, size)


def _dealt(many: NDArray[Any], middle: Array, wait_s: Array, random: np.random.Generator) -> Array:
    """New requests of each minute at or below each bound and above none: cumulative over the buckets."""
    with np.errstate(divide="ignore"):
        usual = ndtr(np.log(_BOUNDS / (middle + wait_s)[:, None]) / _SIGMA)
        slow = ndtr(np.log(_BOUNDS / (_SLOWER * middle + wait_s)[:, None]) / _SLOW_SIGMA)
    upto = np.column_stack([(1 - _SLOW) * usual + _SLOW * slow, np.ones(len(middle))])
    shares = np.maximum(np.diff(upto, axis=1, prepend=0.0), 0.0)
    dealt = random.multinomial(many, shares / shares.sum(axis=1, keepdims=True))
    return np.asarray(np.cumsum(dealt, axis=1), np.float64)


def _window(values: Array) -> Array:
    """Sums of two minutes, the window of a rate at scrapes of 30 s."""
    return np.asarray(values + np.concatenate([[0.0], values[:-1]]))


def _utilisation(busy: Array, random: np.random.Generator) -> Array:
    now = 0.03 + 0.9 * busy + 0.015 * random.standard_normal(len(busy))
    return np.round(100 * np.clip(now, 0.0, 1.0)) / 100


def _memory(requests: Array, factor: Array, random: np.random.Generator) -> Array:
    """Bytes: an arena as large as the last six hours needed, in pages."""
    most = maximum_filter1d(uniform_filter1d(requests, 15), 361, origin=180)
    arena = 1.2e9 + 4e8 * most / requests.max() + 4e6 * random.standard_normal(len(requests))
    return np.asarray(np.round(arena * factor / 4096) * 4096)


def _score(kind: Array, factor: Array, requests: Array, random: np.random.Generator) -> Array:
    mean = (0.28 + 0.05 * kind + _wander(random, len(kind), 0.98, 0.003)) * factor
    noise = 0.25 / np.sqrt(np.maximum(requests, 1)) * random.standard_normal(len(kind))
    return np.asarray(np.where(requests > 0, mean + noise, np.nan))


def _lost(event: str, t0: int, number: int, random: np.random.Generator) -> NDArray[np.bool_]:
    lost = random.random(number) < (0.04 if event == "missing" else 0.001)
    if event == "missing":
        lost[t0 - 60 : t0 - 40] = True
        lost[t0 + 2 : t0 + 10] = True
    if event == "restart":
        lost[t0 : t0 + 2] = True
    return np.asarray(lost)


def _wander(random: np.random.Generator, number: int, memory: float, deviation: float) -> Array:
    """An AR(1) series."""
    new = random.standard_normal(number) * deviation * np.sqrt(1 - memory * memory)
    return np.asarray(lfilter([1.0], [1.0, -memory], new))
