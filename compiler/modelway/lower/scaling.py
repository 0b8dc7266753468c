"""Replicas by load: a ScaledObject, or a HorizontalPodAutoscaler on the metrics adapter. Never both."""

from __future__ import annotations

from decimal import Decimal

from modelway.lower import names
from modelway.lower.objects import Json, KubeObject
from modelway.lower.workload import Workload
from modelway.spec.common import canonical_amount

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
_METRICS = {"inFlight": names.IN_FLIGHT, "queuedRows": names.QUEUE_ROWS}


def scaler(workload: Workload) -> list[KubeObject]:
    if workload.forms.scaler == "keda":
        return [_object(workload, "keda.sh/v1alpha1", "ScaledObject", _scaled_object(workload))]
    if workload.forms.scaler == "hpa":
        return [_object(workload, "autoscaling/v2", "HorizontalPodAutoscaler", _autoscaler(workload))]
    return []


def _object(workload: Workload, version: str, kind: str, spec: Json) -> KubeObject:
    meta = workload.meta(workload.name, names.WAVE_WORKLOAD)
    value = {"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec}
    return KubeObject(workload.folder, value, workload.origin)


def _target(workload: Workload) -> Json:
    if workload.forms.strategy == "rolling":
        return {"apiVersion": "apps/v1", "kind": "Deployment", "name": workload.name}
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": workload.name}


def _scaled_object(workload: Workload) -> Json:
    scaling = workload.spec.serving.scaling
    selector = (
        f'namespace="{workload.namespace}",model="{workload.model.metadata.name}",job="{workload.name}"'
    )
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
                    "serverAddress": workload.place.monitoring.prometheus,
                    "query": f"sum({_METRICS[scaling.metric]}{{{selector}}})",
                    "threshold": str(scaling.target),
                    "ignoreNullValues": "false",
                },
            }
        ],
    }


def _autoscaler(workload: Workload) -> Json:
    scaling = workload.spec.serving.scaling
    metric = {
        "metric": {"name": _METRICS[scaling.metric]},
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
