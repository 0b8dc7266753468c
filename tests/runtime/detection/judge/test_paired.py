"""A canary against its twin."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from modelway_runtime.detection import among_pods, paired
from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.paired import Paired
from tests.support.metric_series import autocorrelated

NAN = float("nan")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def twins(seed: int, minutes: int = 60, memory: float = 0.0, noise: float = 0.05) -> tuple[Array, Array]:
    source = rng(seed)
    both = autocorrelated(source, minutes, 0.97, 0.3)
    parts = (autocorrelated(source, minutes, memory, noise) for _ in range(2))
    one, other = (np.exp(both + part) for part in parts)
    return one, other


def level(stable: Array, canary: Array, unit: float | None = None) -> Paired | None:
    """Of pods that do not differ."""
    found = among_pods.level(np.tile(stable, (3, 1)), canary[None], unit)
    return found and found.within


def spread(stable: Array, canary: Array, stable_load: Array, canary_load: Array) -> Paired | None:
    loads = np.tile(stable_load, (3, 1)), canary_load[None]
    found = among_pods.spread(np.tile(stable, (3, 1)), canary[None], *loads)
    return found and found.within


def test_the_level_of_independent_noise_is_about_students_t() -> None:
    stable, canary = twins(0, 400)
    found = level(stable, 1.1 * canary)
    assert found is not None
    difference = np.log(1.1 * canary) - np.log(stable)
    plain = stats.ttest_1samp(difference, 0.0)
    assert found.effect == pytest.approx(difference.mean(), abs=0.005)
    assert found.error == pytest.approx(
        difference.std(ddof=1) / 20, rel=0.35
    )  # more: it may be autocorrelated
    assert found.error > 0.95 * difference.std(ddof=1) / 20
    assert found.p < 1e-8
    assert plain.pvalue < 1e-8
    assert found.minutes == 400


@pytest.mark.parametrize("memory", [0.0, 0.2])
def test_p_of_twins_is_about_uniform(memory: float) -> None:
    shares = []
    for seed in range(400):
        found = level(*twins(seed, 60, memory))
        assert found is not None
        shares.append(found.p)
    assert sum(share < 0.05 for share in shares) <= stats.binom.ppf(1 - 1e-5, 400, 0.08)
    assert sum(share < 0.5 for share in shares) >= stats.binom.ppf(1e-5, 400, 0.4)


@pytest.mark.parametrize("window", [2, 4])
def test_rates_over_windows_that_overlap_are_worth_fewer_minutes(window: int) -> None:
    """Scraped every half minute or minute, rates are taken over two or four minutes, once a minute
    (``promql.rate_window``): neighbours share samples."""
    flagged = 0
    for seed in range(400):
        parts = rng(seed).normal(0.0, 0.05, (2, 30 + window - 1))
        stable, canary = (np.exp(np.convolve(part, np.full(window, 1 / window), "valid")) for part in parts)
        found = level(stable, canary)
        assert found is not None
        flagged += found.p < 0.016
    assert flagged <= stats.binom.ppf(1 - 1e-5, 400, 0.03)


def test_what_an_ar1_series_is_worth() -> None:
    """The variance of a mean of n AR(1) values is s^2 / n (1 + r) / (1 - r), for large n."""
    worth = [paired._worth(autocorrelated(rng(seed), 4000, 0.6, 1.0))[0] for seed in range(20)]
    assert np.mean(worth) == pytest.approx(4000 * 0.4 / 1.6, rel=0.06)
    freedom = [paired._worth(autocorrelated(rng(seed), 4000, 0.6, 1.0))[1] for seed in range(20)]
    assert np.mean(freedom) == pytest.approx(4000 * (1 - 0.36) / (1 + 0.36), rel=0.06)
    assert paired._worth(np.zeros(10)) == (10.0, 9.0)
    assert paired._worth(np.linspace(-1, 1, 50))[0] >= 2.0


def test_the_autocorrelation_of_a_short_series_is_corrected() -> None:
    """Kendall's bias, -(1 + 4 r) / n, is added back; then fifteen minutes of 0.15 are mixed in."""
    rest = autocorrelated(rng(3), 25, 0.5, 1.0)
    raw = sum(rest[k] * rest[k + 1] for k in range(24)) / sum(rest**2)
    corrected = (25 * (raw + (1 + 4 * raw) / 25) + 15 * 0.15) / 40
    worth, freedom = paired._worth(rest)
    assert worth == pytest.approx(25 * (1 - corrected) / (1 + corrected))
    assert freedom == pytest.approx(25 * (1 - corrected**2) / (1 + corrected**2) - 1)


def test_the_threshold_of_a_share_has_that_share() -> None:
    found = level(*twins(1))
    assert found is not None
    for share in (0.05, 1e-3):
        reach = found.threshold(share) / found.error
        assert 2 * stats.t.sf(reach, found.freedom) == pytest.approx(share)
    assert found.deviation == found.error


def test_seven_of_ten_samples_a_hundred_times_higher_do_not_pass() -> None:
    stable, canary = twins(2, 10)
    canary[[0, 1, 3, 4, 6, 7, 9]] *= 100
    found = level(stable, canary)
    assert found is not None
    assert found.p < 0.01
    assert found.effect > 0.5


