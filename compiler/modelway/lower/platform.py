"""What belongs to an environment: namespaces of its teams, priorities of its resources."""

from __future__ import annotations

from collections.abc import Iterator

from modelway.lower import access, names
from modelway.lower.objects import KubeObject, metadata
from modelway.resolve import Place
from modelway.spec.resource import Resource

KEEP = {names.SYNC_OPTIONS: "Prune=confirm,Delete=confirm"}
"""On what holds something that Git does not: Argo CD asks before it prunes or deletes it."""


def platform(place: Place) -> Iterator[KubeObject]:
    """Nothing where there is no cluster."""
    cluster = place.environment.spec.spec.cluster
    if cluster is None:
        return
    teams = {model.spec.metadata.team for model in place.models.values()}
    teams |= {alert.spec.metadata.team for alert in place.alerts.values()}
    for team in sorted(teams):
        yield from namespace(place, team, labels(place, team), cluster.kubernetes)
    for resource in place.resources.values():
        if resource.spec.spec.priority:
            yield _priority_class(place, resource.spec)


def labels(place: Place, team: str | None) -> dict[str, str]:
    """Of an object that belongs to the environment, or to a team in it."""
    found = {
        **place.environment.spec.metadata.labels,
        names.MANAGED_BY: "modelway",
        names.ENVIRONMENT: place.name,
    }
    return {**found, names.TEAM: team} if team else found


def namespace(place: Place, team: str, labels: dict[str, str], kubernetes: str) -> Iterator[KubeObject]:
    """With the policy that lets nothing in or out by default.

    Pods must be restricted, as the pinned version of the standard says. To lose a namespace is to lose
    all in it: Argo CD asks before it prunes or deletes one.
    """
    guarded = dict(labels)
    for mode in ("enforce", "warn", "audit"):
        guarded[f"pod-security.kubernetes.io/{mode}"] = "restricted"
        guarded[f"pod-security.kubernetes.io/{mode}-version"] = f"v{kubernetes}"
    spec = f"Environment {place.name}"
    name = names.namespace(team, place.name)
    meta = metadata(name, None, guarded, spec, names.WAVE_NAMESPACE, KEEP)
    value = {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}
    yield KubeObject(f"{names.PLATFORM}/{team}", value, spec)
    yield access.default_deny(team, place.name, labels, spec)


def _priority_class(place: Place, resource: Resource) -> KubeObject:
    spec = f"Resource {resource.metadata.name}"
    own = {**resource.metadata.labels, **labels(place, None)}
    value = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": metadata(
            names.priority_class(resource.metadata.name, place.name), None, own, spec, names.WAVE_NAMESPACE
        ),
        "value": resource.spec.priority,
        "globalDefault": False,
        "preemptionPolicy": "PreemptLowerPriority",
        "description": f"Models on the resource {resource.metadata.name} in {place.name}.",
    }
    return KubeObject(names.PLATFORM, value, spec)
