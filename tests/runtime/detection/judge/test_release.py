"""Releases, from evidence to verdict: what users of such judges ask for."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from modelway_runtime.detection import release
from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.verdict import MetricVerdict, Verdict
from tests.runtime.detection.judge.judging import (
    buckets,
    by_test,
    evidence,
    judged,
    measured,
    rollout,
    series,
    verdict_of,
)
from tests.support import metric_series as made
from tests.support.metric_series import DAY, Served, Service

AT = 11 * DAY + 800
END = AT + 60
NAN = float("nan")
AFTER = np.arange(END) >= AT


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@cache
def quiet(seed: int = 1, minutes: int = END) -> Served:
    return made.served(rng(seed), minutes)


def latency(values: Array, load: Array | None = None, **more: Any) -> Verdict:
    return verdict_of(evidence(quiet().load if load is None else load, {"latency": values}, AT, **more))


def level(verdict: Verdict) -> MetricVerdict:
    return verdict.metrics[0]


def test_nothing_is_unchanged() -> None:
    for seed in range(6):
        one = quiet(seed)
        metrics = {"latency": one.latency, "error_ratio": one.error_ratio, "memory": one.memory}
        verdict = verdict_of(evidence(one.load, metrics, AT))
        assert verdict.state == "unchanged"
        assert verdict.outcome == "success"


@pytest.mark.parametrize("factor", [1.25, 1.6, 4.0])
def test_a_slower_release_regressed_by_what_it_is_slower(factor: float) -> None:
    found = level(latency(made.step(quiet().latency, AT, factor)))
    assert found.state == "regressed"
    assert found.effect is not None
    assert found.effect.relative == pytest.approx(factor - 1, rel=0.2)
    assert found.effect.low < factor - 1 < found.effect.high  # type: ignore[operator]
    assert found.effect.relative > found.threshold  # type: ignore[operator]
    assert found.p < 1e-4  # type: ignore[operator]
    assert found.effect.absolute == pytest.approx(found.effect.relative * found.before)  # type: ignore[operator]


def test_where_it_changed_is_said() -> None:
    (change,) = level(latency(made.step(quiet().latency, AT, 1.5))).change_points
    assert abs(change.timestamp() - (made.START + 60 * AT)) <= 600
    assert level(latency(quiet().latency)).change_points == ()


def test_a_faster_release_improved() -> None:
    verdict = latency(made.step(quiet().latency, AT, 0.75))
    assert (verdict.state, verdict.outcome) == ("improved", "success")
    assert level(verdict).effect.relative == pytest.approx(-0.25, abs=0.04)  # type: ignore[union-attr]


@pytest.mark.parametrize(("factor", "ends"), [(1.5, 20), (1.5, 0), (0.6, 20), (0.6, 0)])
def test_an_incident_that_ends_before_a_release_is_none_of_its_doing(factor: float, ends: int) -> None:
    minute = np.arange(END)
    during = (minute >= AT - ends - 130) & (minute < AT - ends)
    assert latency(np.where(during, factor, 1.0) * quiet().latency).state == "unchanged"


@pytest.mark.parametrize("before", [20, 60])
def test_what_began_before_a_release_is_none_of_its_doing(before: int) -> None:
    assert latency(made.step(quiet().latency, AT - before, 1.5)).state == "unchanged"


@pytest.mark.parametrize(("worse", "factor", "state"), [
    ("up", 0.5, "improved"), ("down", 0.5, "regressed"), ("down", 2.0, "improved"), ("both", 0.5, "regressed"),
    ("both", 2.0, "regressed"),
])  # fmt: skip
def test_which_way_is_worse(worse: str, factor: float, state: str) -> None:
    one = measured(made.step(quiet().memory, AT, factor), "memory", worse=worse)
    assert verdict_of(evidence(quiet().load, [one], AT)).state == state


def test_an_effect_below_the_minimum_is_no_change() -> None:
    values = made.step(quiet().memory, AT, 1.06)
    states = [
        verdict_of(evidence(quiet().load, [measured(values, "memory", minimum_effect=least)], AT)).state
        for least in (0.04, 0.1)
    ]
    assert states == ["regressed", "unchanged"]


@pytest.mark.parametrize("minutes", [20, 40])
def test_what_is_over_before_the_window_is_no_regression(minutes: int) -> None:
    """Such as caches that fill: the second half of the window is as before."""
    values = quiet().latency.copy()
    values[AT : AT + minutes] *= 1.6
    assert level(latency(values)).state == "unchanged"


def test_ten_times_the_variability_does_not_pass() -> None:
    verdict = latency(made.noisier(quiet().latency, AT, 10.0))
    spread = by_test(verdict)["latency", "spread"]
    assert verdict.state == spread.state == "regressed"
    assert spread.effect.relative > 2  # type: ignore[union-attr, operator]
    calmer = by_test(latency(made.noisier(quiet().latency, AT, 0.1)))["latency", "spread"]
    assert calmer.state == "improved"


def test_variability_after_none_does_not_pass() -> None:
    """A metric in whole pages stands still until the release."""
    values = np.full(END, 8e9)
    values[AT:] *= 1 + 0.4 * rng(1).uniform(-1, 1, 60)
    assert verdict_of(evidence(quiet().load, {"gpu_memory": values}, AT)).state == "regressed"


def test_seven_of_ten_samples_a_hundred_times_higher_do_not_pass() -> None:
    values = quiet().latency.copy()
    values[AT:][np.arange(60) % 10 < 7] *= 100
    assert latency(values).state == "regressed"


@pytest.mark.parametrize("every", [3, 2])
def test_regular_samples_a_hundred_times_higher_do_not_pass(every: int) -> None:
    values = quiet().latency.copy()
    values[AT::every] *= 100
    assert latency(values).state == "regressed"


@pytest.mark.parametrize("event", ["spikes", "gaps", "reset", "surge"])
def test_what_happens_to_every_service_is_not_its_release(event: str) -> None:
    """Half of such a service's life is like its release: now and then a verdict may abstain."""
    states = []
    for seed in range(8):
        one = quiet(seed)
        values = one.latency
        if event == "surge":
            one = made.served(rng(seed), END, surge=made.surge(END, AT + 10, 1.6, 30))
            values = one.latency
        elif event == "spikes":
            values = made.spiked(rng(5), values, 0.03, 6.0)
        elif event == "gaps":
            values = made.gaps(rng(5), values, 0.15, 8)
        else:
            values = made.reset(values, AT)
        states.append(latency(values, one.load).state)
    assert "regressed" not in states
    assert "improved" not in states
    if event != "surge":
        assert states.count("unchanged") >= 7


