"""The caller's token: what a release does without it, and the run that shows it before the first release.

``Analysis`` is how Argo Rollouts 1.9.1 runs an AnalysisRun (``reconcileAnalysisRun``, ``resolveArgs``):
arguments from Secrets are looked up, in the run's namespace, before anything is measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from modelway.lower import names
from tests.lower.clusters import Cluster, canaries, clusters
from tests.lower.rollouts import ERROR, RUNNING, SUCCESSFUL, Tally, assess, phase
from tests.lower.test_detector import DETECTOR, alert, shop_of
from tests.support.checking import every

Json = dict[str, Any]
Secrets = Mapping[str, Mapping[str, str]]
"""Of one namespace: name -> key -> value."""
RETRY_S = 10
"""After an error, whatever the interval (``DefaultErrorRetryInterval``)."""


@dataclass(frozen=True)
class Analysis:
    """What became of a run, after how many looks and how many seconds of them."""

    phase: str
    measured: int
    seconds: int
    message: str = ""


def analyse(
    spec: Json, given: Mapping[str, str], secrets: Secrets, answer: Callable[[Json, int], Any]
) -> Analysis:
    """Run the only metric; ``answer`` gives what a request gets at a second, or None for an error."""
    arguments = dict(given)
    for argument in spec["args"]:
        reference = argument.get("valueFrom", {}).get("secretKeyRef")
        if reference is None:
            continue
        if reference["name"] not in secrets:
            return Analysis(ERROR, 0, 0, f'secrets "{reference["name"]}" not found')
        if reference["key"] not in secrets[reference["name"]]:
            text = f"key '{reference['key']}' does not exist in secret '{reference['name']}'"
            return Analysis(ERROR, 0, 0, text)
        arguments[argument["name"]] = secrets[reference["name"]][reference["key"]]
    (metric,) = spec["metrics"]
    tally, seconds = Tally(), 0
    for measured in range(10_000):
        end = assess(metric, tally)
        if end != RUNNING:
            return Analysis(end, measured, seconds)
        result = answer(_filled(metric["provider"]["web"], arguments), seconds)
        seconds += RETRY_S if result is None else 60
        tally = tally.after(ERROR if result is None else phase(metric, result))
    raise AssertionError("it never ends")


def _filled(web: Json, arguments: Mapping[str, str]) -> Json:
    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fill(below) for key, below in value.items()}
        if isinstance(value, list):
            return [fill(below) for below in value]
        if isinstance(value, str):
            return re.sub(r"\{\{args\.([a-z-]+)\}\}", lambda match: arguments[match[1]], value)
        return value

    filled: Json = fill(web)
    return filled


def detector(token: str, since: int = 0) -> Callable[[Json, int], Any]:
    """Answers whoever has the token with a list of no verdicts, from a second on."""

    def answer(web: Json, second: int) -> list[float] | None:
        header = {one["key"]: one["value"] for one in web["headers"]}["Authorization"]
        return [] if header == f"Bearer {token}" and second >= since else None

    return answer


def runs(cluster: Cluster) -> list[Json]:
    """Those that ask the detector."""
    return [run for run in cluster.of("AnalysisRun") if "web" in run["spec"]["metrics"][0]["provider"]]


@pytest.fixture(scope="module")
def spec() -> Json:
    (run,) = runs(shop_of(alert("a")))
    return dict(run["spec"])


SECRETS = {"detector-gate": {"token": "0123"}}


@pytest.mark.parametrize(
    "secrets", [{}, {"other": {"token": "0123"}}, {"detector-gate": {"password": "0123"}}]
)
def test_a_missing_secret_ends_a_release_at_once(secrets: Secrets) -> None:
    """However many errors the metric allows: nothing is measured before the arguments are there."""
    shop = shop_of(alert("a"))
    (asks,) = (one for one in shop.of("AnalysisTemplate") if one["metadata"]["name"] == "ranker-detector")
    assert asks["spec"]["metrics"][0]["consecutiveErrorLimit"] > 100
    hashes = {"canary-hash": "6d4b75cb6d", "stable-hash": "7f9c8b5d4f"}
    end = analyse(asks["spec"], hashes, secrets, lambda _, __: [])
    assert (end.phase, end.measured) == (ERROR, 0)
    assert "detector-gate" in end.message


@pytest.mark.parametrize("secrets", [{}, {"detector-gate": {"password": "0123"}}])
def test_a_missing_secret_shows_before_the_first_release(spec: Json, secrets: Secrets) -> None:
    end = analyse(spec, {}, secrets, detector("0123"))
    assert (end.phase, end.measured) == (ERROR, 0)
    assert "detector-gate" in end.message


def test_the_right_token_is_a_success_at_once(spec: Json) -> None:
    assert analyse(spec, {}, SECRETS, detector("0123")) == Analysis(SUCCESSFUL, 1, 60)


def test_a_wrong_token_shows_within_a_quarter_of_an_hour(spec: Json) -> None:
    end = analyse(spec, {}, SECRETS, detector("4567"))
    assert end.phase == ERROR
    assert 10 * 60 < end.seconds <= 16 * 60


def test_a_detector_that_starts_slowly_is_awaited(spec: Json) -> None:
    assert analyse(spec, {}, SECRETS, detector("0123", since=10 * 60)).phase == SUCCESSFUL


def test_every_team_that_asks_has_a_run_that_asks_alike(cluster: Cluster) -> None:
    """With the same Secret, in the same namespace, of the same address."""
    asked = {}
    for work, canary in canaries(cluster):
        for step in canary["steps"]:
            for one in step.get("analysis", {}).get("templates", ()):
                template = cluster.get("AnalysisTemplate", work.namespace, one["templateName"])
                assert template is not None
                (secret,) = [x for x in template["spec"]["args"] if "valueFrom" in x] or [None]
                if secret and one["templateName"] == f"{work.name}-detector":
                    web = template["spec"]["metrics"][0]["provider"]["web"]
                    asked[work.namespace] = (secret, web["url"].removesuffix("/v1/gate"), web["headers"])
    tried = {}
    for run in runs(cluster):
        web = run["spec"]["metrics"][0]["provider"]["web"]
        address = web["url"].removesuffix("/v1/verdicts?limit=1")
        tried[run["metadata"]["namespace"]] = (*run["spec"]["args"], address, web["headers"])
        assert web["method"] == "GET", "a question to the gate is judged and remembered"
    assert tried == asked


def test_there_are_clusters_with_and_without_such_runs() -> None:
    counts = {len(runs(one)) for one in clusters()}
    assert 0 in counts
    assert max(counts) >= 1


def test_another_question_is_another_run() -> None:
    """A run that has ended is never run again."""
    one = shop_of(alert("a"))
    other = shop_of(alert("a"), detector={**DETECTOR, "gate": {**DETECTOR["gate"], "secret": "other"}})
    names_of = [[run["metadata"]["name"] for run in runs(cluster)] for cluster in (one, other)]
    assert names_of[0] != names_of[1]
    assert names_of[0] == [run["metadata"]["name"] for run in runs(shop_of(alert("a"), alert("b")))]


def test_it_comes_with_the_last_wave() -> None:
    """It may run for a quarter of an hour, and be Degraded after it: a wave behind it would not begin."""
    for run in every(run for cluster in clusters() for run in runs(cluster)):
        assert run["metadata"]["annotations"][names.SYNC_WAVE] == names.WAVE_WORKLOAD
