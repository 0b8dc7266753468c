"""Which form things take in an environment: the written table of steps down.

| wanted | needs | else | said |
|---|---|---|---|
| canary | rollouts and gatewayAPI | Deployment | MW401, MW405: warnings, the gates are lost |
| blueGreen | rollouts | Deployment | MW401: a warning |
| replicas by load | keda | HorizontalPodAutoscaler with metricsAdapter | MW409: a note |
| replicas by load | keda or metricsAdapter | minReplicas, fixed | MW402: a warning |
| weights in an image | imageVolumes and Kubernetes 1.36 | init container that fetches | MW403: a note |
| PodMonitor, PrometheusRule | prometheusOperator | scrape annotations, rules in a ConfigMap | MW404: a note |
| thresholds on GPUs | a watched model with one | no rule | MW410: a note |
| patterns | detector | nothing looks for them | MW411: a note |
| detector | an alert with patterns | none | MW412: a note |
| gates that ask Prometheus | a CA of its own, a certificate | none, an error | MW415, MW227: prometheus.py |
| the detector's gate | a canary with gates | nobody asks it | MW401, MW405 where those are lost |
| HTTPRoute, GRPCRoute | gatewayAPI | Services alone | MW405: a warning if weights were asked |

An environment without a cluster gets plain files, and nothing is said: nothing was lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelway.diagnostics import Diagnostic, Span, diagnostic
from modelway.resolve import Deployed, Place, Resolved, watched_by
from modelway.spec.alert import Alert
from modelway.spec.environment import Environment
from modelway.spec.model import Model

Said = tuple[tuple[Span, str], ...]


@dataclass(frozen=True, slots=True)
class Forms:
    """The form of one deployment. ``strategy``: canary, blueGreen or rolling; ``scaler``: keda, hpa or ''."""

    strategy: str
    scaler: str
    image_volume: bool


def choose(one: Deployed, environment: Resolved[Environment]) -> Forms:
    """The best form that the environment allows. A standby is never released by steps."""
    cluster = environment.spec.spec.cluster
    if cluster is None:
        return Forms("rolling", "", image_volume=False)
    model, add_ons = one.model.spec.spec, cluster.add_ons
    strategy = "rolling" if one.primary is not None else model.rollout.strategy
    if not add_ons.rollouts or (strategy == "canary" and not add_ons.gateway_api):
        strategy = "rolling"
    scaler = ""
    if scaled(one.model.spec):
        scaler = "keda" if add_ons.keda else "hpa" if add_ons.metrics_adapter else ""
    volume = add_ons.image_volumes and cluster.kubernetes >= "1.36"
    return Forms(strategy, scaler, volume and model.artifact.uri.startswith("oci://"))


def scaled(model: Model) -> bool:
    scaling = model.spec.serving.scaling
    return scaling.max_replicas is not None and scaling.max_replicas > scaling.min_replicas


def steps_down(one: Deployed, environment: Resolved[Environment]) -> Iterator[Diagnostic]:
    """What the deployment does not get in this environment, and why."""
    cluster = environment.spec.spec.cluster
    if cluster is None:
        return
    forms = choose(one, environment)
    yield from _lost_rollout(one, forms, environment)
    name, model = environment.key, one.model
    if scaled(model.spec) and forms.scaler != "keda":
        span = model.key_span("spec", "serving", "scaling", "maxReplicas")
        if forms.scaler == "hpa":
            text = f'"{name}" has no keda: a HorizontalPodAutoscaler scales by the metrics adapter'
            yield diagnostic("MW409", span, text, "", _add_ons(environment))
        else:
            least = model.spec.spec.serving.scaling.min_replicas
            text = f'"{name}" has neither keda nor metricsAdapter: {least} replicas, whatever the load'
            yield diagnostic(
                "MW402",
                span,
                text,
                "leave maxReplicas out in its overlay if that is meant",
                _add_ons(environment),
            )
    if model.spec.spec.artifact.uri.startswith("oci://") and not forms.image_volume:
        has = cluster.add_ons.image_volumes
        why = f"has Kubernetes {cluster.kubernetes}, below 1.36" if has else "has no imageVolumes"
        text = f'"{name}" {why}: an init container fetches the weights'
        yield diagnostic("MW403", model.span("spec", "artifact", "uri"), text, "", _add_ons(environment))


def _add_ons(environment: Resolved[Environment]) -> Said:
    """Looked up for a finding only: to know a place, a document is read a second time."""
    return ((environment.key_span("spec", "cluster", "addOns"), "the environment's add-ons are here"),)


def _lost_rollout(one: Deployed, forms: Forms, environment: Resolved[Environment]) -> Iterator[Diagnostic]:
    model, cluster = one.model, environment.spec.spec.cluster
    wanted = model.spec.spec.rollout.strategy
    if cluster is None or one.primary is not None or forms.strategy == wanted:
        return
    span = model.span("spec", "rollout", "strategy")
    hint = "write strategy: rolling in its overlay if that is meant"
    if not cluster.add_ons.rollouts:
        text = f'"{environment.key}" has no rollouts: "{model.key}", a {wanted}, is updated without gates'
        yield diagnostic("MW401", span, text, hint, _add_ons(environment))
    else:
        text = (
            f'"{environment.key}" has no gatewayAPI to weigh traffic: "{model.key}" is updated without gates'
        )
        yield diagnostic("MW405", span, text, hint, _add_ons(environment))


def steps_down_of_environment(place: Place) -> Iterator[Diagnostic]:
    """What is said once for an environment."""
    cluster = place.environment.spec.spec.cluster
    if cluster is not None and not cluster.add_ons.prometheus_operator:
        text = (
            f'"{place.name}" has no prometheusOperator: pods carry scrape annotations, '
            "rules lie in ConfigMaps labelled modelway.dev/prometheus-rules"
        )
        hint = "scrape with namespace, pod and the pod's labels: docs/guides/environments.md has the job"
        yield diagnostic("MW404", place.environment.key_span("spec", "cluster"), text, hint)
    for alert in place.alerts.values():
        limits = alert.spec.spec.thresholds
        for name, limit in (("gpuUtilization", limits.gpu_utilization), ("gpuMemory", limits.gpu_memory)):
            if limit and cluster is not None and not _has_gpu(alert.spec, place):
                text = f'no model that it watches has a GPU in "{place.name}": no rule is made of it'
                yield diagnostic("MW410", alert.key_span("spec", "thresholds", name), text)


def _has_gpu(alert: Alert, place: Place) -> bool:
    models = watched_by(alert, place.models)
    return any(place.resources[model.spec.spec.serving.resource].spec.spec.gpu for model in models)
