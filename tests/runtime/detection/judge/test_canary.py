"""Canaries against the stable version, from evidence to verdict."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy import stats

from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.verdict import Verdict
from tests.runtime.detection.judge.judging import (
    buckets,
    by_test,
    canary_evidence,
    judged,
    measured,
    series,
    verdict_of,
)
from tests.support import metric_series as made
from tests.support.metric_series import MINUTE, START

AT, END = 60, 120
NAN = float("nan")
Twin = tuple[Array, Array, Array, Array]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@cache
def twin(seed: int = 0, part: float = 0.2) -> Twin:
    """Loads of canary and stable, and their latencies."""
    source = rng(seed)
    return made.twin(source, made.served(source, END), part)


def verdict(
    canary: Array, stable: Array, metric: str = "latency", loads: Any = None, now: int = END, **more: Any
) -> Verdict:
    one = measured(canary, metric, stable=series(stable), **more)
    return verdict_of(canary_evidence(loads or twin()[:2], [one], AT, now))


def test_a_twin_is_seldom_called_different() -> None:
    flagged = 0
    for seed in range(60):
        canary_load, stable_load, canary, stable = twin(seed, (0.05, 0.2, 0.5)[seed % 3])
        flagged += verdict(canary, stable, loads=(canary_load, stable_load)).state != "unchanged"
    assert flagged <= stats.binom.ppf(1 - 1e-6, 60, 0.01)


@pytest.mark.parametrize(("factor", "state"), [(1.2, "regressed"), (0.8, "improved"), (1.02, "unchanged")])
def test_the_level_of_a_canary(factor: float, state: str) -> None:
    for seed in range(5):
        canary_load, stable_load, canary, stable = twin(seed)
        found = verdict(factor * canary, stable, loads=(canary_load, stable_load))
        assert found.state == state
        level = found.metrics[0]
        assert level.effect is not None
        assert level.effect.relative == pytest.approx(factor - 1, abs=0.04)
        assert level.windows.history is None
        assert level.windows.before == level.windows.after


def test_what_hits_both_is_no_change() -> None:
    """An incident in the middle: a judge of before and after would cry."""
    *_, canary, stable = twin()
    incident = np.where(np.arange(END) > AT + 20, 5.0, 1.0)
    assert verdict(canary * incident, stable * incident).state == "unchanged"


@pytest.mark.parametrize("minutes", [0, 1, 9])
def test_too_early_is_pending(minutes: int) -> None:
    *_, canary, stable = twin()
    found = verdict(50 * canary, stable, now=AT + minutes)
    assert found.state == "pending"
    assert found.outcome == "inconclusive"
    assert found.decided_at.timestamp() == START + MINUTE * (AT + 10)  # type: ignore[union-attr]
    assert verdict(50 * canary, stable, now=AT + 10).state == "regressed"


@pytest.mark.parametrize("part", [0.05, 0.1])
def test_a_small_canary_is_noisier_and_that_is_no_change_of_spread(part: float) -> None:
    states = []
    for seed in range(20):
        canary_load, stable_load, canary, stable = twin(seed, part)
        found = by_test(verdict(canary, stable, loads=(canary_load, stable_load)))
        states.append(found["latency", "spread"].state)
    assert states.count("unchanged") >= 19


def test_ten_times_the_noise_is_a_change_of_spread() -> None:
    *_, canary, stable = twin()
    middle = np.log(stable)
    wild = np.exp(middle + 10 * (np.log(canary) - middle))
    found = by_test(verdict(wild, stable))
    assert found["latency", "spread"].state == "regressed"


def test_a_canary_that_varies_less_is_no_news() -> None:
    """Its noise was scaled by what sampling explains at most."""
    *_, canary, stable = twin()
    middle = np.exp(made.autocorrelated(rng(9), END, 0.97, 0.1))
    calm = middle * (canary / stable) ** 0.05
    found = by_test(verdict(calm, middle * (canary / stable)))
    assert found["latency", "spread"].p < 0.001  # type: ignore[operator]
    assert found["latency", "spread"].state == "unchanged"


def test_ten_times_the_noise_of_outputs_that_may_be_negative() -> None:
    stable, canary = 0.1 * rng(1).normal(size=END), 0.1 * rng(2).normal(size=END)
    assert verdict(canary, stable, "output_value").state == "unchanged"
    assert verdict(10 * canary, stable, "output_value").state == "regressed"


def test_seven_of_ten_samples_a_hundred_times_higher_do_not_pass() -> None:
    *_, canary, stable = twin()
    hit = np.arange(END) % 10 < 7
    assert verdict(np.where(hit, 100 * canary, canary), stable).state == "regressed"


def errors(canary: Array, stable: Array, part: float = 0.2) -> Verdict:
    return verdict(canary, stable, "error_ratio", loads=twin(0, part)[:2])


@pytest.mark.parametrize("part", [0.01, 0.02, 0.05, 0.1, 0.5])
def test_one_failed_request_is_no_regression(part: float) -> None:
    load = np.maximum(twin(0, part)[0], 1 / 60)
    one = np.zeros(END)
    one[AT + 20] = 1 / (60 * load[AT + 20])
    assert errors(one, np.zeros(END), part).state == "unchanged"


def test_errors_of_a_canary() -> None:
    canary_load, stable_load = twin()[:2]
    stable = made.failing(rng(3), stable_load, np.full(END, 0.01))
    assert errors(made.failing(rng(4), canary_load, np.full(END, 0.01)), stable).state == "unchanged"
    worse = errors(made.failing(rng(5), canary_load, np.full(END, 0.06)), stable)
    assert worse.state == "regressed"
    assert worse.metrics[0].after == pytest.approx(0.06, rel=0.4)


def test_outputs_that_change_sign_are_a_change() -> None:
    """The stable version's values have no log, whatever the canary's are."""
    noise = 0.05 * rng(6).normal(size=END)
    assert verdict(1 + noise, -1 + noise[::-1], "output_value").state == "regressed"
    assert verdict(-1 + noise, 1 + noise[::-1], "output_value").state == "regressed"


def test_outputs_are_compared_by_distribution() -> None:
    bounds = np.linspace(0.1, 0.9, 9)
    loads = twin()[:2]
    parts = [
        made.outputs(rng(7 + k), load, bounds, np.full(END, 0.5), width)
        for k, (load, width) in enumerate(zip((*loads, loads[0]), (0.15, 0.15, 0.4), strict=True))
    ]
    same, stable, wider = (buckets(part, bounds) for part in parts)
    middle = 0.5 + 0.001 * rng(8).normal(size=(2, END))
    for canary, state in ((same, "unchanged"), (wider, "regressed")):
        found = by_test(verdict(middle[0], middle[1], "output_value", buckets=canary, stable_buckets=stable))
        assert found["output-value", "distribution"].state == state
        assert found["output-value", "level"].state == "unchanged"


def test_a_canary_without_data_is_inconclusive() -> None:
    *_, canary, stable = twin()
    missing = np.full(END, NAN)
    for one, other in ((missing, stable), (canary, missing), (missing, missing)):
        found = verdict(one, other)
        assert (found.state, found.reason) == ("inconclusive", "no_data")
    holes = np.where(np.arange(END) % 3 == 0, canary, NAN)
    found = verdict(holes, stable)
    assert (found.state, found.reason) == ("inconclusive", "too_many_gaps")
    assert found.metrics[0].missing_ratio == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("metric", ["latency", "error_ratio", "memory", "output_value"])
@pytest.mark.parametrize("load", [NAN, 0.0])
def test_missing_loads_are_no_error(metric: str, load: float) -> None:
    *_, canary, stable = twin()
    none = np.full(END, load)
    for loads in ((none, none), (none, twin()[1]), (twin()[0], none)):
        found = verdict(canary, stable, metric, loads=loads)
        assert found.state in ("unchanged", "inconclusive")


def test_a_plot_shows_both() -> None:
    canary_load, stable_load, canary, stable = twin()
    one = measured(1.3 * canary, stable=series(stable))
    (plot,) = judged(canary_evidence((canary_load, stable_load), [one], AT, END)).plots
    assert plot.stable is not None
    assert np.array_equal(plot.stable, stable)
    assert np.array_equal(plot.values, 1.3 * canary)
    assert (plot.low < plot.expected).all()
    assert (plot.expected < plot.high).all()
    assert plot.released_at == START + MINUTE * AT