def test_a_surge_such_as_history_has_not_seen_is_not_judged() -> None:
    one = made.served(rng(3), END, surge=made.surge(END, AT, 4.0, 200))
    verdict = latency(one.latency, one.load)
    assert (verdict.state, verdict.reason) == ("inconclusive", "load_outside_history")
    assert level(verdict).load_change > 1  # type: ignore[operator]
    assert level(verdict).effect is None


@pytest.mark.parametrize(("days", "factor", "state"), [
    (2, 1.0, "unchanged"), (2, 2.2, "inconclusive"), (2, 1 / 2.2, "inconclusive"), (10, 1 / 2.2, "unchanged"),
])  # fmt: skip
def test_a_leap_of_the_load_is_not_judged_by_a_short_history(days: int, factor: float, state: str) -> None:
    """Memory that follows the load, at an hour where twice the load, or half, is nothing new."""
    at = days * DAY + 60 * (7 if factor > 1 else 19)
    load = quiet().load[: at + 60].copy()
    load[at:] *= factor
    values = 1e9 * np.exp(0.2 * np.log(load) + 0.01 * rng().standard_normal(len(load)))
    verdict = verdict_of(evidence(load, {"memory": values}, at))
    assert verdict.state == state
    assert (verdict.reason or None) == ("load_outside_history" if state == "inconclusive" else None)


# Errors


def errors(values: Array, load: Array | None = None) -> Verdict:
    return verdict_of(evidence(quiet().load if load is None else load, {"error_ratio": values}, AT))


