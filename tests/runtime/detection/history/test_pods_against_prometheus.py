"""Pods that differ, from a real Prometheus to a verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modelway_runtime.detection.detector import Detector
from modelway_runtime.detection.evidence import Measured
from modelway_runtime.detection.prometheus import PrometheusHistory
from modelway_runtime.detection.series_files import FileHistory
from tests.runtime.detection.history.history_data import (
    CANARY,
    HOUR,
    STABLE,
    T0,
    pattern,
    server,
    watched,
)
from tests.support.prometheus import prometheus, series, text

MINUTE = 60.0
BEGAN = 30 * MINUTE
BOUNDS = tuple(round(0.01 * 1.25**k, 4) for k in range(14))
PATTERNS = {"p50": pattern("latency", 0.5), "p90": pattern("latency", 0.9), "errors": pattern("error_ratio")}
WATCHED = watched(patterns=PATTERNS)
# Of pods of one version: 10 % is how much machines of one kind may differ.
STABLE_PODS = {"a": 0.88, "b": 0.97, "c": 1.02, "d": 1.13}
SLOW, SAME = 2.5, 1.14


def past(factor: float) -> str:
    """An hour of four pods, and of a canary's one from the middle on."""
    random = np.random.default_rng(0)
    lines = [line for name, own in STABLE_PODS.items() for line in pod(random, STABLE, "1.0", name, 0.0, own)]
    return text(lines, list(pod(random, CANARY, "1.1", "e", BEGAN, factor)))


def pod(
    random: np.random.Generator, pod_hash: str, version: str, name: str, first: float, factor: float
) -> Iterator[str]:
    labels = {
        "namespace": "search-prod",
        "job": "ranker",
        "pod": f"ranker-{pod_hash}-{name}",
        "rollouts_pod_template_hash": pod_hash,
        "model": "ranker",
        "version": version,
    }
    times = T0 + np.arange(first + 7.0, HOUR, 15.0)
    requests = random.poisson(150, len(times))
    middle = np.log(0.05 * factor) + 0.01 * random.standard_normal(len(times))
    for bound in (*BOUNDS, math.inf):
        share = np.array([0.5 * math.erfc((m - math.log(bound)) / 0.5 / math.sqrt(2)) for m in middle])
        le = "+Inf" if bound == math.inf else repr(bound)
        counts = np.cumsum(np.round(requests * (share if bound < math.inf else 1.0)))
        name_ = "inference_request_duration_seconds_bucket"
        yield from series(name_, {**labels, "le": le}, zip(times.tolist(), counts.tolist(), strict=True))
    failed = random.binomial(requests, 0.02 * factor)
    for code, each in (("200", requests - failed), ("500", failed)):
        counted = {**labels, "method": "infer", "code": code}
        values = zip(times.tolist(), np.cumsum(each).tolist(), strict=True)
        yield from series("inference_requests_total", counted, values)
    yield from series("model_ready", labels, [(t, 1.0) for t in times.tolist()])


@pytest.mark.parametrize(("factor", "outcomes"), [(SAME, {"success"}), (SLOW, {"failure"})])
def test_a_canary_is_compared_with_pods(tmp_path: Path, factor: float, outcomes: set[str]) -> None:
    """Three looks, as Rollouts has them: a pod that is as far off as others is no regression."""
    with prometheus(tmp_path / "p", openmetrics=past(factor)) as running:
        history = PrometheusHistory(server(running.url), ["search-prod"])
        detector = Detector("prod", history, 86400.0)
        looks = [
            detector.look_at_canary(WATCHED, CANARY, STABLE, T0 + HOUR - ago * MINUTE) for ago in (3, 2, 1)
        ]
        file = FileHistory(tmp_path / "p" / "past.om", WATCHED, 15.0)
        again = Detector("prod", file, 86400.0).look_at_canary(WATCHED, CANARY, STABLE, T0 + HOUR - MINUTE)
    assert {look.verdict.outcome for look in looks} == outcomes
    assert again.verdict.outcome == looks[-1].verdict.outcome
    for one, other in zip(looks[-1].evidence.measured, again.evidence.measured, strict=True):
        same_pods(one, other)
        assert [pod.name for pod in one.stable_pods] == [f"ranker-{STABLE}-{name}" for name in STABLE_PODS]
        assert [pod.name for pod in one.pods] == [f"ranker-{CANARY}-e"]


def same_pods(one: Measured, other: Measured) -> None:
    for pods, others in ((one.pods, other.pods), (one.stable_pods, other.stable_pods)):
        for mine, theirs in zip(pods, others, strict=True):
            assert mine.name == theirs.name
            np.testing.assert_allclose(mine.series.values, theirs.series.values, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(mine.load.values, theirs.load.values, rtol=1e-9, atol=1e-9)


def test_pods_of_a_table(tmp_path: Path) -> None:
    """A time has a row for each pod; without the column pods cannot be told apart."""
    random = np.random.default_rng(1)
    rows = []
    for minute in range(60):
        for name, own in {**STABLE_PODS, "e": SAME}.items():
            pod_hash, version = (CANARY, "1.1") if name == "e" else (STABLE, "1.0")
            if name != "e" or minute >= 30:
                value = 0.05 * own * math.exp(0.01 * random.standard_normal())
                rows.append((f"{T0 + 60 * minute},10,{value},{value},0.02", f"{version},{pod_hash}", name))
    for column in (",pod", ""):
        path = tmp_path / f"a{len(column)}.csv"
        lines = [f"{values},{of}{f',{name}' if column else ''}" for values, of, name in rows]
        path.write_text("\n".join([f"time,load,p50,p90,errors,version,hash{column}", *lines]))
        detector = Detector("prod", FileHistory(path, WATCHED, 15.0), 86400.0)
        look = detector.look_at_canary(WATCHED, CANARY, STABLE, T0 + HOUR)
        one = look.evidence.measured[0]
        np.testing.assert_allclose(look.evidence.load.values, np.full(30, 10.0))
        assert look.evidence.stable_load is not None
        if column:
            np.testing.assert_allclose(look.evidence.stable_load.values, np.full(30, 40.0))
            assert [pod.name for pod in one.stable_pods] == list(STABLE_PODS)
            assert look.verdict.outcome == "success"
        else:
            assert (look.verdict.state, look.verdict.reason) == ("inconclusive", "too_few_pods")
