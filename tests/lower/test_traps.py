"""The traps of serving (``reference/serving.md``): releases, pods, GPUs, weights, scaling.

Here and in the other ``test_traps_*.py`` every test runs on each cluster of the shop, and of a set of specs
in which every field is set.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from modelway.lower import names
from tests.contract.metrics import metric_names, strange_labels
from tests.lower.clusters import (
    Cluster,
    canaries,
    clusters,
    having,
    inside,
    previews,
    quantity,
    rollouts,
)
from tests.lower.rollouts import (
    go_duration,
)
from tests.support.checking import every

Json = dict[str, Any]
PLUGIN = "argoproj-labs/gatewayAPI"
DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def test_the_clusters_hold_every_form() -> None:
    """Else the tests below would say little."""
    kinds = Counter(value["kind"] for one in clusters() for value in one.objects.values())
    for kind in (
        *(
            "Deployment",
            "Rollout",
            "AnalysisTemplate",
            "ScaledObject",
            "HorizontalPodAutoscaler",
            "HTTPRoute",
        ),
        *("GRPCRoute", "PodMonitor", "PrometheusRule", "Namespace", "PriorityClass", "NetworkPolicy"),
    ):
        assert kinds[kind], kind
    assert any(canaries(one) for one in clusters())
    assert any(previews(one) for one in clusters())
    assert any(work.is_standby for one in clusters() for work in one.workloads)
    volumes = [volume for one in clusters() for work in one.workloads for volume in work.pod["volumes"]]
    assert any("image" in volume for volume in volumes)
    assert any("initContainers" in work.pod for one in clusters() for work in one.workloads)


# Traffic (1.2)


@having("rollouts")
def test_the_plugin_finds_its_routes(cluster: Cluster) -> None:
    """It looks in the namespace of its configuration and never defaults it; it needs both Services, by name."""
    for work, canary in every(canaries(cluster)):
        plugin = canary["trafficRouting"]["plugins"][PLUGIN]
        assert set(plugin) <= {"namespace", "httpRoutes", "grpcRoutes"}
        assert plugin["namespace"] == work.namespace
        routes = [("HTTPRoute", one["name"]) for one in plugin.get("httpRoutes", ())]
        routes += [("GRPCRoute", one["name"]) for one in plugin.get("grpcRoutes", ())]
        assert routes
        services = {canary["stableService"], canary["canaryService"]}
        assert len(services) == 2
        for kind, name in routes:
            route = cluster.get(kind, work.namespace, name)
            assert route is not None, f"no {kind} {name}"
            for rule in route["spec"]["rules"]:
                weights = {one["name"]: one["weight"] for one in rule["backendRefs"]}
                assert weights == {canary["stableService"]: 100, canary["canaryService"]: 0}
        # A route that the plugin does not know would keep its weights for ever.
        for route in cluster.of("HTTPRoute", "GRPCRoute"):
            ours = {one["name"] for rule in route["spec"]["rules"] for one in rule["backendRefs"]}
            if route["metadata"]["namespace"] == work.namespace and ours & services:
                assert (route["kind"], route["metadata"]["name"]) in routes


@having("rollouts")
def test_the_plugin_writes_weights_of_a_hundred(cluster: Cluster) -> None:
    for _, canary in every(canaries(cluster)):
        assert canary["trafficRouting"].get("maxTrafficWeight", 100) == 100


def test_every_route_has_a_hostname_of_its_own(cluster: Cluster) -> None:
    """An HTTPRoute and a GRPCRoute whose hostnames meet on a listener: one is not accepted."""
    found = [host for route in cluster.of("HTTPRoute", "GRPCRoute") for host in route["spec"]["hostnames"]]
    assert len(found) == len(set(found))
    assert bool(found) == bool(cluster.gateway)
    for host in found:
        assert cluster.gateway
        first, _, domain = host.partition(".")
        assert domain == cluster.gateway["domain"]
        assert DNS_LABEL.fullmatch(first), host


@having("gatewayAPI")
def test_routes_hang_on_the_gateway(cluster: Cluster) -> None:
    for route in every(cluster.of("HTTPRoute", "GRPCRoute")):
        assert cluster.gateway
        (parent,) = route["spec"]["parentRefs"]
        wanted = {"name": cluster.gateway["name"], "namespace": cluster.gateway["namespace"]}
        defaults = {"group": "gateway.networking.k8s.io", "kind": "Gateway"}
        assert {**defaults, **parent} == {**defaults, **wanted}
        for rule in route["spec"]["rules"]:
            assert rule["backendRefs"]
            assert not rule.get("filters"), "mirrors and header rules come later"


@having("rollouts")
def test_no_step_that_the_plugin_passes_over_in_silence(cluster: Cluster) -> None:
    for _, canary in every(canaries(cluster)):
        for step in canary["steps"]:
            assert set(step) <= {"setWeight", "pause", "analysis"}, step


def test_services_point_at_ports_that_the_pods_have(cluster: Cluster) -> None:
    for service in cluster.of("Service"):
        name, namespace = service["metadata"]["labels"][names.NAME], service["metadata"]["namespace"]
        work = cluster.workload(namespace, name)
        ports = {one["name"]: one["containerPort"] for one in work.server["ports"]}
        assert service["spec"]["ports"]
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports
            assert port["port"] == ports[port["targetPort"]]
            assert ("appProtocol" in port) == (port["name"] == "grpc"), "gRPC is h2c, which a proxy must know"


@having("gatewayAPI")
def test_routes_lead_to_ports_that_the_services_have(cluster: Cluster) -> None:
    for route in every(cluster.of("HTTPRoute", "GRPCRoute")):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                service = cluster.get("Service", route["metadata"]["namespace"], backend["name"])
                assert service is not None, backend
                ports = {one["port"]: one["name"] for one in service["spec"]["ports"]}
                assert ports[backend["port"]] == {"HTTPRoute": "http", "GRPCRoute": "grpc"}[route["kind"]]


# Rollouts (1.2)


@having("rollouts")
def test_the_stable_pods_are_all_there_until_the_end(cluster: Cluster) -> None:
    """A sync that restores the weights of Git in a canary would overload what ``dynamicStableScale`` leaves."""
    for _, canary in every(canaries(cluster)):
        assert "dynamicStableScale" not in canary
        assert not [step for step in canary["steps"] if "setCanaryScale" in step]


def test_no_promotion_by_the_clock(cluster: Cluster) -> None:
    """``autoPromotionSeconds`` counts an unfinished analysis as passed."""
    for value in cluster.objects.values():
        assert not [one for one in inside(value) if "autoPromotionSeconds" in one]
    for _, preview in previews(cluster):
        assert preview["autoPromotionEnabled"] is False
        assert preview["previewReplicaCount"] == 1
        assert preview["activeService"] != preview["previewService"]


@having("rollouts")
def test_an_aborted_release_gives_its_traffic_back(cluster: Cluster) -> None:
    for work in every(rollouts(cluster)):
        assert work.spec["progressDeadlineAbort"] is True
        assert work.spec["revisionHistoryLimit"] >= 2
        assert "workloadRef" not in work.spec


@having("rollouts")
def test_weights_rise_and_pauses_end(cluster: Cluster) -> None:
    for _, canary in every(canaries(cluster)):
        weights = [step["setWeight"] for step in canary["steps"] if "setWeight" in step]
        assert weights == sorted(set(weights))
        assert 1 <= weights[0] <= weights[-1] <= 99
        for step in canary["steps"]:
            if "pause" in step:
                assert go_duration(step["pause"]["duration"]) > 0
        assert "setWeight" in canary["steps"][0]


def test_deployments_surge_or_yield(cluster: Cluster) -> None:
    """Both zero is refused; with GPUs in short supply a release waits for none beyond those in use."""
    for work in cluster.workloads:
        if work.value["kind"] == "Deployment":
            assert work.spec["strategy"]["type"] == "RollingUpdate"
            rolling = work.spec["strategy"]["rollingUpdate"]
            assert (rolling["maxSurge"], rolling["maxUnavailable"]) in ((0, 1), (1, 0))
            gpus = "nvidia.com/gpu" in work.server["resources"]["limits"]
            if gpus and work.spec.get("replicas", 0) > 1:
                assert rolling["maxSurge"] == 0


# Probes, termination, disruption (1.3)


def test_a_slow_start_is_no_failed_release(cluster: Cluster) -> None:
    for work in cluster.workloads:
        probe = work.server["startupProbe"]
        budget = probe["periodSeconds"] * probe["failureThreshold"]
        assert work.spec["progressDeadlineSeconds"] > budget + work.spec["minReadySeconds"]


def test_a_stopping_server_may_finish(cluster: Cluster) -> None:
    for work in cluster.workloads:
        sleep = work.server["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert sleep > 0
        assert work.pod["terminationGracePeriodSeconds"] >= sleep + work.settings["drain_s"]


def test_probes_ask_what_they_should(cluster: Cluster) -> None:
    """Readiness for the traffic; liveness something cheap, or it would restart a busy server."""
    for work in cluster.workloads:
        ports = {one["name"] for one in work.server["ports"]}
        for name, path in (("startup", "ready"), ("readiness", "ready"), ("liveness", "live")):
            probe = work.server[f"{name}Probe"]
            assert probe["httpGet"]["path"] == f"/v2/health/{path}"
            assert probe["httpGet"]["port"] in ports
        live = work.server["livenessProbe"]
        ready = work.server["readinessProbe"]
        assert (
            live["periodSeconds"] * live["failureThreshold"]
            > ready["periodSeconds"] * ready["failureThreshold"]
        )


def test_one_pod_at_a_time_is_disrupted(cluster: Cluster) -> None:
    budgets = cluster.of("PodDisruptionBudget")
    for budget in budgets:
        spec = budget["spec"]
        assert spec["maxUnavailable"] == 1
        assert "minAvailable" not in spec
        assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert len(budgets) == len(cluster.workloads)


def test_pods_are_spread_if_they_can_be(cluster: Cluster) -> None:
    for work in cluster.workloads:
        for spread in work.pod["topologySpreadConstraints"]:
            assert spread["whenUnsatisfiable"] == "ScheduleAnyway"
            assert cluster.selected(work.namespace, spread["labelSelector"]) == [work.name]
            for key in spread["matchLabelKeys"]:
                assert key in work.labels, "the controller adds another key"


# GPUs (1.4)


def test_gpus_are_asked_for_by_the_label_of_the_inventory(cluster: Cluster) -> None:
    inventory = {one["nodeLabel"] for one in cluster.spec.get("gpus", {}).values()}
    for work in cluster.workloads:
        for container in work.containers:
            resources = container["resources"]
            asked = resources["limits"].get("nvidia.com/gpu")
            assert asked == resources["requests"].get("nvidia.com/gpu"), (
                "extended resources cannot be overcommitted"
            )
            if asked:
                assert int(asked) >= 1
                assert work.pod["nodeSelector"]["nvidia.com/gpu.product"] in inventory
                assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in work.pod[
                    "tolerations"
                ]
        gpus = any("nvidia.com/gpu" in one["resources"]["limits"] for one in work.containers)
        device = work.settings["device"]
        assert (device["providers"], device["allow_cpu"]) == (["cuda" if gpus else "cpu"], not gpus)


def test_memory_is_limited_and_cpu_is_not(cluster: Cluster) -> None:
    for work in cluster.workloads:
        for container in work.containers:
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert requests["memory"] == limits["memory"]
            assert "cpu" in requests
            assert "cpu" not in limits


# Weights (1.5)


def test_weights_come_by_a_volume_or_a_fetch_that_checks_them(cluster: Cluster) -> None:
    for work in cluster.workloads:
        (model,) = (one for one in work.pod["volumes"] if one["name"] == "model")
        (mount,) = (one for one in work.server["volumeMounts"] if one["name"] == "model")
        (served,) = work.settings["served"]
        assert mount["readOnly"] is True
        assert served["source"].startswith(f"file://{mount['mountPath']}/")
        if "image" in model:
            assert cluster.has("imageVolumes")
            assert cluster.kubernetes >= "1.36"
            assert DIGEST.fullmatch(model["image"]["reference"])
            assert mount["subPath"] == "models"
            assert "initContainers" not in work.pod
        else:
            (fetch,) = work.pod["initContainers"]
            arguments = fetch["args"]
            assert arguments[0] == "fetch"
            options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
            assert options["--digest"] == served["digest"]
            assert served["source"] == f"file://{options['--to']}/{options['--name']}"
            assert {"name": "model", "mountPath": options["--to"]} in fetch["volumeMounts"]
            assert fetch["image"] == work.server["image"]
            size = quantity(model["emptyDir"]["sizeLimit"])
            for kind in ("requests", "limits"):
                assert quantity(fetch["resources"][kind]["ephemeral-storage"]) >= size
                assert quantity(work.server["resources"][kind]["ephemeral-storage"]) >= size


def test_everything_is_pinned_by_digest(cluster: Cluster) -> None:
    for work in cluster.workloads:
        for container in work.containers:
            assert DIGEST.fullmatch(container["image"])
        for served in work.settings["served"]:
            assert re.fullmatch("sha256:[0-9a-f]{64}", served["digest"])


def test_no_pod_reaches_the_host(cluster: Cluster) -> None:
    for value in cluster.objects.values():
        for one in inside(value):
            assert not {"hostPath", "hostNetwork", "hostPID", "hostIPC", "hostPort"} & set(one)


def test_nothing_expands_in_arguments(cluster: Cluster) -> None:
    """Kubernetes would put a variable in place of ``$(NAME)``."""
    for work in cluster.workloads:
        for container in work.containers:
            texts = [*container["args"], *(one["value"] for one in container["env"])]
            assert not [text for text in texts if re.search(r"(?<!\$)(\$\$)*\$\(", text)]


# Scaling (1.7)


def test_replicas_have_one_owner(cluster: Cluster) -> None:
    scalers = Counter(
        (one["metadata"]["namespace"], target["apiVersion"], target["kind"], target["name"])
        for one in cluster.of("ScaledObject", "HorizontalPodAutoscaler")
        for target in [one["spec"]["scaleTargetRef"]]
    )
    assert set(scalers.values()) <= {1}, "two scalers for one workload"
    for work in cluster.workloads:
        key = (work.namespace, work.value["apiVersion"], work.value["kind"], work.name)
        scalers.pop(key, None)
    assert not scalers, "a scaler of nothing"


def test_a_scaler_begins_with_its_least(cluster: Cluster) -> None:
    """A first install without ``replicas`` is one pod, and so is a workload that loses the line."""
    for work in cluster.workloads:
        assert work.spec["replicas"] >= 1
    for scaler in cluster.of("ScaledObject", "HorizontalPodAutoscaler"):
        work = cluster.workload(scaler["metadata"]["namespace"], scaler["spec"]["scaleTargetRef"]["name"])
        least = scaler["spec"].get("minReplicaCount", scaler["spec"].get("minReplicas"))
        assert work.spec["replicas"] == least


@having("keda")
def test_lost_metrics_are_not_no_load(cluster: Cluster) -> None:
    for scaler in every(cluster.of("ScaledObject")):
        spec = scaler["spec"]
        assert 1 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
        assert "idleReplicaCount" not in spec
        assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
        assert spec["fallback"]["replicas"] >= spec["minReplicaCount"]
        for trigger in spec["triggers"]:
            assert trigger["metricType"] == "AverageValue", "the fallback knows no other"
            assert trigger["metadata"]["ignoreNullValues"] == "false"
            assert float(trigger["metadata"]["threshold"]) > 0
            assert all(isinstance(value, str) for value in trigger["metadata"].values())


@having("keda", "metricsAdapter")
def test_scalers_ask_for_the_load_of_the_workload(cluster: Cluster) -> None:
    load = {
        "inference_requests_in_flight": {"inference_request_duration_seconds_sum"},
        "inference_queue_rows": {
            "inference_queue_duration_seconds_sum",
            "inference_queue_duration_seconds_count",
            "inference_batch_rows_sum",
        },
    }
    label = "job" if cluster.has("prometheusOperator") else "app_kubernetes_io_name"
    every(cluster.of("ScaledObject", "HorizontalPodAutoscaler"))
    for scaler in cluster.of("ScaledObject"):
        meta = scaler["metadata"]
        work = cluster.workload(meta["namespace"], meta["labels"][names.NAME])
        (trigger,) = scaler["spec"]["triggers"]
        asked = trigger["metadata"]["query"]
        assert metric_names(asked) in [{gauge, *means} for gauge, means in load.items()]
        assert not strange_labels(asked)
        model = work.settings["model"]
        assert f'namespace="{work.namespace}",model="{model}",{label}="{work.name}"' in asked
    for scaler in cluster.of("HorizontalPodAutoscaler"):
        assert 1 <= scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]
        for metric in scaler["spec"]["metrics"]:
            assert metric["pods"]["metric"]["name"].removesuffix("_mean") in load


@having("keda", "metricsAdapter")
def test_growing_is_no_faster_than_loading(cluster: Cluster) -> None:
    scalers = [one["spec"]["behavior"] for one in cluster.of("HorizontalPodAutoscaler")]
    scalers += [
        one["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        for one in cluster.of("ScaledObject")
    ]
    for behavior in every(scalers):
        assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300
        for way in ("scaleUp", "scaleDown"):
            assert behavior[way]["policies"]
            for policy in behavior[way]["policies"]:
                assert policy["periodSeconds"] >= 60
                assert policy["periodSeconds"] <= 1800, "refused above half an hour"
