"""What rules, scalers and the detector find in a real Prometheus that scrapes the compiled pods, either way.

The pods are those of the compiled workloads, as targets with the labels that Prometheus' discovery of pods gives
them (``kubernetes_sd_configs``, role pod; Debian's Prometheus is built without it). Behind each address that
answers is a server of metrics; relabelling, scrapes and queries are the real Prometheus'. One way is what the Prometheus operator
makes of the compiled PodMonitors; the other is the job of the guide for
annotated pods, where ``job`` is the same for all.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import yaml

from modelway.lower import names
from modelway_runtime.detection import promql
from modelway_runtime.detection.settings import parse
from tests.lower.clusters import Cluster, Workload, gate_query
from tests.lower.test_detector import DETECTOR, alert, cluster_of
from tests.lower.test_traps_of_specs import environment, model, resource
from tests.support import shop
from tests.support.prometheus import Server, prometheus

Json = dict[str, Any]
GATED = {"strategy": "canary", "steps": [{"weight": 5}], "gates": {"errorRatio": {"max": 0.01}}}
SCALED = {"scaling": {"minReplicas": 1, "maxReplicas": 4}}
HASH = "5d5f7c9b6"
WITHIN_S = 60.0


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 its name in the standard library
        """Nothing: the output of tests is read by people."""


@contextlib.contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def metrics_of(model_name: str) -> type[BaseHTTPRequestHandler]:
    """Ten requests a second, three of a hundred bad, each of half a second: five are inside."""
    began = time.monotonic()

    class Metrics(_Quiet):
        def do_GET(self) -> None:
            seconds = time.monotonic() - began
            of = f'model="{model_name}",version="1.0.0"'
            text = f'{names.REQUESTS}{{{of},method="infer",code="200"}} {9.7 * seconds}\n'
            text += f'{names.REQUESTS}{{{of},method="infer",code="503"}} {0.3 * seconds}\n'
            text += f"{names.DURATION}_sum{{{of}}} {5 * seconds}\n"
            text += f'{names.IN_FLIGHT}{{model="{model_name}"}} 5\n{names.MODEL_READY}{{{of}}} 1\n'
            text += 'inference_gpu_memory_used_bytes{gpu="0"} 1e9\n'
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(text.encode())

    return Metrics


def targets_of(work: Workload, port: int) -> list[Json]:
    """One for each port of a running pod of the workload: only that of its metrics is another, because all share
    an address."""
    found = {"namespace": work.namespace, "pod_name": f"{work.name}-{HASH}-x7k2p", "pod_phase": "Running"}
    found |= {f"pod_label_{_safe(key)}": value for key, value in work.labels.items()}
    for key, value in work.template["metadata"].get("annotations", {}).items():
        found[f"pod_annotation_{_safe(key)}"] = str(port) if key == "prometheus.io/port" else value
    labels = {f"__meta_kubernetes_{key}": value for key, value in found.items()}
    return [
        {
            "targets": [f"127.0.0.1:{port if one['name'] == 'metrics' else one['containerPort']}"],
            "labels": {
                **labels,
                "__meta_kubernetes_pod_container_name": container["name"],
                "__meta_kubernetes_pod_container_port_name": one["name"],
            },
        }
        for container in work.pod["containers"]
        for one in container["ports"]
    ]


def _safe(key: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", key)


def by_monitors(cluster: Cluster) -> list[Json]:
    """``scrape_configs`` of the PodMonitors, as the operator writes them."""
    return [_by_monitor(monitor) for monitor in cluster.of("PodMonitor")]


def _meta(label: str) -> str:
    return f"__meta_kubernetes_pod_label_{_safe(label)}"


def _by_monitor(monitor: Json) -> Json:
    spec, space = monitor["spec"], monitor["metadata"]["namespace"]
    (endpoint,) = spec["podMetricsEndpoints"]
    name = f"podMonitor/{space}/{monitor['metadata']['name']}/0"
    rules: list[Json] = [{"action": "keep", "source_labels": ["__meta_kubernetes_namespace"], "regex": space}]
    rules += [
        {"action": "keep", "source_labels": [_meta(key)], "regex": value}
        for key, value in spec["selector"]["matchLabels"].items()
    ]
    port = "__meta_kubernetes_pod_container_port_name"
    rules.append({"action": "keep", "source_labels": [port], "regex": endpoint["port"]})
    for source, target in (
        ("__meta_kubernetes_namespace", "namespace"),
        ("__meta_kubernetes_pod_container_name", "container"),
        ("__meta_kubernetes_pod_name", "pod"),
    ):
        rules.append({"source_labels": [source], "target_label": target})
    for label in spec.get("podTargetLabels", ()):
        rules.append({"source_labels": [_meta(label)], "target_label": _safe(label), "regex": "(.+)"})
    rules.append({"target_label": "job", "replacement": f"{space}/{monitor['metadata']['name']}"})
    rules.append({"source_labels": [_meta(spec["jobLabel"])], "target_label": "job", "regex": "(.+)"})
    return {"job_name": name, "metrics_path": endpoint["path"], "relabel_configs": rules}


def by_annotations(_: Cluster) -> list[Json]:
    """The job of the guide."""
    guide = (shop.ROOT / "docs/guides/environments.md").read_text()
    (block,) = re.findall(r"```yaml\n(scrape_configs:\n.*?)```", guide, re.DOTALL)
    jobs: list[Json] = yaml.safe_load(block)["scrape_configs"]
    for job in jobs:
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    return jobs


@dataclass(frozen=True)
class Scraped:
    """``ranker`` and its standby run, ``encoder`` is dead and the detector runs."""

    cluster: Cluster
    server: Server

    def ask(self, query: str) -> list[float]:
        url = f"{self.server.url}/api/v1/query?" + urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(url, timeout=10) as answer:
            return [float(one["value"][1]) for one in json.load(answer)["data"]["result"]]


@pytest.fixture(scope="module", params=["PodMonitor", "annotations"])
def scraped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    operator = request.param == "PodMonitor"
    add_ons = ("rollouts", "gatewayAPI", "keda", *(("prometheusOperator",) if operator else ()))
    monitoring = {"scrapeInterval": "1s", "retention": "90d"}
    ranker = model(rollout=GATED, serving={**SCALED, "standby": {"model": "lite"}})
    watching = alert("a", absence={}, patterns={"memory": {"metric": "gpuMemory"}})
    cluster = cluster_of(
        environment(*add_ons, monitoring=monitoring, detector=DETECTOR),
        resource(), ranker, model("encoder"), model("lite"), watching,
        alert("b", target={"model": "encoder"}, absence={}, patterns={}),
        alert("c", target={"model": "lite"}, absence={}, patterns={}),
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        targets: list[Json] = []
        for work in cluster.running:
            if work.name not in ("encoder", "lite"):
                served = work.settings.get("model", work.name)
                targets += targets_of(work, stack.enter_context(listening(metrics_of(served))))
        # A pod that has been deleted from its node but is still known: nothing answers there.
        dead = next(work for work in cluster.running if work.name == "encoder")
        targets += targets_of(dead, 9)
        jobs = by_monitors(cluster) if operator else by_annotations(cluster)
        for job in jobs:
            job |= {"scrape_interval": "1s", "scrape_timeout": "1s", "static_configs": targets}
        server = stack.enter_context(prometheus(tmp_path_factory.mktemp("prometheus"), scrape=jobs))
        found = Scraped(cluster, server)
        _wait_for_rates(found)
        yield found


def _wait_for_rates(scraped: Scraped) -> None:
    end = time.monotonic() + WITHIN_S
    while time.monotonic() < end:
        if len(scraped.ask("up == 1")) >= 3 and all(n > 4 for n in scraped.ask("count_over_time(up[1m])")):
            return
        time.sleep(0.2)
    raise AssertionError(scraped.server.log())


def absences(cluster: Cluster) -> Mapping[str, str]:
    return {
        rule["labels"].get("job", names.DETECTOR): rule["expr"]
        for name, rule in cluster.rules()
        if name in (names.ABSENT, names.DETECTOR_ABSENT)
    }


def test_absence_is_told_of_the_dead_and_of_nobody_else(scraped: Scraped) -> None:
    """``lite`` runs as the standby of ranker alone."""
    absent = {name: bool(scraped.ask(expr)) for name, expr in absences(scraped.cluster).items()}
    assert absent == {
        "ranker": False, "ranker-standby": False, "encoder": True, names.DETECTOR: False,
    }  # fmt: skip


def test_a_scaler_finds_the_load(scraped: Scraped) -> None:
    for scaler in scraped.cluster.of("ScaledObject"):
        (trigger,) = scaler["spec"]["triggers"]
        (load,) = scraped.ask(trigger["metadata"]["query"].replace("[1m]", "[4s]"))  # as long as it has run
        assert 4 <= load <= 6


def test_a_gate_finds_the_new_pods(scraped: Scraped) -> None:
    (template,) = (
        one for one in scraped.cluster.of("AnalysisTemplate") if one["metadata"]["name"] == "ranker-gate"
    )
    for metric in template["spec"]["metrics"]:
        (ratio,) = scraped.ask(gate_query(metric))
        assert 0.02 <= ratio <= 0.04


def test_the_detector_finds_pods_and_their_revision(scraped: Scraped) -> None:
    assert scraped.cluster.detector is not None
    (watched,) = parse(json.dumps(scraped.cluster.detector.settings).encode()).watched
    for pattern in watched.patterns.values():
        for pod_hash in (None, HASH):
            for query in promql.queries(watched, pattern, 60.0, pod_hash):
                assert scraped.ask(str(query)) == [1e9]
        assert scraped.ask(str(promql.load(watched, 60.0, HASH)))


def test_dashboards_find_the_standby(scraped: Scraped) -> None:
    boards = [one for one in scraped.cluster.dashboards() if one["title"].startswith("ranker-standby ")]
    (board,) = boards
    for panel in board["panels"]:
        if panel["title"] in ("Requests by version", "Ready servers by version"):
            for target in panel["targets"]:
                assert scraped.ask(target["expr"].replace("$__rate_interval", "1m")), panel["title"]
