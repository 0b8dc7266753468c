"""Dashboards as Grafana imports them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from modelway.lower.dashboard import Subject, dashboard
from modelway.lower.objects import json_text
from modelway.spec.environment import Monitoring
from tests.support.promql import foreign, selectors, without_variables

CPU = Subject(
    environment="prod",
    team="search",
    model="ranker",
    job="ranker",
    namespace="search-prod",
    version="46.1.0",
    gpus=0,
    standby=False,
)
SUBJECTS = {
    "cpu": CPU,
    "gpu": replace(CPU, gpus=2),
    "with a standby": replace(CPU, gpus=1, standby=True),
    "a standby": replace(CPU, model="ranker-lite", job="ranker-standby"),
    "long names": replace(CPU, model="m" * 56, job="m" * 56, namespace="n" * 63, version="v" * 63),
}
DEFAULT = Monitoring()
each_subject = pytest.mark.parametrize("subject", SUBJECTS.values(), ids=SUBJECTS)


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [target for panel in found["panels"] for target in panel["targets"]]


def panel(found: dict[str, Any], title: str) -> dict[str, Any]:
    (one,) = [panel for panel in found["panels"] if panel["title"] == title]
    return dict(one)


@each_subject
def test_grafana_can_import_it(subject: Subject) -> None:
    found = dashboard(subject, DEFAULT)
    assert "id" not in found
    assert found["schemaVersion"] == 42
    assert 0 < len(found["uid"]) <= 40
    assert found["title"]
    assert found["templating"]["list"] == [
        {"name": "datasource", "query": "prometheus", "type": "datasource"}
    ]
    ids = [panel["id"] for panel in found["panels"]]
    assert len(set(ids)) == len(ids)
    for one in found["panels"]:
        assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        refs = [target["refId"] for target in one["targets"]]
        assert refs
        assert len(set(refs)) == len(refs)
        assert one["title"]
        assert one["type"] == "timeseries"


@each_subject
def test_panels_do_not_overlap(subject: Subject) -> None:
    taken: set[tuple[int, int]] = set()
    for one in dashboard(subject, DEFAULT)["panels"]:
        at = one["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken
        taken |= cells


@each_subject
def test_queries_parse_and_read_known_metrics(subject: Subject) -> None:
    for target in targets(dashboard(subject, DEFAULT)):
        expr = without_variables(target["expr"])
        assert "$" not in expr
        assert not foreign(expr)
        for selector in selectors(expr):
            labels = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
            assert subject.namespace in labels.values(), "every query is of this namespace"
            assert "model" in labels or any("pod" in name for name in labels), "and of this model"


def test_panels_are_those_of_the_deployment() -> None:
    titles = {
        name: [one["title"] for one in dashboard(subject, DEFAULT)["panels"]]
        for name, subject in SUBJECTS.items()
    }
    assert titles["cpu"] == [
        "Latency, time in queue",
        "Errors by code",
        "Requests by version",
        "Rows of a batch",
        "In flight, in queue",
        "Ready servers by version",
        "Memory of the limit",
    ]
    assert titles["gpu"] == [*titles["cpu"], "GPU use", "GPU memory"]
    assert set(titles["with a standby"]) == {*titles["gpu"], "Answered by the standby"}
    assert titles["a standby"] == titles["cpu"]


def test_a_standby_is_seen_apart_from_others_of_the_same_model() -> None:
    found = dashboard(SUBJECTS["a standby"], DEFAULT)
    (ready,) = panel(found, "Ready servers by version")["targets"]
    assert '{namespace="search-prod",model="ranker-lite",job="ranker-standby"}' in ready["expr"]
    (memory,) = panel(found, "Memory of the limit")["targets"]
    assert 'pod=~"ranker-standby-[a-z0-9]+-[a-z0-9]+"' in memory["expr"]


def test_the_exporters_labels_are_those_of_the_environment() -> None:
    labels = {"gpuExporter": {"namespaceLabel": "namespace", "podLabel": "pod"}}
    (use,) = panel(dashboard(SUBJECTS["gpu"], msgspec.convert(labels, Monitoring)), "GPU use")["targets"]
    assert use["expr"].startswith('max by (pod, gpu) (DCGM_FI_DEV_GPU_UTIL{namespace="search-prod",pod=~')
    assert use["legendFormat"] == "{{pod}} {{gpu}}"
    (use,) = panel(dashboard(SUBJECTS["gpu"], DEFAULT), "GPU use")["targets"]
    assert use["legendFormat"] == "{{exported_pod}} {{gpu}}"


def test_the_uid_stays_with_the_deployment() -> None:
    uid = dashboard(CPU, DEFAULT)["uid"]
    assert dashboard(replace(CPU, version="47.0.0", gpus=8, standby=True), DEFAULT)["uid"] == uid
    others = (
        replace(CPU, environment="staging"),
        replace(CPU, team="recommendation"),
        replace(CPU, job="ranker-standby"),
    )
    uids = {uid, *(dashboard(other, DEFAULT)["uid"] for other in others)}
    assert len(uids) == 1 + len(others)


@each_subject
def test_keys_are_sorted_and_nothing_is_mutated(subject: Subject) -> None:
    first = dashboard(subject, DEFAULT)
    text = json.dumps(first)
    assert text == json.dumps(first, sort_keys=True)
    assert text == json.dumps(dashboard(subject, DEFAULT))


def test_it_is_small() -> None:
    assert len(json_text(dashboard(CPU, DEFAULT))) <= 5500
