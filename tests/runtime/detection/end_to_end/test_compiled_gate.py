"""What the compiler wrote for prod, put together: Argo Rollouts' request as the compiled AnalysisTemplate
makes it, to a detector with the settings of the compiled ConfigMap."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.runtime.detection.end_to_end.shop import (
    FRESH,
    GATE_TOKEN,
    GONE,
    GOOD,
    NAMESPACE,
    RANKER_NEW,
    RANKER_OLD,
    ROOT,
    compiled,
    secret,
    this_minute,
    with_canary,
)
from tests.runtime.detection.service.processes import Running, staying
from tests.support.prometheus import prometheus
from tests.support.rollout_world import Lived, Pod
from tests.support.serving import ask

Json = dict[str, Any]
TEMPLATES = {
    file.name.removeprefix("analysistemplate-").removesuffix("-detector.yaml"): file
    for file in sorted((ROOT / "generated" / "prod").rglob("analysistemplate-*-detector.yaml"))
}
NOWHERE = "http://127.0.0.1:9"
Detectors = Callable[[str], Running]
"""A detector whose Prometheus has a ranker with the canary of this hash."""


@pytest.fixture(scope="module")
def detectors(lived: dict[Pod, Lived], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Detectors]:
    with contextlib.ExitStack() as stack:

        @cache
        def detector(canary: str) -> Running:
            folder = tmp_path_factory.mktemp("detector")
            world = with_canary(lived, this_minute(), canary)
            server = stack.enter_context(prometheus(folder / "prometheus", openmetrics=world))
            file = write(folder, server.url)
            return stack.enter_context(staying(folder / "run", "watch", "--settings", file))

        yield detector


@pytest.fixture(scope="module")
def detector(detectors: Detectors) -> Running:
    return detectors(GOOD)


def write(folder: Path, url: str) -> Path:
    """The compiled settings with other addresses, ports and places of files; all else as it is."""
    settings = compiled()
    settings["prometheus"]["url"] = url
    settings["publish"] |= {"api_url": NOWHERE, "token_file": str(secret(folder / "forge", "none"))}
    settings["argocd"] |= {"url": NOWHERE, "token_file": str(secret(folder / "argocd", "none"))}
    files = {name: str(secret(folder / name, token_of(name))) for name in settings["gate"]["token_files"]}
    settings["gate"] |= {"port": 0, "token_files": files}
    settings |= {"memory_file": str(folder / "detector.sqlite"), "metrics": {"port": 0}}
    file = folder / "settings.json"
    file.write_text(json.dumps(settings))
    return file


def token_of(namespace: str) -> str:
    return f"{GATE_TOKEN}-{namespace}"


def template(model: str) -> Json:
    return dict(yaml.safe_load(TEMPLATES[model].read_text())["spec"])


def measurement(detector: Running, spec: Json, canary: str, token: str = "") -> tuple[str, Json]:
    """The phase that Argo Rollouts gives one measurement, and what was answered; as metricproviders/webmetric
    and utils/evaluate of Argo Rollouts do it."""
    [metric] = spec["metrics"]
    token = token or token_of(metric["provider"]["web"]["jsonBody"]["namespace"])
    args = {"canary-hash": canary, "stable-hash": RANKER_OLD.hash, "token": token}
    assert {one["name"] for one in spec["args"]} == args.keys()
    web = json.loads(
        re.sub(
            r"\{\{\s*args\.([a-z-]+)\s*\}\}",
            lambda found: json.dumps(args[found[1]])[1:-1],
            json.dumps(metric["provider"]["web"]),
        )
    )
    headers = {one["key"]: one["value"] for one in web["headers"]}
    path = urlsplit(web["url"]).path
    body = json.dumps(web["jsonBody"]).encode()
    got = ask(detector.ports["gate"], web["method"], path, body, headers)
    if not 200 <= got.status < 300:
        return "Error", {"status": got.status}
    key = re.fullmatch(r"\{\$\.([a-z]+)\}", web["jsonPath"])
    assert key
    result = got.json[key[1]]
    failed, passed = (holds(metric[name], result) for name in ("failureCondition", "successCondition"))
    phase = "Failed" if failed else "Successful" if passed else "Inconclusive"
    return phase, got.json


def holds(condition: str, result: str) -> bool:
    """Of Argo's expressions only what the templates use."""
    found = re.fullmatch(r'result == "([a-z]+)"', condition)
    assert found, f"{condition} is more than this can evaluate"
    return result == found[1]


@pytest.mark.parametrize(
    ("beside", "canary", "phase", "state"),
    [
        (RANKER_NEW.hash, RANKER_NEW.hash, "Failed", "regressed"),
        (GOOD, GOOD, "Successful", "unchanged"),
        (FRESH, FRESH, "Inconclusive", "pending"),
        (GOOD, GONE, "Inconclusive", "inconclusive"),
    ],
)
def test_argo_reads_each_outcome_as_it_is_meant(
    detectors: Detectors, beside: str, canary: str, phase: str, state: str
) -> None:
    got, answer = measurement(detectors(beside), template("ranker"), canary)
    assert (got, answer["state"]) == (phase, state), answer


