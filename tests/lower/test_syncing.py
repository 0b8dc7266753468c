"""What a sync does to a cluster: it ends, and it leaves alone what controllers own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelway.lower import names
from modelway.lower.syncing import HEALTH, OWNED, WITHOUT_HEALTH, ignore_differences
from tests.lower.clusters import clusters
from tests.support import argocd

Json = dict[str, Any]
GOLDEN = Path(__file__).resolve().parents[1] / "golden"
IGNORE = ignore_differences()
FORCED = pytest.mark.parametrize("server_side", [False, True], ids=["client-side", "server-side"])
VERSIONS = pytest.mark.parametrize("restores", [False, True], ids=["before-3.5", "since-3.5"])


# Waves


@cache
def trees() -> dict[str, dict[str, Json]]:
    """Objects by path, by the environment that they are compiled for: the shop, every field, golden trees."""
    found = {one.name: dict(one.objects) for one in clusters()}
    for path in sorted(GOLDEN.glob("*/expected/*/**/*.yaml")):
        case, _, environment, *_ = path.relative_to(GOLDEN).parts
        value = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
        if "kind" in value:
            name = f"{case}-{environment}"
            found.setdefault(name, {})["/".join(path.relative_to(GOLDEN).parts[2:])] = value
    return found


def applications(objects: dict[str, Json]) -> Iterator[tuple[str, list[Json]]]:
    """One for each folder and one for the platform, as the guide says; and all in one, as some have it."""
    by_folder: dict[str, list[Json]] = {}
    for path, value in objects.items():
        _, team, folder, *_ = path.split("/")
        name = team if team == names.PLATFORM else f"{team}/{folder}"
        by_folder.setdefault(name, []).append(value)
    yield from by_folder.items()
    yield "everything", [*objects.values()]


def test_every_kind_says_when_it_is_healthy() -> None:
    assert len(trees()) > 15
    keys = [(one.group, one.kind) for one in HEALTH] + [*WITHOUT_HEALTH]
    assert len(keys) == len(set(keys)), "a kind is in the tables twice"
    kinds = {argocd.group_kind(value) for objects in trees().values() for value in objects.values()}
    assert len(kinds) >= 18
    assert kinds <= set(keys)


@pytest.mark.parametrize("name", trees())
def test_every_sync_ends_while_releases_go_on(name: str) -> None:
    """Everything can become healthy before the next wave begins, and nothing comes after what may last."""
    for application, objects in applications(trees()[name]):
        ended = argocd.sync(objects)
        who = ended.waits_for and f"{ended.waits_for['kind']} {ended.waits_for['metadata']['name']}"
        assert ended.waits_for is None, f"{application}: {who}: {ended.why}"


def test_a_claim_comes_with_its_consumer() -> None:
    """The fault that this model was written for: a claim that binds on first use, two waves too early."""
    claims = [
        (value, objects)
        for objects in trees().values()
        for value in objects.values()
        if value["kind"] == "PersistentVolumeClaim"
    ]
    assert len(claims) >= 3
    for claim, objects in claims:
        early = copy.deepcopy(claim)
        early["metadata"]["annotations"][names.SYNC_WAVE] = "-2"
        others = [one for one in objects.values() if one is not claim]
        assert argocd.sync([early, *others]).waits_for == early


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("HorizontalPodAutoscaler", {"scaleTargetRef": {"kind": "Rollout", "name": "ranker"}}),
        ("ConfigMap", {}),
    ],
)
def test_nothing_may_come_after_a_release(kind: str, body: Json) -> None:
    version = {"ConfigMap": "v1"}.get(kind, "autoscaling/v2")
    rollout = _object("argoproj.io/v1alpha1", "Rollout", {"strategy": {}, "template": {"spec": {}}}, wave="3")
    after = _object(version, kind, body, wave="4")
    assert argocd.sync([rollout, after]).waits_for == rollout
    after["metadata"]["annotations"][names.SYNC_WAVE] = "3"
    assert argocd.sync([rollout, after]).waits_for is None


def _object(version: str, kind: str, spec: Json, wave: str = "0", name: str = "ranker") -> Json:
    meta = {"name": name, "namespace": "search-prod", "annotations": {names.SYNC_WAVE: wave}}
    return {"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec}


# Fields that controllers own


def of_shop(kind: str, name: str) -> Json:
    (prod,) = (one for one in clusters() if one.name == "shop-prod")
    found = prod.get(kind, "search-prod", name)
    assert found is not None
    return copy.deepcopy(found)


def synced(
    live: Json, target: Json, ignore: Sequence[Json] = IGNORE, *, server_side: bool, restores: bool = True
) -> Json:
    """The object after a sync; what was applied before is what Git says now."""
    wanted = argocd.target_of_sync(live, target, ignore, restores=restores)
    return argocd.apply(live, wanted, target, server_side=server_side)


def in_canary(route: Json) -> Json:
    """The route at 20 %, as the plugin writes and labels it."""
    live = copy.deepcopy(route)
    for backend in live["spec"]["rules"][0]["backendRefs"]:
        backend["weight"] = 20 if backend["name"].endswith("-canary") else 80
    live["metadata"].setdefault("labels", {})["rollouts.argoproj.io/gatewayapi-canary"] = "in-progress"
    live["metadata"]["uid"] = "7c1f"
    live["status"] = {"parents": [{"conditions": []}]}
    return live


def weights(route: Json) -> dict[str, int]:
    return {one["name"]: one.get("weight", 1) for one in route["spec"]["rules"][0]["backendRefs"]}


ROUTES = pytest.mark.parametrize(("kind", "name"), [("HTTPRoute", "ranker"), ("GRPCRoute", "ranker-grpc")])


@ROUTES
@FORCED
@VERSIONS
def test_a_sync_in_a_canary_leaves_the_weights(
    kind: str, name: str, *, server_side: bool, restores: bool
) -> None:
    target = of_shop(kind, name)
    live = in_canary(target)
    after = synced(live, target, server_side=server_side, restores=restores)
    assert weights(after) == {"ranker-stable": 80, "ranker-canary": 20}
    assert argocd.in_sync(live, target, IGNORE)
    assert weights(synced(live, target, [], server_side=server_side)) != weights(live), "the model can fail"


@ROUTES
@FORCED
def test_the_weights_before_a_first_canary_are_those_of_git(
    kind: str, name: str, *, server_side: bool
) -> None:
    target = of_shop(kind, name)
    wanted = argocd.target_of_sync(None, target, IGNORE)
    first = argocd.apply(None, wanted, None, server_side=server_side)
    assert weights(first) == {"ranker-stable": 100, "ranker-canary": 0}


@FORCED
@VERSIONS
def test_a_route_that_becomes_weighed_gets_its_canary(*, server_side: bool, restores: bool) -> None:
    """Lists are merged whole: were every weight ignored, the new backend would never arrive."""
    target = of_shop("HTTPRoute", "ranker")
    live = copy.deepcopy(target)
    (rule,) = live["spec"]["rules"]
    rule["backendRefs"] = [{**rule["backendRefs"][0], "weight": 1}]
    after = synced(live, target, server_side=server_side, restores=restores)
    assert {*weights(after)} == {"ranker-stable", "ranker-canary"}
    back = synced(in_canary(target), live, server_side=server_side)
    assert weights(back) == {"ranker-stable": 1}


def test_why_the_plugins_label_is_no_condition() -> None:
    """Git's object has no such label: it is never in sync in a canary, and since 3.5.0 the weights go back."""
    path = (
        'select(.metadata.labels["rollouts.argoproj.io/gatewayapi-canary"] == "in-progress")'
        " | .spec.rules[]?.backendRefs[]?.weight"
    )
    labelled = [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "jqPathExpressions": [path]}]
    target = of_shop("HTTPRoute", "ranker")
    live = in_canary(target)
    assert not argocd.in_sync(live, target, labelled)
    assert weights(synced(live, target, labelled, server_side=False, restores=False)) == weights(live)
    assert weights(synced(live, target, labelled, server_side=False)) == weights(target)


