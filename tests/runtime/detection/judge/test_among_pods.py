"""Canaries of a version whose pods differ by nothing but luck, and canaries that do differ."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from modelway_runtime.detection import among_pods
from modelway_runtime.detection.canary import share_of_look
from modelway_runtime.detection.evidence import Array, Measured, Pod
from modelway_runtime.detection.verdict import Pods, Verdict
from tests.runtime.detection.judge.judging import (
    by_test,
    canary_evidence,
    measured,
    series,
    verdict_of,
)
from tests.support.metric_series import autocorrelated

SPREADS = (0.0, 0.03, 0.06, 0.10)
MINUTES = 30
SHARE = 0.01
"""Of false discoveries in a canary's verdict."""


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def latencies(source: np.random.Generator, pods: int, spread: float, factor: float = 1.0) -> Array:
    """A row for each pod, with a factor of its own."""
    own = factor * np.exp(source.normal(0.0, spread, pods))
    noise = [np.exp(autocorrelated(source, MINUTES, 0.3, 0.03)) for _ in range(pods)]
    return np.asarray(own[:, None] * np.array(noise))


def both(seed: int, stable: int, canary: int, spread: float, factor: float = 1.0) -> tuple[Array, Array]:
    """Stable and canary pods; load and incidents move both."""
    source = rng(seed, stable, canary, round(1000 * spread))
    common = 0.04 * np.exp(autocorrelated(source, MINUTES, 0.97, 0.2))
    return common * latencies(source, stable, spread), common * latencies(source, canary, spread, factor)


@pytest.mark.parametrize(("spread", "stable"), list(product(SPREADS, (3, 8))))
def test_pods_that_differ_are_seldom_called_a_regression(spread: float, stable: int) -> None:
    """The bound is missed with certainty by who takes minutes for samples (the next test)."""
    flagged = 0
    for seed in range(200):
        found = among_pods.level(*both(seed, stable, 1 + seed % 2, spread))
        assert found is not None
        flagged += found.p < SHARE
    assert flagged <= stats.binom.ppf(1 - 1e-4, 200, SHARE)


def test_minutes_are_no_samples_of_a_version() -> None:
    """What the pods are there for: taken for itself each minute says that the pods differ, which they do."""
    wrong = 0
    for seed in range(100):
        found = among_pods.level(*both(seed, 5, 1, 0.06))
        assert found is not None
        wrong += found.within.p < SHARE
    assert wrong > 40


def test_the_error_is_that_of_a_prediction() -> None:
    """Without noise within pods it is Student's test of a new mean, to the digit."""
    stable = np.repeat(np.exp([[0.1], [0.2], [0.4], [0.5]]), MINUTES, axis=1)
    canary = np.repeat(np.exp([[0.9], [0.7]]), MINUTES, axis=1)
    found = among_pods.level(stable, canary)
    assert found is not None
    deviation = np.std([0.1, 0.2, 0.4, 0.5], ddof=1)
    assert found.spread == pytest.approx(deviation)
    assert found.effect == pytest.approx(0.5)
    assert found.error == pytest.approx(deviation * math.sqrt(1 / 4 + 1 / 2))
    assert found.p == pytest.approx(2 * stats.t.sf(0.5 / found.error, 3), rel=1e-4)
    for share in (0.05, 0.001):
        assert found.threshold(share) == pytest.approx(stats.t.isf(share / 2, 3) * found.error)
    assert found.threshold(found.p) == pytest.approx(found.effect, rel=1e-4)


@pytest.mark.parametrize(("spread", "stable", "factor"), [(0.0, 3, 1.2), (0.03, 8, 1.2), (0.10, 8, 2.0)])
def test_what_is_larger_than_pods_differ_by_is_found(spread: float, stable: int, factor: float) -> None:
    states = []
    for seed in range(20):
        found = among_pods.level(*both(seed, stable, 1, spread, factor))
        assert found is not None
        states.append(found.p < SHARE)
    assert sum(states) >= stats.binom.ppf(1e-4, 20, 0.9)


