"""A deployed model's Grafana dashboard as the JSON model that Grafana imports (schema version 42).

Fields that equal Grafana's defaults are left out: the file lies in Git and in a ConfigMap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from modelway.lower import names
from modelway.lower.promql import quote
from modelway.spec.environment import Monitoring

# The reader picks the Prometheus; no uid of one cluster is written down.
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_VARIABLES = {"list": [{"name": "datasource", "query": "prometheus", "type": "datasource"}]}

_COLUMNS, _WIDTH, _HEIGHT = 3, 8, 8  # Grafana's grid is 24 wide
_REF_IDS = "ABCDEFGH"


class Panel(NamedTuple):
    """``queries``: PromQL and the name of its lines, which may hold ``{{label}}``."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """The deployment that is looked at. ``gpus`` are those of a replica; ``standby``: it has one.
    ``workload_label``: of series, the one with the name ``job``."""

    environment: str
    team: str
    model: str
    job: str
    namespace: str
    version: str
    gpus: int
    standby: bool
    workload_label: str = names.JOB


def dashboard(subject: Subject, monitoring: Monitoring) -> dict[str, Any]:
    """The dashboard, its keys in alphabetical order.

    Grafana finds a dashboard by its uid, of at most 40 characters: a hash of what it is about, so that a
    new version of the model changes the dashboard and does not make another.
    """
    about = f"{subject.environment}/{subject.team}/{subject.job}"
    served = f"{subject.model} {subject.version} in {subject.namespace}"
    return {
        "description": served if subject.job == subject.model else f"{served}, deployed as {subject.job}",
        "panels": [_panel(i, panel) for i, panel in enumerate(_panels(subject, monitoring))],
        "schemaVersion": 42,
        "tags": ["modelway", subject.environment, subject.team],
        "templating": _VARIABLES,
        "title": f"{subject.job} ({subject.environment})",
        "uid": hashlib.sha256(about.encode()).hexdigest()[:40],
    }


def _panels(subject: Subject, monitoring: Monitoring) -> Iterator[Panel]:
    """In reading order: what callers see, the load, the servers."""
    of = f"namespace={quote(subject.namespace)},model={quote(subject.model)}"
    if subject.job != subject.model:
        of += f",{subject.workload_label}={quote(subject.job)}"  # a standby: others may have the same one
    requests = _rate(names.REQUESTS, of)
    latency = (
        (_quantile("0.5", names.DURATION, of), "p50"),
        (_quantile("0.99", names.DURATION, of), "p99"),
        (_quantile("0.99", names.QUEUE_DURATION, of), "p99 in queue"),
    )
    yield Panel("Latency, time in queue", "s", latency)
    errors = _rate(names.REQUESTS, f'{of},code!~"2.."')
    yield Panel("Errors by code", "reqps", ((f"sum by (code) ({errors})", "{{code}}"),))
    yield Panel("Requests by version", "reqps", ((f"sum by (version) ({requests})", "{{version}}"),))
    if subject.standby:
        share = f"sum({_rate(names.STANDBY_REQUESTS, of)}) / (sum({requests}) > 0)"
        yield Panel("Answered by the standby", "percentunit", ((share, "share"),))
    rows, batches = _rate(f"{names.BATCH_ROWS}_sum", of), _rate(f"{names.BATCH_ROWS}_count", of)
    yield Panel("Rows of a batch", "", ((f"sum({rows}) / sum({batches})", "mean"),))
    load = (
        (f"sum({names.IN_FLIGHT}{{{of}}})", "requests in flight"),
        (f"sum({names.QUEUE_ROWS}{{{of}}})", "rows in queue"),
    )
    yield Panel("In flight, in queue", "", load)
    ready = f"sum by (version) ({names.MODEL_READY}{{{of}}})"
    yield Panel("Ready servers by version", "", ((ready, "{{version}}"),))
    yield Panel("Memory of the limit", "percentunit", ((_memory(subject), "{{pod}}"),))
    if subject.gpus:
        yield from _gpu_panels(subject, monitoring)


def _gpu_panels(subject: Subject, monitoring: Monitoring) -> Iterator[Panel]:
    exporter = monitoring.gpu_exporter
    pods = quote(names.pods_of(subject.job))
    gpus = f"{{{exporter.namespace_label}={quote(subject.namespace)},{exporter.pod_label}=~{pods}}}"
    by, legend = f"max by ({exporter.pod_label}, gpu)", f"{{{{{exporter.pod_label}}}}} {{{{gpu}}}}"
    yield Panel("GPU use", "percent", ((f"{by} ({names.GPU_UTILIZATION}{gpus} <= 100)", legend),))
    used = f"{names.GPU_MEMORY_USED}{gpus}"
    whole = f"{used} + {names.GPU_MEMORY_FREE}{gpus} + {names.GPU_MEMORY_RESERVED}{gpus}"
    ratio = f"{by} ({used} / ({whole} < {names.GPU_BLANK}))"
    yield Panel("GPU memory", "percentunit", ((ratio, legend),))


def _memory(subject: Subject) -> str:
    pods = quote(names.pods_of(subject.job))
    of = f"namespace={quote(subject.namespace)},pod=~{pods},container={quote(names.CONTAINER)}"
    used = f"max by (pod) ({names.MEMORY_WORKING_SET}{{{of}}})"
    return f'{used} / max by (pod) ({names.RESOURCE_LIMITS}{{{of},resource="memory"}})'


def _rate(metric: str, of: str) -> str:
    return f"rate({metric}{{{of}}}[$__rate_interval])"


def _quantile(quantile: str, metric: str, of: str) -> str:
    return f"histogram_quantile({quantile}, sum by (le) ({_rate(f'{metric}_bucket', of)}))"


def _panel(index: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(index, _COLUMNS)
    found: dict[str, Any] = {"datasource": _DATASOURCE}
    if panel.unit:
        found["fieldConfig"] = {"defaults": {"unit": panel.unit}}
    found["gridPos"] = {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": row * _HEIGHT}
    found["id"] = index + 1
    found["targets"] = [
        {"expr": expr, "legendFormat": legend, "refId": ref}
        for ref, (expr, legend) in zip(_REF_IDS, panel.queries, strict=False)
    ]
    found["title"] = panel.title
    found["type"] = "timeseries"
    return found
