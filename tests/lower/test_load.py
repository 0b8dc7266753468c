"""What scalers are told under constant load: the mean, where one instant of a gauge is a matter of chance.

A real Prometheus scrapes a server whose callers come by chance and stay by chance, so many on average that the
mean number inside is known. The old form, the gauge, is asked beside.
"""

from __future__ import annotations

import json
import re
import statistics
import urllib.parse
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest
import yaml

from modelway.lower import names
from tests.lower.clusters import Cluster
from tests.lower.test_detector import cluster_of
from tests.lower.test_traps_of_specs import environment, model, resource
from tests.support import shop
from tests.support.prometheus import Server, prometheus, series, text

START, SCRAPE_S, LENGTH_S = 1_790_000_000, 15, 1800
RATE, STAY_S, ROWS = 40.0, 0.4, 3
INSIDE = RATE * STAY_S
"""Little's law: sixteen on average, and forty-eight rows of them."""
OF = {"namespace": "search-prod", "model": "ranker", "job": "ranker", "pod": "ranker-5d5f7c9b6-x7k2p"}
IDLE = {**OF, "namespace": "search-idle", "pod": "ranker-5d5f7c9b6-abcde"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    random = np.random.default_rng(7)
    arrived = np.cumsum(random.exponential(1 / RATE, int(RATE * LENGTH_S)))
    stays = random.exponential(STAY_S, len(arrived))
    left = arrived + stays
    ends = np.sort(left)
    spent = np.concatenate([[0.0], np.cumsum(stays[np.argsort(left)])])
    lines: list[str] = []
    times = np.arange(0.0, LENGTH_S, SCRAPE_S)
    for pairs in (_busy(times, arrived, ends, spent), _idle(times)):
        for metric, labels, values in pairs:
            lines += series(metric, labels, zip((times + START).tolist(), values, strict=True))
    with prometheus(tmp_path_factory.mktemp("load"), openmetrics=text(lines)) as running:
        yield running


Pairs = Iterator[tuple[str, dict[str, str], list[float]]]


def _busy(times: np.ndarray, arrived: np.ndarray, ends: np.ndarray, spent: np.ndarray) -> Pairs:
    done = np.searchsorted(ends, times)
    inside = np.searchsorted(arrived, times) - done
    versioned = {**OF, "version": "1.0.0"}
    for histogram in (names.DURATION, names.QUEUE_DURATION):  # all that is inside waits
        yield f"{histogram}_sum", versioned, spent[done].tolist()
        yield f"{histogram}_count", versioned, done.astype(float).tolist()
    yield f"{names.BATCH_ROWS}_sum", versioned, (ROWS * done.astype(float)).tolist()
    yield names.IN_FLIGHT, OF, inside.astype(float).tolist()
    yield names.QUEUE_ROWS, OF, (ROWS * inside.astype(float)).tolist()


def _idle(times: np.ndarray) -> Pairs:
    """Never asked: no counter has begun."""
    for gauge in (names.IN_FLIGHT, names.QUEUE_ROWS):
        yield gauge, IDLE, [0.0] * len(times)


def ask(server: Server, query: str) -> list[float]:
    """Once every half minute, as KEDA does, when the first minutes are over."""
    form = {"query": query, "start": START + 300, "end": START + LENGTH_S - 60, "step": 30}
    url = f"{server.url}/api/v1/query_range"
    with urllib.request.urlopen(url, urllib.parse.urlencode(form).encode(), timeout=30) as answer:
        result = json.load(answer)["data"]["result"]
    assert len(result) <= 1, "KEDA takes one series"
    return [float(value) for _, value in result[0]["values"]] if result else []


def shop_with(metric: str, *add_ons: str) -> Cluster:
    scaling = {"minReplicas": 1, "maxReplicas": 4, "metric": metric}
    monitoring = {"scrapeInterval": f"{SCRAPE_S}s", "retention": "90d"}
    place = environment("prometheusOperator", *add_ons, monitoring=monitoring)
    return cluster_of(place, resource(), model(serving={"scaling": scaling}, rollout={"strategy": "rolling"}))


def query_of(metric: str) -> str:
    (scaler,) = shop_with(metric, "keda").of("ScaledObject")
    (trigger,) = scaler["spec"]["triggers"]
    return str(trigger["metadata"]["query"])


def adapted(name: str) -> str:
    """What the adapter asks for the pods of the namespace, by the rule of the guide for the name."""
    guide = (shop.ROOT / "docs/guides/environments.md").read_text()
    (block,) = re.findall(r"```yaml\n(rules:\n  custom:\n.*?)```", guide, re.DOTALL)
    (rule,) = (one for one in yaml.safe_load(block)["rules"]["custom"] if one["name"]["as"] == name)
    gauge = rule["seriesQuery"].partition("{")[0]
    query = rule["metricsQuery"].replace("<<.Series>>", gauge).replace("<<.GroupBy>>", "pod")
    return str(query.replace("<<.LabelMatchers>>", 'namespace="search-prod",pod=~"ranker-.*"'))


CASES = [("inFlight", names.IN_FLIGHT, INSIDE), ("queuedRows", names.QUEUE_ROWS, ROWS * INSIDE)]


@pytest.mark.parametrize(("metric", "gauge", "mean"), CASES)
def test_constant_load_reads_as_constant(server: Server, metric: str, gauge: str, mean: float) -> None:
    """The gauge reaches from half to once and a half of what is true; no replica is to come or go for that."""
    instants = ask(server, f'sum({gauge}{{namespace="search-prod"}})')
    assert max(instants) > 1.4 * mean
    assert min(instants) < 0.6 * mean
    for query in (query_of(metric), adapted(f"{gauge}_mean")):
        means = ask(server, query)
        assert len(means) == len(instants) > 40
        assert statistics.mean(means) == pytest.approx(mean, rel=0.05)
        assert all(0.8 * mean < one < 1.2 * mean for one in means)


@pytest.mark.parametrize(("metric", "gauge", "mean"), CASES)
def test_idle_is_nought_and_lost_is_no_answer(server: Server, metric: str, gauge: str, mean: float) -> None:
    """``ignoreNullValues: "false"`` makes of no answer an error, and an error never takes replicas away."""
    for query in (query_of(metric), adapted(f"{gauge}_mean")):
        assert set(ask(server, query.replace("search-prod", "search-idle"))) == {0.0}
        assert ask(server, query.replace("search-prod", "search-gone")) == []


@pytest.mark.parametrize(("scrape", "window"), [("1s", "1m"), ("15s", "1m"), ("30s", "2m"), ("1m", "4m")])
def test_a_rate_sees_four_scrapes(scrape: str, window: str) -> None:
    scaling = {"minReplicas": 1, "maxReplicas": 4}
    place = environment("keda", monitoring={"scrapeInterval": scrape, "retention": "90d"})
    cluster = cluster_of(place, resource(), model(serving={"scaling": scaling}))
    (scaler,) = cluster.of("ScaledObject")
    assert f"[{window}]" in scaler["spec"]["triggers"][0]["metadata"]["query"]


@pytest.mark.parametrize(("metric", "gauge", "mean"), CASES)
def test_an_autoscaler_reads_what_the_guide_lets_the_adapter_serve(
    metric: str, gauge: str, mean: float
) -> None:
    (scaler,) = shop_with(metric, "metricsAdapter").of("HorizontalPodAutoscaler")
    (asked,) = scaler["spec"]["metrics"]
    assert adapted(asked["pods"]["metric"]["name"])
