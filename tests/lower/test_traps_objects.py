"""Objects as a whole: settings, what selects and names what, names, labels, waves, quantities, schemas."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonschema_rs

from modelway.lower import names
from tests.lower.clusters import (
    CLUSTER_WIDE,
    Cluster,
    clusters,
    having,
    inside,
)
from tests.support import shop
from tests.support.checking import every
from tests.support.kube_schemas import VERSIONS, errors, is_custom, need_crds

Json = dict[str, Any]
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


# Settings (contract)


def test_settings_are_those_of_the_contract() -> None:
    path = shop.ROOT / "policies" / "schemas" / "server-settings-v1.json"
    validator = jsonschema_rs.validator_for(json.loads(path.read_bytes()))
    found = [work.settings for one in clusters() for work in one.workloads]
    found += [
        json.loads(file.data)
        for file in shop.compiled().files
        if file.path.startswith("local/") and "/settings-" in file.path
    ]
    assert len(found) > 20
    for value in found:
        assert [error.message for error in validator.iter_errors(value)] == []


def test_settings_have_a_name_that_changes_with_them(cluster: Cluster) -> None:
    used = set()
    for work in cluster.running:
        (volume,) = (one for one in work.pod["volumes"] if one["name"] == "settings")
        name = volume["configMap"]["name"]
        found = cluster.get("ConfigMap", work.namespace, name)
        assert found is not None
        digest = hashlib.sha256(found["data"]["settings.json"].encode()).hexdigest()
        assert re.fullmatch(rf"{work.name}-settings-{digest[:8]}[0-9a-f]*", name)
        assert digest.startswith(name.rpartition("-")[2])
        assert found["immutable"] is True
        used.add((work.namespace, name))
        (mount,) = (one for one in work.server["volumeMounts"] if one["name"] == "settings")
        command = "watch" if work.is_detector else "serve"
        assert work.server["args"] == [command, "--settings", f"{mount['mountPath']}/settings.json"]
    for value in cluster.of("ConfigMap"):
        if "settings.json" in value["data"]:
            assert (value["metadata"]["namespace"], value["metadata"]["name"]) in used


def test_a_rollback_finds_the_settings_of_the_version_before(cluster: Cluster) -> None:
    for value in cluster.of("ConfigMap"):
        notes = value["metadata"]["annotations"]
        hashed = "settings.json" in value["data"] and notes[names.SPEC].startswith("Model ")
        assert (notes.get(names.SYNC_OPTIONS) == "Prune=false") == hashed
        assert (notes.get(names.COMPARE_OPTIONS) == "IgnoreExtraneous") == hashed


def test_settings_agree_with_the_objects_around_them(cluster: Cluster) -> None:
    for work in cluster.workloads:
        settings, ports = work.settings, {one["name"]: one["containerPort"] for one in work.server["ports"]}
        assert settings["http"]["port"] == ports["http"]
        assert settings["metrics"]["port"] == ports["metrics"]
        assert (settings["grpc"] or {}).get("port") == ports.get("grpc")
        assert settings["environment"] == work.labels[names.ENVIRONMENT]
        assert settings["team"] == work.labels[names.TEAM]
        assert settings["served"][0]["version"] == work.labels[names.VERSION]
        assert settings["model"] == settings["served"][0]["name"]
        assert work.namespace == f"{settings['team']}-{settings['environment']}"


def test_a_standby_is_where_its_primary_looks_for_it(cluster: Cluster) -> None:
    behind = {(one.namespace, one.name) for one in cluster.workloads if one.is_standby}
    for work in cluster.workloads:
        found = work.settings["standby"]
        if found is None:
            continue
        url = re.fullmatch(r"http://([a-z0-9-]+)\.([a-z0-9-]+)\.svc:(\d+)", found["url"])
        assert url, found["url"]
        service = cluster.get("Service", url[2], url[1])
        assert service is not None
        assert int(url[3]) in {one["port"] for one in service["spec"]["ports"]}
        (name,) = cluster.selected(url[2], {"matchLabels": service["spec"]["selector"]})
        standby = cluster.workload(url[2], name)
        assert standby.settings["model"] == found["model"]
        assert standby.is_standby
        assert standby.settings["standby"] is None
        assert standby.labels[names.PART_OF] == work.name
        assert standby.spec.get("replicas", 1) >= 1
        behind.discard((standby.namespace, standby.name))
    assert not behind, "a standby of nobody"


@having("gatewayAPI")
def test_no_standby_is_reached_from_outside(cluster: Cluster) -> None:
    standbys = {(one.namespace, one.name) for one in cluster.workloads if one.is_standby}
    for route in every(cluster.of("HTTPRoute", "GRPCRoute")):
        assert (route["metadata"]["namespace"], route["metadata"]["labels"][names.NAME]) not in standbys


# What selects what, and what refers to what


def test_selectors_match_the_pods_that_are_meant_and_no_others(cluster: Cluster) -> None:
    """``ranker`` never selects ``ranker-standby``, nor a model's pods those of another."""
    checked: Counter[str] = Counter()
    for value in cluster.objects.values():
        meta, spec = value["metadata"], value.get("spec", {})
        if value["kind"] == "Service":
            selector = {"matchLabels": spec["selector"]}
        elif value["kind"] == "NetworkPolicy" and spec["podSelector"]:
            selector = spec["podSelector"]
        elif value["kind"] in ("PodDisruptionBudget", "PodMonitor", "Deployment", "Rollout"):
            selector = spec["selector"]
        else:
            continue
        assert selector != {}
        assert cluster.selected(meta["namespace"], selector) == [meta["labels"][names.NAME]], meta["name"]
        checked[value["kind"]] += 1
    for kind in ("Service", "NetworkPolicy", "PodDisruptionBudget"):
        assert checked[kind] >= len(cluster.workloads), kind


