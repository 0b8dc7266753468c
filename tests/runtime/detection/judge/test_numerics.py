"""Robust statistics against formulas that are written another way."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from modelway_runtime.detection import numerics

NAN = float("nan")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 101, 1000])
def test_the_median_is_that_of_the_known_values(number: int) -> None:
    values = rng(number).normal(size=number)
    among = rng().permutation(np.concatenate([values, [NAN, np.inf, -np.inf]]))
    assert numerics.median(among) == np.median(values)
    assert math.isnan(numerics.median(np.array([NAN, np.inf])))


def test_the_scale_of_normal_values_is_their_deviation() -> None:
    values = rng().normal(5.0, 2.0, 40_001)
    assert numerics.scale(values) == pytest.approx(2.0, rel=0.02)
    expected = stats.median_abs_deviation(values, scale="normal")
    assert numerics.scale(values) == pytest.approx(expected, rel=1e-4)
    assert pytest.approx(1 / stats.norm.ppf(0.75), rel=1e-4) == numerics.NORMAL_MAD


def test_the_scale_of_nothing_is_unknown_and_that_of_a_constant_zero() -> None:
    assert math.isnan(numerics.scale(np.array([])))
    assert math.isnan(numerics.scale(np.array([NAN, NAN])))
    assert numerics.scale(np.array([3.0, NAN, 3.0, np.inf])) == 0.0


def test_a_robust_fit_is_least_squares_without_outliers_and_ignores_them() -> None:
    columns = np.column_stack([np.ones(400), rng(1).normal(size=400), rng(2).normal(size=400)])
    values = columns @ [1.0, -2.0, 0.5] + rng(3).normal(0.0, 0.1, 400)
    plain = np.linalg.lstsq(columns, values, rcond=None)[0]
    assert numerics.robust_fit(columns, values) == pytest.approx(plain, abs=0.01)
    values[:60] += 100.0
    spoilt = np.linalg.lstsq(columns, values, rcond=None)[0]
    assert abs(spoilt[0] - 1.0) > 10
    assert numerics.robust_fit(columns, values, rounds=20) == pytest.approx([1.0, -2.0, 0.5], abs=0.1)


def test_columns_that_say_the_same_are_kept_apart() -> None:
    one = rng().normal(size=50)
    fitted = numerics.robust_fit(np.column_stack([one, one]), 3 * one)
    assert fitted.sum() == pytest.approx(3.0, abs=1e-6)


def test_means_before_are_those_of_the_values_before() -> None:
    values = rng(4).normal(size=30)
    values[[3, 4, 5, 11]] = NAN
    for width in (1, 3, 12):
        got = numerics.means_before(values, width)
        assert len(got) == 31
        for at in range(31):
            known = [x for x in values[max(at - width, 0) : at] if not math.isnan(x)]
            assert got[at] == pytest.approx(sum(known) / len(known) if known else NAN, nan_ok=True)


def test_medians_of_rows_are_numpys() -> None:
    rows = rng(5).normal(size=(60, 7))
    rows[rng(6).random(rows.shape) < 0.4] = NAN
    rows[0], rows[1, 1:] = NAN, NAN
    expected = [np.median(row[~np.isnan(row)]) if (~np.isnan(row)).any() else NAN for row in rows]
    assert numerics.row_medians(rows) == pytest.approx(expected, nan_ok=True)


def test_a_location_is_the_mean_of_near_values_and_forgets_far_ones() -> None:
    row = np.array([1.0, 1.1, 0.9, 1.2, 0.8, 1.05, 1e9])
    (place,) = numerics.locations(row[None, :], 0.1)
    middle, reach = 1.05, 1.3 * 0.1
    by_hand = middle + sum(min(max(x - middle, -reach), reach) for x in row) / len(row)
    assert place == pytest.approx(by_hand)
    assert abs(place - 1.0) < 0.1
    assert math.isnan(numerics.locations(np.full((1, 4), NAN), 0.1)[0])
    wide = rng(7).normal(size=(200, 25))
    assert numerics.locations(wide, 1e6) == pytest.approx(wide.mean(axis=1))


def test_a_spike_is_cut_and_a_step_is_not() -> None:
    values = 0.1 * rng(8).normal(size=100)
    values[60:] += 5.0
    spiky = values.copy()
    spiky[30] += 40.0
    calm = numerics.without_spikes(spiky)
    assert calm[30] < 1.0
    assert numerics.without_spikes(values)[57:63] == pytest.approx(values[57:63], abs=0.5)
    short = np.array([1.0, 99.0])
    assert numerics.without_spikes(short) is short


def test_a_share_of_the_tail_counts_and_then_falls_exponentially() -> None:
    null = np.concatenate([np.arange(1.0, 1001.0), [NAN, np.inf]])
    assert numerics.tail_share(500.0, null) == (501 + 1) / 1001
    assert numerics.tail_share(-500.0, null) == numerics.tail_share(500.0, null)
    assert numerics.tail_share(0.0, null) == 1.0
    high = float(np.quantile(np.arange(1.0, 1001.0), 0.9))
    beyond = np.arange(901.0, 1001.0)
    assert numerics.tail_share(1100.0, null) == pytest.approx(
        0.1 * math.exp(-(1100 - high) / (beyond - high).mean())
    )
    shares = [numerics.tail_share(size, null) for size in np.linspace(0, 5000, 400)]
    assert all(later <= earlier + 1e-3 for earlier, later in itertools.pairwise(shares))
    assert min(shares) > 0


def test_of_an_exponential_null_the_far_tail_is_right() -> None:
    sizes = rng(9).exponential(1.0, 20_000)
    for share in (0.05, 0.01, 1e-4, 1e-6):
        assert numerics.tail_value(share, sizes) == pytest.approx(-math.log(share), rel=0.06)


@pytest.mark.parametrize("share", [0.09, 0.01, 1e-3, 1e-6])
def test_the_value_of_a_share_has_that_share(share: float) -> None:
    null = rng(10).standard_t(4, 3000)
    assert numerics.tail_share(numerics.tail_value(share, null), null) == pytest.approx(share, rel=1e-6)


def test_without_a_null_nothing_is_rare() -> None:
    empty = np.array([NAN])
    assert numerics.tail_share(99.0, empty) == 1.0
    assert numerics.tail_value(0.01, empty) == math.inf


def test_a_constant_null_is_left_by_anything() -> None:
    null = np.zeros(100)
    assert numerics.tail_share(0.0, null) == 1.0
    assert numerics.tail_share(0.1, null) == 1e-9


def by_hand(shares: list[float], level: float) -> list[bool]:
    """The step-up procedure as its authors write it: the largest k with p(k) <= k level / m."""
    many = len(shares)
    best = max(
        (k for k in range(1, many + 1) if sorted(shares)[k - 1] <= k * level / many),
        default=0,
    )
    bound = sorted(shares)[best - 1] if best else -1.0
    return [share <= bound for share in shares]


def test_discoveries_are_those_of_benjamini_and_hochberg() -> None:
    # The example of their paper, table of 15 p-values: four discoveries at 0.05.
    shares = [
        0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719,
        0.6528, 0.7590, 1.0,
    ]  # fmt: skip
    assert numerics.false_discoveries(np.array(shares), 0.05).sum() == 4
    for seed in range(200):
        drawn = rng(seed).random(1 + seed % 9) ** 3
        assert list(numerics.false_discoveries(drawn, 0.1)) == by_hand(list(drawn), 0.1)
    assert len(numerics.false_discoveries(np.array([]), 0.1)) == 0


def test_windows_are_rows() -> None:
    windows = numerics.windows_of(np.arange(5.0), 3)
    assert windows.tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]


def test_uniform_p_values_are_seldom_discovered() -> None:
    flagged = sum(numerics.false_discoveries(rng(draw).random(20), 0.1).any() for draw in range(2000))
    low, high = (float(stats.binom.ppf(tail, 2000, 0.1)) for tail in (1e-6, 1 - 1e-6))
    assert low <= flagged <= high
