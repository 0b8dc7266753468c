"""An environment -> everything that it gets, spec by spec, so that a large one is never held whole."""

from __future__ import annotations

from collections.abc import Iterator

from modelway.diagnostics import Diagnostic
from modelway.emit import emit
from modelway.lower import access, capacity, monitoring, names, routes, scaling, serving, settings
from modelway.lower.alerts import Watched, rule_groups
from modelway.lower.analysis import asks_detector, few_pods, gated, templates
from modelway.lower.detector import detector
from modelway.lower.forms import steps_down, steps_down_of_environment
from modelway.lower.gate import smoke_run
from modelway.lower.objects import KubeObject, Output, PlainFile, json_text, metadata
from modelway.lower.platform import platform
from modelway.lower.prometheus import cannot_pass, smoke
from modelway.lower.rollout import rollout
from modelway.lower.scraping import workload_label
from modelway.lower.transitions import Standing, ownership
from modelway.lower.workload import Workload, latency_bounds, workload
from modelway.resolve import Deployed, Place, Resolved, deployed, watched_by
from modelway.spec.alert import Alert
from modelway.watching import NEVER, judged_patterns


def lower(place: Place, standing: Standing) -> Iterator[Output]:
    """Every object and file of the environment; the specs are known to be consistent."""
    yield from platform(place)
    yield from detector(place)
    buckets = latency_bounds(place)
    judged = judged_patterns(place)
    all_deployed = deployed(place)
    asking: set[str] = set()
    measuring: set[str] = set()
    for one in all_deployed:
        built = workload(one, place, buckets, judged, standing)
        yield from _model(built)
        if asks_detector(built):
            asking.add(built.team)
        if built.forms.strategy != "rolling" and gated(built):
            measuring.add(built.team)
    yield from _smoke_runs(place, asking, measuring)
    watched = _watched(place, all_deployed)
    for alert in place.alerts.values():
        yield from _alert(alert, place, watched)


def downgrades(place: Place, standing: Standing) -> Iterator[Diagnostic]:
    """Everything that the environment's add-ons, version and GPUs do not allow, and what it gets instead."""
    yield from ownership(place, standing)
    if place.environment.spec.spec.cluster is not None:
        yield from capacity.releases(place)
    yield from steps_down_of_environment(place)
    yield from cannot_pass(place)
    yield from few_pods(place)
    for one in deployed(place):
        yield from steps_down(one, place.environment)


def _model(one: Workload) -> Iterator[Output]:
    if one.place.cluster is None:
        if one.primary is None:  # a standby is served by its primary's process
            yield settings.settings_file(one)
            yield monitoring.dashboard_file(one)
        return
    text = json_text(settings.settings(one))
    settings_name = settings.config_map_name(one, text)
    yield serving.service_account(one)
    yield settings.config_map(one, text)
    yield access.network_policy(one)
    yield from serving.services(one)
    yield from routes.routes(one)
    yield serving.disruption_budget(one)
    if one.forms.strategy == "rolling":
        yield serving.deployment(one, settings_name)
    else:
        yield from templates(one)
        yield rollout(one, settings_name)
    yield from scaling.scaler(one)
    if one.place.cluster.add_ons.prometheus_operator:
        yield monitoring.pod_monitor(one)
    yield monitoring.dashboard_map(one)


def _smoke_runs(place: Place, asking: set[str], measuring: set[str]) -> Iterator[Output]:
    """For each team whose canaries ask the detector, and whose gates need a token of Prometheus."""
    environment = place.environment.spec.spec
    if environment.detector and environment.detector.gate:
        for team in sorted(asking):
            yield smoke_run(place, environment.detector.gate, team)
    if environment.monitoring.token_secret:
        for team in sorted(measuring):
            yield smoke(place, team)


def _watched(place: Place, all_deployed: list[Deployed]) -> dict[str, list[Watched]]:
    """What alerts see of each model: one deployment, or as many as it is a standby of."""
    found: dict[str, list[Watched]] = {}
    for one in all_deployed:
        gpu = place.resources[one.model.spec.spec.serving.resource].spec.spec.gpu
        seen = Watched(
            namespace=names.namespace(one.team, place.name),
            model=one.model.spec.metadata.name,
            job=one.name,
            gpus=gpu.count if gpu else 0,
        )
        found.setdefault(one.model.key, []).append(seen)
    return found


def _alert(alert: Resolved[Alert], place: Place, watched: dict[str, list[Watched]]) -> Iterator[Output]:
    models = watched_by(alert.spec, place.models)
    if not models:
        return
    environment = place.environment.spec.spec
    seen = [one for model in models for one in watched[model.key]]
    looks = environment.detector is not None and environment.detector.schedule != NEVER
    groups = rule_groups(
        alert.spec,
        seen,
        place.name,
        environment.monitoring,
        looks=looks,
        workload_label=workload_label(environment),
    )
    if not groups:
        return
    meta = alert.spec.metadata
    folder, spec = f"{meta.team}/{meta.name}", f"Alert {meta.team}/{meta.name}"
    if environment.cluster is None:
        yield PlainFile(f"{folder}/rules-{meta.name}.yaml", emit({"groups": groups}), spec)
        return
    labels = {
        **meta.labels,
        names.NAME: meta.name,
        names.COMPONENT: "alerts",
        names.MANAGED_BY: "modelway",
        names.TEAM: meta.team,
        names.ENVIRONMENT: place.name,
    }
    namespace = names.namespace(meta.team, place.name)
    if environment.cluster.add_ons.prometheus_operator:
        head = metadata(meta.name, namespace, labels, spec, names.WAVE_RULES, meta.annotations)
        value = {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": head,
            "spec": {"groups": groups},
        }
    else:
        labels[names.RULES] = "1"
        head = metadata(f"{meta.name}-rules", namespace, labels, spec, names.WAVE_RULES, meta.annotations)
        data = {f"{namespace}-{meta.name}.rules.yaml": emit({"groups": groups}).decode()}
        value = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": head, "data": data}
    yield KubeObject(folder, value, spec)
