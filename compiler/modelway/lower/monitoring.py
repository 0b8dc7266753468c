"""How a deployment is scraped and looked at: PodMonitor and dashboard."""

from __future__ import annotations

from modelway.lower import names
from modelway.lower.dashboard import Subject, dashboard
from modelway.lower.objects import KubeObject, PlainFile, json_by_lines
from modelway.lower.scraping import workload_label
from modelway.lower.workload import Workload


def pod_monitor(workload: Workload) -> KubeObject:
    """``jobLabel`` gives the series job="<name>" (the default is <namespace>/<name>, which rules would
    miss); the pod label tells canary from stable."""
    value = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": workload.meta(workload.name, names.WAVE_RULES),
        "spec": {
            "jobLabel": names.NAME,
            "podTargetLabels": ["rollouts-pod-template-hash"],
            "selector": {"matchLabels": workload.selector},
            "podMetricsEndpoints": [
                {"port": "metrics", "path": "/metrics", "interval": workload.place.monitoring.scrape_interval}
            ],
        },
    }
    return KubeObject(workload.folder, value, workload.origin)


def dashboard_text(workload: Workload) -> str:
    subject = Subject(
        environment=workload.environment.metadata.name,
        team=workload.team,
        model=workload.model.metadata.name,
        job=workload.name,
        namespace=workload.namespace,
        version=workload.spec.version,
        gpus=workload.gpus,
        standby=workload.standby is not None,
        workload_label=workload_label(workload.place),
    )
    return json_by_lines(dashboard(subject, workload.place.monitoring))


def dashboard_map(workload: Workload) -> KubeObject:
    """The dashboard in a ConfigMap that Grafana's sidecar finds by its label."""
    meta = workload.meta(f"{workload.name}-dashboard", names.WAVE_RULES)
    meta["labels"]["grafana_dashboard"] = "1"
    value = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": meta,
        "data": {f"{workload.namespace}-{workload.name}.json": dashboard_text(workload)},
    }
    return KubeObject(workload.folder, value, workload.origin)


def dashboard_file(workload: Workload) -> PlainFile:
    path = f"{workload.folder}/dashboard-{workload.name}.json"
    return PlainFile(path, dashboard_text(workload).encode(), workload.origin)