def test_zero_errors_before_and_one_after_is_no_regression() -> None:
    values = np.zeros(END)
    values[AT + 17] = 1 / round(60 * quiet().load[AT + 17])
    found = level(errors(values))
    assert found.state == "unchanged"
    assert found.effect is not None
    assert found.effect.relative is None
    assert found.effect.absolute > 0


def test_many_errors_after_none_are_a_regression() -> None:
    values = np.where(AFTER, 0.03, 0.0)
    assert errors(values).state == "regressed"
    assert errors(np.zeros(END)).state == "unchanged"


def test_sparse_errors_and_missing_ratios() -> None:
    """Nobody asks at night, and then no ratio is known."""
    load = made.served(rng(2), END, Service(mean_load=0.05)).load
    calm = made.failing(rng(2), load, np.full(END, 0.01), 0.0)
    assert 0.03 < np.isnan(calm).mean() < 0.3
    assert 0 < (calm > 0).sum() < 1000
    assert errors(calm, load).state in ("unchanged", "inconclusive")
    assert errors(np.where(AFTER, np.fmax(calm, 0.5), calm), load).state == "regressed"


def test_errors_twice_as_frequent_are_seen() -> None:
    share = np.where(AFTER, 0.05, 0.01)
    found = level(errors(made.failing(rng(3), quiet().load, share, 0.3)))
    assert found.state == "regressed"
    assert found.before == pytest.approx(0.01, rel=0.3)
    assert found.after == pytest.approx(0.05, rel=0.3)


# Throughput


@pytest.mark.parametrize("swing", [0.45, 0.0])
def test_less_throughput_is_worse_whether_or_not_there_is_a_season(swing: float) -> None:
    """Throughput is the load: a change of it cannot be explained by itself."""
    load = made.served(rng(4), END, Service(swing=swing, weekend=1.0)).load
    fallen = made.step(load, AT, 0.4)
    found = level(verdict_of(evidence(fallen, {"throughput": fallen}, AT)))
    assert found.state == "regressed"
    assert found.effect.relative == pytest.approx(-0.6, abs=0.15)  # type: ignore[union-attr]


def test_throughput_of_zero_is_known_and_worse() -> None:
    load = made.step(quiet().load, AT, 0.0)
    found = level(verdict_of(evidence(load, {"throughput": load}, AT)))
    assert found.missing_ratio == 0
    assert found.state == "regressed"


def test_an_idle_gpu_is_a_value() -> None:
    values = np.clip(0.6 + 0.05 * rng(5).normal(size=END), 0.01, 1) * ~AFTER
    one = measured(values, "gpu_utilization", worse="both")
    assert verdict_of(evidence(quiet().load, [one], AT)).state == "regressed"


# What a model answers

BOUNDS = np.linspace(0.1, 0.9, 9)


def scores(middle: Array, seed: int = 7, width: Array | float = 0.15) -> Array:
    source = rng(seed)
    widths = np.broadcast_to(width, END)
    parts = [
        made.outputs(source, quiet().load[at], BOUNDS, middle[at], float(widths[at][0]))
        for at in (~AFTER, AFTER)
    ]
    return np.concatenate(parts)


def answers(values: Array, counts: Array | None = None, others: Any = ()) -> Verdict:
    histogram = None if counts is None else buckets(counts, BOUNDS)
    one = measured(values, "output_value", buckets=histogram)
    return verdict_of(evidence(quiet().load, [one], AT, others=others))


@cache
def mood() -> Array:
    return 0.5 + made.autocorrelated(rng(6), END, 0.99, 0.01)


def test_a_wider_distribution_with_the_same_median_is_a_regression() -> None:
    found = by_test(answers(mood(), scores(mood(), width=np.where(AFTER, 0.4, 0.15))))
    assert found["output-value", "level"].state == "unchanged"
    shift = found["output-value", "distribution"]
    assert shift.state == "regressed"
    assert shift.effect.relative > 0.1  # type: ignore[union-attr, operator]
    assert by_test(answers(mood(), scores(mood())))["output-value", "distribution"].state == "unchanged"


