"""Compiled environments as clusters: their objects, the pods that these would run, what selects what."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import pytest
import yaml

from modelway.lower import names
from modelway.pipeline import Compilation, compile_specs
from modelway.sources import SourceFile
from tests.contract.metrics import without_grafana
from tests.lower.test_nothing_ignored import EVERYTHING
from tests.support import shop

Json = dict[str, Any]
WORKLOADS = ("Deployment", "Rollout")
CLUSTER_WIDE = ("Namespace", "PriorityClass")


@dataclass(frozen=True)
class Workload:
    """A Deployment or Rollout and the pods it runs."""

    value: Json
    settings: Json

    @property
    def name(self) -> str:
        return str(self.value["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.value["metadata"]["namespace"])

    @property
    def spec(self) -> Json:
        return self.value["spec"]  # type: ignore[no-any-return]

    @property
    def template(self) -> Json:
        return self.spec["template"]  # type: ignore[no-any-return]

    @property
    def pod(self) -> Json:
        return self.template["spec"]  # type: ignore[no-any-return]

    @property
    def labels(self) -> dict[str, str]:
        """Those of its pods, the hash that its controller adds among them."""
        key = "pod-template-hash" if self.value["kind"] == "Deployment" else "rollouts-pod-template-hash"
        return {**self.template["metadata"]["labels"], key: "5d5f7c9b6"}

    @property
    def server(self) -> Json:
        (server,) = self.pod["containers"]
        return server  # type: ignore[no-any-return]

    @property
    def containers(self) -> list[Json]:
        return [*self.pod.get("initContainers", ()), *self.pod["containers"]]

    @property
    def is_standby(self) -> bool:
        return bool(self.labels[names.COMPONENT] == "standby")

    @property
    def is_detector(self) -> bool:
        return bool(self.labels[names.COMPONENT] == "detector")


@dataclass(frozen=True)
class Cluster:
    """An environment as its spec says it, and the objects by path."""

    name: str
    environment: Json
    objects: Mapping[str, Json] = field(repr=False)

    @property
    def kubernetes(self) -> str:
        return str(self.spec["cluster"]["kubernetes"])

    @property
    def spec(self) -> Json:
        return self.environment["spec"]  # type: ignore[no-any-return]

    def has(self, add_on: str) -> bool:
        return bool(self.spec["cluster"].get("addOns", {}).get(add_on))

    @property
    def gateway(self) -> Json | None:
        return self.spec.get("gateway") if self.has("gatewayAPI") else None

    @property
    def monitoring_namespace(self) -> str:
        return str(self.spec.get("monitoring", {}).get("namespace", "monitoring"))

    def of(self, *kinds: str) -> list[Json]:
        return [value for value in self.objects.values() if value["kind"] in kinds]

    def get(self, kind: str, namespace: str | None, name: str) -> Json | None:
        """The one object of that name, as an API server would find it."""
        found = [
            value
            for value in self.of(kind)
            if value["metadata"]["name"] == name and value["metadata"].get("namespace") == namespace
        ]
        assert len(found) < 2, f"two of {kind} {namespace}/{name}"
        return found[0] if found else None

    @cached_property
    def workloads(self) -> list[Workload]:
        """Servers; the detector is none."""
        return [one for one in self.running if not one.is_detector]

    @property
    def detector(self) -> Workload | None:
        return next((one for one in self.running if one.is_detector), None)

    @cached_property
    def running(self) -> list[Workload]:
        return [Workload(value, self._settings(value)) for value in self.of(*WORKLOADS)]

    def _settings(self, workload: Json) -> Json:
        volumes = workload["spec"]["template"]["spec"]["volumes"]
        (name,) = (one["configMap"]["name"] for one in volumes if one["name"] == "settings")
        found = self.get("ConfigMap", workload["metadata"]["namespace"], name)
        assert found is not None, f"no ConfigMap {name}"
        return json.loads(found["data"]["settings.json"])  # type: ignore[no-any-return]

    def workload(self, namespace: str, name: str) -> Workload:
        (found,) = (one for one in self.running if (one.namespace, one.name) == (namespace, name))
        return found

    def selected(self, namespace: str, selector: Json) -> list[str]:
        """The workloads of a namespace whose pods a label selector matches."""
        return [
            one.name for one in self.running if one.namespace == namespace and matches(selector, one.labels)
        ]

    def rules(self) -> Iterator[tuple[str, Json]]:
        """(alert or record, rule) of every PrometheusRule and of every ConfigMap of rules."""
        for _, group in self.rule_groups():
            for rule in group["rules"]:
                yield rule.get("alert", rule.get("record")), rule

    def rule_groups(self) -> Iterator[tuple[Json, Json]]:
        """(object, group)."""
        for value in self.of("PrometheusRule"):
            for group in value["spec"]["groups"]:
                yield value, group
        for value in self.of("ConfigMap"):
            if value["metadata"]["labels"].get(names.RULES) == "1":
                for text in value["data"].values():
                    for group in yaml.safe_load(text)["groups"]:
                        yield value, group

    def dashboards(self) -> Iterator[Json]:
        for value in self.of("ConfigMap"):
            if value["metadata"]["labels"].get("grafana_dashboard") == "1":
                for text in value["data"].values():
                    yield json.loads(text)


def matches(selector: Json, labels: Mapping[str, str]) -> bool:
    """A LabelSelector; an empty one matches everything."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}, selector
    for expression in selector.get("matchExpressions", ()):
        value, wanted = labels.get(expression["key"]), expression.get("values", ())
        held = {
            "In": value in wanted,
            "NotIn": value not in wanted,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }[expression["operator"]]
        if not held:
            return False
    wanted_labels: dict[str, str] = selector.get("matchLabels", {})
    return wanted_labels.items() <= labels.items()