def test_two_spikes_are_no_level() -> None:
    stable, canary = twins(3, 60)
    quiet = level(stable, canary)
    canary[[10, 40]] *= 100
    found = level(stable, canary)
    assert found is not None
    assert quiet is not None
    assert found.effect == pytest.approx(quiet.effect, abs=0.01)


def test_values_without_a_log_are_compared_in_units() -> None:
    stable, canary = rng(4).normal(size=60), rng(5).normal(size=60) + 2.0
    found = level(stable, canary, unit=4.0)
    assert found is not None
    assert found.effect == pytest.approx((np.mean(canary) - np.mean(stable)) / 4.0, abs=0.05)


def test_minutes_that_one_lacks_are_left_out() -> None:
    stable, canary = twins(6)
    stable[:20], canary[15:30] = NAN, 0.0
    found = level(stable, canary)
    assert found is not None
    assert found.minutes == 30
    assert level(stable[:37], canary[:37]) is None  # seven minutes


def test_equal_series_have_no_difference() -> None:
    stable, _ = twins(7)
    found = level(stable, stable)
    assert found is not None
    assert found.effect == pytest.approx(0.0, abs=1e-12)
    assert found.p == 1.0


def test_noise_of_a_small_canary_is_no_spread_and_ten_times_is() -> None:
    stable = np.exp(rng(8).normal(0.0, 0.02, 120))
    middle = np.exp(rng(9).normal(0.0, 0.02 * math.sqrt(9), 120))  # a ninth of the requests
    loads = np.full(120, 90.0), np.full(120, 10.0)
    sampled = spread(stable, middle, *loads)
    wild = spread(stable, np.exp(np.log(middle) * 10), *loads)
    assert sampled is not None
    assert wild is not None
    assert sampled.effect < math.log(1.5)
    assert sampled.p > 0.01
    assert wild.p < 1e-6
    assert wild.effect == pytest.approx(math.log(10), abs=0.5)


def test_the_spread_is_unknown_without_loads() -> None:
    stable, canary = twins(10)
    zero = np.zeros(60)
    assert spread(stable, canary, zero, zero) is None
    assert spread(stable[:4], canary[:4], np.ones(4), np.ones(4)) is None


@pytest.mark.parametrize("lost", ["stable", "canary", "both"])
def test_the_spread_is_unknown_where_a_load_is_missing(lost: str) -> None:
    stable, canary = twins(11)
    missing, known = np.full(60, NAN), np.full(60, 5.0)
    assert (
        spread(
            stable,
            canary,
            missing if lost != "canary" else known,
            missing if lost != "stable" else known,
        )
        is None
    )


def counts(seed: int, share: float, load: float, minutes: int = 60) -> Array:
    return rng(seed).binomial(round(60 * load), share, minutes) / round(60 * load)


def test_errors_are_pooled() -> None:
    loads = np.full(60, 20.0), np.full(60, 5.0)
    found = paired.errors(counts(1, 0.01, 20), counts(2, 0.03, 5), *loads)
    assert found is not None
    assert found.effect == pytest.approx(math.log(3), abs=0.3)
    assert found.p < 1e-6
    same = paired.errors(counts(3, 0.01, 20), counts(4, 0.01, 5), *loads)
    assert same is not None
    assert same.p > 0.01


@pytest.mark.parametrize("common", [True, False])
def test_errors_of_twins_are_seldom_flagged_even_in_bursts(common: bool) -> None:
    """Bursts of both cancel; where each has its own, the variance is several times that of counts."""
    flagged = 0
    for seed in range(300):
        source = rng(seed)
        both = source.gamma(4.0, 0.25, (2, 12)) * 0.01
        own, other = np.repeat(both[0], 5), np.repeat(both[0 if common else 1], 5)
        stable, canary = source.binomial(1200, own) / 1200, source.binomial(300, other) / 300
        found = paired.errors(stable, canary, np.full(60, 20.0), np.full(60, 5.0))
        assert found is not None
        flagged += found.p < 0.01
    assert flagged <= stats.binom.ppf(1 - 1e-6, 300, 0.01 if common else 0.03)


def test_no_errors_at_all_are_no_difference() -> None:
    found = paired.errors(np.zeros(30), np.zeros(30), np.full(30, 9.0), np.full(30, 1.0))
    assert found is not None
    assert (found.effect, found.p) == (0.0, 1.0)
    assert math.isfinite(found.threshold(0.001))


def test_errors_need_minutes_that_both_served() -> None:
    some = np.full(30, 0.1)
    assert paired.errors(some, some, np.zeros(30), np.ones(30)) is None
    assert paired.errors(some[:7], some[:7], np.ones(7), np.ones(7)) is None
    lost = np.where(np.arange(30) < 10, NAN, some)
    found = paired.errors(lost, some, np.ones(30), np.ones(30))
    assert found is not None
    assert found.minutes == 20


@pytest.mark.parametrize("part", [0.01, 0.02, 0.05, 0.1])
def test_one_failure_is_as_rare_as_the_canarys_part_of_the_requests(part: float) -> None:
    """That the only failure falls to the canary has exactly the probability of its part."""
    requests = np.full(30, 2000.0)
    canary = np.zeros(30)
    canary[7] = 1 / (requests[7] * part)
    found = paired.errors(np.zeros(30), canary, requests * (1 - part) / 60, requests * part / 60)
    assert found is not None
    assert found.p >= 0.5 * part
