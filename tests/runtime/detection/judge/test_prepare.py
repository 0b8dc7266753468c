"""Bins, and what time of day and load explain."""

from __future__ import annotations

import numpy as np
import pytest

from modelway_runtime.detection import prepare
from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.numerics import scale
from tests.support.metric_series import MINUTE, START, autocorrelated

NAN = float("nan")


def times(minutes: int) -> Array:
    return START + MINUTE * np.arange(minutes, dtype=np.float64)


def no_blocks(bins: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.zeros(bins, np.int64)


@pytest.mark.parametrize("release", [0, 1, 4, 5, 7, 23, 29, 30])
def test_a_bin_begins_with_the_release(release: int) -> None:
    values = 1.0 + np.arange(30.0)
    bins = prepare.binned(times(30), values, np.ones(30), release, "linear")
    assert len({len(part) for part in (bins.times, bins.level, bins.spread, bins.load)}) == 1
    if bins.first < len(bins.times):
        assert bins.times[bins.first] == START + MINUTE * release
        assert bins.level[bins.first] == values[release + 2]  # the median of five that rise
    before = values[:release]
    assert not np.isin(bins.level[bins.first :], before).any()


def test_the_log_of_the_median_and_of_the_deviation_without_the_farthest() -> None:
    minutes = np.array([1.0, 2.0, 4.0, 1e6, 3.0, 5.0, NAN, NAN, NAN, 7.0])
    bins = prepare.binned(times(10), minutes, np.full(10, 2.0), 0, "log")
    assert bins.level[0] == pytest.approx(np.log(3.0))
    near = np.abs(np.log([1.0, 2.0, 4.0, 3.0]) - np.log(3.0))
    assert bins.spread[0] == pytest.approx(np.log(near.mean() + 1e-3))
    assert np.isnan(bins.level[1])
    assert np.isnan(bins.spread[1])
    assert bins.load == pytest.approx(np.log([2.0, 2.0]))


def test_zeros_negatives_and_infinities_have_no_log() -> None:
    minutes = np.array([0.0, -1.0, np.inf, 2.0, 2.0, 0.0, 2.0, 2.0, 2.0, -np.inf])
    bins = prepare.binned(times(10), minutes, np.array([0.0, NAN] * 5), 0, "log")
    assert np.isnan(bins.level[0])
    assert bins.level[1] == pytest.approx(np.log(2.0))
    assert np.isnan(bins.load).all()


def test_shares_are_pooled_by_requests_and_none_has_a_log_too() -> None:
    shares, load = np.array([0.5, 0.0, 0.0, 0.0, 0.0] + [0.0] * 5), np.array([1.0, 9, 9, 9, 9] + [10.0] * 5)
    bins = prepare.binned(times(10), shares, load, 0, "share")
    assert bins.level[0] == pytest.approx(np.log((60 * 0.5 + 0.5) / (60 * 37 + 1)))
    assert bins.level[1] == pytest.approx(np.log(0.5 / (60 * 50 + 1)))
    assert np.isnan(bins.spread).all()
    assert np.isnan(prepare.binned(times(10), shares, np.zeros(10), 0, "share").level).all()


def day(bins: int) -> Array:
    return 2 * np.pi * (np.arange(bins) % 288) / 288


def test_a_daily_wave_is_taken_out_and_a_step_after_the_release_is_left() -> None:
    bins = 10 * 288
    noise = 0.02 * np.random.default_rng(0).normal(size=bins)
    past = np.arange(bins) < bins - 24
    values = 3.0 + 0.4 * np.sin(day(bins)) + 0.2 * np.cos(3 * day(bins)) + noise + 0.5 * ~past
    made = prepare.adjust(
        values, START + 300 * np.arange(bins, dtype=np.float64), None, past, no_blocks(bins)
    )
    assert scale(made.rest[past]) == pytest.approx(0.02, rel=0.1)
    assert made.rest[~past].mean() == pytest.approx(0.5, abs=0.03)
    assert made.rest + made.expected == pytest.approx(values)


def test_a_response_to_load_is_taken_out_where_it_pays() -> None:
    bins, source = 8 * 288, np.random.default_rng(1)
    load = 2.0 + autocorrelated(source, bins, 0.9, 0.3)
    noise = 0.02 * source.normal(size=bins)
    past = np.ones(bins, bool)
    at = START + 300 * np.arange(bins, dtype=np.float64)
    bent = 0.5 * (load - 2.0) ** 2 + 0.3 * load + noise
    assert scale(prepare.adjust(bent, at, load, past, no_blocks(bins)).rest) == pytest.approx(0.02, rel=0.1)
    assert scale(prepare.adjust(bent, at, None, past, no_blocks(bins)).rest) > 0.05
    alone, given = (prepare.adjust(noise, at, one, past, no_blocks(bins)).rest for one in (None, load))
    assert np.array_equal(alone, given)  # a load that explains nothing is not fitted


@pytest.mark.parametrize("jump", [0.1, 0.4, 2.0])
def test_levels_that_differ_between_blocks_do_not_bend_the_profile(jump: float) -> None:
    """Nor count as an event of those times of day that had more days at one level."""
    bins = 8 * 288
    at = START + 300 * np.arange(bins, dtype=np.float64)
    late = np.arange(bins) >= bins // 2 + 100
    quiet = 0.3 * np.sin(day(bins)) + 0.01 * np.random.default_rng(2).normal(size=bins)
    past = np.ones(bins, bool)
    made = prepare.adjust(quiet + jump * late, at, None, past, late.astype(np.int64))
    for part in (late, ~late):
        assert scale(made.rest[part]) == pytest.approx(0.01, rel=0.15)


def test_a_batch_job_at_the_same_minutes_of_each_day_is_expected() -> None:
    bins = 10 * 288
    slot = np.arange(bins) % 288
    values = np.where(np.isin(slot, (40, 41)), 1.0, 0.0) + 0.02 * np.random.default_rng(3).normal(size=bins)
    made = prepare.adjust(
        values, START + 300 * np.arange(bins, dtype=np.float64), None, np.ones(bins, bool), no_blocks(bins)
    )
    assert np.abs(made.rest[slot == 40]).max() < 0.2
    assert made.expected[slot == 40].mean() > 0.9


def test_a_few_values_have_a_median_and_none_have_nothing() -> None:
    at = START + 300 * np.arange(8, dtype=np.float64)
    values = np.array([1.0, 2.0, 3.0, NAN, 9.0, 9.0, 9.0, 9.0])
    past = np.arange(8) < 4
    made = prepare.adjust(values, at, None, past, no_blocks(8))
    assert made.expected.tolist() == [2.0] * 8
    unknown = prepare.adjust(np.full(8, NAN), at, None, past, no_blocks(8))
    assert np.isnan(unknown.rest).all()
    assert not unknown.expected.any()


def test_load_outside_what_was_seen() -> None:
    load = np.concatenate([np.linspace(1.0, 2.0, 1000), [1.5, 0.5, 2.5, NAN]])
    past = np.arange(1004) < 1000
    assert prepare.load_outside(load, past, ~past) == pytest.approx(2 / 3)
    edge = np.concatenate([np.linspace(1.0, 2.0, 1000), [2.01, 2.03]])
    assert prepare.load_outside(edge, np.arange(1002) < 1000, np.arange(1002) >= 1000) == 0.5
    assert np.isnan(prepare.load_outside(load, past, np.arange(1004) == 1003))
    assert np.isnan(prepare.load_outside(np.full(4, NAN), np.ones(4, bool), np.ones(4, bool)))
