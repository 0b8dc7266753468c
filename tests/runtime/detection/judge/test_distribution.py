"""Histograms against each other."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from modelway_runtime.detection import distribution
from modelway_runtime.detection.evidence import Array, Buckets
from tests.runtime.detection.judge.judging import buckets
from tests.support.metric_series import MINUTE, START, autocorrelated

BOUNDS = np.array([0.2, 0.4, 0.6, 0.8])
SHARES = np.array([0.1, 0.25, 0.3, 0.25, 0.1])
WIDER = np.array([0.25, 0.15, 0.2, 0.15, 0.25])


def counts(seed: int, minutes: int, shares: Array = SHARES, many: int = 300) -> Array:
    return np.random.default_rng(seed).multinomial(many, shares, minutes).astype(np.float64)


def test_the_stability_index_is_its_formula() -> None:
    e, a = np.array([100.0, 200.0, 0.0]), np.array([50.0, 100.0, 30.0])
    shares_e, shares_a = (e + 0.5) / 301.5, (a + 0.5) / 181.5
    by_hand = sum((y - x) * math.log(y / x) for x, y in zip(shares_e, shares_a, strict=True))
    assert distribution.stability_index(e, a) == pytest.approx(by_hand)
    assert distribution.stability_index(e, e) == 0.0
    both = distribution.stability_index(np.stack([e, a]), np.stack([a, e]))
    assert both == pytest.approx([by_hand, by_hand])


def test_the_distance_is_that_of_kolmogorov_and_smirnov() -> None:
    one, other = counts(1, 1)[0], counts(2, 1, WIDER)[0]
    samples = [np.repeat(np.arange(5.0), each.astype(int)) for each in (one, other)]
    assert distribution.distance(one, other) == pytest.approx(
        stats.ks_2samp(samples[0], samples[1]).statistic
    )
    assert distribution.distance(np.zeros(3), np.ones(3)) == 0.0
    assert distribution.distance(np.zeros(3), np.zeros(3)) == 0.0


def past(seed: int, minutes: int) -> Buckets:
    return buckets(counts(seed, minutes), BOUNDS)


def window(at: int) -> tuple[float, float, float]:
    start = START + MINUTE * at
    return start - 4 * 3600, start, start + 3600


def test_a_shift_with_the_same_median_is_found() -> None:
    made = counts(3, 3000)
    made[2900:] = counts(4, 100, WIDER)
    found = distribution.placebo(buckets(made, BOUNDS), *window(2900))
    quiet = distribution.placebo(past(3, 3000), *window(2900))
    assert found is not None
    assert quiet is not None
    assert found.p < 1e-6
    assert found.effect == pytest.approx(
        sum((a - e) * math.log(a / e) for a, e in zip(WIDER, SHARES, strict=True)), rel=0.1
    )
    assert quiet.effect < quiet.threshold(0.001)


def test_p_of_nothing_is_seldom_small_though_outputs_drift() -> None:
    flagged = 0
    for seed in range(60):
        source = np.random.default_rng(seed)
        tilt = np.exp(0.3 * autocorrelated(source, 3000, 0.99, 1.0)[:, None] * np.linspace(-1, 1, 5))
        shares = SHARES * tilt / (SHARES * tilt).sum(axis=1, keepdims=True)
        found = distribution.placebo(
            buckets(source.multinomial(300, shares).astype(np.float64), BOUNDS), *window(2900)
        )
        assert found is not None
        flagged += found.p < 0.01
    assert flagged <= stats.binom.ppf(1 - 1e-5, 60, 0.02)


def test_the_null_lies_before_the_window() -> None:
    made = counts(5, 3000)
    quiet = distribution.placebo(buckets(made, BOUNDS), *window(2900))
    made[2900:] = 0.0
    made[2900:, 0] = 300.0
    found = distribution.placebo(buckets(made, BOUNDS), *window(2900))
    assert quiet is not None
    assert found is not None
    assert np.array_equal(found.null, quiet.null)
    assert len(found.null) == (2900 // 5 - 12) - 48 + 1


@pytest.mark.parametrize("at", [0, 4, 239, 500, 3000])
def test_too_little_says_nothing(at: int) -> None:
    assert distribution.placebo(past(6, 3000), *window(at)) is None


def test_missing_and_empty_histograms_say_nothing() -> None:
    lost = counts(7, 3000)
    lost[2900:] = np.nan
    assert distribution.placebo(buckets(lost, BOUNDS), *window(2900)) is None
    assert distribution.placebo(buckets(np.zeros((3000, 5)), BOUNDS), *window(2900)) is None


def pairs(seed: int, minutes: int, shares: Array = SHARES) -> tuple[Buckets, Buckets]:
    return past(seed, minutes), buckets(counts(seed + 1, minutes, shares, 60), BOUNDS)


def compared(stable: Buckets, canary: Buckets, last: int) -> distribution.Shift | None:
    """With stable pods that do not differ."""
    return distribution.paired(stable, canary, 0, last, [stable] * 3, 1)


def test_swapped_minutes_give_the_p_of_all_swaps() -> None:
    """Of ten minutes all 1024 ways to swap can be counted."""
    for seed in (10, 20):
        stable, canary = pairs(seed, 10, np.array([0.14, 0.26, 0.28, 0.23, 0.09]))
        s, c = (one.counts / one.counts.sum(axis=1, keepdims=True) for one in (stable, canary))
        seen = float(distribution.distance(s.sum(axis=0), c.sum(axis=0)))
        far = 0
        for swaps in itertools.product([False, True], repeat=10):
            swapped = np.array(swaps)[:, None]
            one, other = np.where(swapped, c, s), np.where(swapped, s, c)
            far += float(distribution.distance(one.sum(axis=0), other.sum(axis=0))) >= seen - 1e-12
        found = compared(stable, canary, 10)
        assert found is not None
        deviation = math.sqrt(far / 1024 * (1 - far / 1024) / 1999)
        assert found.p == pytest.approx(far / 1024, abs=5 * deviation + 1 / 1000)


def test_a_canary_that_answers_differently_is_found_and_a_twin_is_not() -> None:
    found = compared(*pairs(30, 60, WIDER), 60)
    assert found is not None
    assert found.p == 1 / 2000
    assert found.effect > 0.2
    shares = []
    for seed in range(100):
        twin = compared(*pairs(1000 + 2 * seed, 30), 30)
        assert twin is not None
        shares.append(twin.p)
    assert sum(share < 0.05 for share in shares) <= stats.binom.ppf(1 - 1e-6, 100, 0.05)


def test_the_same_histograms_give_the_same_swaps() -> None:
    assert compared(*pairs(40, 30), 30).p == compared(*pairs(40, 30), 30).p  # type: ignore[union-attr]


def test_a_canary_needs_minutes_that_both_served() -> None:
    stable, canary = pairs(50, 30)
    canary.counts[7:] = 0.0
    assert compared(stable, canary, 30) is None
    canary.counts[:] = np.nan
    assert compared(stable, canary, 30) is None
