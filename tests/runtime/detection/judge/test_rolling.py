"""Watching without a release."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from modelway_runtime.detection import rolling
from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.verdict import Verdict
from tests.runtime.detection.judge.judging import evidence, measured, rollout, series, verdict_of
from tests.support import metric_series as made
from tests.support.metric_series import DAY, MINUTE, START, Served

NOW = 11 * DAY + 800


@cache
def quiet(seed: int = 0) -> Served:
    return made.served(np.random.default_rng(seed), NOW)


def watched(
    values: Array, load: Array | None = None, now: int = NOW, releases: tuple[int, ...] = ()
) -> Verdict:
    others = [rollout(at) for at in releases]
    return verdict_of(
        evidence(quiet().load if load is None else load, {"latency": values}, None, now, others)
    )


def test_nothing_is_unchanged() -> None:
    for seed in range(6):
        verdict = watched(quiet(seed).latency, quiet(seed).load)
        assert verdict.state == "unchanged"
        assert verdict.rollout is None
        assert verdict.comparison == "watch"


@pytest.mark.parametrize(("ago", "window"), [(30, 30), (60, 60), (180, 180)])
def test_the_window_that_says_most_is_told(ago: int, window: int) -> None:
    values = made.step(quiet().latency, NOW - ago, 1.3)
    verdict = watched(values)
    assert verdict.state == "regressed"
    (metric,) = verdict.metrics
    assert metric.test == "level"
    if ago == window:
        assert metric.windows.after.start.timestamp() >= START + MINUTE * (NOW - ago)
    assert metric.windows.after.end.timestamp() == START + MINUTE * NOW


def test_a_spike_of_five_minutes_is_no_anomaly() -> None:
    values = quiet().latency.copy()
    values[NOW - 40 : NOW - 35] *= 10
    assert watched(values).state == "unchanged"


def test_what_comes_after_now_is_not_looked_at() -> None:
    values = quiet().latency.copy()
    values[NOW - 100 :] *= 10
    assert watched(values, now=NOW - 100).state == "unchanged"


@pytest.mark.parametrize("days", [1, 3])
def test_a_level_that_changed_days_ago_is_old_news(days: int) -> None:
    values = made.step(quiet().latency, NOW - days * DAY, 1.8)
    assert watched(values).state == "unchanged"


def test_a_level_that_changed_eight_hours_ago_is_old_news() -> None:
    values = made.step(quiet().latency, NOW - 480, 1.8)
    assert watched(values).state == "unchanged"


def test_no_data_and_short_history_are_inconclusive() -> None:
    verdict = watched(np.full(NOW, np.nan))
    assert (verdict.state, verdict.reason) == ("inconclusive", "no_data")
    verdict = watched(quiet().latency, now=500)
    assert (verdict.state, verdict.reason) == ("inconclusive", "history_too_short")


def test_the_latest_is_one_of_three_windows() -> None:
    found = rolling.latest(measured(quiet().latency), series(quiet().load), START + MINUTE * NOW, ())
    assert found.size is not None
    assert found.context.span.end - found.context.span.start in rolling.WINDOWS_S
