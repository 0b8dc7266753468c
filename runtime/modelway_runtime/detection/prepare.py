"""From minutes to bins on a log scale, with time of day and load taken out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from modelway_runtime.detection.evidence import Array, Index, Mask
from modelway_runtime.detection.numerics import median, robust_fit, row_medians, scale

BIN = 5
"""Minutes of a bin: long enough that a spike of a minute or two does not move its median."""
BINS_A_DAY = 1440 // BIN
_NOISELESS = 1e-3
"""A deviation within a bin, as a share of the value, that is no noise yet."""
_FEWEST = 3
"""Minutes that a bin needs to be known."""
_HARMONICS = 5
_PROFILE_S = 2 * 86400.0
"""Seconds of history from which there is a profile of the day: half a day says nothing of the other half."""
_DAILY_EVENT = 4.0
"""Standard errors from which a time of day counts as having an event of its own (a batch job)."""
_LOAD_PAYS = 0.97
"""The load stays in the model if it cuts the spread to this share or less."""


Form: TypeAlias = Literal["log", "share", "linear"]
"""How a metric is looked at: by its log, as a share of the requests (pooled, then its log), or as it is."""


@dataclass(frozen=True, slots=True)
class Bins:
    """One value for each bin of five minutes; ``first`` is the bin that starts with the release.

    ``times`` are Unix seconds of the bins' starts; ``level`` the metric in its form; ``spread`` the log of
    the deviation within the bin; ``load`` the log of the requests a second. NaN is missing.
    """

    times: Array
    level: Array
    spread: Array
    load: Array
    first: int


def binned(times: Array, values: Array, load: Array, release: int, form: Form) -> Bins:
    """``values`` and ``load`` (requests a second) by the minute; ``release`` is the index of the first minute
    after it, where a bin begins."""
    low = release % BIN
    high = low + (len(values) - low) // BIN * BIN
    minutes, requests = values[low:high].reshape(-1, BIN), load[low:high].reshape(-1, BIN)
    served = np.where(requests > 0, requests, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        busy = np.log(_row_means(served))
        if form == "share":
            level = _log_share(minutes, served)
            spread = np.full(len(level), np.nan)
        elif form == "log":
            # Zero milliseconds are a scrape that restarts: missing, not a value.
            level, spread = _middle(np.log(np.where(minutes > 0, minutes, np.nan)))
        else:
            level, spread = _middle(minutes)
    return Bins(times[low:high:BIN], level, spread, busy, (release - low) // BIN)


def _row_means(rows: Array) -> Array:
    known = np.isfinite(rows)
    return np.asarray(np.where(known, rows, 0.0).sum(axis=1) / known.sum(axis=1))


def _log_share(shares: Array, load: Array) -> Array:
    """Log of failed over all requests. Half a request is added, so that no failure has a log too."""
    known = np.isfinite(shares) & np.isfinite(load)
    requests = 60 * np.where(known, load, 0.0).sum(axis=1)
    failed = 60 * np.where(known, shares * load, 0.0).sum(axis=1)
    return np.where(known.sum(axis=1) >= _FEWEST, np.log((failed + 0.5) / (requests + 1.0)), np.nan)


def _middle(minutes: Array) -> tuple[Array, Array]:
    """Median of each row, and log of the mean deviation from it without the farthest minute: one spike is no
    change of spread."""
    number = np.isfinite(minutes).sum(axis=1)
    middle = row_medians(minutes)
    away = np.sort(np.abs(minutes - middle[:, None]), axis=1)  # NaN last
    calm = np.where(np.arange(away.shape[1]) < number[:, None] - 1, away, np.nan)
    known = number >= _FEWEST
    return np.where(known, middle, np.nan), np.where(known, np.log(_row_means(calm) + _NOISELESS), np.nan)


@dataclass(frozen=True, slots=True)
class Adjusted:
    """``rest`` is what time of day and load do not explain; ``expected`` is what they do."""

    rest: Array
    expected: Array


def adjust(
    values: Array, times: Array, load: Array | None, past: Mask, blocks: Index, powers: int = 3
) -> Adjusted:
    """Take a profile of the day and a response to log load out of a binned log series.

    ``past`` marks the bins to learn from, ``blocks`` numbers stretches between which the level may jump
    (days, earlier releases): partial regression within them, with Huber weights. ``powers`` of the log load
    are tried, and kept where they pay; with ``load`` None there is none to take out.
    """
    usable = past & np.isfinite(values)
    if load is not None:
        usable &= np.isfinite(load)
    known_times = times[usable]
    if usable.sum() < 2 * _HARMONICS + 8 or known_times[-1] - known_times[0] < _PROFILE_S:
        level = np.nan_to_num(median(values[past]))
        return Adjusted(values - level, np.full(len(values), level))
    profile = _profile(times)
    expected = _explained(profile, values, usable, blocks)
    if load is not None:
        both = _explained(np.column_stack([profile, _response(load, powers)]), values, usable, blocks)
        if scale((values - both)[usable]) <= _LOAD_PAYS * scale((values - expected)[usable]):
            expected = both
    expected = expected + _daily_events(levelled(values - expected, blocks, usable), times, usable)
    return Adjusted(values - expected, expected)


def levelled(rest: Array, blocks: Index, usable: Mask) -> Array:
    """Each block less the median of what is known of it."""
    levels = np.zeros(len(rest))
    for block in np.unique(blocks):
        inside = blocks == block
        level = median(rest[inside & usable])
        levels[inside] = level if np.isfinite(level) else 0.0
    return np.asarray(rest - levels)


def _profile(times: Array) -> Array:
    """Harmonics of the day, without a constant. The bins of all days begin at the same times."""
    angle = 2 * np.pi * (times[:BINS_A_DAY] % 86400) / 86400
    waves = [turn(k * angle) for k in range(1, _HARMONICS + 1) for turn in (np.cos, np.sin)]
    return np.column_stack(waves)[np.arange(len(times)) % BINS_A_DAY]


def _response(load: Array, powers: int) -> Array:
    middle, width = np.nanmedian(load), max(float(np.nanstd(load)), 1e-9)
    away = np.nan_to_num((load - middle) / width)
    return np.column_stack([away ** (power + 1) for power in range(powers)])


def _explained(columns: Array, values: Array, usable: Mask, blocks: Index) -> Array:
    """Fitted within blocks; the constant is the median of what is left."""
    whole = np.column_stack([columns, values])[usable]
    inside = blocks[usable]  # rising, so that a block is a run
    starts = np.flatnonzero(np.concatenate([[True], np.diff(inside) != 0]))
    lengths = np.diff(np.concatenate([starts, [len(inside)]]))
    means = np.add.reduceat(whole, starts, axis=0) / lengths[:, None]
    inner = whole - np.repeat(means, lengths, axis=0)
    fitted = columns @ robust_fit(np.ascontiguousarray(inner[:, :-1]), inner[:, -1].copy())
    return np.asarray(fitted + median((values - fitted)[usable]))


def _daily_events(rest: Array, times: Array, usable: Mask) -> Array:
    """What happens at the same five minutes of most days, such as a batch job, and is no harmonic."""
    slot = (times % 86400 // (60 * BIN)).astype(int)
    day = ((times - times[0] + times[0] % 86400) // 86400).astype(int)
    table = np.full((BINS_A_DAY, int(day.max()) + 1), np.nan)
    table[slot[usable], day[usable]] = rest[usable]
    middle, days = row_medians(table), np.isfinite(table).sum(axis=1)
    error = 1.2533 * scale(rest[usable]) / np.sqrt(np.maximum(days, 1))  # of a median of normal values
    events = np.where((days >= 3) & (np.abs(middle) > _DAILY_EVENT * error), middle, 0.0)
    return np.asarray(events[slot])


def load_outside(load: Array, past: Mask, after: Mask) -> float:
    """Share of the bins after whose load lies outside the 0.2 to 99.8 % of the past; NaN without data."""
    seen, now = load[past & np.isfinite(load)], load[after & np.isfinite(load)]
    if not len(seen) or not len(now):
        return float("nan")
    low, high = np.quantile(seen, [0.002, 0.998])
    return float(np.mean((now < low - 0.02) | (now > high + 0.02)))