def clusters_of(title: str, compilation: Compilation, sources: list[SourceFile]) -> list[Cluster]:
    """The environments that have a cluster."""
    assert compilation.files, compilation.diagnostics
    objects: dict[str, dict[str, Json]] = {}
    for file in compilation.files:
        if file.path.endswith(".yaml"):
            value = yaml.load(file.data, Loader=yaml.CSafeLoader)
            if "kind" in value:
                objects.setdefault(file.path.partition("/")[0], {})[file.path] = value
    documents = [one for source in sources for one in yaml.safe_load_all(source.data)]
    return [
        Cluster(f"{title}-{one['metadata']['name']}", one, objects[one["metadata"]["name"]])
        for one in documents
        if one["kind"] == "Environment" and "cluster" in one["spec"]
    ]


@cache
def clusters() -> tuple[Cluster, ...]:
    """Those of the shop, and those of specs in which every field is set."""
    reference = [SourceFile("reference.yaml", EVERYTHING.read_bytes())]
    paths = sorted((shop.ROOT / "specs").rglob("*.yaml"))
    sources = [SourceFile(str(path), path.read_bytes()) for path in paths]
    return (
        *clusters_of("shop", shop.compiled(), sources),
        *clusters_of("reference", compile_specs(reference), reference),
    )


def having(*add_ons: str) -> pytest.MarkDecorator:
    """The test runs on the clusters that have one of the add-ons; in others there is nothing that it checks."""
    return pytest.mark.having(*add_ons)


def rollouts(cluster: Cluster) -> list[Workload]:
    return [one for one in cluster.workloads if one.value["kind"] == "Rollout"]


def canaries(cluster: Cluster) -> list[tuple[Workload, Json]]:
    return [
        (one, one.spec["strategy"]["canary"]) for one in rollouts(cluster) if "canary" in one.spec["strategy"]
    ]


def previews(cluster: Cluster) -> list[tuple[Workload, Json]]:
    return [
        (one, one.spec["strategy"]["blueGreen"])
        for one in rollouts(cluster)
        if "blueGreen" in one.spec["strategy"]
    ]


def inside(value: Any) -> Iterator[Any]:
    """Every mapping in a value."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from inside(item)


def templates(cluster: Cluster) -> list[Json]:
    return cluster.of("AnalysisTemplate")


def waited_for(cluster: Cluster) -> set[tuple[str, str]]:
    """Templates that something waits for: those of steps, and of a preview."""
    found = set()
    for work, canary in canaries(cluster):
        for step in canary["steps"]:
            for one in step.get("analysis", {}).get("templates", ()):
                found.add((work.namespace, one["templateName"]))
    for work, preview in previews(cluster):
        for one in preview.get("prePromotionAnalysis", {}).get("templates", ()):
            found.add((work.namespace, one["templateName"]))
    return found


def gate_metrics(cluster: Cluster) -> list[tuple[Json, Json, bool]]:
    """(template, metric, whether something waits for it), of those that ask Prometheus."""
    return [
        (one, metric, (one["metadata"]["namespace"], one["metadata"]["name"]) in waited_for(cluster))
        for one in templates(cluster)
        for metric in one["spec"]["metrics"]
        if "prometheus" in metric["provider"]
    ]


def gate_query(metric: Json) -> str:
    text = metric["provider"]["prometheus"]["query"]
    assert "{{args.canary-hash}}" in text
    found = text.replace("{{args.canary-hash}}", "5d5f7c9b6")
    assert "{{" not in found
    return str(found)


def gate_limit(metric: Json) -> float:
    """The limit of the spec: a watch counts how often it was broken."""
    (text,) = re.findall(r"> bool ([\d.]+)\)", gate_query(metric)) or re.findall(
        r"<= ([\d.]+)$", metric["successCondition"]
    )
    return float(text)


def expressions(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """(where, PromQL) of everything that asks Prometheus."""
    for name, rule in cluster.rules():
        yield f"rule {name}", rule["expr"]
    for board in cluster.dashboards():
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield f"dashboard {board['title']}: {panel['title']}", without_grafana(target["expr"])
    for one, metric, _ in gate_metrics(cluster):
        yield f"gate {one['metadata']['name']}", gate_query(metric)
    for scaler in cluster.of("ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            yield f"scaler {scaler['metadata']['name']}", trigger["metadata"]["query"]


_UNITS = {
    "": 1,
    "m": 0.001,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def quantity(text: str) -> float:
    found = re.fullmatch(r"(\d+)(m|k|M|G|T|Ki|Mi|Gi|Ti)?", text)
    assert found, text
    return int(found[1]) * _UNITS[found[2] or ""]
