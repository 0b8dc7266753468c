"""Compiled environments as clusters: their objects, the pods that these would run, what selects what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import yaml

from modelway.lower import names
from modelway.pipeline import Compilation, compile_specs
from modelway.sources import SourceFile
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
        (server,) = (one for one in self.pod["containers"] if one["name"] == "server")
        return server  # type: ignore[no-any-return]

    @property
    def containers(self) -> list[Json]:
        return [*self.pod.get("initContainers", ()), *self.pod["containers"]]

    @property
    def is_standby(self) -> bool:
        return bool(self.labels[names.COMPONENT] == "standby")


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
        return [Workload(value, self._settings(value)) for value in self.of(*WORKLOADS)]

    def _settings(self, workload: Json) -> Json:
        volumes = workload["spec"]["template"]["spec"]["volumes"]
        (name,) = (one["configMap"]["name"] for one in volumes if one["name"] == "settings")
        found = self.get("ConfigMap", workload["metadata"]["namespace"], name)
        assert found is not None, f"no ConfigMap {name}"
        return json.loads(found["data"]["settings.json"])  # type: ignore[no-any-return]

    def workload(self, namespace: str, name: str) -> Workload:
        (found,) = (one for one in self.workloads if (one.namespace, one.name) == (namespace, name))
        return found

    def selected(self, namespace: str, selector: Json) -> list[str]:
        """The workloads of a namespace whose pods a label selector matches."""
        return [
            one.name for one in self.workloads if one.namespace == namespace and matches(selector, one.labels)
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
    return selector.get("matchLabels", {}).items() <= labels.items()


def _clusters(title: str, compilation: Compilation, sources: list[SourceFile]) -> list[Cluster]:
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
        *_clusters("shop", shop.compiled(), sources),
        *_clusters("reference", compile_specs(reference), reference),
    )