def test_selectors_hold_only_what_never_changes(cluster: Cluster) -> None:
    """A selector is immutable; a version in it would need the workload to be made anew."""
    for work in cluster.running:
        assert work.spec["selector"] == {"matchLabels": {names.NAME: work.name}}


def _references(cluster: Cluster) -> Iterator[tuple[Json, str, str | None, str]]:
    """(object, kind, namespace, name) of everything an object names."""
    for value in cluster.objects.values():
        namespace = value["metadata"].get("namespace")
        if namespace is not None:
            yield value, "Namespace", None, namespace
    for work in cluster.running:
        yield work.value, "ServiceAccount", work.namespace, work.pod["serviceAccountName"]
        if "priorityClassName" in work.pod:
            yield work.value, "PriorityClass", None, work.pod["priorityClassName"]
        for volume in work.pod["volumes"]:
            if "configMap" in volume:
                yield work.value, "ConfigMap", work.namespace, volume["configMap"]["name"]
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                yield work.value, "PersistentVolumeClaim", work.namespace, claim
        strategy = work.spec["strategy"]
        for one in inside(strategy):
            for key in ("stableService", "canaryService", "activeService", "previewService"):
                if key in one:
                    yield work.value, "Service", work.namespace, one[key]
            if "templateName" in one:
                yield work.value, "AnalysisTemplate", work.namespace, one["templateName"]
    for binding in cluster.of("RoleBinding"):
        yield binding, "Role", binding["metadata"]["namespace"], binding["roleRef"]["name"]
        for subject in binding["subjects"]:
            yield binding, subject["kind"], subject["namespace"], subject["name"]
    for scaler in cluster.of("ScaledObject", "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        yield scaler, target["kind"], scaler["metadata"]["namespace"], target["name"]
    for route in cluster.of("HTTPRoute", "GRPCRoute"):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                assert backend.get("namespace") is None
                yield route, "Service", route["metadata"]["namespace"], backend["name"]


def test_everything_that_is_named_exists(cluster: Cluster) -> None:
    found = 0
    for value, kind, namespace, name in _references(cluster):
        assert cluster.get(kind, namespace, name) is not None, (
            f"{value['kind']} names {kind} {namespace}/{name}"
        )
        found += 1
    assert found > 20


def test_nothing_is_left_that_nobody_uses(cluster: Cluster) -> None:
    used = {(kind, namespace, name) for _, kind, namespace, name in _references(cluster)}
    for kind in ("ServiceAccount", "AnalysisTemplate", "Role", "PersistentVolumeClaim"):
        for value in cluster.of(kind):
            meta = value["metadata"]
            assert (kind, meta["namespace"], meta["name"]) in used


# Names, labels, waves, quantities, schemas


def test_names_and_labels_are_what_kubernetes_takes(cluster: Cluster) -> None:
    for path, value in cluster.objects.items():
        meta = value["metadata"]
        form = DNS_NAME if value["kind"] in ("ConfigMap", "PrometheusRule", "PriorityClass") else DNS_LABEL
        assert form.fullmatch(meta["name"]), path
        assert not meta["name"].startswith("system-") or value["kind"] != "PriorityClass"
        assert ("namespace" in meta) == (value["kind"] not in CLUSTER_WIDE)
        assert DNS_LABEL.fullmatch(meta.get("namespace", "x"))
        holders = [meta, value.get("spec", {}).get("template", {}).get("metadata", {})]
        for labels in (one.get("labels", {}) for one in holders):
            for key, text in labels.items():
                assert LABEL_KEY.fullmatch(key), key
                assert LABEL_VALUE.fullmatch(text), f"{key}: {text}"
        for key, text in meta["annotations"].items():
            assert LABEL_KEY.fullmatch(key), key
            assert isinstance(text, str)
        assert sum(len(key) + len(text) for key, text in meta["annotations"].items()) < 262144
    for work in cluster.running:
        for container in work.containers:
            for port in container.get("ports", ()):
                assert len(port["name"]) <= 15
        assert len({one["name"] for one in work.containers}) == len(work.containers)
        mounted = {one["name"] for container in work.containers for one in container["volumeMounts"]}
        assert mounted == {one["name"] for one in work.pod["volumes"]}


def test_no_two_objects_are_one(cluster: Cluster) -> None:
    found = Counter(
        (
            value["apiVersion"].partition("/")[0],
            value["kind"],
            value["metadata"].get("namespace"),
            value["metadata"]["name"],
        )
        for value in cluster.objects.values()
    )
    assert [key for key, count in found.items() if count > 1] == []


def test_two_environments_may_share_a_cluster() -> None:
    for title in ("shop", "reference"):
        found = Counter(
            (value["kind"], value["metadata"].get("namespace"), value["metadata"]["name"])
            for one in clusters()
            if one.name.startswith(title)
            for value in one.objects.values()
        )
        assert [key for key, count in found.items() if count > 1] == []


def test_files_are_named_after_their_objects(cluster: Cluster) -> None:
    for path, value in cluster.objects.items():
        meta = value["metadata"]
        assert path.rpartition("/")[2] == f"{value['kind'].lower()}-{meta['name']}.yaml"
        assert path.startswith(f"{cluster.environment['metadata']['name']}/")


def test_every_object_says_what_it_is_and_where_it_comes_from(cluster: Cluster) -> None:
    environment = cluster.environment["metadata"]["name"]
    for path, value in cluster.objects.items():
        labels, notes = value["metadata"]["labels"], value["metadata"]["annotations"]
        assert labels[names.MANAGED_BY] == "modelway"
        assert labels[names.ENVIRONMENT] == environment
        kind, _, spec = notes[names.SPEC].partition(" ")
        if kind == "Model":
            assert {names.NAME, names.VERSION, names.COMPONENT, names.PART_OF, names.TEAM} <= set(labels)
            assert path.split("/")[1:3] == spec.split("/")
        elif kind == "Alert":
            assert {names.NAME, names.COMPONENT, names.TEAM} <= set(labels)
            assert path.split("/")[1:3] == spec.split("/")
        else:
            assert kind in ("Environment", "Resource")
            assert path.split("/")[1] == names.PLATFORM
        if "namespace" in value["metadata"]:
            assert value["metadata"]["namespace"] == f"{labels[names.TEAM]}-{environment}"


WAVES = {
    "Namespace": -3,
    "PriorityClass": -3,
    "ServiceAccount": -2,
    "Role": -2,
    "RoleBinding": -1,
    "PersistentVolumeClaim": 3,
    "NetworkPolicy": -2,
    "Service": 0,
    "HTTPRoute": 0,
    "GRPCRoute": 0,
    "PodDisruptionBudget": 0,
    "AnalysisTemplate": 1,
    "TriggerAuthentication": 1,
    "PrometheusRule": 1,
    "PodMonitor": 1,
    "Rollout": 3,
    "AnalysisRun": 3,
    "ScaledObject": 3,
    "HorizontalPodAutoscaler": 3,
}


def wave(value: Json) -> int:
    text = value["metadata"]["annotations"][names.SYNC_WAVE]
    assert isinstance(text, str)
    return int(text)


def test_sync_waves(cluster: Cluster) -> None:
    for path, value in cluster.objects.items():
        kind = value["kind"]
        if kind == "ConfigMap":
            expected = -2 if "settings.json" in value["data"] else 1
        elif kind == "Deployment":
            expected = 2 if value["metadata"]["labels"][names.COMPONENT] == "standby" else 3
        else:
            expected = WAVES[kind]
        assert wave(value) == expected, path


def test_what_is_named_comes_before_what_names_it(cluster: Cluster) -> None:
    """What is in one wave is applied in Argo CD's order of kinds; a claim binds, and a scaler finds its target,
    when both are there (``test_syncing``)."""
    together = ("Service", "PersistentVolumeClaim", "Rollout", "Deployment")
    for value, kind, namespace, name in _references(cluster):
        found = cluster.get(kind, namespace, name)
        assert found is not None
        assert wave(found) < wave(value) or (wave(found) == wave(value) and kind in together)


def test_what_cannot_be_made_again_is_not_pruned_unasked(cluster: Cluster) -> None:
    for value in cluster.of("Namespace", "PersistentVolumeClaim"):
        assert value["metadata"]["annotations"][names.SYNC_OPTIONS] == "Prune=confirm,Delete=confirm"


def test_quantities_are_what_the_server_gives_back(cluster: Cluster) -> None:
    """Otherwise they would drift for ever: ``1024Mi`` comes back as ``1Gi``, ``0.5`` as ``500m``."""
    found = []
    for work in cluster.running:
        for container in work.containers:
            for amounts in container["resources"].values():
                found += amounts.values()
        found += [one["emptyDir"]["sizeLimit"] for one in work.pod["volumes"] if "emptyDir" in one]
    for scaler in cluster.of("HorizontalPodAutoscaler"):
        found += [one["pods"]["target"]["averageValue"] for one in scaler["spec"]["metrics"]]
    for text in found:
        assert isinstance(text, str)
        match = re.fullmatch(r"([1-9]\d*)(m|k|M|G|T|Ki|Mi|Gi|Ti)?", text)
        assert match, text
        unit = match[2] or ""
        if unit not in ("T", "Ti"):
            assert int(match[1]) % (1024 if unit.endswith("i") else 1000), f"{text} has a shorter form"


def test_built_in_objects_pass_the_strict_schemas_of_every_version(cluster: Cluster) -> None:
    """An image volume is beta, and off, before 1.36; the field is there from 1.33 on."""
    for path, value in cluster.objects.items():
        if not is_custom(value):
            for version in VERSIONS:
                assert errors(value, version) == [], f"{path} in {version}"


@having("rollouts", "gatewayAPI", "keda", "prometheusOperator")
def test_custom_objects_pass_their_published_schemas(cluster: Cluster) -> None:
    need_crds()
    for path, value in every((path, value) for path, value in cluster.objects.items() if is_custom(value)):
        assert errors(value, cluster.kubernetes) == [], path


@having("gatewayAPI")
def test_routes_keep_the_rules_that_a_schema_cannot_say(cluster: Cluster) -> None:
    """Validated by CEL in the published CRDs."""
    for route in every(cluster.of("HTTPRoute", "GRPCRoute")):
        assert len(route["spec"]["rules"]) <= 16
        assert len(route["spec"]["hostnames"]) <= 16
        for rule in route["spec"]["rules"]:
            for match in rule.get("matches", ()):
                path = match.get("path", {"value": "/"})
                assert path["value"].startswith("/")
                assert "//" not in path["value"]
