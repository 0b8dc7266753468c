"""The placebo in time, on series without season or load."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from modelway_runtime.detection import placebo
from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.placebo import BEFORE, Contrast
from tests.support.metric_series import autocorrelated

WIDTH = 12
FIRST = 3000
NO_LOAD = np.zeros(FIRST + WIDTH)
ALL = np.ones(FIRST + WIDTH, bool)


def rest(seed: int, memory: float = 0.5, effect: float = 0.0) -> Array:
    values = autocorrelated(np.random.default_rng(seed), FIRST + WIDTH, memory, 1.0)
    values[FIRST:] += effect
    return values


def contrast(values: Array, load: Array = NO_LOAD, first: int = FIRST, usable: Array = ALL) -> Contrast:
    found = placebo.contrast(values, load, first, usable.astype(bool))
    assert found is not None
    return found


def test_an_effect_is_found_with_its_size() -> None:
    found = contrast(rest(0, 0.2, effect=3.0))
    assert found.effect == pytest.approx(3.0, abs=0.8)
    assert found.later == pytest.approx(3.0, abs=1.0)
    assert found.p < 1e-4
    assert found.persists(0.6)
    assert contrast(rest(0, 0.2, effect=-3.0)).effect == pytest.approx(-3.0, abs=0.8)


@pytest.mark.parametrize("memory", [0.0, 0.6, 0.9])
def test_p_of_nothing_is_about_uniform_whatever_the_memory(memory: float) -> None:
    """With independent samples in mind a test of 0.9 would flag most."""
    shares = [contrast(rest(seed, memory)).p for seed in range(120)]
    low, high = (float(stats.binom.ppf(tail, 120, 0.1)) for tail in (1e-5, 1 - 1e-5))
    assert low <= sum(share < 0.1 for share in shares) <= high
    assert sum(share < 0.5 for share in shares) > 35


def test_the_null_lies_before_the_release() -> None:
    """What happens in the window, and just before it within a window's reach, is no placebo."""
    values = rest(1)
    quiet = contrast(values)
    values[FIRST:] = 1000.0
    assert np.array_equal(contrast(values).null, quiet.null)
    assert len(quiet.null) == FIRST - WIDTH - BEFORE + 1
    assert quiet.independent == len(quiet.null) / WIDTH


def test_moments_that_are_not_usable_are_no_placebo() -> None:
    values, usable = rest(2), ALL.copy()
    values[1000:1100] += 40.0
    usable[1000 - WIDTH : 1100 + BEFORE] = False
    spoilt, clean = contrast(values), contrast(values, usable=usable)
    assert clean.threshold(0.001) < 0.5 * spoilt.threshold(0.001)
    assert len(clean.null) == len(spoilt.null) - (WIDTH + 100 + BEFORE)


def test_the_threshold_of_a_share_has_that_share() -> None:
    found = contrast(rest(3))
    for share in (0.05, 0.005, 1e-4):
        reach = found.threshold(share)
        at = placebo._share(reach, found.null, found.independent)
        assert at == pytest.approx(share, rel=1e-6)
        assert placebo._share(0.99 * reach, found.null, found.independent) > share


def test_a_short_null_has_the_tails_of_students_t() -> None:
    short = rest(4)[FIRST - 200 :]
    found = contrast(short, NO_LOAD[:212], 200, np.ones(212, bool))
    freedom = found.independent
    assert freedom < 15
    assert found.threshold(1e-4) >= float(stats.t.isf(5e-5, freedom)) * found.deviation