def test_classes_are_a_distribution_too() -> None:
    shares = np.array([0.7, 0.2, 0.1])
    counts = rng(8).multinomial(900, shares, END).astype(np.float64)
    counts[AT:] = rng(9).multinomial(900, [0.7, 0.1, 0.2], 60)
    one = measured(counts[:, 0] / 900, "output_value", buckets=buckets(counts, np.array([0.0, 1.0])))
    found = by_test(verdict_of(evidence(quiet().load, [one], AT)))
    assert found["output-value", "distribution"].state == "regressed"
    assert found["output-value", "level"].state == "unchanged"


def test_output_values_may_be_negative() -> None:
    values = 0.7 * rng(10).normal(size=END)
    assert answers(values).state == "unchanged"
    found = level(answers(values + 1.5 * AFTER))
    assert found.state == "regressed"
    assert found.unit == "1"


def test_the_absolute_effect_is_in_the_metrics_unit_also_around_zero() -> None:
    found = level(answers(0.7 * rng(10).normal(size=END) + 1.5 * AFTER))
    assert found.effect is not None
    assert found.effect.absolute == pytest.approx(1.5, abs=0.5)


# Abstention, each with its reason


def test_no_data_is_inconclusive_not_success() -> None:
    for values in (
        np.full(END, NAN),
        np.where(AFTER, NAN, quiet().latency),
        np.where(AFTER, quiet().latency, NAN),
    ):
        verdict = latency(values)
        assert (verdict.state, verdict.reason, verdict.outcome) == ("inconclusive", "no_data", "inconclusive")


def test_gaps_are_inconclusive() -> None:
    for lost in (slice(AT, AT + 45), slice(AT - 200, AT)):
        values = quiet().latency.copy()
        values[lost] = NAN
        verdict = latency(values)
        assert (verdict.state, verdict.reason) == ("inconclusive", "too_many_gaps")
        assert level(verdict).missing_ratio > 0


def test_nine_hours_are_too_short() -> None:
    one = quiet(2, 500 + 60)
    verdict = verdict_of(evidence(one.load, {"latency": one.latency}, 500))
    assert (verdict.state, verdict.reason) == ("inconclusive", "history_too_short")


def test_what_is_known_to_be_worse_outweighs_what_is_not_known() -> None:
    metrics = {"latency": made.step(quiet().latency, AT, 2.0), "memory": np.where(AFTER, NAN, quiet().memory)}
    verdict = verdict_of(evidence(quiet().load, metrics, AT))
    assert verdict.state == "regressed"
    better = {**metrics, "latency": made.step(quiet().latency, AT, 0.5)}
    assert verdict_of(evidence(quiet().load, better, AT)).state == "inconclusive"
    never = {**better, "memory": np.full(END, NAN)}  # such as the GPU's of a model without one
    assert verdict_of(evidence(quiet().load, never, AT)).state == "improved"


SEEDS = 20


def short(days: float, factor: float) -> list[str]:
    at, states = round(days * DAY), list[str]()
    for seed in range(SEEDS):
        phase = 97 * seed  # at any time of day
        one = quiet(seed, at + 60 + 97 * SEEDS)
        span = slice(phase, phase + at + 60)
        values = {"latency": made.step(one.latency[span], at, factor)}
        states.append(verdict_of(evidence(one.load[span], values, at)).state)
    return states


@pytest.mark.parametrize("days", [0.5, 0.75, 1, 2, 5])
def test_with_a_short_history_nothing_is_seldom_called_a_change(days: float) -> None:
    states = short(days, 1.0)
    assert SEEDS - states.count("inconclusive") - states.count("unchanged") <= 3