def test_pods_that_come_and_go_are_no_change() -> None:
    stable, canary = both(1, 6, 1, 0.3)
    quiet = among_pods.level(stable, canary)
    stable[:2, : MINUTES // 2] = np.nan
    stable[2:4, MINUTES // 2 :] = np.nan
    found = among_pods.level(stable, canary)
    assert found is not None
    assert quiet is not None
    assert found.effect == pytest.approx(quiet.effect, abs=0.05)
    assert found.within.error < 3 * quiet.within.error


def test_a_pod_that_was_there_for_minutes_only_does_not_count() -> None:
    stable, canary = both(2, 4, 1, 0.1)
    stable[3, 7:] = np.nan
    found = among_pods.level(stable, canary)
    assert found is not None
    assert found.stable == 3
    stable[2, 7:] = np.nan
    assert among_pods.level(stable, canary) is None
    assert among_pods.level(both(2, 4, 1, 0.1)[0], np.full((1, MINUTES), np.nan)) is None


@pytest.mark.parametrize(("spread", "stable"), list(product((*SPREADS, 0.5), (3, 8))))
def test_failures_of_pods_that_differ(spread: float, stable: int) -> None:
    flagged = 0
    for seed in range(200):
        found = failing(seed, stable, 1 + seed % 2, spread)
        assert found is not None
        flagged += found.p < SHARE
    assert flagged <= stats.binom.ppf(1 - 1e-4, 200, SHARE)


def failing(
    seed: int, stable: int, canary: int, spread: float, factor: float = 1.0, share: float = 0.01
) -> among_pods.AmongPods | None:
    source = rng(seed, stable, canary, round(1000 * spread), 7)
    shares = share * np.exp(source.normal(0.0, spread, stable + canary))
    shares[stable:] *= factor
    load = np.full((stable + canary, MINUTES), 10.0)
    failed = source.binomial(600, np.minimum(shares, 1.0)[:, None], (stable + canary, MINUTES)) / 600
    return among_pods.errors(failed[:stable], failed[stable:], load[:stable], load[stable:])


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.01])
def test_a_canary_that_fails_is_found_beside_three_pods(share: float) -> None:
    """Also where the stable pods fail so seldom that their counts say nothing of how much they differ."""
    for seed in range(5):
        source = rng(seed, 3)
        load = np.full((4, MINUTES), 10.0)
        failed = source.binomial(600, [[share]] * 3 + [[0.3]], (4, MINUTES)) / 600
        found = among_pods.errors(failed[:3], failed[3:], load[:3], load[3:])
        assert found is not None
        assert found.p < 0.002


METRICS = ("latency", "memory", "compute_time")


def looked_at(seed: int, stable: int, canary: int, spread: float, factor: float = 1.0) -> list[Verdict]:
    """Three looks, a minute after each other, at three metrics."""
    load = series(np.full(MINUTES, 100.0))
    metrics = []
    for index, metric in enumerate(METRICS):
        old, new = both(10 * seed + index, stable, canary, spread, factor)
        metrics.append(of_pods(old, new, metric))
    loads = load.values * stable, load.values * canary
    return [verdict_of(canary_evidence(loads[::-1], metrics, 0, now)) for now in (28, 29, 30)]


def of_pods(old: Array, new: Array, metric: str = "latency") -> Measured:
    load = series(np.full(old.shape[1], 100.0))
    return measured(
        new.mean(axis=0),
        metric,
        stable=series(old.mean(axis=0)),
        pods=tuple(Pod(f"new-{k}", load, series(row)) for k, row in enumerate(new)),
        stable_pods=tuple(Pod(f"old-{k}", load, series(row)) for k, row in enumerate(old)),
    )


@pytest.mark.parametrize("spread", SPREADS)
def test_a_canary_of_pods_that_differ_does_not_fail_however_often_it_is_looked_at(spread: float) -> None:
    failed = 0
    for seed in range(18):
        verdicts = looked_at(seed, 3 + seed % 6, 1 + seed % 2, spread)
        failed += any(verdict.outcome == "failure" for verdict in verdicts)
    assert failed <= stats.binom.ppf(1 - 1e-4, 18, SHARE)


def test_a_verdict_says_by_how_many_pods_and_what_they_could_not_show() -> None:
    smallest = []
    for stable in (3, 8):
        metric = by_test(looked_at(1, stable, 1, 0.06)[-1])["latency", "level"]
        assert isinstance(metric.pods, Pods)
        assert (metric.pods.stable, metric.pods.canary) == (stable, 1)
        assert metric.pods.spread == pytest.approx(0.06, rel=0.8)
        assert metric.smallest_effect is not None
        smallest.append(metric.smallest_effect)
    assert smallest[0] > smallest[1] > 0.1


@pytest.mark.parametrize(("stable", "canary"), [(0, 1), (1, 1), (2, 1), (2, 2), (3, 0)])
def test_too_few_pods_are_inconclusive_with_the_reason(stable: int, canary: int) -> None:
    old, new = both(3, 3, 2, 0.0, 3.0)
    one = of_pods(old, new[: max(canary, 1)])
    one = measured(
        one.series.values, stable=one.stable, pods=one.pods[:canary], stable_pods=one.stable_pods[:stable]
    )
    if not (one.pods or one.stable_pods):
        pytest.fail("the evidence would get pods that are alike")
    loads = np.full(MINUTES, 100.0), np.full(MINUTES, 300.0)
    found = verdict_of(canary_evidence(loads, [one], 0, MINUTES))
    assert (found.state, found.outcome, found.reason) == ("inconclusive", "inconclusive", "too_few_pods")
    assert found.metrics[0].pods == Pods(stable=stable, canary=canary, spread=None)


def test_looks_share_what_may_be_wrong() -> None:
    """However long a canary runs: less before half an hour and after it, and twice as long is half as much."""
    shares = [canary_share(minutes) for minutes in (10, 20, 30, 60, 120, 1440)]
    assert shares[:3] == sorted(shares[:3])
    assert shares[2:] == sorted(shares[2:], reverse=True)
    assert shares[2] == SHARE
    assert sum(canary_share(30 * 2**k) for k in range(1, 20)) <= SHARE


def canary_share(minutes: float) -> float:
    return share_of_look(SHARE, 0.0, 60.0 * minutes)
