"""The traps of serving (``docs/`` and the reference name them): one test for each, over compiled objects.

Every test runs on each cluster of the shop and of a set of specs in which every field is set.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from modelway.lower import names
from tests.contract.metrics import METRICS, SERIES, metric_names, strange_labels, strangers, without_grafana
from tests.lower.clusters import CLUSTER_WIDE, Cluster, Workload, clusters
from tests.lower.network import End, allowed
from tests.lower.pod_security import violations
from tests.lower.rollouts import (
    ERROR,
    FAILED,
    INCONCLUSIVE,
    RUNNING,
    SUCCESSFUL,
    Tally,
    assess,
    go_duration,
    outcomes,
    phase,
    run,
)
from tests.support import promtool, shop
from tests.support.kube_schemas import VERSIONS, errors, is_custom, need_crds
from tests.support.series import MINUTE, counter, series

Json = dict[str, Any]
PLUGIN = "argoproj-labs/gatewayAPI"
DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cluster" in metafunc.fixturenames:
        metafunc.parametrize("cluster", clusters(), ids=[one.name for one in clusters()])


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
    assert all(list(_asked_bounds(one)) for one in clusters())


# Traffic (1.2)


def test_the_plugin_finds_its_routes(cluster: Cluster) -> None:
    """It looks in the namespace of its configuration and never defaults it; it needs both Services, by name."""
    for work, canary in canaries(cluster):
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


def test_the_plugin_writes_weights_of_a_hundred(cluster: Cluster) -> None:
    for _, canary in canaries(cluster):
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


def test_routes_hang_on_the_gateway(cluster: Cluster) -> None:
    for route in cluster.of("HTTPRoute", "GRPCRoute"):
        assert cluster.gateway
        (parent,) = route["spec"]["parentRefs"]
        wanted = {"name": cluster.gateway["name"], "namespace": cluster.gateway["namespace"]}
        defaults = {"group": "gateway.networking.k8s.io", "kind": "Gateway"}
        assert {**defaults, **parent} == {**defaults, **wanted}
        for rule in route["spec"]["rules"]:
            assert rule["backendRefs"]
            assert not rule.get("filters"), "mirrors and header rules come later"


def test_no_step_that_the_plugin_passes_over_in_silence(cluster: Cluster) -> None:
    for _, canary in canaries(cluster):
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


def test_routes_lead_to_ports_that_the_services_have(cluster: Cluster) -> None:
    for route in cluster.of("HTTPRoute", "GRPCRoute"):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                service = cluster.get("Service", route["metadata"]["namespace"], backend["name"])
                assert service is not None, backend
                ports = {one["port"]: one["name"] for one in service["spec"]["ports"]}
                assert ports[backend["port"]] == {"HTTPRoute": "http", "GRPCRoute": "grpc"}[route["kind"]]


# Rollouts (1.2)


def test_dynamic_stable_scale_stands_alone(cluster: Cluster) -> None:
    """With a delay of scaling down it is refused; with one after an abort, the abort hangs (#4898)."""
    for _, canary in canaries(cluster):
        if canary.get("dynamicStableScale"):
            assert "scaleDownDelaySeconds" not in canary
            assert "abortScaleDownDelaySeconds" not in canary
            assert "trafficRouting" in canary
        assert not [step for step in canary["steps"] if "setCanaryScale" in step]


def test_no_promotion_by_the_clock(cluster: Cluster) -> None:
    """``autoPromotionSeconds`` counts an unfinished analysis as passed."""
    for value in cluster.objects.values():
        assert not [one for one in inside(value) if "autoPromotionSeconds" in one]
    for _, preview in previews(cluster):
        assert preview["autoPromotionEnabled"] is False
        assert preview["previewReplicaCount"] == 1
        assert preview["activeService"] != preview["previewService"]


def test_an_aborted_release_gives_its_traffic_back(cluster: Cluster) -> None:
    for work in rollouts(cluster):
        assert work.spec["progressDeadlineAbort"] is True
        assert work.spec["revisionHistoryLimit"] >= 2
        assert "workloadRef" not in work.spec


def test_weights_rise_and_pauses_end(cluster: Cluster) -> None:
    for _, canary in canaries(cluster):
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


# Gates (1.2)


def templates(cluster: Cluster) -> list[Json]:
    return cluster.of("AnalysisTemplate")


def inline(cluster: Cluster) -> set[tuple[str, str]]:
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


def metrics(cluster: Cluster) -> list[tuple[Json, Json, bool]]:
    """(template, metric, whether something waits for it)."""
    return [
        (one, metric, (one["metadata"]["namespace"], one["metadata"]["name"]) in inline(cluster))
        for one in templates(cluster)
        for metric in one["spec"]["metrics"]
    ]


def test_metrics_of_gates_are_valid(cluster: Cluster) -> None:
    """What the controller refuses or never ends, and no schema shows."""
    for _, metric, waited in metrics(cluster):
        count = metric.get("count", 0)
        if count:
            assert count >= metric["failureLimit"] + metric["consecutiveSuccessLimit"]
            assert count >= metric["inconclusiveLimit"]
        if count > 1 or not count:
            assert go_duration(metric["interval"]) > 0
        assert len(metric["provider"]) == 1
        assert metric["failureLimit"] >= 0
        assert metric["inconclusiveLimit"] >= 1
        assert metric["consecutiveErrorLimit"] >= 1
        if waited:
            assert count, "an inline metric without a count never ends"
            assert metric["consecutiveSuccessLimit"] > 0
        if "initialDelay" in metric:
            assert go_duration(metric["initialDelay"]) > 0


GOOD, BAD = 0.0, 1e9
NOTHING: tuple[tuple[str, list[list[float] | None]], ...] = (
    ("no series", [[]]),
    ("NaN", [[math.nan]]),
    ("no series and NaN by turns", [[], [math.nan]]),
    ("the provider fails", [None]),
    ("the provider fails now and then", [None, []]),
    ("nothing, and too few good ones", [[], [GOOD], [GOOD], [GOOD], [GOOD]]),
    ("good and bad by turns", [[GOOD], [BAD]]),
    ("good, then nothing", [[GOOD], [GOOD], [GOOD], [GOOD], [], [], [], [], [], []]),
    ("bad", [[BAD]]),
)


@pytest.mark.parametrize(("what", "results"), NOTHING, ids=[what for what, _ in NOTHING])
def test_no_gate_passes_without_evidence(
    cluster: Cluster, what: str, results: list[list[float] | None]
) -> None:
    for one, metric, waited in metrics(cluster):
        if waited:
            found = run(metric, results)
            assert found in (FAILED, INCONCLUSIVE, ERROR), f"{one['metadata']['name']}: {what} is {found}"


def test_every_gate_passes_with_evidence_and_fails_against_it(cluster: Cluster) -> None:
    for one, metric, waited in metrics(cluster):
        if waited:
            assert run(metric, [[GOOD]]) == SUCCESSFUL, one["metadata"]["name"]
            assert run(metric, [[], [GOOD], [GOOD], [GOOD], [GOOD], [GOOD]]) == SUCCESSFUL
        assert run(metric, [[BAD]]) == FAILED, one["metadata"]["name"]
        assert run(metric, [[GOOD], [BAD]]) == FAILED
        assert run(metric, [[]]) == INCONCLUSIVE


def test_whatever_is_measured_success_has_seen_five_good_looks(cluster: Cluster) -> None:
    """All ends of all runs, not only those above."""
    for one, metric, waited in metrics(cluster):
        if not waited:
            continue
        ends = list(outcomes(metric))
        assert {end for end, _ in ends} == {SUCCESSFUL, FAILED, INCONCLUSIVE, ERROR}
        for end, tally in ends:
            if end == SUCCESSFUL:
                assert tally.successes >= tally.successes_in_a_row >= 5, one["metadata"]["name"]
                assert tally.failed <= metric["failureLimit"]
            assert tally.count <= metric["count"]


def test_a_watch_never_ends_well_by_itself(cluster: Cluster) -> None:
    """It may abort or pause; that the steps went through is for the gates to say."""
    for _, metric, waited in metrics(cluster):
        if waited:
            continue
        tallies, seen = [Tally()], {Tally()}
        while tallies:
            tally = tallies.pop()
            found = assess(metric, tally)
            assert found != SUCCESSFUL
            if found == RUNNING and tally.count < 20:
                for measured in (SUCCESSFUL, FAILED, INCONCLUSIVE, ERROR):
                    following = tally.after(measured)
                    if following not in seen:
                        seen.add(following)
                        tallies.append(following)


def test_every_weight_has_its_gate(cluster: Cluster) -> None:
    """A background analysis alone is Successful where it was stopped before it looked."""
    for work, canary in canaries(cluster):
        kinds = [next(iter(step)) for step in canary["steps"]]
        gated = "analysis" in kinds
        assert gated == ("analysis" in canary)
        parts = "".join({"setWeight": "w", "pause": "p", "analysis": "g"}[kind] for kind in kinds)
        assert re.fullmatch(r"(wp?g)+" if gated else r"(wp?)+", parts), f"{work.name}: {parts}"
        if gated:
            assert 0 <= canary["analysis"]["startingStep"] < len(kinds)


def test_analyses_get_the_arguments_that_they_take(cluster: Cluster) -> None:
    for work in rollouts(cluster):
        for one in inside(work.spec["strategy"]):
            if "templates" not in one:
                continue
            for reference in one["templates"]:
                found = cluster.get("AnalysisTemplate", work.namespace, reference["templateName"])
                assert found is not None, reference
                assert [arg["name"] for arg in one["args"]] == [arg["name"] for arg in found["spec"]["args"]]
            for arg in one["args"]:
                assert arg["valueFrom"] == {"podTemplateHashValue": "Latest"}


def test_every_template_is_used(cluster: Cluster) -> None:
    used = {
        (work.namespace, reference["templateName"])
        for work in rollouts(cluster)
        for one in inside(work.spec["strategy"])
        for reference in one.get("templates", ())
        if isinstance(reference, dict) and "templateName" in reference
    }
    assert used == {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in templates(cluster)}


def query(metric: Json) -> str:
    text = metric["provider"]["prometheus"]["query"]
    assert "{{args.canary-hash}}" in text
    found = text.replace("{{args.canary-hash}}", "5d5f7c9b6")
    assert "{{" not in found
    return str(found)


def test_gates_ask_for_the_new_pods_of_the_model(cluster: Cluster) -> None:
    for one, metric, _ in metrics(cluster):
        meta = one["metadata"]
        work = cluster.workload(meta["namespace"], meta["labels"][names.NAME])
        wanted = f'namespace="{meta["namespace"]}",model="{work.settings["model"]}"'
        for selector in re.findall(r"\{([^}]*)\}", query(metric)):
            assert selector.startswith(wanted), selector
            assert 'rollouts_pod_template_hash="5d5f7c9b6"' in selector
        address = metric["provider"]["prometheus"]["address"]
        assert address == cluster.spec["monitoring"].get("prometheus", "http://prometheus.monitoring:9090")


def _gate_cases(metric: Json) -> Iterator[tuple[str, dict[str, str], int]]:
    """(title, series, how many answers): none without enough traffic of the new pods, else one."""
    text = query(metric)
    namespace, model = re.findall(r'namespace="([^"]+)",model="([^"]+)"', text)[0]
    least = float(re.findall(r"> ([\d.]+)\)$", text)[0])
    new, old = "5d5f7c9b6", "77c8d9"

    def traffic(hash_: str, rate: float, bad: float | None = None, who: str = model) -> dict[str, str]:
        of = {
            "namespace": namespace,
            "model": who,
            "rollouts_pod_template_hash": hash_,
            "pod": f"{who}-{hash_}",
        }
        found = {
            series(names.REQUESTS, **of, code="200"): counter(MINUTE, (40 * MINUTE, rate * (1 - (bad or 0))))
        }
        if bad is not None:
            found[series(names.REQUESTS, **of, code="503")] = counter(MINUTE, (40 * MINUTE, rate * bad))
        for name in (names.DURATION, names.QUEUE_DURATION):
            slow = 0.0 if bad is None else bad
            for bound, share in (("0.005", 1 - slow), ("10.0", 1.0), ("+Inf", 1.0)):
                found[series(f"{name}_bucket", **of, le=bound)] = counter(MINUTE, (40 * MINUTE, rate * share))
        return found

    enough, few = 2 * least, least / 2
    yield "no series at all", {}, 0
    yield "only the old pods are asked", traffic(old, enough), 0
    yield "the new pods are never asked", traffic(old, enough) | traffic(new, 0.0), 0
    yield "the new pods are asked too little", traffic(old, enough) | traffic(new, few), 0
    yield "another model has the hash", traffic(new, enough, who=f"{model}-lite"), 0
    yield "the new pods never failed", traffic(old, enough, 1.0) | traffic(new, enough), 1
    yield "the new pods fail", traffic(old, enough) | traffic(new, enough, 1.0), -1


def test_gates_ask_promql_that_tells_good_from_bad_from_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """What Prometheus answers: nothing without traffic, a number within the limit, or one beyond it."""
    tests = []
    for one, metric, _ in metrics(cluster):
        text, limit = query(metric), re.findall(r"<= ([\d.]+)$", metric["successCondition"])[0]
        for title, data, answer in _gate_cases(metric):
            asked = [(f"count({text}) or vector(0)", abs(answer))]
            asked.append((f"count(({text}) <= {limit}) or vector(0)", int(answer == 1)))
            asked.append((f"count(({text}) > {limit}) or vector(0)", int(answer == -1)))
            tests.append(
                {
                    "name": f"{one['metadata']['name']} {metric['name']}: {title}",
                    "interval": "1m",
                    "input_series": [{"series": name, "values": values} for name, values in data.items()],
                    "promql_expr_test": [
                        {"expr": expr, "eval_time": "35m", "exp_samples": [{"labels": "{}", "value": value}]}
                        for expr, value in asked
                    ],
                }
            )
    if not tests:
        return
    path = tmp_path / "gates.yml"
    path.write_text(json.dumps({"rule_files": [], "evaluation_interval": "1m", "tests": tests}))
    assert not promtool.failed_tests([path]), promtool.explain(path)


@pytest.mark.parametrize(
    ("condition", "results"),
    [
        ({"successCondition": "result[0] <= 1"}, (FAILED, ERROR)),
        ({"failureCondition": "result[0] > 1"}, (SUCCESSFUL, ERROR)),
        (
            {
                "successCondition": "len(result) > 0 && !isNaN(result[0]) && result[0] <= 1",
                "failureCondition": "len(result) > 0 && !isNaN(result[0]) && result[0] > 1",
            },
            (INCONCLUSIVE, INCONCLUSIVE),
        ),
    ],
    ids=["only success", "only failure", "both, guarded"],
)
def test_the_truth_table_of_the_reference(condition: Json, results: tuple[str, str]) -> None:
    assert (phase(condition, [math.nan]), phase(condition, [])) == results
    ten = {
        "count": 10,
        "interval": "60s",
        "failureLimit": 10,
        "inconclusiveLimit": 10,
        "consecutiveErrorLimit": 99,
    }
    nothing = [INCONCLUSIVE] * 10
    tally = Tally()
    for measured in nothing:
        tally = tally.after(measured)
    assert assess(ten, tally) == SUCCESSFUL
    assert assess({**ten, "consecutiveSuccessLimit": 5}, tally) == INCONCLUSIVE
    assert assess({**ten, "consecutiveSuccessLimit": 5, "failureLimit": -1}, tally) == FAILED
    assert assess({"interval": "60s"}, Tally(), terminating=True) == SUCCESSFUL
    assert assess({**ten, "inconclusiveLimit": 3, "failureLimit": 0}, tally.after(FAILED)) == INCONCLUSIVE


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
        assert work.settings["device"] == {"providers": ["cuda" if gpus else "cpu"], "allow_cpu": not gpus}


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


# Security (1.6)


def test_namespaces_enforce_the_restricted_standard(cluster: Cluster) -> None:
    found = cluster.of("Namespace")
    assert found
    for value in found:
        for mode in ("enforce", "warn", "audit"):
            assert value["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] == "restricted"
            version = value["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}-version"]
            assert version == f"v{cluster.kubernetes}"


def test_every_pod_is_restricted(cluster: Cluster) -> None:
    for work in cluster.workloads:
        annotations = work.template["metadata"].get("annotations", {})
        assert list(violations(work.pod, annotations)) == [], work.name


def test_a_read_only_root_has_room_to_write(cluster: Cluster) -> None:
    for work in cluster.workloads:
        for container in work.containers:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
            assert not mounts["/tmp"].get("readOnly")
            for variable in container["env"]:
                assert variable["value"].startswith("/tmp")
        assert {"HOME", "HF_HOME"} <= {one["name"] for one in work.server["env"]}
        volumes = {one["name"]: one for one in work.pod["volumes"]}
        assert volumes["tmp"]["emptyDir"]["sizeLimit"]
        disk = quantity(work.server["resources"]["limits"]["ephemeral-storage"])
        dirs = [one["emptyDir"]["sizeLimit"] for one in work.pod["volumes"] if "emptyDir" in one]
        assert disk >= sum(map(quantity, dirs)), "the pod would be evicted before its volumes are full"


def test_no_pod_has_a_token(cluster: Cluster) -> None:
    for work in cluster.workloads:
        assert work.pod["automountServiceAccountToken"] is False
        assert work.pod["serviceAccountName"] == work.name
    for value in cluster.of("ServiceAccount"):
        assert value["automountServiceAccountToken"] is False


def test_every_namespace_denies_by_default(cluster: Cluster) -> None:
    for namespace in cluster.of("Namespace"):
        denying = [
            one
            for one in cluster.of("NetworkPolicy")
            if one["metadata"]["namespace"] == namespace["metadata"]["name"]
            and one["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        ]
        assert len(denying) == 1


def _ends(cluster: Cluster) -> Iterator[End]:
    """Everybody who might call or be called."""
    for work in cluster.workloads:
        yield End(work.name, work.namespace, work.labels)
    for space in cluster.of("Namespace"):
        yield End("stranger at home", space["metadata"]["name"], {"app": "stranger"})
    gateway = cluster.spec.get("gateway", {"namespace": "edge"})["namespace"]
    yield End("gateway", gateway, {"app": "envoy"})
    yield End("prometheus", cluster.monitoring_namespace, {"app": "prometheus"})
    yield End("dns", "kube-system", {"k8s-app": "kube-dns"})
    yield End("api server", "kube-system", {"component": "kube-apiserver"})
    yield End("stranger", "elsewhere", {"app": "stranger"})
    # Somebody who calls himself as one of ours, in a namespace of his own.
    for work in cluster.workloads:
        yield End(f"another {work.name}", "elsewhere", {names.NAME: work.name})
    for number, cidr in enumerate(cluster.spec.get("artifactStore", {}).get("cidrs", ("10.20.0.0/16",))):
        yield End(f"store {number}", address=str(ipaddress.ip_network(cidr)[9]))
    yield End("internet", address="93.184.216.34")
    yield End("metadata service", address="169.254.169.254")


PORTS = (
    (8080, "TCP"),
    (8081, "TCP"),
    (9090, "TCP"),
    (53, "TCP"),
    (53, "UDP"),
    (443, "TCP"),
    (8443, "TCP"),
    (22, "TCP"),
)


def _expected(cluster: Cluster, source: End, target: End, port: int, protocol: str) -> bool:
    """What the design says of a connection that begins or ends at a pod of ours."""
    work = _work(cluster, source)
    if work is not None:
        if _work(cluster, target) is None:
            if target.name == "dns":
                return port == 53
            store = {"cidrs": ["0.0.0.0/0"], "port": 443, **cluster.spec.get("artifactStore", {})}
            if "initContainers" in work.pod and target.address and port == store["port"]:
                return target.name.startswith("store") or "0.0.0.0/0" in store["cidrs"]
            return False
        return _standby(cluster, work) == _work(cluster, target) and (port, protocol) == (8080, "TCP")
    work = _work(cluster, target)
    assert work is not None
    if (port, protocol) == (9090, "TCP"):
        return source.namespace == cluster.monitoring_namespace
    if work.is_standby or protocol != "TCP" or source.address:
        return False
    protocols = {8080: "http" in _services(cluster, work), 8081: "grpc" in _services(cluster, work)}
    if source.name == "stranger at home":
        return False  # it may send nothing
    if cluster.gateway:
        return source.namespace == cluster.gateway["namespace"] and protocols.get(port, False)
    return protocols.get(port, False)


def _work(cluster: Cluster, end: End) -> Workload | None:
    found = [one for one in cluster.workloads if (one.namespace, one.name) == (end.namespace, end.name)]
    return found[0] if found else None


def _standby(cluster: Cluster, work: Workload) -> Workload | None:
    found = [
        one
        for one in cluster.workloads
        if (one.namespace, one.name) == (work.namespace, f"{work.name}-standby") and one.is_standby
    ]
    return found[0] if found else None


def _services(cluster: Cluster, work: Workload) -> set[str]:
    return {
        port["name"]
        for value in cluster.of("Service")
        if value["metadata"]["namespace"] == work.namespace
        and value["spec"]["selector"] == {names.NAME: work.name}
        for port in value["spec"]["ports"]
    }


def test_the_policies_let_through_what_is_meant_and_nothing_else(cluster: Cluster) -> None:
    ends = list(_ends(cluster))
    wrong = []
    for source, target in itertools.permutations(ends, 2):
        if _work(cluster, source) is None and _work(cluster, target) is None:
            continue
        for port, protocol in PORTS:
            found = allowed(cluster, source, target, port, protocol)
            if found != _expected(cluster, source, target, port, protocol):
                wrong.append(
                    f"{source.name} -> {target.name} {port}/{protocol} {'passes' if found else 'is stopped'}"
                )
    assert wrong == []


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
        assert ("replicas" in work.spec) == (key not in scalers)
        scalers.pop(key, None)
    assert not scalers, "a scaler of nothing"


def test_lost_metrics_are_not_no_load(cluster: Cluster) -> None:
    for scaler in cluster.of("ScaledObject"):
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


def test_scalers_ask_for_the_load_of_the_workload(cluster: Cluster) -> None:
    load = {"inference_requests_in_flight", "inference_queue_rows"}
    for scaler in cluster.of("ScaledObject"):
        meta = scaler["metadata"]
        work = cluster.workload(meta["namespace"], meta["labels"][names.NAME])
        (trigger,) = scaler["spec"]["triggers"]
        asked = trigger["metadata"]["query"]
        assert metric_names(asked) <= load
        assert not strange_labels(asked)
        model = work.settings["model"]
        assert f'namespace="{work.namespace}",model="{model}",job="{work.name}"' in asked
    for scaler in cluster.of("HorizontalPodAutoscaler"):
        assert 1 <= scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]
        for metric in scaler["spec"]["metrics"]:
            assert metric["pods"]["metric"]["name"] in load


def test_growing_is_no_faster_than_loading(cluster: Cluster) -> None:
    scalers = [one["spec"]["behavior"] for one in cluster.of("HorizontalPodAutoscaler")]
    scalers += [
        one["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        for one in cluster.of("ScaledObject")
    ]
    for behavior in scalers:
        assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300
        for way in ("scaleUp", "scaleDown"):
            assert behavior[way]["policies"]
            for policy in behavior[way]["policies"]:
                assert policy["periodSeconds"] >= 60
                assert policy["periodSeconds"] <= 1800, "refused above half an hour"


# Monitoring (2)


def test_pod_monitors_give_the_labels_that_rules_ask_for(cluster: Cluster) -> None:
    monitors = cluster.of("PodMonitor")
    assert len(monitors) == (len(cluster.workloads) if cluster.has("prometheusOperator") else 0)
    for monitor in monitors:
        spec = monitor["spec"]
        assert spec["jobLabel"] == names.NAME, "else absence always fires"
        assert "rollouts-pod-template-hash" in spec["podTargetLabels"]
        (endpoint,) = spec["podMetricsEndpoints"]
        (selected,) = cluster.selected(monitor["metadata"]["namespace"], spec["selector"])
        work = cluster.workload(monitor["metadata"]["namespace"], selected)
        assert endpoint["port"] in {one["name"] for one in work.server["ports"]}
        assert work.labels[names.NAME] == selected


def test_without_the_operator_pods_say_where_they_are_scraped(cluster: Cluster) -> None:
    for work in cluster.workloads:
        annotations = work.template["metadata"].get("annotations", {})
        if cluster.has("prometheusOperator"):
            assert "prometheus.io/scrape" not in annotations, "it would be scraped twice"
        else:
            assert annotations["prometheus.io/scrape"] == "true"
            ports = {str(one["containerPort"]): one["name"] for one in work.server["ports"]}
            assert ports[annotations["prometheus.io/port"]] == "metrics"


def expressions(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """(where, PromQL) of everything that asks Prometheus."""
    for name, rule in cluster.rules():
        yield f"rule {name}", rule["expr"]
    for board in cluster.dashboards():
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield f"dashboard {board['title']}: {panel['title']}", without_grafana(target["expr"])
    for one, metric, _ in metrics(cluster):
        yield f"gate {one['metadata']['name']}", query(metric)
    for scaler in cluster.of("ScaledObject"):
        for trigger in scaler["spec"]["triggers"]:
            yield f"scaler {scaler['metadata']['name']}", trigger["metadata"]["query"]


def test_every_expression_names_metrics_that_somebody_exposes(cluster: Cluster) -> None:
    recorded = {rule["record"] for _, rule in cluster.rules() if "record" in rule}
    found = 0
    for where, text in expressions(cluster):
        assert not strangers(text, recorded), where
        assert not strange_labels(text), where
        found += 1
    assert found > 10


def test_metrics_are_asked_of_the_namespace_they_come_from(cluster: Cluster) -> None:
    """Two environments may share a Prometheus; no expression of one may read the other's series."""
    spaces = {one["metadata"]["name"] for one in cluster.of("Namespace")}
    exporter = (
        cluster.spec.get("monitoring", {}).get("gpuExporter", {}).get("namespaceLabel", "exported_namespace")
    )
    for where, text in expressions(cluster):
        for selector in re.findall(r"\{([^}]*)\}", text):
            label = exporter if f"{exporter}=" in selector else "namespace"
            found = re.findall(rf'(?:^|,){label}(=~?)"([^"]*)"', selector)
            assert len(found) == 1, f"{where}: {selector}"
            assert set(found[0][1].split("|")) <= spaces, f"{where}: {selector}"


def test_bounds_are_written_as_floats(cluster: Cluster) -> None:
    for where, text in expressions(cluster):
        for bound in re.findall(r'le="([^"]*)"', text):
            assert bound == "+Inf" or bound == repr(float(bound)), f"{where}: le={bound}"


def _asked_bounds(cluster: Cluster) -> Iterator[tuple[str, str, float, str]]:
    """(namespace, model, seconds, by whom) for every threshold on a time."""
    for name, rule in cluster.rules():
        text = rule["expr"]
        limits = [float(bound) for bound in re.findall(r'le="([\d.]+)"', text)]
        limits += [
            float(limit) for limit in re.findall(r"^histogram_quantile\(.*\) > ([\d.]+)$", text, re.MULTILINE)
        ]
        for limit in limits:
            for _, spaces in set(re.findall(r'namespace(=~?)"([^"]*)"', text)):
                for _, models in set(re.findall(r'model(=~?)"([^"]*)"', text)):
                    for pair in itertools.product(spaces.split("|"), models.split("|")):
                        yield (*pair, limit, name)
    for one, metric, _ in metrics(cluster):
        if metric["name"] in ("latency", "queue-time"):
            meta = one["metadata"]
            work = cluster.workload(meta["namespace"], meta["labels"][names.NAME])
            limit = float(re.findall(r"<= ([\d.]+)$", metric["successCondition"])[0])
            yield work.namespace, work.settings["model"], limit, meta["name"]


def test_histograms_hold_every_threshold_and_a_bound_above(cluster: Cluster) -> None:
    """Else a ratio has no series to read, and a quantile could never exceed its limit."""
    asked = list(_asked_bounds(cluster))
    for namespace, model, limit, who in asked:
        servers = [
            one for one in cluster.workloads if (one.namespace, one.settings["model"]) == (namespace, model)
        ]
        assert servers, f"{who} asks for a model that nobody serves"
        for work in servers:
            bounds = work.settings["metrics"]["latency_buckets_s"]
            assert limit in bounds, f"{who}: {limit} is no bound of {work.name}"
            assert bounds[-1] > limit


def test_bounds_rise(cluster: Cluster) -> None:
    for work in cluster.workloads:
        bounds = work.settings["metrics"]["latency_buckets_s"]
        assert bounds == sorted(set(bounds))
        assert bounds[0] > 0


def test_numbers_in_rules_have_no_noise(cluster: Cluster) -> None:
    for where, text in expressions(cluster):
        bare = re.sub(r'"[^"]*"', '""', text)
        assert not re.findall(r"\d\.\d*(?:0{7}|9{7})\d", bare), f"{where}: {text}"


def test_alerts_have_what_people_and_routes_need(cluster: Cluster) -> None:
    """``namespace``, ``model`` and ``slo`` stand on each: a label that both sides of an inhibition lack is equal."""
    for name, rule in cluster.rules():
        if "alert" not in rule:
            continue
        labels, notes = rule["labels"], rule["annotations"]
        assert labels["severity"] in ("critical", "warning", "info")
        assert {"slo", "team", "environment", "window"} <= set(labels)
        assert {"summary", "description"} <= set(notes)
        assert all(notes.values())
        text = rule["expr"]
        by = re.findall(r"by \(([^)]*)\)", text)
        for label in ("namespace", "model"):
            kept = bool(by) and all(label in one.split(", ") for one in by if one != "le")
            kept = kept or text.startswith("model:")
            assert label in labels or kept, f"{name} may lack {label}"
        for one in (*labels.values(), *notes.values()):
            assert isinstance(one, str)


def test_absence_is_asked_by_equality(cluster: Cluster) -> None:
    """``absent`` keeps labels of equality matchers only; and a job is what jobLabel makes it."""
    for name, rule in cluster.rules():
        if name == names.ABSENT:
            found = re.fullmatch(r'absent\(up\{namespace="([^"]+)",job="([^"]+)"\} == 1\)', rule["expr"])
            assert found, rule["expr"]
            work = cluster.workload(*found.groups())
            assert rule["labels"]["job"] == work.name
            assert rule["labels"]["namespace"] == work.namespace
            assert rule["labels"]["model"] == work.settings["model"]
        else:
            assert "absent(" not in rule["expr"]


def test_recorded_series_have_names_of_one_form(cluster: Cluster) -> None:
    for _, rule in cluster.rules():
        if "record" in rule:
            assert re.fullmatch(r"model:[a-z_]+:rate(5m|30m|1h|2h|6h|1d|3d|28d|30d)", rule["record"])


def test_rules_read_only_what_is_recorded_before_them(cluster: Cluster) -> None:
    """A group runs in order; ratios guard against 0/0."""
    for value, group in cluster.rule_groups():
        known: set[str] = set()
        for rule in group["rules"]:
            read = {name for name in metric_names(rule["expr"]) if name.startswith("model:")}
            assert read <= known, f"{value['metadata']['name']}: {rule['expr']}"
            known |= {rule["record"]} if "record" in rule else set()
            if "ratio" in rule.get("record", ""):
                assert rule["expr"].endswith("> 0)"), rule["expr"]


def test_groups_have_names_of_their_own(cluster: Cluster) -> None:
    found = [(value["metadata"]["namespace"], group["name"]) for value, group in cluster.rule_groups()]
    assert len(found) == len(set(found))


def test_no_window_is_longer_than_what_prometheus_keeps(cluster: Cluster) -> None:
    kept = _seconds(cluster.spec.get("monitoring", {}).get("retention", "15d"))
    for where, text in expressions(cluster):
        for window in re.findall(r"\[(\d+(?:ms|s|m|h|d))", text):
            assert _seconds(window) <= kept, where


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)(ms|s|m|h|d)", text)
    assert found
    return int(found[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def test_dashboards(cluster: Cluster) -> None:
    boards = list(cluster.dashboards())
    assert len(boards) == len(cluster.workloads)
    for board in boards:
        assert len(board["uid"]) <= 40
        assert "id" not in board
        (variable,) = board["templating"]["list"]
        assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
        ids = [panel["id"] for panel in board["panels"]]
        assert len(ids) == len(set(ids))
        boxes = [panel["gridPos"] for panel in board["panels"]]
        assert len({(box["x"], box["y"]) for box in boxes}) == len(boxes)
        assert all(box["x"] + box["w"] <= 24 for box in boxes)
        for panel in board["panels"]:
            assert panel["datasource"] == {"type": "prometheus", "uid": f"${{{variable['name']}}}"}
            refs = [target["refId"] for target in panel["targets"]]
            assert refs
            assert len(refs) == len(set(refs))
            for target in panel["targets"]:
                for window in re.findall(r"\}\[([^\]]*)\]", target["expr"]):
                    assert window == "$__rate_interval"


def test_no_two_dashboards_share_a_uid() -> None:
    """Environments may share a Grafana."""
    for title in ("shop", "reference"):
        found = [
            board["uid"] for one in clusters() if one.name.startswith(title) for board in one.dashboards()
        ]
        assert len(found) == len(set(found))


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
    for work in cluster.workloads:
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
        assert work.server["args"] == ["serve", "--settings", f"{mount['mountPath']}/settings.json"]
    for value in cluster.of("ConfigMap"):
        if "settings.json" in value["data"]:
            assert (value["metadata"]["namespace"], value["metadata"]["name"]) in used


def test_a_rollback_finds_the_settings_of_the_version_before(cluster: Cluster) -> None:
    for value in cluster.of("ConfigMap"):
        notes = value["metadata"]["annotations"]
        hashed = "settings.json" in value["data"]
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


def test_no_standby_is_reached_from_outside(cluster: Cluster) -> None:
    standbys = {(one.namespace, one.name) for one in cluster.workloads if one.is_standby}
    for route in cluster.of("HTTPRoute", "GRPCRoute"):
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
    for work in cluster.workloads:
        assert work.spec["selector"] == {"matchLabels": {names.NAME: work.name}}


def _references(cluster: Cluster) -> Iterator[tuple[Json, str, str | None, str]]:
    """(object, kind, namespace, name) of everything an object names."""
    for value in cluster.objects.values():
        namespace = value["metadata"].get("namespace")
        if namespace is not None:
            yield value, "Namespace", None, namespace
    for work in cluster.workloads:
        yield work.value, "ServiceAccount", work.namespace, work.pod["serviceAccountName"]
        if "priorityClassName" in work.pod:
            yield work.value, "PriorityClass", None, work.pod["priorityClassName"]
        for volume in work.pod["volumes"]:
            if "configMap" in volume:
                yield work.value, "ConfigMap", work.namespace, volume["configMap"]["name"]
        strategy = work.spec["strategy"]
        for one in inside(strategy):
            for key in ("stableService", "canaryService", "activeService", "previewService"):
                if key in one:
                    yield work.value, "Service", work.namespace, one[key]
            if "templateName" in one:
                yield work.value, "AnalysisTemplate", work.namespace, one["templateName"]
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
    for kind in ("ServiceAccount", "AnalysisTemplate"):
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
    for work in cluster.workloads:
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
    "NetworkPolicy": -2,
    "Service": 0,
    "HTTPRoute": 0,
    "GRPCRoute": 0,
    "PodDisruptionBudget": 0,
    "AnalysisTemplate": 1,
    "PrometheusRule": 1,
    "PodMonitor": 1,
    "Rollout": 3,
    "ScaledObject": 4,
    "HorizontalPodAutoscaler": 4,
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
    for value, kind, namespace, name in _references(cluster):
        found = cluster.get(kind, namespace, name)
        assert found is not None
        assert wave(found) < wave(value) or (wave(found) == wave(value) and kind == "Service")


def test_namespaces_are_not_pruned_unasked(cluster: Cluster) -> None:
    for value in cluster.of("Namespace"):
        assert value["metadata"]["annotations"][names.SYNC_OPTIONS] == "Prune=confirm,Delete=confirm"


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


def test_quantities_are_what_the_server_gives_back(cluster: Cluster) -> None:
    """Otherwise they would drift for ever: ``1024Mi`` comes back as ``1Gi``, ``0.5`` as ``500m``."""
    found = []
    for work in cluster.workloads:
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


def test_custom_objects_pass_their_published_schemas(cluster: Cluster) -> None:
    need_crds()
    for path, value in cluster.objects.items():
        if is_custom(value):
            assert errors(value, cluster.kubernetes) == [], path


def test_routes_keep_the_rules_that_a_schema_cannot_say(cluster: Cluster) -> None:
    """Validated by CEL in the published CRDs."""
    for route in cluster.of("HTTPRoute", "GRPCRoute"):
        assert len(route["spec"]["rules"]) <= 16
        assert len(route["spec"]["hostnames"]) <= 16
        for rule in route["spec"]["rules"]:
            for match in rule.get("matches", ()):
                path = match.get("path", {"value": "/"})
                assert path["value"].startswith("/")
                assert "//" not in path["value"]


def test_the_table_of_metrics_is_used() -> None:
    """Not a metric of ours in an expression that the table does not know: the table is what is checked against."""
    read: set[str] = set()
    for one in clusters():
        for _, text in expressions(one):
            read |= metric_names(text)
    ours = {
        name for name in read if name.startswith(("inference_", "model_")) and not name.startswith("model:")
    }
    assert ours <= SERIES
    assert len(ours) >= 8
    assert METRICS


def _local() -> Iterator[tuple[str, Any]]:
    for file in shop.compiled().files:
        if file.path.startswith("local/"):
            yield (
                file.path,
                json.loads(file.data) if file.path.endswith(".json") else yaml.safe_load(file.data),
            )


def test_plain_files_of_a_laptop() -> None:
    """Rules and dashboards ask for what its servers expose; a standby is in the same process."""
    settings = {path: value for path, value in _local() if "/settings-" in path}
    bounds = {
        served["name"]: value["metrics"]["latency_buckets_s"]
        for value in settings.values()
        for served in value["served"]
    }
    read = 0
    for path, value in _local():
        if "/rules-" in path:
            recorded = {
                rule["record"] for group in value["groups"] for rule in group["rules"] if "record" in rule
            }
            for group in value["groups"]:
                for rule in group["rules"]:
                    assert not strangers(rule["expr"], recorded), path
                    assert not strange_labels(rule["expr"]), path
                    for bound in re.findall(r'le="([\d.]+)"', rule["expr"]):
                        for models in re.findall(r'model=~?"([^"]*)"', rule["expr"]):
                            assert all(float(bound) in bounds[model] for model in models.split("|"))
                    read += 1
        elif "/dashboard-" in path:
            for panel in value["panels"]:
                for target in panel["targets"]:
                    assert not strangers(without_grafana(target["expr"])), path
    assert read > 20
    for path, value in settings.items():
        names_ = [served["name"] for served in value["served"]]
        assert names_[0] == value["model"], path
        if value["standby"]:
            assert value["standby"]["model"] in names_
            assert value["standby"]["url"] == f"http://127.0.0.1:{value['http']['port']}"
