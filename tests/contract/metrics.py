"""The metrics of docs/contract.md as data, and which of them a PromQL expression names.

``strangers`` is the check for whatever is emitted: rules, gates, scalers, dashboards. What it returns
is exposed by nobody, so such an expression would be silent for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple

import promql_parser
from promql_parser import Expr, Matcher, MatchOp, VectorSelector

Kind = Literal["counter", "gauge", "histogram"]
# What must be the case for the metric to be there.
When = Literal["served", "numbers", "classes", "nvml", "detector"]


class Metric(NamedTuple):
    """A metric of ours: its type, its own labels, and when it is exposed."""

    type: Kind
    labels: tuple[str, ...]
    when: When = "served"


METRICS: dict[str, Metric] = {
    "inference_requests_total": Metric("counter", ("model", "version", "method", "code")),
    "inference_request_duration_seconds": Metric("histogram", ("model", "version")),
    "inference_queue_duration_seconds": Metric("histogram", ("model", "version")),
    "inference_compute_duration_seconds": Metric("histogram", ("model", "version")),
    "inference_batch_rows": Metric("histogram", ("model", "version")),
    "inference_requests_in_flight": Metric("gauge", ("model",)),
    "inference_queue_rows": Metric("gauge", ("model",)),
    "inference_rejected_total": Metric("counter", ("model", "version", "reason")),
    "inference_standby_requests_total": Metric("counter", ("model", "reason")),
    "inference_cache_requests_total": Metric("counter", ("model", "result")),
    "inference_output_value": Metric("histogram", ("model", "version", "output"), "numbers"),
    "inference_output_class_total": Metric("counter", ("model", "version", "output", "class"), "classes"),
    "model_ready": Metric("gauge", ("model", "version")),
    "model_load_duration_seconds": Metric("gauge", ("model", "version")),
    "model_info": Metric("gauge", ("model", "version", "format", "provider", "digest", "lineage_digest")),
    "inference_gpu_memory_used_bytes": Metric("gauge", ("gpu",), "nvml"),
    "inference_gpu_utilization_ratio": Metric("gauge", ("gpu",), "nvml"),
    "modelway_detector_verdicts_total": Metric("counter", ("model", "state"), "detector"),
    "modelway_detector_last_success_timestamp_seconds": Metric("gauge", ("model",), "detector"),
    "modelway_detector_run_duration_seconds": Metric("histogram", ("model",), "detector"),
    "modelway_detector_missing_ratio": Metric("gauge", ("model",), "detector"),
}

# Labels whose values are a closed list.
LABEL_VALUES: dict[tuple[str, str], tuple[str, ...]] = {
    ("inference_requests_total", "method"): ("infer", "stream"),
    ("inference_rejected_total", "reason"): (
        "queue_full",
        "deadline",
        "limit",
        "disconnected",
        "unauthorized",
    ),
    ("inference_standby_requests_total", "reason"): ("not_loaded", "failed", "timeout", "tripped", "active"),
    ("inference_cache_requests_total", "result"): ("hit", "miss"),
    ("modelway_detector_verdicts_total", "state"): (
        "regressed",
        "improved",
        "unchanged",
        "pending",
        "inconclusive",
    ),
}

# Labels that the scrape adds to every series of ours.
SCRAPE_LABELS = frozenset({"namespace", "pod", "job", "app_kubernetes_io_name", "rollouts_pod_template_hash"})

# What our expressions may name of others, by who exposes it.
FOREIGN_BY_SOURCE: dict[str, tuple[str, ...]] = {
    "Prometheus": ("up",),
    "kube-state-metrics": (
        "kube_deployment_spec_replicas",
        "kube_deployment_status_replicas_available",
        "kube_pod_container_resource_limits",
        "kube_pod_container_resource_requests",
        "kube_pod_container_status_last_terminated_reason",
        "kube_pod_container_status_restarts_total",
        "kube_pod_labels",
        "kube_pod_status_phase",
    ),
    "cAdvisor": (
        "container_cpu_usage_seconds_total",
        "container_memory_working_set_bytes",
    ),
    "DCGM exporter": (
        "DCGM_FI_DEV_FB_FREE",
        "DCGM_FI_DEV_FB_RESERVED",
        "DCGM_FI_DEV_FB_USED",
        "DCGM_FI_DEV_GPU_UTIL",
        "DCGM_FI_DEV_XID_ERRORS",
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
    ),
    "Argo Rollouts": (
        "analysis_run_info",
        "rollout_info",
        "rollout_info_replicas_available",
        "rollout_info_replicas_desired",
    ),
    # Not keda_scaler_errors_total: KEDA 2.20 has only its successor, which counts for each scaler.
    "KEDA": (
        "keda_scaled_object_errors_total",
        "keda_scaler_detail_errors_total",
    ),
}
FOREIGN = frozenset(name for names in FOREIGN_BY_SOURCE.values() for name in names)

_SUFFIXES = ("_bucket", "_sum", "_count")

# The names that series of ours really have: a classic histogram has none under its own name.
SERIES = frozenset(
    name + suffix
    for name, metric in METRICS.items()
    for suffix in (_SUFFIXES if metric.type == "histogram" else ("",))
)

# Grafana's own variables stand where PromQL wants a duration.
_GRAFANA_DURATIONS = ("$__rate_interval", "$__interval", "$__range")


class Selector(NamedTuple):
    """A selector of an expression: the metric it names and the labels that it matches on."""

    name: str
    labels: frozenset[str]


def selectors(promql: str) -> list[Selector]:
    """The selectors of an expression; ``ValueError`` where it does not parse or names no one metric."""
    found: list[Selector] = []

    def visit(node: Expr) -> None:
        if isinstance(node, VectorSelector):
            found.extend(_selected(node, promql))

    promql_parser.walk(promql_parser.parse(promql), visit)
    return found


def metric_names(promql: str) -> set[str]:
    """The names of the series that an expression reads."""
    return {selector.name for selector in selectors(promql)}


def base_name(name: str) -> str:
    """``inference_batch_rows_bucket`` -> ``inference_batch_rows``; any other name is left as it is."""
    for suffix in _SUFFIXES:
        base = name.removesuffix(suffix)
        if base != name and base in METRICS and METRICS[base].type == "histogram":
            return base
    return name


def strangers(promql: str, recorded: Collection[str] = ()) -> set[str]:
    """The names that neither we expose, nor the list of foreign metrics holds, nor a rule records."""
    return metric_names(promql) - SERIES - FOREIGN - set(recorded)


def strange_labels(promql: str) -> set[tuple[str, str]]:
    """Pairs of a metric of ours and a label that it does not have, but that a selector matches on."""
    return {
        (name, label)
        for name, labels in selectors(promql)
        if name in SERIES
        for label in labels - _labels_of(name)
    }


def without_grafana(promql: str) -> str:
    """The expression with a duration in place of Grafana's variables, so that it parses."""
    for variable in _GRAFANA_DURATIONS:
        promql = promql.replace(variable, "5m")
    return promql


def _labels_of(series: str) -> frozenset[str]:
    bucket = {"le"} if series.endswith("_bucket") else set()
    return SCRAPE_LABELS.union(METRICS[base_name(series)].labels, bucket)


def _selected(node: VectorSelector, promql: str) -> Iterator[Selector]:
    common = node.matchers.matchers
    for alternative in node.matchers.or_matchers or [[]]:
        matchers = [*common, *alternative]
        labels = frozenset(matcher.name for matcher in matchers if matcher.name != "__name__")
        yield Selector(node.name or _name_matched(matchers, promql), labels)


def _name_matched(matchers: list[Matcher], promql: str) -> str:
    for matcher in matchers:
        if matcher.name == "__name__" and matcher.op == MatchOp.Equal:
            return matcher.value
    raise ValueError(f"a selector without a metric's name: {promql}")
