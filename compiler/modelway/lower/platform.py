"""What belongs to an environment: namespaces of its teams, priorities of its resources."""

from __future__ import annotations

from collections.abc import Iterator

from modelway.lower import access, names
from modelway.lower.objects import KubeObject, metadata
from modelway.resolve import Place
from modelway.spec.resource import Resource


def platform(place: Place) -> Iterator[KubeObject]:
    """Nothing where there is no cluster."""
    cluster = place.environment.spec.spec.cluster
    if cluster is None:
        return
    teams = {model.spec.metadata.team for model in place.models.values()}
    teams |= {alert.spec.metadata.team for alert in place.alerts.values()}
    for team in sorted(teams):
        yield _namespace(place, team, cluster.kubernetes)
        spec = f"Environment {place.name}"
        yield access.default_deny(team, place.name, _labels(place, team), spec)
    for resource in place.resources.values():
        if resource.spec.spec.priority:
            yield _priority_class(place, resource.spec)


def _labels(place: Place, team: str | None) -> dict[str, str]:
    labels = {
        **place.environment.spec.metadata.labels,
        names.MANAGED_BY: "modelway",
        names.ENVIRONMENT: place.name,
    }
    return {**labels, names.TEAM: team} if team else labels


def _namespace(place: Place, team: str, kubernetes: str) -> KubeObject:
    """Pods must be restricted, as the pinned version of the standard says. To lose a namespace is to lose
    all in it: Argo CD asks before it prunes or deletes one."""
    labels = _labels(place, team)
    for mode in ("enforce", "warn", "audit"):
        labels[f"pod-security.kubernetes.io/{mode}"] = "restricted"
        labels[f"pod-security.kubernetes.io/{mode}-version"] = f"v{kubernetes}"
    spec = f"Environment {place.name}"
    name = names.namespace(team, place.name)
    keep = {names.SYNC_OPTIONS: "Prune=confirm,Delete=confirm"}
    meta = metadata(name, None, labels, spec, names.WAVE_NAMESPACE, keep)
    return KubeObject(
        f"{names.PLATFORM}/{team}", {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}, spec
    )


def _priority_class(place: Place, resource: Resource) -> KubeObject:
    spec = f"Resource {resource.metadata.name}"
    labels = {**resource.metadata.labels, **_labels(place, None)}
    value = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": metadata(
            names.priority_class(resource.metadata.name, place.name), None, labels, spec, names.WAVE_NAMESPACE
        ),
        "value": resource.spec.priority,
        "globalDefault": False,
        "preemptionPolicy": "PreemptLowerPriority",
        "description": f"Models on the resource {resource.metadata.name} in {place.name}.",
    }
    return KubeObject(names.PLATFORM, value, spec)