@pytest.mark.parametrize("name", ["ranker-stable", "ranker-canary"])
@FORCED
@VERSIONS
def test_a_sync_leaves_the_pods_behind_a_service(name: str, *, server_side: bool, restores: bool) -> None:
    target = of_shop("Service", name)
    live = copy.deepcopy(target)
    live["spec"]["selector"]["rollouts-pod-template-hash"] = "6d4b75cb6d"
    live["spec"]["clusterIP"] = "10.0.0.7"
    live["metadata"]["managedFields"] = [
        {"manager": "rollouts-controller", "fieldsV1": {"f:spec": {"f:selector": {}}}}
    ]
    after = synced(live, target, server_side=server_side, restores=restores)
    assert after["spec"]["selector"] == live["spec"]["selector"]
    assert argocd.in_sync(live, target, IGNORE)
    if server_side:
        lost = synced(live, target, [], server_side=True)["spec"]["selector"]
        assert "rollouts-pod-template-hash" not in lost, "the model can fail"


def scaled(target: Json, count: int, manager: str) -> Json:
    """The workload once ``manager`` has written its count."""
    live = copy.deepcopy(target)
    live["spec"]["replicas"] = count
    live["metadata"]["managedFields"] = [
        {"manager": manager, "subresource": "scale", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    ]
    return live


@pytest.mark.parametrize("manager", ["kube-controller-manager", "keda"])
@pytest.mark.parametrize("count", [1, 2, 7])
@FORCED
@VERSIONS
def test_a_sync_leaves_the_count_of_a_scaler(
    manager: str, count: int, *, server_side: bool, restores: bool
) -> None:
    target = of_shop("Rollout", "ranker")
    live = scaled(target, count, manager)
    after = synced(live, target, server_side=server_side, restores=restores)
    assert after["spec"]["replicas"] == count
    assert argocd.in_sync(live, target, IGNORE)


@FORCED
def test_a_count_that_nobody_scales_is_gits(*, server_side: bool) -> None:
    target = of_shop("Deployment", "ranker-standby")
    live = scaled(target, target["spec"]["replicas"], "kubectl-client-side-apply")
    target["spec"]["replicas"] += 1
    assert synced(live, target, server_side=server_side)["spec"]["replicas"] == target["spec"]["replicas"]


def test_no_field_is_owned_of_a_kind_that_is_never_made() -> None:
    kinds = {argocd.group_kind(value) for objects in trees().values() for value in objects.values()}
    assert {(one.group, one.kind) for one in OWNED} <= kinds
