"""A release from start to end, minute by minute, by what a real Prometheus answers to its analyses.

The past of each canary is written for a day; ``Canary`` is what became of a run that began somewhere in it,
by Argo Rollouts' rules (``rollouts.py``): limits count over the whole run, an error is tried again after ten
seconds, Failed and Error abort, Inconclusive pauses.
"""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from modelway.lower import names
from tests.lower.clusters import Cluster, gate_metrics
from tests.lower.rollouts import (
    ERROR,
    FAILED,
    INCONCLUSIVE,
    RUNNING,
    SUCCESSFUL,
    Tally,
    assess,
    go_duration,
    phase,
)
from tests.lower.test_detector import DETECTOR, alert, cluster_of
from tests.lower.test_traps_of_specs import ALL, environment, model, resource
from tests.support.prometheus import Server, prometheus, series, text

Json = dict[str, Any]
Share = Callable[[int], float | None]
"""Second -> which share of the requests is bad then; None for no requests."""

MINUTE, HOUR, DAY = 60, 3600, 86400
START = 1_790_000_000 // DAY * DAY
RATE = 20
LIMITS = {"errorRatio": {"max": 0.01}, "latency": {"quantile": 0.99, "max": "250ms"}}
LIMITS |= {"queueTime": {"quantile": 0.9, "max": "100ms"}, "minRate": 1}
RETRY_S = 10
"""After an error, whatever the interval (argo-rollouts 1.9.1, ``DefaultErrorRetryInterval``)."""


def bad_minutes(*starts: int) -> Share:
    """All requests of these minutes are bad, and none besides."""
    return lambda second: float(any(start <= second < start + MINUTE for start in starts))


PASTS: dict[str, Share] = {
    "good": lambda _: 0.0,
    "silent": lambda _: None,
    "bad": lambda _: 0.5,
    "bad after hours of silence": lambda second: 0.5 if second >= 11 * HOUR else None,
    "bad after hours of good": lambda second: 0.5 if second >= 11 * HOUR else 0.0,
    "twice the limit": lambda second: 0.02 if second >= 11 * HOUR else 0.0,
    # Never at the same second of a minute, so that no look and no scrape is always lucky.
    "a bad minute an hour": bad_minutes(*(n * HOUR + 137 * n % 3600 for n in range(24))),
    "a bad minute, then silence": lambda second: 1.0 if second < MINUTE else None,
    "requests now and then, a bad minute at times": lambda second: (
        None if second // (20 * MINUTE) % 2 else bad_minutes(3 * HOUR + 7, 9 * HOUR + 34)(second)
    ),
}


@cache
def shop(scrape: str) -> Cluster:
    monitoring = {"scrapeInterval": scrape, "retention": "90d"}
    place = environment(*ALL, monitoring=monitoring, detector=DETECTOR)
    rollout = {"strategy": "canary", "steps": [{"weight": 5, "pause": "1d"}], "gates": LIMITS}
    return cluster_of(place, resource(), model(rollout=rollout), alert("a"))


def watch(scrape: str) -> list[Json]:
    return [metric for _, metric, waited in gate_metrics(shop(scrape)) if not waited]


def gate(scrape: str) -> list[Json]:
    return [metric for _, metric, waited in gate_metrics(shop(scrape)) if waited]


