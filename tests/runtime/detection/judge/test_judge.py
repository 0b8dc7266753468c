"""Which findings of a verdict count, and that the same evidence gives the same verdict."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from modelway_runtime.detection import evidence as evidences
from modelway_runtime.detection import judge as judges
from modelway_runtime.detection.evidence import Evidence, WrongEvidence, pack, unpack
from modelway_runtime.detection.finding import Context, Finding, Span
from modelway_runtime.detection.metric_verdicts import metric_verdict
from modelway_runtime.detection.paired import Paired
from modelway_runtime.detection.verdict import Counts, WrongVerdict, from_json, moment, to_json
from tests.runtime.detection.judge.judging import (
    SCHEMA,
    buckets,
    canary_evidence,
    evidence,
    judged,
    measured,
    pattern,
    rollout,
    series,
    verdict_of,
)
from tests.support import metric_series as made
from tests.support.metric_series import DAY, MINUTE, START

NAN = float("nan")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# Many metrics


def twenty(seed: int, changed: int = 0, factor: float = 1.5) -> Evidence:
    source = rng(seed)
    both = made.served(source, 60)
    ones = []
    for k in range(20):
        canary, stable = made.twin(source, both, 0.3)[2:]
        ones.append(
            measured(factor * canary if k < changed else canary, name=f"m-{k}", stable=series(stable))
        )
    return canary_evidence((0.3 * both.load, 0.7 * both.load), ones, 0, 60)


def test_of_twenty_unchanged_metrics_seldom_one_is_flagged() -> None:
    """Where each metric is judged for itself, 6 % of these verdicts are wrong (measured): the bound finds that
    fault in 99 of 100 draws."""
    verdicts, fault = 100, 0.06
    flagged = sum(verdict_of(twenty(seed)).state != "unchanged" for seed in range(verdicts))
    bound = stats.binom.ppf(0.01, verdicts, fault) - 1
    assert stats.binom.cdf(bound, verdicts, fault) <= 0.01
    assert flagged <= bound


def test_the_share_holds_for_the_whole_verdict() -> None:
    """Of p-values that nothing but chance made, in twenty metrics a verdict: 1 %, not the 18 % of each by itself."""
    source, verdicts, share = rng(14), 2000, 0.01
    draws = source.random((verdicts, 20))
    near = draws[draws.min(axis=1) <= 2 * share]  # the others have no discovery in any way
    flagged = sum(any(judges.discoveries([finding(p) for p in row], share)) for row in near)
    least, most = stats.binom.ppf([1e-4, 1 - 1e-4], verdicts, share)
    assert least <= flagged <= most
    assert stats.binom.cdf(most, verdicts, 1 - (1 - share) ** 20) < 1e-6, "it would not see the fault"


def test_of_twenty_metrics_the_changed_ones_are_found_and_few_others() -> None:
    right = wrong = 0
    for seed in range(5):
        for metric in verdict_of(twenty(seed, changed=5)).metrics:
            if metric.state != "unchanged":
                right += int(metric.name[2:]) < 5
                wrong += int(metric.name[2:]) >= 5
    assert right >= 25
    assert wrong <= 2


def finding(p: float, effect: float = 0.5, **changes: Any) -> Finding:
    one = measured(np.ones(4), "memory", **changes.pop("pattern", {}))
    span = Span(None, START, START, START + 240)
    context = Context(1.0, 1.5, span, Counts(history=0, before=4, after=4), 0.0, None)
    size = Paired(effect, 0.1, 30.0, p, 4)
    return replace(Finding(one, "level", "log", context, size), **changes)


def test_p_values_are_weighted_and_the_harder_the_more_there_are() -> None:
    assert judges.discoveries([finding(0.009)], 0.01) == [True]
    assert judges.discoveries([finding(0.011)], 0.01) == [False]
    assert judges.discoveries([finding(0.011, weight=1.2)], 0.01) == [True]
    assert judges.discoveries([finding(0.009, weight=0.8)], 0.01) == [False]
    many = [finding(0.009)] + [finding(0.9)] * 4
    assert judges.discoveries(many, 0.01) == [False] * 5
    assert judges.discoveries([finding(0.009), finding(0.001)], 0.01) == [True, True]
    assert judges.discoveries([], 0.01) == []


def test_what_is_small_or_over_does_not_count() -> None:
    sure = 1e-9
    assert judges.discoveries([finding(sure, 0.04)], 0.01) == [False]
    assert judges.discoveries([finding(sure, 0.06)], 0.01) == [True]
    assert judges.discoveries([finding(sure, -0.06)], 0.01) == [True]
    assert judges.discoveries([finding(sure, -0.05)], 0.01) == [False]  # -4.9 %
    assert judges.discoveries([finding(sure, lasts=False)], 0.01) == [False]
    assert judges.discoveries([finding(sure, 0.42, test="spread")], 0.01) == [True]  # half as much again
    assert judges.discoveries([finding(sure, 0.39, test="spread")], 0.01) == [False]
    assert judges.discoveries([finding(sure, -0.42, test="spread")], 0.01) == [True]
    unsure = finding(sure, size=None, reason="no_data")
    assert judges.discoveries([unsure, finding(0.009)], 0.01) == [False, True]


def test_effects_of_logs_are_relative() -> None:
    one = finding(0.5)
    assert one.relative(np.log(1.25)) == pytest.approx(0.25)
    assert one.relative(1e9) < np.inf
    assert replace(one, form="linear").relative(0.3) == 0.3
    assert replace(one, form="linear", test="spread").relative(np.log(2)) == pytest.approx(1.0)
    assert replace(one, test="distribution").relative(0.3) == 0.3
    assert (one.minimum, replace(one, test="spread").minimum) == (0.05, 0.5)


def test_a_metrics_threshold_is_that_of_its_share() -> None:
    one = finding(0.5, 0.01)
    said = metric_verdict(one, counts=False, share=0.01, tests=4)
    reach = 0.1 * stats.t.isf(0.01 / 4 / 2, 30)
    assert said.threshold == pytest.approx(np.expm1(reach))
    assert said.smallest_effect == pytest.approx(np.expm1(reach + 0.84 * 0.1))
    assert said.effect is not None
    half = 0.1 * stats.t.isf(0.025, 30)
    assert said.effect.low == pytest.approx(np.expm1(0.01 - half))
    assert said.effect.high == pytest.approx(np.expm1(0.01 + half))
    least = metric_verdict(finding(0.5, pattern={"minimum_effect": 3.0}), counts=False, share=0.01, tests=4)
    assert least.threshold == least.smallest_effect == 3.0


# The verdict


def test_a_gate_is_stricter_than_a_comment() -> None:
    for strictness in judges.SHARES.values():
        assert 0 < strictness["low"] <= strictness["normal"] <= 0.01
    at = 10 * DAY
    one = made.served(rng(3), at + 60)
    thresholds = [
        verdict_of(evidence(one.load, {"error_ratio": one.error_ratio}, at, sensitivity=sensitivity)).metrics[0].threshold
        for sensitivity in ("normal", "low")
    ]  # fmt: skip
    assert thresholds[0] < thresholds[1]  # type: ignore[operator]


def test_metrics_stand_in_the_order_of_the_settings() -> None:
    names = ["z", "a", "m"]
    ones = [measured(np.ones(20), name=name) for name in names]
    verdict = verdict_of(evidence(np.ones(20), ones, 10))
    assert [metric.name for metric in verdict.metrics] == names


def test_the_reason_that_weighs_most_is_the_verdicts() -> None:
    short, lost = np.ones(200), np.where(np.arange(200) < 140, 1.0, NAN)
    holes = np.where(np.arange(200) % 5 == 0, 1.0, NAN)
    reasons = [
        verdict_of(
            evidence(np.ones(200), [measured(one, name=f"m-{k}") for k, one in enumerate(ones)], 140)
        ).reason
        for ones in ((short,), (short, lost), (short, holes))
    ]
    assert reasons == ["history_too_short", "no_data", "history_too_short"]


def test_a_pattern_of_low_sensitivity_is_flagged_as_by_a_gate() -> None:
    at = 10 * DAY
    one = made.served(rng(4), at + 60)
    shares = judges.SHARES["release"]
    alone, low = (
        verdict_of(
            evidence(one.load, [measured(one.error_ratio, "error_ratio", sensitivity=how)], at)
        ).metrics[0]
        for how in ("normal", "low")
    )
    assert alone.threshold < low.threshold  # type: ignore[operator]
    gate = evidence(
        one.load, [measured(one.error_ratio, "error_ratio", sensitivity="low")], at, sensitivity="low"
    )
    assert verdict_of(gate).metrics[0].threshold == pytest.approx(low.threshold)
    assert shares["low"] < shares["normal"]


@pytest.mark.parametrize(("version", "hash_"), [("2.0.0", None), ("2.0.0-RC_1", None), ("1", "6d4b75cb6d"), ("a" * 63, None)])  # fmt: skip
def test_the_identity_is_a_part_of_an_address(version: str, hash_: str | None) -> None:
    import msgspec

    wanted = json.loads(SCHEMA.read_bytes())["properties"]["id"]["pattern"]
    one = msgspec.structs.replace(rollout(10, version), hash=hash_)
    for team in ("search", "t" * 63):
        given = evidence(np.ones(20), {"latency": np.ones(20)}, 10, rollout=one, team=team)
        found = judges.identity(given)
        assert re.match(wanted, found)
        assert judges.identity(replace(given, now=given.now + 600.0)) == found
        canary = replace(given, comparison="canary")
        assert judges.identity(canary) != found
        assert judges.identity(replace(given, model="other")) != found


def test_watches_have_an_identity_each() -> None:
    given = evidence(np.ones(20), {"latency": np.ones(20)}, None)
    assert judges.identity(given) != judges.identity(replace(given, now=given.now + 60.0))


# Replay


def some_evidence() -> list[Evidence]:
    at = 3 * DAY
    one = made.served(rng(5), at + 60)
    holes = made.gaps(rng(6), made.step(one.latency, at, 1.7), 0.05, 8)
    counts = made.outputs(rng(7), one.load, np.array([0.3, 0.6]), np.full(at + 60, 0.5))
    ones = [
        measured(holes),
        measured(rng(8).normal(size=at + 60), "output_value", buckets=buckets(counts, np.array([0.3, 0.6]))),
    ]
    release = evidence(one.load, ones, at, others=[rollout(at - 1000, "1.9.0")])
    return [release, replace(release, comparison="watch", rollout=None), twenty(1, changed=2)]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_same_evidence_gives_the_same_verdict(which: int) -> None:
    given = some_evidence()[which]
    again = some_evidence()[which]
    read = unpack(pack(given))
    assert pack(again) == pack(given) == pack(read)
    assert given.digest == again.digest == read.digest
    first, second, third = (to_json(verdict_of(one)) for one in (given, again, read))
    assert first == second == third
    assert from_json(first) == verdict_of(given)
    assert json.loads(first)["series_digest"] == given.digest


def test_another_sample_has_another_digest() -> None:
    given = some_evidence()[0]
    values = given.measured[0].series.values.copy()
    values[100] += 1e-9
    changed = replace(
        given, measured=(replace(given.measured[0], series=series(values)), *given.measured[1:])
    )
    assert changed.digest != given.digest
    assert re.fullmatch("sha256:[0-9a-f]{64}", given.digest)


def test_what_is_not_finite_is_missing_after_a_replay_too() -> None:
    at = 2 * DAY
    one = made.served(rng(9), at + 60)
    values = one.latency.copy()
    values[rng(10).random(at + 60) < 0.1] = np.inf
    outputs = rng(11).normal(size=at + 60)
    outputs[rng(12).random(at + 60) < 0.1] = -np.inf
    given = evidence(one.load, {"latency": values, "output_value": outputs}, at)
    assert to_json(verdict_of(given)) == to_json(verdict_of(unpack(pack(given))))


@pytest.mark.parametrize(
    ("text", "compressed"), [(b"", False), (b"\x1f\x8b", False), (b"no gzip", False), (b"{}", True), (b"\xff", True)]
)  # fmt: skip
def test_what_is_no_evidence_is_said(text: bytes, compressed: bool) -> None:
    with pytest.raises(WrongEvidence):
        unpack(gzip.compress(text, mtime=0) if compressed else text)


@pytest.mark.parametrize(
    "values", ["null", '"x"', '["a"]', "[[1],2]", "[" * 90 + "]" * 90, "[" * 100_000], ids=lambda text: text[:9]
)  # fmt: skip
def test_series_that_are_none_are_said(values: str) -> None:
    with pytest.raises(WrongEvidence):
        unpack(gzip.compress(with_series(values)))


def test_an_empty_mapping_is_an_empty_series() -> None:
    assert unpack(gzip.compress(with_series("{}"))).document == with_series("[]")


def with_series(values: str) -> bytes:
    """The document of some evidence, with this JSON for its first series."""
    document = some_evidence()[0].document.decode()
    return re.sub(r'"values":\[[^\]]*\]', lambda _: f'"values":{values}', document, count=1).encode()


def test_evidence_larger_than_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidences, "MOST_BYTES", 1000)
    with pytest.raises(WrongEvidence, match="gibibyte"):
        unpack(gzip.compress(b" " * 1001))


def test_what_is_no_verdict_is_said() -> None:
    for text in (b"", b"{}", b"\xff", b'{"schema": 2}'):
        with pytest.raises(WrongVerdict):
            from_json(text)


def test_times_are_whole_seconds_in_utc() -> None:
    assert to_json(verdict_of(evidence(np.ones(20), {"latency": np.ones(20)}, 10))).endswith(b"\n")
    assert moment(START + 0.9).isoformat() == "2026-11-19T00:00:00+00:00"


def test_an_index_is_of_the_first_sample_at_or_after() -> None:
    one = series(np.ones(10))
    assert [one.index(START + offset) for offset in (-99, 0, 1, 60, 61, 1e9)] == [0, 0, 1, 1, 2, 10]
    assert one.times.tolist() == [START + 60 * k for k in range(10)]


# Plots


def test_a_plot_shows_a_day_and_the_window() -> None:
    at = 10 * DAY
    one = made.served(rng(13), at + 60)
    others = [rollout(at - 300, "1.9.0"), rollout(at - 3 * DAY, "1.8.0")]
    judgement = judged(
        evidence(
            one.load, {"latency": made.step(one.latency, at, 1.5), "memory": one.memory}, at, others=others
        )
    )
    plot, memory = judgement.plots
    assert plot.times[0] == START + MINUTE * (at - DAY)
    assert plot.times[-1] == START + MINUTE * (at + 55)
    after = plot.times >= START + MINUTE * at
    inside = (plot.values > plot.low) & (plot.values < plot.high)
    assert not inside[after].any()
    assert inside[~after].mean() > 0.6
    assert plot.values[after].mean() / plot.expected[after].mean() == pytest.approx(1.5, rel=0.1)
    assert (plot.unit, memory.unit) == ("s", "bytes")
    assert plot.others_released_at == (START + MINUTE * (at - 300),)
    assert plot.released_at == START + MINUTE * at
    assert len(plot.change_points) == 1
    assert memory.change_points == ()
    assert pattern("memory").metric == memory.name
