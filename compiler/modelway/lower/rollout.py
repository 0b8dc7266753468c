"""Releases with Argo Rollouts: the Rollout, and AnalysisTemplates that cannot pass without evidence.

Facts about Rollouts that shape what is written here (argo-rollouts 1.9, ``utils/evaluate`` and
``assessMetricStatus``): with only one of the two conditions NaN or an empty result passes or
errs, with both guarded it is Inconclusive and pauses; a metric that reaches ``count`` without a
failure is Successful unless ``consecutiveSuccessLimit`` demands successes; a background run that
ends early is Successful whatever it saw, so every step also has an inline run that blocks it.
"""

from __future__ import annotations

from modelway.lower import names
from modelway.lower.gate import gate_request, gate_token
from modelway.lower.objects import Json, KubeObject
from modelway.lower.serving import (
    MIN_READY_S,
    deadline_seconds,
    pod_template,
    workload_annotations,
)
from modelway.lower.workload import Workload
from modelway.spec.common import milliseconds

INTERVAL_S = 60
COUNT = 10
SUCCESSES = 5
FAILURES = 2
INCONCLUSIVES = 3
"""A gate looks ten times, a minute apart, and opens after five good looks in a row; the third bad
one closes it, the fourth without evidence pauses. COUNT >= FAILURES + SUCCESSES must hold."""
SAME_VERDICTS = 2
"""The detector's verdict is of all that it has seen, so two alike say what five looks at a rate do, and each
way: the second success opens the gate, the second failure closes it. That it has seen too little is its usual
answer at first: whatever is still open after COUNT looks pauses."""
GATE_ERRORS = 360
"""A detector that is away says nothing of the release, and too many errors abort it: an hour of them, at the
ten seconds that Rollouts waits after each."""
_HASH = "{{args.canary-hash}}"
_STABLE_HASH = "{{args.stable-hash}}"
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


def gated(workload: Workload) -> bool:
    gates = workload.spec.rollout.gates
    return bool(gates.error_ratio or gates.latency or gates.queue_time)


def gate_name(workload: Workload) -> str:
    return f"{workload.name}-gate"


def detector_name(workload: Workload) -> str:
    return f"{workload.name}-{names.DETECTOR}"


def asks_detector(workload: Workload) -> bool:
    """Only of a canary: what a preview does without traffic proves nothing."""
    return workload.forms.strategy == "canary" and gated(workload) and bool(workload.judged)


def watch_name(workload: Workload) -> str:
    return f"{workload.name}-watch"


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


def templates(workload: Workload) -> list[KubeObject]:
    """The gate of each step, and for a canary the watch that aborts between gates."""
    if not gated(workload):
        return []
    gate = {
        "count": COUNT,
        "consecutiveSuccessLimit": SUCCESSES,
        "failureLimit": FAILURES,
        "inconclusiveLimit": INCONCLUSIVES,
    }
    found = [_template(workload, gate_name(workload), gate)]
    if workload.forms.strategy == "canary":
        # No count: it looks until the steps end. The first minutes of a canary have no rate yet.
        watch = {"initialDelay": "5m", "failureLimit": FAILURES, "inconclusiveLimit": COUNT}
        found.append(_template(workload, watch_name(workload), watch))
    if asks_detector(workload):
        found.append(_detector_template(workload))
    return found


def _detector_template(workload: Workload) -> KubeObject:
    """Asks the detector about the canary beside the stable pods (``docs/contract.md``, The gate).

    Only the words success and failure decide; anything else, and an answer without ``outcome`` above all, is
    no evidence. Argo knows no field that says when a release began: the detector sees it in the series.
    """
    detector = workload.place.detector
    assert detector, "judged: there is a detector"
    assert detector.gate, "judged: there is a gate"
    environment = workload.environment.metadata.name
    metric = {
        "name": names.DETECTOR,
        "interval": f"{INTERVAL_S}s",
        "count": COUNT,
        "consecutiveSuccessLimit": SAME_VERDICTS,
        "failureLimit": SAME_VERDICTS - 1,
        "inconclusiveLimit": COUNT,
        "consecutiveErrorLimit": GATE_ERRORS,
        "successCondition": 'result == "success"',
        "failureCondition": 'result == "failure"',
        "provider": {
            "web": {
                **gate_request(environment, "POST", "/v1/gate"),
                "jsonBody": {
                    "environment": environment,
                    "namespace": workload.namespace,
                    "model": workload.model.metadata.name,
                    "canary_hash": _HASH,
                    "stable_hash": _STABLE_HASH,
                    "metrics": list(workload.judged),
                },
                "jsonPath": "{$.outcome}",
            }
        },
    }
    args: list[Json] = [{"name": "canary-hash"}, {"name": "stable-hash"}, gate_token(detector.gate)]
    value = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": workload.meta(detector_name(workload), names.WAVE_RULES),
        "spec": {"args": args, "metrics": [metric]},
    }
    return KubeObject(workload.folder, value, workload.origin)


def _template(workload: Workload, name: str, limits: Json) -> KubeObject:
    address = workload.place.monitoring.prometheus
    metrics = [
        {
            "name": metric,
            "interval": f"{INTERVAL_S}s",
            **limits,
            "consecutiveErrorLimit": 4,
            "successCondition": f"len(result) > 0 && !isNaN(result[0]) && result[0] <= {limit}",
            "failureCondition": f"len(result) > 0 && !isNaN(result[0]) && result[0] > {limit}",
            "provider": {"prometheus": {"address": address, "query": query}},
        }
        for metric, limit, query in _queries(workload)
    ]
    value = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": workload.meta(name, names.WAVE_RULES),
        "spec": {"args": [{"name": "canary-hash"}], "metrics": metrics},
    }
    return KubeObject(workload.folder, value, workload.origin)


def _queries(workload: Workload) -> list[tuple[str, str, str]]:
    """(metric, limit, PromQL): one number for the new pods, and nothing while they get too few requests."""
    gates = workload.spec.rollout.gates
    pods = (
        f'namespace="{workload.namespace}",model="{workload.model.metadata.name}",'
        f'rollouts_pod_template_hash="{_HASH}"'
    )
    rate = f"sum(rate({names.REQUESTS}{{{pods}}}[5m]))"
    least = decimal(gates.min_rate)
    found = []
    if gates.error_ratio:
        bad = f'sum(rate({names.REQUESTS}{{{pods},code=~"{names.BAD_CODES}"}}[5m]))'
        found.append(
            ("error-ratio", decimal(gates.error_ratio.max), f"({bad} or vector(0)) / ({rate} > {least})")
        )
    for name, gate, metric in (
        ("latency", gates.latency, names.DURATION),
        ("queue-time", gates.queue_time, names.QUEUE_DURATION),
    ):
        if gate:
            buckets = f"sum by (le) (rate({metric}_bucket{{{pods}}}[5m]))"
            query = f"histogram_quantile({decimal(gate.quantile)}, {buckets}) and on () ({rate} > {least})"
            found.append((name, decimal(milliseconds(gate.max) / 1000), query))
    return found


def decimal(value: float) -> str:
    """A number as PromQL and Argo's expressions read it: never in scientific notation."""
    text = f"{value:.12f}".rstrip("0").rstrip(".")
    return text if float(text) == value else repr(value)