def test_an_effect_that_goes_away_does_not_persist() -> None:
    values = rest(5, 0.0)
    values[FIRST : FIRST + WIDTH // 2] += 8.0
    assert not contrast(values).persists(0.6)
    both = Contrast(1.0, -1.0, (1.0, 1.0), np.zeros(3), 3.0, 0.1)
    assert not both.persists(0.1)
    assert Contrast(-1.0, -0.6, (-1.0, -1.0), np.zeros(3), 3.0, 0.1).persists(0.6)


def incident(level: float, ends: int, after: float) -> Array:
    """Two hours at another level until ``ends`` bins before the release, and one from the release on."""
    values = 0.1 * rest(8)
    values[FIRST - ends - 24 : FIRST - ends] += level
    values[FIRST:] += after
    return values


@pytest.mark.parametrize(
    ("level", "ends", "after", "departs"),
    [(0.0, 0, 1.0, True), (0.0, 0, -1.0, True), (1.0, 4, 0.0, False), (-1.0, 4, 0.0, False),
     (1.0, 0, 0.0, False), (1.0, 4, 2.0, True), (1.0, 0, 2.0, True), (-1.0, 0, 1.0, True)],
)  # fmt: skip
def test_the_end_of_an_incident_is_no_new_level(level: float, ends: int, after: float, departs: bool) -> None:
    found = contrast(incident(level, ends, after))
    assert found.departs(0.35) == departs


def hours(seed: int, restless: float) -> tuple[Array, Array]:
    """Values that vary ``restless`` times as much in the busy half of each day, and the log of the load."""
    load = np.sin(2 * np.pi * np.arange(FIRST + WIDTH) / 288)
    return rest(seed) * np.where(load > 0, restless, 1.0), load


@pytest.mark.parametrize("first", [3000, 2850])
def test_busy_hours_have_a_null_of_their_own(first: int) -> None:
    """Bin 3000 is busy, 2850 is calm; of both the null is that of like hours."""
    values, load = (part[: first + WIDTH] for part in hours(9, 6.0))
    alike, _ = (part[: first + WIDTH] for part in hours(9, 1.0))
    own = contrast(values, load, first).deviation / contrast(alike, load, first).deviation
    pooled = (
        contrast(values, NO_LOAD[: first + WIDTH], first).deviation / contrast(alike, load, first).deviation
    )
    if load[first] > 0:
        assert 1.3 * pooled < own < 7.0
    else:
        assert 0.9 < own < 0.6 * pooled


@pytest.mark.parametrize("restless", [1.0, 6.0])
def test_p_of_nothing_is_about_uniform_at_all_hours(restless: float) -> None:
    found = []
    for seed in range(120):
        values, load = hours(seed, restless)
        at = FIRST - 12 * (seed % 24)
        found.append(contrast(values[: at + WIDTH], load[: at + WIDTH], at, ALL[: at + WIDTH]).p)
    low, high = (float(stats.binom.ppf(tail, 120, 0.1)) for tail in (1e-5, 1 - 1e-5))
    assert low <= sum(p < 0.1 for p in found) <= high


def test_a_load_that_is_not_known_or_never_changes_says_nothing_of_the_scale() -> None:
    values = rest(10)
    plain = contrast(values)
    assert contrast(values, np.full(len(values), np.nan)).p == pytest.approx(plain.p)
    assert contrast(values, NO_LOAD + 2.0).p == pytest.approx(plain.p)


def test_missing_bins_of_the_window_are_missing_in_the_placebo_too() -> None:
    values = rest(6, effect=4.0)
    values[FIRST : FIRST + 9] = np.nan
    found = contrast(values)
    assert found.effect == pytest.approx(4.0, abs=1.8)
    assert found.deviation > contrast(rest(6)).deviation


@pytest.mark.parametrize(
    ("first", "lost"), [(BEFORE - 1, 0), (BEFORE + 60, 0), (3000, WIDTH - 1), (3000, WIDTH)]
)
def test_too_little_says_nothing(first: int, lost: int) -> None:
    values = rest(7)[: first + WIDTH]
    values[first : first + lost] = np.nan
    usable = np.ones(len(values), bool)
    assert placebo.contrast(values, np.zeros(len(values)), first, usable) is None


def test_a_release_after_a_long_gap_has_nothing_before_it() -> None:
    values = rest(8)
    values[FIRST - BEFORE : FIRST] = np.nan
    assert placebo.contrast(values, NO_LOAD, FIRST, ALL) is None


def test_what_the_adjustment_left_of_the_load_is_learnt() -> None:
    source = np.random.default_rng(9)
    load = autocorrelated(source, FIRST + WIDTH, 0.98, 0.5)
    load[FIRST:] += 0.5
    values = rest(9, 0.0) * 0.1 + load
    assert contrast(values, load).p > 0.01
    assert abs(contrast(values, load).effect) < 0.5 * abs(contrast(values).effect)


def test_a_constant_past_is_left_by_any_step() -> None:
    values = np.zeros(FIRST + WIDTH)
    assert contrast(values).p == 1.0
    values[FIRST:] = 1e-3
    assert contrast(values).p < 1e-6
    assert contrast(values).deviation == 0.0


def test_a_level_that_settled_elsewhere_long_ago_is_no_change_now() -> None:
    """Half the past was lower by ten deviations: what the last four hours say is not to be cut at the
    deviations of the whole."""
    flagged = 0
    for seed in range(20):
        values = rest(seed, 0.3)
        values[FIRST - 100 :] += 12.0
        usable = ALL.copy()
        usable[FIRST - 100 - WIDTH : FIRST - 100 + BEFORE] = False
        found = contrast(values, usable=usable)
        flagged += found.p < 0.001 and abs(found.effect) > 2
    assert flagged <= 1
