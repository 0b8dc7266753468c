"""A served model's metrics by the minute, made up: what a detector is tried with.

The traffic has a daily and a weekly season, slow drift and the noise of counts. Latency rises with
utilisation, wanders over hours (AR(1)), and its noise falls with the root of the requests. Failures come in
bursts. All is a function of a numpy Generator, so that a seed gives the same series on every machine.

``served`` makes a quiet service; what happens to it is applied to its series by the functions below it.
Arrays have one value a minute; NaN is missing. Load is in requests a second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

Array = NDArray[np.float64]

MINUTE, DAY = 60.0, 1440
START = 1_795_046_400.0
"""A Thursday at midnight, UTC (Unix seconds)."""


@dataclass(frozen=True, slots=True)
class Service:
    """What a service is like. ``mean_load`` in requests a second; ``noise`` is the deviation of a minute's
    log latency at a thousand requests a minute, ``drift`` that of its slow wandering."""

    mean_load: float = 25.0
    swing: float = 0.45
    weekend: float = 0.8
    latency_s: float = 0.080
    queueing: float = 0.35
    noise: float = 0.05
    drift: float = 0.02
    failures: float = 0.004
    bursts: float = 1.0
    memory_bytes: float = 3e9


@dataclass(frozen=True, slots=True)
class Served:
    """One service's minutes, from ``START`` on."""

    load: Array
    latency: Array
    error_ratio: Array
    memory: Array

    @property
    def times(self) -> Array:
        """Unix seconds."""
        return START + MINUTE * np.arange(len(self.load), dtype=np.float64)


def served(rng: np.random.Generator, minutes: int, service: Service = Service(), surge: Array | None = None) -> Served:  # fmt: skip
    """A quiet service; ``surge`` multiplies its traffic, to which latency answers."""
    wanted = traffic(rng, minutes, service) * (1.0 if surge is None else surge)
    requests = rng.poisson(MINUTE * wanted).astype(np.float64)
    load = requests / MINUTE
    return Served(
        load,
        latency(rng, load, service),
        failing(rng, load, np.full(minutes, service.failures), service.bursts),
        memory(rng, minutes, service),
    )


def traffic(rng: np.random.Generator, minutes: int, service: Service) -> Array:
    """Wanted requests a second: an evening peak, a quiet night, a weekend, and weather."""
    hour = np.arange(minutes) % DAY / 60
    day = np.arange(minutes) // DAY
    season = np.cos(2 * np.pi * (hour - 19) / 24) + 0.35 * np.cos(4 * np.pi * (hour - 13) / 24)
    weekly = np.where(np.isin(day % 7, (2, 3)), service.weekend, 1.0)
    weather = autocorrelated(rng, minutes, 0.995, 0.06)
    return np.asarray(service.mean_load * np.exp(service.swing * season + weather) * weekly)


def autocorrelated(rng: np.random.Generator, minutes: int, memory: float, deviation: float) -> Array:
    """A stationary AR(1) series of zero mean."""
    new = rng.normal(0.0, deviation * np.sqrt(1 - memory**2), minutes)
    new[0] = rng.normal(0.0, deviation)
    return np.asarray(lfilter([1.0], [1.0, -memory], new), np.float64)


def latency(rng: np.random.Generator, load: Array, service: Service) -> Array:
    """A high quantile in seconds; missing where nothing was asked."""
    busy = load / service.mean_load
    few = np.sqrt(1000.0 / np.maximum(MINUTE * load, 1.0))
    tail = rng.standard_t(5, len(load)) * np.sqrt(3 / 5)
    wander = autocorrelated(rng, len(load), 0.99, service.drift)
    log = service.queueing * busy**1.5 / 2 + wander + service.noise * few * tail
    return np.where(load > 0, service.latency_s * np.exp(log), np.nan)


def failing(rng: np.random.Generator, load: Array, share: Array, bursts: float = 1.0) -> Array:
    """Failed over all requests. ``bursts`` is how much the rate of failures varies from one stretch of ten
    minutes to the next, as a gamma variable's deviation over its mean; 0 for none."""
    requests = np.round(MINUTE * load).astype(np.int64)
    stretches = len(load) // 10 + 1
    rate = np.ones(stretches) if bursts == 0 else rng.gamma(bursts**-2, bursts**2, stretches)
    chance = np.clip(share * np.repeat(rate, 10)[: len(load)], 0.0, 1.0)
    failed = rng.binomial(requests, chance).astype(np.float64)
    ratio = np.full(len(load), np.nan)
    np.divide(failed, requests, out=ratio, where=requests > 0)
    return ratio


