"""Whatever a series holds: a verdict that holds its schema, never an exception, never a warning of numpy."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.verdict import Verdict
from tests.runtime.detection.judge.judging import (
    buckets,
    canary_evidence,
    evidence,
    measured,
    series,
    verdict_of,
)
from tests.support.metric_series import DAY

NAN, INF = float("nan"), float("inf")
METRICS = ("latency", "error_ratio", "throughput", "memory", "gpu_utilization", "output_value")
MINUTES, AT = 2 * DAY, 2 * DAY - 60


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def all_verdicts(values: Array, load: Array, at: int, metrics: tuple[str, ...] = METRICS) -> list[Verdict]:
    """Of a release, a watch and a canary (against its own past), each metric alone."""
    found = []
    for metric in metrics:
        one = [measured(values, metric)]
        stable = [measured(values, metric, stable=series(values[::-1]))]
        found.append(verdict_of(evidence(load, one, at, len(values))))
        found.append(verdict_of(evidence(load, one, at)))
        found.append(verdict_of(evidence(load, one, None, len(values))))
        found.append(verdict_of(canary_evidence((load, load[::-1]), stable, at, len(values))))
    return found


@pytest.mark.parametrize("number", [0, 1, 2, 7, 100, 500])
@pytest.mark.parametrize("at", [-10_000, -1, 0, 1, 10**6])
def test_short_series_and_releases_outside_of_them(number: int, at: int) -> None:
    values = 1.0 + rng().random(number)
    for verdict in all_verdicts(values, values, at, ("latency", "error_ratio")):
        assert verdict.state in ("inconclusive", "pending", "unchanged")
    for verdict in all_verdicts(values, values, at, ("latency",))[:1]:
        assert verdict.state in ("inconclusive", "pending")


@pytest.mark.parametrize("value", [NAN, INF, -INF, 0.0, 1.0, -1.0, 5e-324, 1e-300, 1e16])
def test_constants(value: float) -> None:
    for verdict in all_verdicts(np.full(MINUTES, value), np.full(MINUTES, 5.0), AT):
        assert verdict.state in ("inconclusive", "pending", "unchanged")


@pytest.mark.parametrize("value", [NAN, INF, -INF, 0.0, -1.0, 5e-324, 1e-300, 1e16])
@pytest.mark.parametrize("where", ["some", "before", "after"])
def test_values_of_another_kind(value: float, where: str) -> None:
    values = rng(1).lognormal(0.0, 0.1, MINUTES)
    minutes = np.arange(MINUTES)
    hit = {"some": rng(2).random(MINUTES) < 0.2, "before": minutes < AT, "after": minutes >= AT}[where]
    all_verdicts(np.where(hit, value, values), np.full(MINUTES, 5.0), AT)


@pytest.mark.parametrize("value", [1e60, 1e200, -1e308, 1.79e308])
@pytest.mark.parametrize("metric", METRICS)
def test_gigantic_values(value: float, metric: str) -> None:
    values = rng(1).lognormal(0.0, 0.1, MINUTES)
    all_verdicts(np.where(rng(2).random(MINUTES) < 0.2, value, values), np.full(MINUTES, 5.0), AT, (metric,))
    all_verdicts(np.where(np.arange(MINUTES) >= AT, value, values), np.full(MINUTES, 5.0), AT, (metric,))


@pytest.mark.parametrize("load", [NAN, 0.0, -1.0, INF, 1e-300, 1e300])
def test_loads(load: float) -> None:
    values = rng(3).lognormal(-3.0, 0.1, MINUTES)
    whole, part = np.full(MINUTES, load), np.full(MINUTES, 5.0)
    part[rng(4).random(MINUTES) < 0.2] = load
    for one in (whole, part):
        all_verdicts(values, one, AT, ("latency", "error_ratio", "memory"))


def test_a_load_that_stops_with_the_release() -> None:
    values, load = rng(5).lognormal(0.0, 0.1, MINUTES), np.where(np.arange(MINUTES) < AT, 5.0, 0.0)
    verdict = verdict_of(evidence(load, {"memory": values}, AT))
    assert verdict.metrics[0].load_change == -1.0


def test_days_of_gaps() -> None:
    values = rng(6).lognormal(0.0, 0.1, 5 * DAY)
    values[DAY : 4 * DAY] = NAN
    all_verdicts(values, np.where(np.isnan(values), NAN, 5.0), 5 * DAY - 60, ("latency", "error_ratio"))


def test_histograms_that_hold_nothing() -> None:
    values, load = rng(7).random(MINUTES), np.full(MINUTES, 5.0)
    bounds = np.array([0.5])
    for counts in (
        np.zeros((MINUTES, 2)),
        np.full((MINUTES, 2), NAN),
        np.full((MINUTES, 2), 1e18),
        np.zeros((3, 2)),
    ):
        histogram = buckets(counts, bounds)
        one = measured(values, "output_value", buckets=histogram)
        verdict_of(evidence(load, [one], AT))
        live = measured(
            values, "output_value", stable=series(values), buckets=histogram, stable_buckets=histogram
        )
        verdict_of(canary_evidence((load, load), [live], AT, MINUTES))


def test_a_million_points() -> None:
    """In bounded time and memory."""
    values = rng(8).lognormal(0.0, 0.1, 1_000_000)
    begun = time.monotonic()
    verdict = verdict_of(evidence(values, {"latency": values}, 1_000_000 - 60))
    assert verdict.state in ("unchanged", "inconclusive")
    assert time.monotonic() - begun < 60


NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=64)
MODEST = st.floats(min_value=-1e12, max_value=1e12, width=64)
USUAL = st.one_of(MODEST, st.sampled_from([NAN, INF, -INF, 0.0, -0.0, 1e-9]))


@st.composite
def some_series(draw: st.DrawFn, elements: st.SearchStrategy[float], number: int) -> Array:
    """A few values, one for each stretch of equal length or repeated, with noise or without."""
    few = draw(arrays.arrays(np.float64, draw(st.integers(1, 40)), elements=elements))
    repeated = (
        np.tile(few, number // len(few) + 1)
        if draw(st.booleans())
        else np.repeat(few, number // len(few) + 1)
    )
    values = np.array(repeated[:number])
    noise = draw(st.sampled_from([0.0, 1e-9, 0.1, 2.0]))
    return np.asarray(
        values * rng(draw(st.integers(0, 9))).lognormal(0.0, noise, number) if noise else values
    )


LIMITS = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # a verdict takes too long to shrink by
    suppress_health_check=list(HealthCheck),
)


@LIMITS
@given(st.data(), st.sampled_from(METRICS))
def test_any_usual_series_gives_a_verdict(data: st.DataObject, metric: str) -> None:
    number = data.draw(st.integers(900, 1500))
    values, load = (data.draw(some_series(USUAL, number)) for _ in range(2))
    all_verdicts(values, load, number - data.draw(st.integers(1, 80)), (metric,))


@LIMITS
@given(st.data(), st.sampled_from(METRICS))
def test_any_series_at_all_gives_a_verdict(data: st.DataObject, metric: str) -> None:
    number = data.draw(st.integers(0, 900))
    with np.errstate(over="ignore"):  # of the noise
        values, load = (data.draw(some_series(NUMBERS, number)) for _ in range(2))
    all_verdicts(values, load, data.draw(st.integers(-10, number + 10)), (metric,))
