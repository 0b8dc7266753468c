"""Releases with Argo Rollouts: the Rollout and its steps; what they ask is in ``analysis``."""

from __future__ import annotations

from modelway.lower import names
from modelway.lower.analysis import asks_detector, detector_name, gate_name, gated, watch_name
from modelway.lower.objects import Json, KubeObject
from modelway.lower.serving import (
    MIN_READY_S,
    deadline_seconds,
    pod_template,
    workload_annotations,
)
from modelway.lower.workload import Workload
from modelway.spec.common import milliseconds

_ARGS = [{"name": "canary-hash", "valueFrom": {"podTemplateHashValue": "Latest"}}]
_BOTH_ARGS = [*_ARGS, {"name": "stable-hash", "valueFrom": {"podTemplateHashValue": "Stable"}}]


def rollout(workload: Workload, settings_name: str) -> KubeObject:
    canary = workload.forms.strategy == "canary"
    value = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Rollout",
        "metadata": workload.meta(workload.name, names.WAVE_WORKLOAD, workload_annotations(workload)),
        "spec": {
            "replicas": workload.replicas,
            "minReadySeconds": MIN_READY_S,
            "revisionHistoryLimit": 5,
            "rollbackWindow": {"revisions": 3},
            "progressDeadlineSeconds": deadline_seconds(workload),
            "progressDeadlineAbort": True,  # else a canary that hangs keeps its share of traffic
            "selector": {"matchLabels": workload.selector},
            "strategy": {"canary": _canary(workload)} if canary else {"blueGreen": _blue_green(workload)},
            "template": pod_template(workload, settings_name),
        },
    }
    return KubeObject(workload.folder, value, workload.origin)


def _canary(workload: Workload) -> Json:
    """Steps in the order weight, pause, gate.

    No ``dynamicStableScale``: it shrinks the stable pods as traffic moves, and a sync that puts the weights
    of Git back would lead all traffic to the few that are left. Nothing here tells whether the syncer leaves
    the weights alone. The price is the peak: the canary's pods beside all stable ones (``capacity.py``).
    """
    steps: list[Json] = []
    asked = [{"templateName": gate_name(workload)}]
    if asks_detector(workload):
        asked.append({"templateName": detector_name(workload)})
    inline = {"analysis": {"templates": asked, "args": _BOTH_ARGS if len(asked) > 1 else _ARGS}}
    for step in workload.spec.rollout.steps:
        steps.append({"setWeight": step.weight})
        if milliseconds(step.pause):
            steps.append({"pause": {"duration": pause(step.pause)}})
        if gated(workload):
            steps.append(inline)
    canary: Json = {
        "canaryService": names.role(workload.name, names.CANARY),
        "stableService": names.role(workload.name, names.STABLE),
        "trafficRouting": {"plugins": {"argoproj-labs/gatewayAPI": _routes(workload)}},
        "steps": steps,
    }
    if gated(workload):
        watch = {"templates": [{"templateName": watch_name(workload)}], "args": _ARGS}
        canary["analysis"] = {"startingStep": 1, **watch}
    return canary


def _routes(workload: Workload) -> Json:
    """The plugin looks routes up in the namespace of its configuration and never defaults it."""
    protocols = workload.spec.serving.protocols
    found: Json = {"namespace": workload.namespace}
    if protocols.rest:
        found["httpRoutes"] = [{"name": workload.name}]
    if protocols.grpc:
        found["grpcRoutes"] = [{"name": names.role(workload.name, names.GRPC)}]
    return found


def _blue_green(workload: Workload) -> Json:
    """No ``autoPromotionSeconds``: it would count an unfinished analysis as passed."""
    blue_green: Json = {
        "activeService": names.role(workload.name, names.STABLE),
        "previewService": names.role(workload.name, names.CANARY),
        "autoPromotionEnabled": False,
        "previewReplicaCount": 1,
        "scaleDownDelaySeconds": 600,
    }
    if gated(workload):
        blue_green["prePromotionAnalysis"] = {
            "templates": [{"templateName": gate_name(workload)}],
            "args": _ARGS,
        }
    return blue_green


def pause(duration: str) -> str:
    """Rollouts reads durations as Go does, which knows neither days nor a bare number of them."""
    return (
        f"{milliseconds(duration)}ms" if duration.endswith("d") or milliseconds(duration) % 1000 else duration
    )
