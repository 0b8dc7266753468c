"""Replicas by load: a ScaledObject, or a HorizontalPodAutoscaler on the metrics adapter. Never both."""

from __future__ import annotations

from decimal import Decimal

from modelway.lower import names
from modelway.lower.objects import Json, KubeObject
from modelway.lower.prometheus import trigger, trigger_secrets
from modelway.lower.promql import duration, rate_window
from modelway.lower.scraping import workload_label
from modelway.lower.workload import Workload
from modelway.spec.common import canonical_amount, milliseconds

# One pod more every two minutes (loading takes about as long, so faster would overshoot), one
# less every five after a quiet quarter of an hour.
_BEHAVIOR = {
    "scaleUp": {
        "stabilizationWindowSeconds": 0,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}],
    },
    "scaleDown": {
        "stabilizationWindowSeconds": 900,
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}],
    },
}
_SERVED_BY_ADAPTER = {"inFlight": names.MEAN_IN_FLIGHT, "queuedRows": names.MEAN_QUEUE_ROWS}
_LEAST_WINDOW_MS = 60_000


def scaler(workload: Workload) -> list[KubeObject]:
    if workload.forms.scaler == "keda":
        secrets = trigger_secrets(workload.place.monitoring)
        return [
            *([_trigger_authentication(workload, secrets)] if secrets else []),
            _object(workload, "keda.sh/v1alpha1", "ScaledObject", _scaled_object(workload, secrets)),
        ]
    if workload.forms.scaler == "hpa":
        return [_object(workload, "autoscaling/v2", "HorizontalPodAutoscaler", _autoscaler(workload))]
    return []


def _trigger_authentication(workload: Workload, secrets: list[Json]) -> KubeObject:
    """Says which Secrets of the namespace let KEDA in; an object for each scaler, so that none is shared."""
    spec = {"secretTargetRef": secrets}
    return _object(workload, "keda.sh/v1alpha1", "TriggerAuthentication", spec, names.WAVE_RULES)


def _object(
    workload: Workload, version: str, kind: str, spec: Json, wave: str = names.WAVE_WORKLOAD
) -> KubeObject:
    meta = workload.meta(workload.name, wave)
    value = {"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec}
    return KubeObject(workload.folder, value, workload.origin)


def _target(workload: Workload) -> Json:
    if workload.forms.strategy == "rolling":
        return {"apiVersion": "apps/v1", "kind": "Deployment", "name": workload.name}
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": workload.name}


def _scaled_object(workload: Workload, secrets: list[Json]) -> Json:
    scaling = workload.spec.serving.scaling
    return {
        "scaleTargetRef": _target(workload),
        "minReplicaCount": scaling.min_replicas,  # KEDA's default is 0
        "maxReplicaCount": scaling.max_replicas,
        "pollingInterval": 30,
        "cooldownPeriod": 900,
        # Lost metrics must not read as no load: an empty answer is an error (KEDA's default takes it
        # for 0), and on errors the number of replicas may only grow.
        "fallback": {
            "failureThreshold": 3,
            "replicas": scaling.min_replicas,
            "behavior": "currentReplicasIfHigher",
        },
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _BEHAVIOR}},
        "triggers": [
            {
                "type": "prometheus",
                "metricType": "AverageValue",
                "metadata": {
                    **trigger(workload.place.monitoring),
                    "query": _mean_load(workload),
                    "threshold": str(scaling.target),
                    "ignoreNullValues": "false",
                },
                **({"authenticationRef": {"name": workload.name}} if secrets else {}),
            }
        ],
    }


def _mean_load(workload: Workload) -> str:
    """The mean over a minute; of a gauge a scrape sees one instant, which chance decides.

    By Little's law the mean number of requests inside is the time that they spend there, each second. Rows in
    the queue are the requests that wait, by the rows of a request. A server that was never asked has no such
    series: its gauge tells that it is there and idle. Where that is lost too, there is no answer.
    """
    label, scrape = workload_label(workload.place), milliseconds(workload.place.monitoring.scrape_interval)
    window = duration(rate_window(scrape, _LEAST_WINDOW_MS))
    of = f'namespace="{workload.namespace}",model="{workload.model.metadata.name}",{label}="{workload.name}"'

    def rate(series: str) -> str:
        return f"sum(rate({series}{{{of}}}[{window}]))"

    if workload.spec.serving.scaling.metric == "inFlight":
        return f"{rate(f'{names.DURATION}_sum')} or 0 * sum({names.IN_FLIGHT}{{{of}}})"
    waiting, requests = rate(f"{names.QUEUE_DURATION}_sum"), rate(f"{names.QUEUE_DURATION}_count")
    rows = f"{rate(f'{names.BATCH_ROWS}_sum')} / ({requests} > 0)"
    return f"{waiting} * {rows} or 0 * sum({names.QUEUE_ROWS}{{{of}}})"


def _autoscaler(workload: Workload) -> Json:
    scaling = workload.spec.serving.scaling
    metric = {
        "metric": {"name": _SERVED_BY_ADAPTER[scaling.metric]},
        "target": {
            "type": "AverageValue",
            "averageValue": canonical_amount(Decimal(scaling.target), binary=False),
        },
    }
    return {
        "scaleTargetRef": _target(workload),
        "minReplicas": scaling.min_replicas,
        "maxReplicas": scaling.max_replicas,
        "metrics": [{"type": "Pods", "pods": metric}],
        "behavior": _BEHAVIOR,
    }
