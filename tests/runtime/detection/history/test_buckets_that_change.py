"""Histograms whose bounds change with a release, from samples to a verdict: nothing else changes, or 20 %."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from modelway_runtime.detection.detector import Detector
from modelway_runtime.detection.prometheus import PrometheusHistory
from modelway_runtime.detection.report import plot, words
from modelway_runtime.detection.report import text as text_report
from modelway_runtime.detection.series_files import FileHistory
from modelway_runtime.detection.verdict import MetricVerdict, Resolved, Rollout, Verdict, moment
from tests.runtime.detection.history.history_data import CANARY, HOUR, STABLE, T0, pattern, server, watched
from tests.support.prometheus import prometheus, series, text

MINUTE, DAY = 60.0, 86400.0
PATTERNS = {"p50": pattern("latency", 0.5), "p99": pattern("latency", 0.99)}
WATCHED = watched(patterns=PATTERNS)
FINE = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.5)
# The p50 is at 0.045 and the p99 at 0.144.
GONE = tuple(bound for bound in FINE if bound not in (0.05, 0.15))
COARSE = (0.02, 0.1, 0.5)
FAR = (*FINE, 1.0, 5.0)
OTHERS = (0.015, 0.07, 0.3)
Revision = tuple[str, float, float, Sequence[float], float]


def past(revisions: Sequence[Revision], seed: int = 0, metric: str = "request_duration_seconds") -> str:
    """Of each revision: hash, from and to (seconds from T0), bounds, and how slow it is. Beside a canary there
    are four stable pods."""
    random = np.random.default_rng(seed)
    lines: list[str] = []
    for pod_hash, first, last, bounds, slow in revisions:
        step = 60.0 if last > 2 * HOUR else 15.0
        times = T0 + np.arange(first + 7.0, last, step)
        for name in "abcd" if pod_hash == STABLE and last <= 2 * HOUR else "e":
            lines += _pod(random, pod_hash, name, times, step, bounds, slow, metric)
    return text(lines)


def _pod(
    random: np.random.Generator, pod_hash: str, name: str, times: np.ndarray, step: float,
    bounds: Sequence[float], slow: float, metric: str,
) -> list[str]:  # fmt: skip
    labels = {
        "namespace": "search-prod",
        "job": "ranker",
        "pod": f"ranker-{pod_hash}-{name}",
        "rollouts_pod_template_hash": pod_hash,
        "model": "ranker",
        "version": pod_hash,
    }
    requests = random.poisson(10 * step, len(times))
    middle = math.log(0.045 * slow) + 0.02 * random.standard_normal(len(times))
    lines = []
    for bound in (*bounds, math.inf):
        share = np.array([0.5 * math.erfc((m - math.log(bound)) / 0.5 / math.sqrt(2)) for m in middle])
        counts = np.cumsum(np.round(requests * (share if bound < math.inf else 1.0))).tolist()
        le = {"le": "+Inf" if bound == math.inf else repr(bound)}
        lines += series(
            f"inference_{metric}_bucket", {**labels, **le}, zip(times.tolist(), counts, strict=True)
        )
    counted = zip(times.tolist(), np.cumsum(requests).tolist(), strict=True)
    lines += series("inference_requests_total", {**labels, "method": "infer", "code": "200"}, counted)
    return [*lines, *series("model_ready", labels, [(t, 1.0) for t in times.tolist()])]


def beside(bounds: Sequence[float], slow: float = 1.0, old: Sequence[float] = FINE) -> list[Revision]:
    return [(STABLE, 0.0, 2 * HOUR, old, 1.0), (CANARY, HOUR, 2 * HOUR, bounds, slow)]


def file(folder: Path, content: str, scraped: float = 15.0) -> Detector:
    path = folder / "past.om"
    path.write_text(content)
    return Detector("prod", FileHistory(path, WATCHED, scraped), 14 * DAY)


def canary(detector: Detector) -> Verdict:
    return detector.look_at_canary(WATCHED, CANARY, STABLE, T0 + 2 * HOUR - MINUTE).verdict


def level(verdict: Verdict, name: str) -> MetricVerdict:
    return next(one for one in verdict.metrics if (one.name, one.test) == (name, "level"))


@pytest.mark.parametrize(
    "bounds", [GONE, COARSE, FAR, OTHERS, FINE], ids=["gone", "coarse", "far", "others", "same"]
)
@pytest.mark.parametrize("turned", [False, True], ids=["after", "before"])
def test_bounds_that_change_are_no_change_of_latency(
    tmp_path: Path, bounds: Sequence[float], turned: bool
) -> None:
    verdict = canary(file(tmp_path, past(beside(FINE, old=bounds) if turned else beside(bounds))))
    assert verdict.outcome != "failure"
    for name in PATTERNS:
        one = level(verdict, name)
        if bounds in (FINE, FAR):
            assert one.state == "unchanged"
        else:
            assert (one.state, one.reason) == ("inconclusive", "buckets_changed")


@pytest.mark.parametrize("bounds", [FINE, COARSE])
@pytest.mark.parametrize("slow", [1.2, 1.5])
def test_an_effect_is_as_wide_as_its_buckets(tmp_path: Path, bounds: Sequence[float], slow: float) -> None:
    """The true effect is in the interval, which is at least as wide as the buckets leave open."""
    verdict = canary(file(tmp_path, past(beside(bounds, slow, old=bounds))))
    for name in PATTERNS:
        one = level(verdict, name)
        assert one.state == "regressed"
        assert one.effect is not None
        assert isinstance(one.buckets, Resolved)
        before, after = one.buckets.before, one.buckets.after
        assert None not in (before.low, before.high, after.low, after.high)
        assert one.effect.low <= after.low / before.high - 1  # type: ignore[operator]
        assert one.effect.high >= after.high / before.low - 1  # type: ignore[operator]
        assert one.effect.low <= slow - 1 <= one.effect.high  # type: ignore[operator]
        clause = words.difference(verdict, one, str)
        assert words.interval(one) in clause
        assert words.sided(one)[1] in clause
        assert words.value(one.after, "s") not in clause  # it is drawn, and not measured
        assert words.sided(one)[1].endswith(words.value(after.high, "s"))


def test_a_plot_and_a_report_show_buckets(tmp_path: Path) -> None:
    look = file(tmp_path, past(beside(FINE, 1.5))).look_at_canary(
        WATCHED, CANARY, STABLE, T0 + 2 * HOUR - MINUTE
    )
    drawn = plot.svg(look.judgement.plots, look.verdict)
    assert drawn.count('id="plot-bucket-') == 2 * len(PATTERNS)
    one = level(look.verdict, "p50")
    assert " → ".join(words.sided(one)) in text_report.report(look.verdict, (), colour=False)
    assert words.effect(one).startswith("~")


def test_a_real_prometheus_and_a_file_say_the_same(tmp_path: Path) -> None:
    content = past(beside(GONE))
    with prometheus(tmp_path / "p", openmetrics=content) as running:
        history = PrometheusHistory(server(running.url), ["search-prod"])
        one = Detector("prod", history, DAY).look_at_canary(WATCHED, CANARY, STABLE, T0 + 2 * HOUR - MINUTE)
    other = file(tmp_path, content).look_at_canary(WATCHED, CANARY, STABLE, T0 + 2 * HOUR - MINUTE)
    assert one.verdict.reason == other.verdict.reason == "buckets_changed"
    for mine, theirs in zip(one.evidence.measured, other.evidence.measured, strict=True):
        assert mine.resolution is not None
        assert theirs.resolution is not None
        assert mine.resolution.unshared == theirs.resolution.unshared == (0.05, 0.15)
        np.testing.assert_allclose(mine.series.values, theirs.series.values, rtol=1e-9)


LONG = 11 * DAY
RELEASED = LONG - 2 * HOUR


def release(detector: Detector) -> Verdict:
    rollout = Rollout(
        namespace="search-prod", model="ranker", version=CANARY, hash=CANARY, previous_hash=STABLE,
        started_at=moment(T0 + RELEASED),
    )  # fmt: skip
    return detector.look_at_release(WATCHED, rollout, T0 + LONG).verdict


@pytest.mark.parametrize("bounds", [GONE, FAR], ids=["gone", "far"])
def test_a_release_that_changes_bounds(tmp_path: Path, bounds: Sequence[float]) -> None:
    revisions = [(STABLE, 0.0, RELEASED, FINE, 1.0), (CANARY, RELEASED, LONG, bounds, 1.0)]
    verdict = release(file(tmp_path, past(revisions), MINUTE))
    states = {level(verdict, name).state for name in PATTERNS}
    assert states == ({"unchanged"} if bounds == FAR else {"inconclusive"})


def test_bounds_that_changed_days_ago_do_not_matter_far_from_the_quantile(tmp_path: Path) -> None:
    """Days with other bounds near the quantile are missing from the history, and those with far ones are not."""
    for bounds, state in ((FAR, "unchanged"), (COARSE, "inconclusive")):
        revisions = [
            ("first", 0.0, RELEASED - 12 * HOUR, bounds, 1.0),
            (STABLE, RELEASED - 12 * HOUR, RELEASED, FINE, 1.0),
            (CANARY, RELEASED, LONG, FINE, 1.0),
        ]
        verdict = release(file(tmp_path, past(revisions), MINUTE))
        assert [level(verdict, name).state for name in PATTERNS] == [state, state]
        if bounds == COARSE:
            assert {level(verdict, name).reason for name in PATTERNS} == {"history_too_short"}


def test_a_watch_over_bounds_that_change(tmp_path: Path) -> None:
    revisions = [(STABLE, 0.0, RELEASED, FINE, 1.0), (CANARY, RELEASED, LONG, GONE, 1.0)]
    verdict = file(tmp_path, past(revisions), MINUTE).look_at_now(WATCHED, T0 + LONG).verdict
    assert {level(verdict, name).state for name in PATTERNS} <= {"unchanged", "inconclusive"}
    assert verdict.state == "inconclusive"


def test_output_values_are_compared_on_the_bounds_of_both(tmp_path: Path) -> None:
    wanted = watched(patterns={"scores": pattern("output_value")})
    path = tmp_path / "past.om"
    for bounds, slow, outcome in ((GONE, 1.0, "inconclusive"), (FAR, 1.0, "success"), (FAR, 2.0, "failure")):
        path.write_text(past(beside(bounds, slow), metric="output_value"))
        detector = Detector("prod", FileHistory(path, wanted, 15.0), DAY)
        verdict = detector.look_at_canary(wanted, CANARY, STABLE, T0 + 2 * HOUR - MINUTE).verdict
        assert verdict.outcome == outcome
