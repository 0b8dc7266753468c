"""What the compiler wrote for prod, put together: Argo Rollouts' request as the compiled AnalysisTemplate
makes it, to a detector with the settings of the compiled ConfigMap."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
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
    RANKER_NEW,
    RANKER_OLD,
    ROOT,
    compiled,
    secret,
)
from tests.runtime.detection.service.processes import Running, staying
from tests.support.prometheus import Server
from tests.support.serving import ask

Json = dict[str, Any]
TEMPLATES = {
    file.name.removeprefix("analysistemplate-").removesuffix("-detector.yaml"): file
    for file in sorted((ROOT / "generated" / "prod").rglob("analysistemplate-*-detector.yaml"))
}
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def detector(canary_prometheus: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The compiled settings with other addresses, ports and places of files; all else as it is."""
    folder = tmp_path_factory.mktemp("detector")
    settings = compiled()
    settings["prometheus"]["url"] = canary_prometheus.url
    settings["publish"] |= {"api_url": NOWHERE, "token_file": str(secret(folder / "forge", "none"))}
    settings["argocd"] |= {"url": NOWHERE, "token_file": str(secret(folder / "argocd", "none"))}
    settings["gate"] |= {"port": 0, "token_file": str(secret(folder / "gate", GATE_TOKEN))}
    settings |= {"memory_file": str(folder / "detector.sqlite"), "metrics": {"port": 0}}
    file = folder / "settings.json"
    file.write_text(json.dumps(settings))
    with staying(folder / "run", "watch", "--settings", file) as running:
        yield running


def template(model: str) -> Json:
    return dict(yaml.safe_load(TEMPLATES[model].read_text())["spec"])


def measurement(detector: Running, spec: Json, canary: str, token: str = GATE_TOKEN) -> tuple[str, Json]:
    """The phase that Argo Rollouts gives one measurement, and what was answered; as metricproviders/webmetric
    and utils/evaluate of Argo Rollouts do it."""
    args = {"canary-hash": canary, "stable-hash": RANKER_OLD.hash, "token": token}
    assert {one["name"] for one in spec["args"]} == args.keys()
    [metric] = spec["metrics"]
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
    ("canary", "phase", "state"),
    [
        (RANKER_NEW.hash, "Failed", "regressed"),
        (GOOD, "Successful", "unchanged"),
        (FRESH, "Inconclusive", "pending"),
        (GONE, "Inconclusive", "inconclusive"),
    ],
)
def test_argo_reads_each_outcome_as_it_is_meant(
    detector: Running, canary: str, phase: str, state: str
) -> None:
    got, answer = measurement(detector, template("ranker"), canary)
    assert (got, answer["state"]) == (phase, state), answer


def test_a_wrong_token_is_an_error_and_no_outcome(detector: Running) -> None:
    assert measurement(detector, template("ranker"), GOOD, "wrong") == ("Error", {"status": 401})


@pytest.mark.parametrize("model", TEMPLATES)
def test_what_each_template_asks_about_is_watched(detector: Running, model: str) -> None:
    """Without a sample it is undecided; whoever asks for what is not watched is told another reason."""
    phase, answer = measurement(detector, template(model), GONE)
    assert (phase, answer["reason"]) == ("Inconclusive", "the canary's pods have no sample yet")


def test_a_question_that_names_no_metrics_can_be_answered(detector: Running) -> None:
    """None means all: a pattern that says nothing of canaries, as that of the throughput, must not keep every
    canary from success."""
    spec = template("ranker")
    del spec["metrics"][0]["provider"]["web"]["jsonBody"]["metrics"]
    phase, answer = measurement(detector, spec, GOOD)
    assert (phase, answer["state"]) == ("Successful", "unchanged"), answer


def test_there_are_templates_to_ask_with() -> None:
    assert "ranker" in TEMPLATES


def test_the_verdict_of_a_canary_can_be_read_where_the_answer_says(detector: Running) -> None:
    _, answer = measurement(detector, template("ranker"), RANKER_NEW.hash)
    address = urlsplit(answer["verdict"])
    assert answer["verdict"].startswith(compiled()["gate"]["public_url"])
    told = ask(
        detector.ports["gate"],
        "GET",
        address.path,
        None,
        {"Authorization": f"Bearer {GATE_TOKEN}", "Accept": "application/json"},
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