def test_a_wrong_token_is_an_error_and_no_outcome(detector: Running) -> None:
    assert measurement(detector, template("ranker"), GOOD, "wrong") == ("Error", {"status": 401})


def test_the_token_of_another_team_decides_nothing(detectors: Detectors) -> None:
    """Neither for a slow canary nor for a good one."""
    for canary in (RANKER_NEW.hash, GOOD):
        token = token_of("recommendation-prod")
        phase, answer = measurement(detectors(canary), template("ranker"), canary, token)
        assert (phase, answer["verdict"]) == ("Inconclusive", "")
        assert "the token is that of recommendation-prod" in answer["reason"]


@pytest.mark.parametrize("model", TEMPLATES)
def test_what_each_template_asks_about_is_watched(detector: Running, model: str) -> None:
    """Without a sample it is undecided; whoever asks for what is not watched is told another reason."""
    phase, answer = measurement(detector, template(model), GONE)
    assert (phase, answer["reason"]) == ("Inconclusive", "the canary's pods have no sample yet")


SMOKE_RUNS = sorted((ROOT / "generated" / "prod").rglob("analysisrun-*.yaml"))


@pytest.mark.parametrize("file", SMOKE_RUNS, ids=[file.parent.name for file in SMOKE_RUNS])
@pytest.mark.parametrize(("token", "status"), [("", 200), ("wrong", 401)])
def test_each_team_can_try_its_token(detector: Running, file: Path, token: str, status: int) -> None:
    """The compiled AnalysisRun: what it looks for is there with the team's token, and an error without."""
    run = yaml.safe_load(file.read_text())
    [metric] = run["spec"]["metrics"]
    web = metric["provider"]["web"]
    assert "".join(one["name"] for one in run["spec"]["args"]) == "token"
    value = token or token_of(run["metadata"]["namespace"])
    headers = {one["key"]: one["value"].replace("{{args.token}}", value) for one in web["headers"]}
    url = urlsplit(web["url"])
    got = ask(detector.ports["gate"], web["method"], f"{url.path}?{url.query}", None, headers)
    assert got.status == status
    if status == 200:
        assert web["jsonPath"] == "{$.verdicts}"
        assert isinstance(got.json["verdicts"], list), metric["successCondition"]


def test_there_are_runs_to_try_with() -> None:
    assert "search" in {file.parent.name for file in SMOKE_RUNS}


def test_a_question_that_names_no_metrics_can_be_answered(detector: Running) -> None:
    """None means all: a pattern that says nothing of canaries, as that of the throughput, must not keep every
    canary from success."""
    spec = template("ranker")
    del spec["metrics"][0]["provider"]["web"]["jsonBody"]["metrics"]
    phase, answer = measurement(detector, spec, GOOD)
    assert (phase, answer["state"]) == ("Successful", "unchanged"), answer


def test_there_are_templates_to_ask_with() -> None:
    assert "ranker" in TEMPLATES


def test_the_verdict_of_a_canary_can_be_read_where_the_answer_says(detectors: Detectors) -> None:
    detector = detectors(RANKER_NEW.hash)
    _, answer = measurement(detector, template("ranker"), RANKER_NEW.hash)
    address = urlsplit(answer["verdict"])
    assert answer["verdict"].startswith(compiled()["gate"]["public_url"])
    told = ask(
        detector.ports["gate"],
        "GET",
        address.path,
        None,
        {"Authorization": f"Bearer {token_of(NAMESPACE)}", "Accept": "application/json"},
    ).json
    assert (told["state"], told["rollout"]["hash"], told["sensitivity"]) == (
        "regressed",
        RANKER_NEW.hash,
        "low",
    )
    worse = {one["name"] for one in told["metrics"] if one["state"] == "regressed" and one["test"] == "level"}
    assert "latency-p50" in worse
    assert worse <= {"latency-p50", "latency-p99"}


def test_the_folder_of_prod_has_the_detector_that_the_templates_name() -> None:
    """The Service behind the address, its port and the gate's port of the settings are one."""
    [service] = Path(ROOT, "generated", "prod", "_platform").rglob("service-detector.yaml")
    document = yaml.safe_load(service.read_text())
    name = f"{document['metadata']['name']}.{document['metadata']['namespace']}.svc"
    ports = {each["port"] for each in document["spec"]["ports"]}
    for file in TEMPLATES.values():
        [metric] = yaml.safe_load(file.read_text())["spec"]["metrics"]
        url = urlsplit(metric["provider"]["web"]["url"])
        assert (url.hostname, url.port in ports) == (name, True)