def memory(rng: np.random.Generator, minutes: int, service: Service) -> Array:
    """Bytes, in pages: caches fill and are emptied."""
    wander = autocorrelated(rng, minutes, 0.999, 0.01)
    saw = 0.02 * (np.arange(minutes) % 700) / 700
    return np.asarray(np.round(service.memory_bytes * (1 + wander + saw) / 4096) * 4096)


def outputs(
    rng: np.random.Generator, load: Array, bounds: Array, middle: Array, width: float = 0.15
) -> Array:
    """New observations by bucket and minute of scores that are logistic around ``middle`` (by the minute);
    the last column has those above the last bound."""
    upto = 1 / (1 + np.exp(-(bounds[None, :] - middle[:, None]) / (width * 0.55)))
    chances = np.diff(upto, axis=1, prepend=0.0, append=1.0)
    return np.asarray(rng.multinomial(np.round(MINUTE * load).astype(np.int64), chances), np.float64)


def step(values: Array, at: int, factor: float, until: int | None = None) -> Array:
    """Multiplied from a minute on."""
    changed = values.copy()
    changed[at:until] *= factor
    return changed


def ramp(values: Array, at: int, factor: float, over: int) -> Array:
    """Multiplied more and more, in full after ``over`` minutes."""
    share = np.clip((np.arange(len(values)) - at) / over, 0.0, 1.0)
    return np.asarray(values * factor**share)


def noisier(values: Array, at: int, factor: float, around: int = 61) -> Array:
    """Deviations of positive values from their running median grow, in logs; the level stays."""
    half = around // 2
    logs = np.log(values)
    padded = np.pad(logs, half, mode="edge")
    middle = np.median(np.lib.stride_tricks.sliding_window_view(padded, around), axis=1)
    return np.where(np.arange(len(values)) >= at, np.exp(middle + factor * (logs - middle)), values)


def spiked(rng: np.random.Generator, values: Array, share: float, factor: float, start: int = 0) -> Array:
    """Single minutes many times as high, now and then."""
    hit = (rng.random(len(values)) < share) & (np.arange(len(values)) >= start)
    return np.where(hit, values * factor * rng.lognormal(0.0, 0.5, len(values)), values)


def gaps(rng: np.random.Generator, values: Array, share: float, longest: int = 30, start: int = 0) -> Array:
    """Missing stretches of up to ``longest`` minutes, together about a share of all."""
    lost = values.copy()
    while np.mean(np.isnan(lost[start:])) < share:
        at = int(rng.integers(start, len(values)))
        lost[at : at + int(rng.integers(1, longest + 1))] = np.nan
    return lost


def reset(values: Array, at: int, minutes: int = 3) -> Array:
    """Pods restart: no samples for a while, then two minutes that are slow because caches are cold."""
    changed = values.copy()
    changed[at : at + minutes] = np.nan
    changed[at + minutes : at + minutes + 2] *= 2.5
    return changed


def surge(minutes: int, at: int, factor: float, length: int) -> Array:
    """What ``served`` multiplies the traffic by: a crowd that comes within minutes and goes slowly."""
    since = np.arange(minutes) - at
    rise = np.clip(since / 5, 0.0, 1.0)
    fall = np.exp(-np.maximum(since - length, 0) / 20)
    return np.asarray(1 + (factor - 1) * rise * fall)


def twin(
    rng: np.random.Generator, one: Served, part: float, service: Service = Service()
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """Loads and latencies of a canary with a ``part`` of the requests, and of the stable version with the
    rest. What hits both is in both."""
    total = np.round(MINUTE * one.load).astype(np.int64)
    requests = rng.binomial(total, part)
    loads = requests / MINUTE, (total - requests) / MINUTE
    both = np.log(service.latency_s) + service.queueing * (one.load / service.mean_load) ** 1.5 / 2
    both = both + autocorrelated(rng, len(total), 0.97, 2 * service.drift)
    made = []
    for load in loads:
        few = np.sqrt(1000.0 / np.maximum(MINUTE * load, 1.0))
        noise = service.noise * few * rng.standard_t(5, len(total)) * np.sqrt(3 / 5)
        made.append(np.where(load > 0, np.exp(both + noise), np.nan))
    return loads[0], loads[1], made[0], made[1]
