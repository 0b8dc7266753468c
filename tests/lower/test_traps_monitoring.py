"""Rules, dashboards and scrapes: what is asked for is exposed, and can be answered."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from modelway.lower import names
from tests.contract.metrics import METRICS, SERIES, metric_names, strange_labels, strangers, without_grafana
from tests.lower.clusters import (
    Cluster,
    clusters,
    expressions,
    gate_limit,
    gate_metrics,
)
from tests.support import shop

Json = dict[str, Any]


def test_pod_monitors_give_the_labels_that_rules_ask_for(cluster: Cluster) -> None:
    monitors = cluster.of("PodMonitor")
    assert len(monitors) == (len(cluster.running) if cluster.has("prometheusOperator") else 0)
    for monitor in monitors:
        spec = monitor["spec"]
        assert spec["jobLabel"] == names.NAME, "else absence always fires"
        (endpoint,) = spec["podMetricsEndpoints"]
        (selected,) = cluster.selected(monitor["metadata"]["namespace"], spec["selector"])
        work = cluster.workload(monitor["metadata"]["namespace"], selected)
        assert endpoint["port"] in {one["name"] for one in work.server["ports"]}
        assert work.labels[names.NAME] == selected
        assert work.is_detector or "rollouts-pod-template-hash" in spec["podTargetLabels"]


def test_without_the_operator_pods_say_where_they_are_scraped(cluster: Cluster) -> None:
    for work in cluster.running:
        annotations = work.template["metadata"].get("annotations", {})
        if cluster.has("prometheusOperator"):
            assert "prometheus.io/scrape" not in annotations, "it would be scraped twice"
        else:
            assert annotations["prometheus.io/scrape"] == "true"
            ports = {str(one["containerPort"]): one["name"] for one in work.server["ports"]}
            assert ports[annotations["prometheus.io/port"]] == "metrics"


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


def test_bounds_are_written_as_floats() -> None:
    for where, text in (pair for cluster in clusters() for pair in expressions(cluster)):
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
    for one, metric, _ in gate_metrics(cluster):
        if metric["name"] in ("latency", "queue-time"):
            meta = one["metadata"]
            work = cluster.workload(meta["namespace"], meta["labels"][names.NAME])
            yield work.namespace, work.settings["model"], gate_limit(metric), meta["name"]


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


def test_there_are_thresholds_on_times_in_every_cluster(cluster: Cluster) -> None:
    """Else the test above would say nothing."""
    assert list(_asked_bounds(cluster))


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
    label = "job" if cluster.has("prometheusOperator") else "app_kubernetes_io_name"
    for name, rule in cluster.rules():
        if name == names.ABSENT:
            form = rf'absent\(up\{{namespace="([^"]+)",{label}="([^"]+)"\}} == 1\)'
            found = re.fullmatch(form, rule["expr"])
            assert found, rule["expr"]
            work = cluster.workload(*found.groups())
            assert rule["labels"]["job"] == work.name
            assert rule["labels"]["namespace"] == work.namespace
            assert rule["labels"]["model"] == work.settings["model"]
        elif name == names.DETECTOR_ABSENT:
            assert cluster.detector is not None
            where = f'namespace="{cluster.detector.namespace}",{label}="{cluster.detector.name}"'
            assert rule["expr"] == f"absent(up{{{where}}} == 1)"
        elif name != names.DETECTOR_STALE:  # its labels are written out
            assert "absent(" not in rule["expr"]


def test_recorded_series_have_names_of_one_form() -> None:
    for _, rule in (pair for cluster in clusters() for pair in cluster.rules()):
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