@pytest.mark.parametrize("days", [1.25, 2, 5])
def test_with_a_short_history_a_clear_change_is_said(days: float) -> None:
    states = short(days, 2.0)
    assert "unchanged" not in states
    assert "improved" not in states
    assert states.count("regressed") >= (SEEDS // 2 if days >= 5 else 1)


def test_with_five_days_what_is_not_clear_is_inconclusive() -> None:
    at = 5 * DAY + 300
    one = made.served(rng(3), at + 60, Service(drift=0.5))  # so restless that +20 % could not be seen
    verdict = verdict_of(evidence(one.load, {"latency": one.latency}, at))
    assert (verdict.state, verdict.reason) == ("inconclusive", "history_too_short")


# Earlier releases, and those of others


def after_earlier(factor: float, ago: int, now: float = 1.0, seeds: int = 6) -> list[MetricVerdict]:
    """Verdicts on releases ``ago`` minutes after one that changed the latency."""
    found = []
    for seed in range(seeds):
        values = made.step(made.step(quiet(seed).latency, AT - ago, factor), AT, now)
        others = [rollout(AT - ago, "1.9.0")]
        given = evidence(quiet(seed).load, {"latency": values}, AT, others=others)
        found.append(level(verdict_of(given)))
    return found


def test_an_earlier_change_does_not_blow_the_threshold_up() -> None:
    (with_it,) = after_earlier(2.0, 4 * DAY, seeds=1)
    plain = level(verdict_of(evidence(quiet(0).load, {"latency": quiet(0).latency}, AT)))
    assert with_it.threshold < 1.3 * plain.threshold  # type: ignore[operator]


@pytest.mark.parametrize("ago", [20, 60, 150, 300, 600, DAY, 3 * DAY, 11 * DAY // 2])
def test_a_release_is_not_blamed_for_an_earlier_one(ago: int) -> None:
    states = [found.state for found in after_earlier(1.5, ago)]
    assert len(states) - states.count("unchanged") - states.count("inconclusive") <= 1


@pytest.mark.parametrize("ago", [DAY, 3 * DAY])
def test_after_an_earlier_change_a_regression_is_still_seen(ago: int) -> None:
    states = [found.state for found in after_earlier(1.5, ago, now=1.25)]
    assert states.count("regressed") >= 5


def test_at_the_time_of_day_of_an_earlier_change_nothing_is_seen() -> None:
    """Half of the days had one level, half the other: no time of day has an event for that."""
    flagged = 0
    for days in (5, 6):
        states = [found.state for found in after_earlier(3.0, days * DAY + 30)]
        flagged += len(states) - states.count("unchanged")
    assert flagged <= 1


def test_an_earlier_change_of_what_a_model_answers_is_no_placebo() -> None:
    before = np.arange(END) < AT - 4 * DAY
    middle = mood() + 0.04 * AFTER
    others = [rollout(AT - 4 * DAY, "1.9.0")]
    plain = by_test(answers(middle, scores(middle)))["output-value", "distribution"]
    moved = middle + 0.3 * before
    found = by_test(answers(moved, scores(moved), others))["output-value", "distribution"]
    assert found.threshold < 1.5 * plain.threshold  # type: ignore[operator]


def test_releases_of_other_models_are_placebos_like_any_moment() -> None:
    others = [rollout(at, model="encoder") for at in range(DAY, AT - 300, 700)]
    assert latency(quiet().latency, others=others).metrics == latency(quiet().latency).metrics


def test_releases_within_the_windows_are_named() -> None:
    others = [
        rollout(AT - 2000, "1.0.0"), rollout(AT - 200, "1.9.0"), rollout(AT + 20, model="encoder"),
        rollout(AT), rollout(AT + 60, "2.0.1"),
    ]  # fmt: skip
    verdict = latency(quiet().latency, others=others)
    assert [(other.model, other.version) for other in verdict.other_rollouts] == [
        ("ranker", "1.9.0"), ("encoder", "2.0.0"),
    ]  # fmt: skip


# Pending


def test_too_early_is_pending_with_the_time_of_the_decision() -> None:
    ones = [measured(quiet().latency), measured(quiet().memory, "memory", window_s=7200.0)]
    early = judged(evidence(quiet().load, ones, AT, AT + 59))
    assert early.verdict.state == "pending"
    assert early.verdict.outcome == "inconclusive"
    assert early.verdict.decided_at.timestamp() == made.START + 60 * (AT + 120)  # type: ignore[union-attr]
    assert [metric.state for metric in early.verdict.metrics] == ["pending", "pending"]
    half = verdict_of(evidence(quiet().load, ones, AT, AT + 60))
    assert half.state == "pending"
    assert half.metrics[0].state == "unchanged"
    assert half.metrics[-1].state == "pending"


def test_what_came_after_the_window_is_not_looked_at() -> None:
    late = quiet(1, END + 300)
    spoilt = late.latency.copy()
    spoilt[END:] *= 50
    one, other = (
        level(verdict_of(evidence(late.load, {"latency": values}, AT, END + 300)))
        for values in (late.latency, spoilt)
    )
    assert one == other


@pytest.mark.parametrize("window_s", [600.0, 3600.0])
def test_every_window_that_the_settings_allow_can_be_decided(window_s: float) -> None:
    one = measured(made.step(quiet().latency, AT, 3.0), window_s=window_s)
    assert verdict_of(evidence(quiet().load, [one], AT, AT + 60)).state == "regressed"


def test_the_smallest_effect_that_could_have_been_seen_is_mostly_seen() -> None:
    """The verdict promises 80 of 100; of ten at half as much again nearly all must be."""
    seen = 0
    for seed in range(10):
        one = quiet(seed)
        smallest = level(verdict_of(evidence(one.load, {"latency": one.latency}, AT))).smallest_effect
        assert smallest is not None
        worse = made.step(one.latency, AT, 1 + 1.5 * smallest)
        seen += level(verdict_of(evidence(one.load, {"latency": worse}, AT))).state == "regressed"
    assert seen >= 8


@pytest.mark.parametrize(("bins", "state"), [(2, "unchanged"), (3, "inconclusive")])
def test_up_to_a_sixth_of_the_window_may_have_a_load_of_its_own(bins: int, state: str) -> None:
    load = quiet().load.copy()
    load[AT : AT + 5 * bins] = 50 * load.max()
    assert latency(quiet().latency, load).state == state


def test_moments_around_an_earlier_release_are_no_placebo() -> None:
    """Neither with its first bin in the window after them, nor in the four hours before."""
    one, load = measured(quiet().latency), series(quiet().load)
    start, end = made.START + 60 * AT, made.START + 60 * END
    earlier = made.START + 60 * (AT - 5 * 500)
    got = release.prepared(one, load, start, end, [earlier])
    at = got.bins.first - 500
    assert (~got.usable).nonzero()[0].tolist() == list(range(at - 12, at + 48))
    assert release.prepared(one, load, start, end, []).usable.all()


@pytest.mark.parametrize("failures", [1, 3, 8])
def test_few_failures_are_as_rare_as_their_counts(failures: int) -> None:
    """Whatever the past looked like, all of k failures fall into one hour of five by chance once in 5^k."""
    load, values = np.full(END, 10.0), np.zeros(END)
    values[AT + 2 + 7 * np.arange(failures)] = 1 / 600
    (found,) = verdict_of(evidence(load, {"error_ratio": values}, AT)).metrics
    assert found.p is not None
    assert found.p >= 0.999 * 0.2**failures
    if failures == 8:  # in more than half of the bins
        assert found.p == pytest.approx(0.2**8)


@pytest.mark.parametrize(("share", "every"), [(0.05, 3), (1.0, 3), (1.0, 2)])
def test_errors_that_come_and_go_after_none_are_a_regression(share: float, every: int) -> None:
    """All requests of five minutes in each quarter of an hour fail: a third of all."""
    values = np.zeros(END)
    values[AT:][np.arange(60) // 5 % every == 0] = share
    assert errors(values).state == "regressed"


def test_the_absolute_effect_on_errors_is_their_difference() -> None:
    values = made.failing(rng(3), quiet().load, np.full(END, 0.0005))
    values[AT:][np.arange(60) // 5 % 3 == 0] = 0.5
    found = level(errors(values))
    assert found.effect is not None
    assert found.effect.absolute == pytest.approx(found.after - found.before, rel=0.3)  # type: ignore[operator]