@pytest.fixture(scope="module", params=["10s", "30s", "1m"])
def past(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    scrape = request.param
    lines = [line for title in PASTS for line in _lines(title, PASTS[title], int(go_duration(scrape)))]
    with prometheus(tmp_path_factory.mktemp("past"), openmetrics=text(lines)) as server:
        yield Past(server, scrape)


def _lines(title: str, share: Share, scrape: int) -> Iterator[str]:
    """What is scraped of one canary. Its counters of failures begin with the first one."""
    of = {"namespace": "search-prod", "model": "ranker", "rollouts_pod_template_hash": _hash(title)}
    all_, bad, time = [], [], []
    total = failed = 0.0
    for second in range(0, DAY + 1, scrape):
        time.append(START + second + 0.25)
        all_.append(total)
        bad.append(failed)
        for moment in range(second, second + scrape):
            part = share(moment)
            total += 0.0 if part is None else RATE
            failed += 0.0 if part is None else part * RATE
    good = [one - other for one, other in zip(all_, bad, strict=True)]
    yield from series(names.REQUESTS, {**of, "code": "200"}, zip(time, good, strict=True))
    failures = [(at, value) for at, value in zip(time, bad, strict=True) if value]
    yield from series(names.REQUESTS, {**of, "code": "503"}, failures)
    for metric, limit in ((names.DURATION, 0.25), (names.QUEUE_DURATION, 0.1)):
        for bound, values in ((limit / 2, good), (limit, good), (2 * limit, all_), ("+Inf", all_)):
            labels = {**of, "le": str(bound)}
            yield from series(f"{metric}_bucket", labels, zip(time, values, strict=True))


def _hash(title: str) -> str:
    return f"{list(PASTS).index(title)}f5d5f7c9b"


@dataclass(frozen=True)
class Past:
    server: Server
    scrape: str

    def answers(self, metric: Json, title: str, begin: int, end: int) -> dict[int, list[float]]:
        """Second -> what an instant query answers then, once a minute."""
        query = metric["provider"]["prometheus"]["query"].replace("{{args.canary-hash}}", _hash(title))
        form = {"query": query, "start": START + begin, "end": START + end, "step": MINUTE}
        url = f"{self.server.url}/api/v1/query_range"
        with urllib.request.urlopen(url, urllib.parse.urlencode(form).encode(), timeout=60) as answer:
            result = json.load(answer)["data"]["result"]
        assert len(result) <= 1
        found: dict[int, list[float]] = {second: [] for second in range(begin, end + 1, MINUTE)}
        for at, value in result[0]["values"] if result else ():
            found[at - START] = [float(value)]
        return found

    def canary(self, metric: Json, title: str, begin: int = 0, hours: int = 24) -> tuple[str, int]:
        """(phase, seconds after ``begin``) of a run; Running at the end of its past."""
        end = min(begin + hours * HOUR, DAY)
        begin += int(go_duration(metric["initialDelay"])) if "initialDelay" in metric else 0
        return follow(metric, self.answers(metric, title, begin, end))


def follow(metric: Json, answers: Mapping[int, list[float] | None]) -> tuple[str, int]:
    """None is a Prometheus that does not answer."""
    tally, first = Tally(), min(answers)
    second = first
    while second <= max(answers):
        answer = answers[first + (second - first) // MINUTE * MINUTE]
        measured = ERROR if answer is None else phase(metric, answer)
        tally = tally.after(measured)
        end = assess(metric, tally)
        if end != RUNNING:
            return end, second - first
        second += RETRY_S if measured == ERROR else MINUTE
    return RUNNING, second - first


def test_a_canary_has_a_watch_and_a_gate_for_each_limit() -> None:
    for metrics in (watch("30s"), gate("30s")):
        assert [metric["name"] for metric in metrics] == ["error-ratio", "latency", "queue-time"]


@pytest.mark.parametrize(
    "title",
    ["good", "silent", "a bad minute an hour", "a bad minute, then silence",
     "requests now and then, a bad minute at times"],
)  # fmt: skip
def test_a_pause_of_a_day_neither_ends_nor_pauses(past: Past, title: str) -> None:
    for metric in watch(past.scrape):
        assert past.canary(metric, title)[0] == RUNNING, metric["name"]


@pytest.mark.parametrize(
    ("title", "since"),
    [("bad", 0), ("bad after hours of silence", 11 * HOUR), ("bad after hours of good", 11 * HOUR)],
)
def test_failures_abort_within_minutes(past: Past, title: str, since: int) -> None:
    """However long it was silent or good before, and at whichever second of a minute it looks."""
    most = 8 if past.scrape != "1m" else 11
    for metric in watch(past.scrape):
        for shift in (0, 17, 43):
            end, seconds = past.canary(metric, title, shift)
            assert end == FAILED, metric["name"]
            assert since <= seconds + shift <= since + most * MINUTE, metric["name"]


def test_a_limit_that_is_broken_by_little_aborts_too(past: Past) -> None:
    """It knows no difference between twice the limit and a total outage."""
    assert past.canary(watch(past.scrape)[0], "twice the limit")[0] == FAILED


def test_one_bad_minute_closes_no_gate_and_a_lasting_fault_does(past: Past) -> None:
    """A gate may be asked at any second of a minute, while a bad one is in sight or not yet."""
    for metric in gate(past.scrape):
        for begin in range(2 * HOUR, 2 * HOUR + 15 * MINUTE, 41):
            end, _ = past.canary(metric, "a bad minute an hour", begin, 1)
            assert end == SUCCESSFUL, f"{metric['name']} at {begin}"
        assert past.canary(metric, "bad", 0, 1)[0] == FAILED
        assert past.canary(metric, "good", HOUR, 1) == (SUCCESSFUL, 4 * MINUTE)
        assert past.canary(metric, "silent", HOUR, 1) == (INCONCLUSIVE, 3 * MINUTE)


# The source of the evidence fails


@pytest.mark.parametrize("away", [41, 10 * MINUTE, HOUR, 20 * HOUR])
def test_a_prometheus_that_is_away_aborts_nothing(away: int) -> None:
    """Nor does it let anything pass: a gate goes on waiting, and decides by what comes after."""
    asked = [metric for one in shop("30s").of("AnalysisTemplate") for metric in one["spec"]["metrics"]]
    assert asked
    for metric in asked:
        nothing: dict[int, list[float] | None] = dict.fromkeys(range(0, away + 1, MINUTE))
        assert follow(metric, nothing)[0] == RUNNING, metric["name"]
    for metric in gate("30s"):
        later = range(away // MINUTE * MINUTE + MINUTE, away + HOUR, MINUTE)
        for value, end in ((0.0, SUCCESSFUL), (9.0, FAILED)):
            assert follow(metric, nothing | {key: [value] for key in later})[0] == end
    for metric in watch("30s"):
        assert follow(metric, nothing | {key: [9.0] for key in later})[0] == FAILED


def test_errors_between_looks_take_nothing_from_a_gate() -> None:
    """Five good looks in a row are five in a row: an error breaks the row (1.9.1, ``runMeasurements``)."""
    for metric in gate("30s"):
        assert assess(metric, _tally(*[SUCCESSFUL] * 4, ERROR, SUCCESSFUL)) == RUNNING
        assert assess(metric, _tally(ERROR, *[SUCCESSFUL] * 5)) == SUCCESSFUL


def _tally(*measured: str) -> Tally:
    tally = Tally()
    for one in measured:
        tally = tally.after(one)
    return tally
