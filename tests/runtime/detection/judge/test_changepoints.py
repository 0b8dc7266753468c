"""Segmentation against a search of all cuts, and against what people would say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from modelway_runtime.detection import changepoints
from modelway_runtime.detection.changepoints import change_points
from modelway_runtime.detection.evidence import Array
from tests.support.metric_series import autocorrelated

NAN = float("nan")


def noise(seed: int, number: int = 200) -> Array:
    return np.random.default_rng(seed).normal(size=number)


def left(values: Array, places: tuple[int, ...], degree: int, skip: int) -> float:
    """Sum of squares that polynomials leave of the segments."""
    total = 0.0
    for start, end in itertools.pairwise([0, *places, len(values)]):
        part = values[start + skip : end]
        time = np.arange(len(part), dtype=np.float64)
        total += float(((part - np.polyval(np.polyfit(time, part, degree), time)) ** 2).sum())
    return total


def best(values: Array, changes: int, degree: int, skip: int, shortest: int) -> tuple[float, tuple[int, ...]]:
    cuts = (
        places
        for places in itertools.combinations(range(shortest, len(values)), changes)
        if all(b - a >= shortest for a, b in itertools.pairwise([0, *places, len(values)]))
    )
    return min((left(values, places, degree, skip), places) for places in cuts)


@pytest.mark.parametrize("memory", [0.0, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_cuts_are_those_of_all_cuts(memory: float, seed: int) -> None:
    values = noise(seed, 28) + 2.0 * (np.arange(28) >= 11) - 3.0 * (np.arange(28) >= 20)
    new, skip = changepoints._innovations(values, memory), 1 if memory else 0
    for degree, cuts in enumerate(
        (changepoints._levels(values, memory, 5, 3), changepoints._trends(values, memory, 5, 3))
    ):
        for changes, cut in enumerate(cuts):
            cost, places = best(new, changes, degree, skip, 5)
            if degree or not skip:  # levels are searched on all innovations, and counted without the first
                assert cut.rest == pytest.approx(cost, rel=1e-9)
                assert tuple(cut.places) == places
            else:
                assert cut.rest == pytest.approx(left(new, tuple(cut.places), 0, skip), rel=1e-9)


def test_the_costs_of_trends_are_what_a_line_leaves() -> None:
    values = 5.0 + noise(1, 20)
    costs = changepoints._costs_of_trends(values, skip=0)
    for start, end in [(0, 20), (3, 9), (7, 10), (0, 3)]:
        assert costs[start, end] == pytest.approx(left(values[start:end], (), 1, 0), abs=1e-9)
    assert np.isinf(costs[4, 6])
    assert np.isinf(costs[5, 2])


@pytest.mark.parametrize("at", [60, 100, 150])
def test_a_step_is_found_where_it_is(at: int) -> None:
    values = noise(2) + 4.0 * (np.arange(200) >= at)
    (found,) = change_points(values)
    assert abs(found - at) <= 1


def test_nothing_is_found_in_noise_of_any_memory() -> None:
    cut = [
        bool(change_points(autocorrelated(np.random.default_rng(seed), 150, memory, 1.0)))
        for seed in range(10)
        for memory in (0.0, 0.5, 0.8)
    ]
    assert sum(cut) <= 3


def test_a_trend_is_one_segment_and_a_bend_is_a_change() -> None:
    time = np.arange(200.0)
    assert change_points(0.05 * time + noise(3)) == []
    (bend,) = change_points(0.3 * np.abs(time - 120) + noise(3))
    assert abs(bend - 120) <= 6


def test_the_last_spike_is_no_change_point() -> None:
    values = noise(4)
    for length in (1, 2, 4):
        spiky = values.copy()
        spiky[-length:] += 30.0
        assert all(place <= 200 - 10 for place in change_points(spiky))
        assert 200 - length not in change_points(spiky)


@pytest.mark.parametrize("number", [10, 40, 200, 1000])
def test_segments_have_a_minimum(number: int) -> None:
    shortest = max(5, -(-number // 20))
    for seed in range(4):
        values = noise(seed, number) + 20.0 * (np.arange(number) % 37 > 18)
        edges = [0, *change_points(values), number]
        assert all(b - a >= shortest for a, b in itertools.pairwise(edges))
        assert len(edges) - 2 <= 3


@pytest.mark.parametrize("number", [0, 1, 2, 5, 9])
def test_a_short_series_has_no_change(number: int) -> None:
    assert change_points(np.arange(float(number)) ** 3) == []


def test_constants_and_what_is_missing() -> None:
    assert change_points(np.full(100, 7.0)) == []
    assert change_points(np.full(100, NAN)) == []
    assert change_points(np.full(100, np.inf)) == []
    holes = noise(5) + 6.0 * (np.arange(200) >= 90)
    holes[np.random.default_rng(6).random(200) < 0.3] = NAN
    (found,) = change_points(holes)
    assert abs(found - 90) <= 4


@pytest.mark.parametrize("at", [30, 50])
def test_a_clean_step_is_a_change(at: int) -> None:
    assert change_points(np.where(np.arange(100) < at, 1.0, 2.0)) == [at]


def test_whole_numbers_have_the_noise_of_rounding() -> None:
    """Segments that fit exactly do not make an infinite gain."""
    values = np.round(0.4 * noise(7, 100))
    assert change_points(values) == []


@pytest.mark.parametrize(("factor", "offset"), [(1e-9, 0.0), (1e9, 0.0), (1.0, 1e6), (-1.0, 0.0)])
def test_scale_and_offset_change_nothing(factor: float, offset: float) -> None:
    values = noise(8) + 3.0 * (np.arange(200) >= 120)
    assert change_points(factor * values + offset) == change_points(values) == [120]


@pytest.mark.parametrize("offset", [1e8, 1.7e9, 1e11])
def test_a_large_offset_changes_nothing(offset: float) -> None:
    """Such as bytes of memory, or a Unix time: the sums of squares cancel unless the series is centred."""
    values = np.round(noise(8) * 1000) / 1000 + 3.0 * (np.arange(200) >= 120)
    (found,) = change_points(values + offset)
    assert abs(found - 120) <= 1


@pytest.mark.parametrize("unit", [5e-324, 1e-200, 1e200, 1e300])
def test_gigantic_and_tiny_values_are_cut_too(unit: float) -> None:
    minutes = np.arange(60)
    values = np.asarray(unit * (1.0 + (minutes >= 30) + minutes % 3), np.float64)
    assert change_points(values) in ([], [30])


def test_a_long_series_is_cut_to_the_sample() -> None:
    at = 61_234
    values = 0.5 * noise(9, 100_000) + 4.0 * (np.arange(100_000) >= at)
    found = change_points(values)
    assert min(abs(place - at) for place in found) <= 3
    assert found == sorted(set(found))
    assert found[0] > 0
    assert found[-1] < 100_000
