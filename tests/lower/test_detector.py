"""The detector of an environment: what its settings say, what runs it, whom it reaches, and its gate."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from modelway.diagnostics import Severity
from modelway.lower import names
from modelway.pipeline import Compilation, compile_specs
from modelway.sources import SourceFile
from modelway_runtime.detection.settings import parse
from tests.lower.clusters import Cluster, canaries, clusters_of
from tests.lower.network import End, allowed
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
)
from tests.lower.test_traps_of_specs import ALL, environment, model, resource
from tests.support import shop
from tests.support.spec_text import Text, dump, shown

Json = dict[str, Any]

SCHEMA = jsonschema_rs.validator_for(
    json.loads((shop.ROOT / "policies/schemas/detector-settings-v1.json").read_bytes())
)
DETECTOR = {
    "gate": {"publicUrl": "https://detector.shop.example"},
    "publish": {"repository": "shop/models"},
}
MONITORING = {"retention": "90d", "scrapeInterval": "1500ms", "prometheus": "http://thanos.monitoring:9090"}
CANARY = {
    "strategy": "canary",
    "steps": [{"weight": 5}, {"weight": 50}],
    "gates": {"errorRatio": {"max": 0.01}},
}
STANDBY = {"standby": {"model": "lite"}}


def alert(name: str, team: str = "search", **spec: Any) -> Json:
    spec = {"target": {"model": "ranker"}, "patterns": {"slower": {"metric": "latency"}}, **spec}
    metadata = {"name": name, "team": team}
    return {"apiVersion": "modelway.dev/v1alpha1", "kind": "Alert", "metadata": metadata, "spec": spec}


def compiled(*specs: Json) -> tuple[Compilation, list[SourceFile]]:
    text = "---\n".join(dump(Text("specs.yaml", one).value) for one in specs)
    sources = [SourceFile("specs.yaml", text.encode())]
    compilation = compile_specs(sources)
    assert compilation.files, shown(compilation.diagnostics)
    return compilation, sources


def cluster_of(*specs: Json) -> Cluster:
    compilation, sources = compiled(*specs)
    (found,) = clusters_of("case", compilation, sources)
    return found


def shop_of(
    *alerts: Json,
    add_ons: tuple[str, ...] = ALL,
    detector: Json | None = None,
    monitoring: Json | None = None,
    **changes: Any,
) -> Cluster:
    """The ranker with a standby and a canary, and an encoder, in an environment with a detector."""
    detector = DETECTOR if detector is None else detector
    place = environment(*add_ons, monitoring={**MONITORING, **(monitoring or {})}, detector=detector)
    ranker = model(serving=STANDBY, rollout=CANARY, **changes)
    return cluster_of(place, resource(), ranker, model("lite"), model("encoder"), *alerts)


def settings_of(cluster: Cluster) -> Json:
    assert cluster.detector is not None
    found = cluster.detector.settings
    assert [error.message for error in SCHEMA.iter_errors(found)] == []
    assert parse(json.dumps(found).encode()).environment == "prod"
    return found


# Settings


def test_patterns_have_the_defaults_of_their_metric() -> None:
    metrics = {
        "latency": ("latency", 0.99, "up", 0.05),
        "queueTime": ("queue_time", 0.99, "up", 0.05),
        "computeTime": ("compute_time", 0.99, "up", 0.05),
        "throughput": ("throughput", None, "down", 0.05),
        "errorRatio": ("error_ratio", None, "up", 0.2),
        "memory": ("memory", None, "up", 0.05),
        "gpuMemory": ("gpu_memory", None, "up", 0.05),
        "gpuUtilization": ("gpu_utilization", None, "up", 0.05),
        "outputValue": ("output_value", None, "both", 0.2),
    }
    patterns = {name.lower(): {"metric": name} for name in metrics}
    (watched,) = settings_of(shop_of(alert("a", patterns=patterns)))["watched"]
    for name, (metric, quantile, worse, effect) in metrics.items():
        assert watched["patterns"][name.lower()] == {
            "metric": metric,
            "quantile": quantile,
            "worse": worse,
            "minimum_effect": effect,
            "window_s": 3600,
            "sensitivity": "normal",
        }


def test_all_alerts_on_a_model_are_watched_together() -> None:
    found = settings_of(
        shop_of(
            alert("a", severity="info", response={"rollback": True}),
            alert("b", patterns={"errors": {"metric": "errorRatio"}}, severity="critical"),
            alert(
                "c",
                patterns={"fewer": {"metric": "throughput"}},
                response={"notify": False, "failover": True},
            ),
            alert("d", target={"model": "encoder"}, response={"restart": True}),
        )
    )
    encoder, ranker = found["watched"]
    assert list(ranker["patterns"]) == ["errors", "fewer", "slower"]
    assert (ranker["severity"], ranker["response"]) == ("critical", ["notify", "failover", "rollback"])
    assert (ranker["job"], ranker["workload"], ranker["standby"]) == ("ranker", "Rollout", "lite")
    assert (encoder["namespace"], encoder["team"], encoder["model"]) == ("search-prod", "search", "encoder")
    assert (encoder["workload"], encoder["standby"]) == ("Deployment", None)
    assert (encoder["severity"], encoder["response"]) == ("warning", ["notify", "restart"])


def test_a_standby_is_watched_where_it_runs() -> None:
    (lite,) = settings_of(shop_of(alert("a", target={"model": "lite"})))["watched"]
    assert (lite["model"], lite["job"], lite["workload"]) == ("lite", "ranker-standby", "Deployment")


@pytest.mark.parametrize(("retention", "history"), [("90d", 14 * 86400), ("10d", 10 * 86400)])
def test_history_is_no_longer_than_what_is_kept(retention: str, history: int) -> None:
    place = environment(monitoring={**MONITORING, "retention": retention}, detector={})
    prometheus = settings_of(cluster_of(place, resource(), model(), alert("a")))["prometheus"]
    assert prometheus["history_s"] == history
    assert prometheus["scrape_interval_s"] == 1.5


def test_a_laptop_gets_a_file() -> None:
    laptop = {**environment(detector={}), "metadata": {"name": "laptop"}}
    laptop["spec"] = {"requireDigests": False, "detector": {}}
    compilation, _ = compiled(laptop, resource(), model(), alert("a"))
    (file,) = (one for one in compilation.files if "detector" in one.path)
    assert file.path == "laptop/_platform/detector-settings.json"
    assert [error.message for error in SCHEMA.iter_errors(json.loads(file.data))] == []
    (watched,) = parse(file.data).watched
    assert (watched.workload, parse(file.data).gate) == (None, None)


def test_without_patterns_there_is_no_detector() -> None:
    place = environment(*ALL, detector=DETECTOR)
    cluster = cluster_of(place, resource(), model(), alert("a", patterns={}, absence={}))
    assert cluster.detector is None
    assert not cluster.of("PersistentVolumeClaim", "Role")


# What runs it


def test_it_runs_once_and_remembers() -> None:
    work = shop_of(alert("a")).detector
    assert work is not None
    assert (work.spec["replicas"], work.spec["strategy"]) == (1, {"type": "Recreate"})
    mounts = {one["mountPath"]: one for one in work.server["volumeMounts"]}
    assert work.settings["memory_file"].startswith(names.MEMORY_FOLDER + "/")
    assert not mounts[names.MEMORY_FOLDER].get("readOnly")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert work.server[probe]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    ports = {one["name"]: one["containerPort"] for one in work.server["ports"]}
    assert ports == {"gate": work.settings["gate"]["port"], "metrics": work.settings["metrics"]["port"]}


EVERYTHING = {
    **DETECTOR,
    "argocd": {"url": "http://argocd-server.argocd", "application": "models"},
}
ACCESS = {
    "tokenSecret": "prometheus-token",
    "tls": {"secret": "prometheus-tls", "certificate": True},
    "tenant": {"value": "shop"},
}


@pytest.mark.parametrize("app", [None, {"id": 1, "installationId": 2}])
def test_every_file_that_the_settings_name_is_mounted_and_no_other(app: Json | None) -> None:
    detector = {**EVERYTHING, "publish": {"repository": "shop/models", **({"app": app} if app else {})}}
    # Without gates: Argo Rollouts has no certificate to show.
    work = shop_of(alert("a"), add_ons=("keda",), detector=detector, monitoring=ACCESS).detector
    assert work is not None
    (secrets,) = (one for one in work.pod["volumes"] if one["name"] == "secrets")
    (mount,) = (one for one in work.server["volumeMounts"] if one["name"] == "secrets")
    assert mount["readOnly"] is True
    mounted = [
        f"{mount['mountPath']}/{item['path']}"
        for source in secrets["projected"]["sources"]
        for item in source["secret"]["items"]
    ]
    named = [value for value in _texts(work.settings) if value.startswith(mount["mountPath"])]
    assert sorted(mounted) == sorted(named)
    assert len(mounted) == len(set(mounted)) == 7


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in _texts(one)]


def test_without_secrets_nothing_is_mounted() -> None:
    work = shop_of(alert("a"), detector={}).detector
    assert work is not None
    assert {one["name"] for one in work.pod["volumes"]} == {"settings", "memory", "tmp"}


def test_it_may_restart_what_its_alerts_say_and_nothing_else() -> None:
    cluster = shop_of(
        alert("a", response={"restart": True}),
        alert("b", target={"model": "encoder"}, response={"restart": True}),
        alert("c", target={"model": "lite"}),
    )
    (role,) = cluster.of("Role")
    assert role["metadata"]["namespace"] == "search-prod"
    assert role["rules"] == [
        {
            "apiGroups": ["apps"],
            "resources": ["deployments"],
            "resourceNames": ["encoder"],
            "verbs": ["patch"],
        },
        {
            "apiGroups": ["argoproj.io"],
            "resources": ["rollouts"],
            "resourceNames": ["ranker"],
            "verbs": ["patch"],
        },
    ]
    (binding,) = cluster.of("RoleBinding")
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": "detector", "namespace": "modelway-prod"}
    ]
    assert cluster.detector is not None
    assert cluster.detector.pod["automountServiceAccountToken"] is True
    assert not cluster.of("ClusterRole", "ClusterRoleBinding")


def test_without_restarts_it_has_no_rights_and_no_token() -> None:
    cluster = shop_of(alert("a", response={"rollback": True}))
    assert not cluster.of("Role", "RoleBinding")
    assert cluster.detector is not None
    assert cluster.detector.pod["automountServiceAccountToken"] is False


def test_without_the_operator_its_rules_lie_in_a_config_map() -> None:
    cluster = shop_of(alert("a"), add_ons=("rollouts", "gatewayAPI"))
    assert not cluster.of("PrometheusRule", "PodMonitor")
    found = {name for name, _ in cluster.rules()}
    assert found == {names.REGRESSED, names.DETECTOR_ABSENT, names.DETECTOR_STALE, names.DETECTOR_GAPS}
    assert cluster.detector is not None
    assert cluster.detector.template["metadata"]["annotations"]["prometheus.io/port"] == "9090"


# Whom it reaches, and who reaches it

PEERS = {
    "prometheus": End("prometheus", "monitoring", {"app": "prometheus"}),
    "rollouts": End("rollouts", "argo-rollouts", {"app": "argo-rollouts"}),
    "argocd": End("argocd", "argocd", {"app": "argocd-server"}),
    "gateway": End("gateway", "edge", {"app": "envoy"}),
    "stranger": End("stranger", "elsewhere", {"app": "stranger"}),
    "dns": End("dns", "kube-system", {"k8s-app": "kube-dns"}),
    "forge": End("forge", address="140.82.121.6"),
    "forge6": End("forge6", address="2606:50c0::1"),
}
OUT = {
    ("prometheus", 9090),
    ("prometheus", 10902),
    ("argocd", 8080),
    ("dns", 53),
    ("forge", 443),
    ("forge6", 443),
}
IN = {("prometheus", 9090), ("rollouts", 8082), ("gateway", 8082)}


def test_the_network_lets_through_what_it_needs() -> None:
    cluster = shop_of(alert("a"), detector=EVERYTHING)
    assert cluster.detector is not None
    me = End("detector", "modelway-prod", cluster.detector.labels)
    ports = (22, 53, 443, 6443, 8080, 8082, 9090, 10902)
    out = {(name, port) for name, end in PEERS.items() for port in ports if allowed(cluster, me, end, port)}
    anywhere = {(name, port) for name in ("prometheus", "argocd") for port in ports}
    assert out == OUT | anywhere
    into = {(name, port) for name, end in PEERS.items() for port in ports if allowed(cluster, end, me, port)}
    assert {one for one in into if not PEERS[one[0]].address} == IN


@pytest.mark.parametrize(
    ("url", "end", "port", "passes"),
    [
        ("http://prometheus.monitoring:9090", "prometheus", 10902, True),
        ("http://prometheus.monitoring.svc:9090", "prometheus", 9090, True),
        ("http://prometheus.monitoring.svc.cluster.local:9090/api", "prometheus", 9090, True),
        ("http://prometheus.monitoring.svc:9090", "forge", 9090, False),
        ("https://metrics.shop.example/tenant", "forge", 443, True),
        ("http://metrics.shop.example", "forge", 80, True),
        ("http://metrics.shop.example:8080", "forge", 8080, True),
        ("http://metrics.shop.example:8080", "prometheus", 8080, False),
    ],
)
def test_prometheus_is_reached_where_it_is(url: str, end: str, port: int, passes: bool) -> None:
    place = environment(monitoring={"prometheus": url}, detector={})
    cluster = cluster_of(place, resource(), model(), alert("a"))
    assert cluster.detector is not None
    me = End("detector", "modelway-prod", cluster.detector.labels)
    assert allowed(cluster, me, PEERS[end], port) is passes


def test_only_who_restarts_reaches_the_api_server() -> None:
    for restart in (True, False):
        cluster = shop_of(alert("a", response={"restart": restart}), detector={})
        assert cluster.detector is not None
        me = End("detector", "modelway-prod", cluster.detector.labels)
        assert allowed(cluster, me, End("api server", address="10.0.0.1"), 6443) is restart


# The gate


def gate_of(cluster: Cluster) -> tuple[Json, Json]:
    template = cluster.get("AnalysisTemplate", "search-prod", "ranker-detector")
    assert template is not None
    (metric,) = template["spec"]["metrics"]
    return template, metric


def test_every_step_of_a_canary_asks() -> None:
    cluster = shop_of(alert("a"))
    gate_of(cluster)
    ((_, canary),) = canaries(cluster)
    asked = [step["analysis"] for step in canary["steps"] if "analysis" in step]
    assert len(asked) == 2
    for one in asked:
        assert [entry["templateName"] for entry in one["templates"]] == ["ranker-gate", "ranker-detector"]


def test_the_gate_asks_what_the_contract_says() -> None:
    cluster = shop_of(alert("a"), alert("b", patterns={"errors": {"metric": "errorRatio"}}))
    template, metric = gate_of(cluster)
    web = metric["provider"]["web"]
    assert web["jsonBody"] == {
        "environment": "prod",
        "namespace": "search-prod",
        "model": "ranker",
        "canary_hash": "{{args.canary-hash}}",
        "stable_hash": "{{args.stable-hash}}",
        "metrics": ["errors", "slower"],
    }
    assert (web["method"], web["jsonPath"]) == ("POST", "{$.outcome}")
    assert web["timeoutSeconds"] <= 10
    service = cluster.get("Service", "modelway-prod", "detector")
    assert service is not None
    assert web["url"] == f"http://detector.modelway-prod.svc:{service['spec']['ports'][0]['port']}/v1/gate"
    assert {"key": "Authorization", "value": "Bearer {{args.token}}"} in web["headers"]
    args = {one["name"]: one.get("valueFrom") for one in template["spec"]["args"]}
    assert args["token"] == {"secretKeyRef": {"name": "detector-gate", "key": "token"}}


def answer(metric: Json, word: str) -> str:
    """What Rollouts makes of the answer: both conditions compare it with one word."""
    succeeds = metric["successCondition"] == f'result == "{word}"'
    fails = metric["failureCondition"] == f'result == "{word}"'
    assert not (succeeds and fails)
    return SUCCESSFUL if succeeds else FAILED if fails else INCONCLUSIVE


@pytest.mark.parametrize(
    ("words", "end"),
    [
        (["success"], SUCCESSFUL),
        (["inconclusive", "inconclusive", "success", "success"], SUCCESSFUL),
        (["failure"], FAILED),
        (["inconclusive", "failure", "failure"], FAILED),
        (["inconclusive"], INCONCLUSIVE),
        (["success", "inconclusive"], INCONCLUSIVE),
        (["", "None", "Success"], INCONCLUSIVE),
    ],
    ids="-".join,
)
def test_what_the_answers_come_to(words: list[str], end: str) -> None:
    """Looks in turn, and again from the first."""
    _, metric = gate_of(shop_of(alert("a")))
    tally = Tally()
    for look in range(metric["count"] + 1):
        if (found := assess(metric, tally)) != RUNNING:
            assert found == end
            return
        tally = tally.after(answer(metric, words[look % len(words)]))
    pytest.fail("the gate never ends")


def test_no_gate_passes_without_two_good_verdicts() -> None:
    """All ends of all runs; of errors as few as show what many come to."""
    _, metric = gate_of(shop_of(alert("a")))
    assert metric["count"] >= metric["failureLimit"] + metric["consecutiveSuccessLimit"]
    assert metric["count"] >= metric["inconclusiveLimit"]
    ends = list(outcomes({**metric, "consecutiveErrorLimit": 3}))
    assert {end for end, _ in ends} == {SUCCESSFUL, FAILED, INCONCLUSIVE, ERROR}
    for end, tally in ends:
        if end == SUCCESSFUL:
            assert tally.successes_in_a_row == 2
            assert tally.failed <= 1
        if end == FAILED:
            assert tally.failed == 2


def test_a_detector_that_is_away_aborts_nothing() -> None:
    """A day of it: ten seconds lie between errors (argo-rollouts 1.9.1, ``DefaultErrorRetryInterval``)."""
    _, metric = gate_of(shop_of(alert("a")))
    tally = Tally()
    for _ in range(24 * 360):
        tally = tally.after(ERROR)
        assert assess(metric, tally) == RUNNING
    assert go_duration(metric["interval"]) == 60


@pytest.mark.parametrize(
    ("detector", "rollout", "add_ons"),
    [
        ({"publish": DETECTOR["publish"]}, CANARY, ALL),
        (DETECTOR, {**CANARY, "gates": {}}, ALL),
        (DETECTOR, {"strategy": "blueGreen", "gates": CANARY["gates"]}, ALL),
        (DETECTOR, CANARY, ("prometheusOperator",)),
    ],
    ids=["no gate", "a canary without gates", "a preview", "no rollouts"],
)
def test_nobody_asks_where_it_would_prove_nothing(
    detector: Json, rollout: Json, add_ons: tuple[str, ...]
) -> None:
    place = environment(*add_ons, detector=detector)
    cluster = cluster_of(place, resource(), model(rollout=rollout), alert("a"))
    assert cluster.get("AnalysisTemplate", "search-prod", "ranker-detector") is None
    assert cluster.detector is not None


def test_a_model_that_nobody_watches_is_not_asked_about() -> None:
    cluster = shop_of(alert("a", target={"model": "encoder"}))
    assert cluster.get("AnalysisTemplate", "search-prod", "ranker-detector") is None


def test_a_gate_alone_looks_never() -> None:
    cluster = shop_of(alert("a"), detector={**DETECTOR, "schedule": "never"})
    assert settings_of(cluster)["schedule"] is None
    gate_of(cluster)
    assert {name for name, _ in cluster.rules()} == {names.DETECTOR_ABSENT}


def test_little_history_is_a_warning() -> None:
    place = environment(monitoring={"retention": "8d"}, detector={})
    compilation, _ = compiled(place, resource(), model(), alert("a"))
    found = [one for one in compilation.diagnostics if one.code == "MW221"]
    assert [one.severity for one in found] == [Severity.WARNING]


def test_no_gate_asks_about_throughput() -> None:
    """A canary gets as many requests as its weight says: it would always have changed."""
    patterns = {"rate": {"metric": "throughput"}, "slow": {"metric": "latency"}}
    _, metric = gate_of(shop_of(alert("a", patterns=patterns)))
    assert metric["provider"]["web"]["jsonBody"]["metrics"] == ["slow"]
