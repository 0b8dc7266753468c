"""Names that meet: namespaces, host names, PriorityClasses of several specs that would be one."""

from __future__ import annotations

from collections.abc import Iterator

from modelway.diagnostics import Diagnostic, diagnostic
from modelway.resolve import Catalog, Place, Resolved
from modelway.spec.model import Model

DETECTOR_TEAM = "modelway"
"""In the place of a team in the name of the detector's namespace."""


def check_names(found: Catalog) -> Iterator[Diagnostic]:
    """Names with an environment at their end: ``a-b`` in ``c`` and ``a`` in ``b-c`` are both ``a-b-c``."""
    yield from _namespaces(found)
    yield from _domains(found)
    first: dict[str, tuple[str, str]] = {}
    for resource in found.of("Resource"):
        for environment in found.of("Environment") if _prioritised(found, resource) else ():
            document = found.documents["Resource", resource]
            if resource == "system" or resource.startswith("system-"):
                text = f'the PriorityClass "{resource}-{environment}" would be one of Kubernetes itself'
                yield diagnostic("MW205", document.span(("metadata", "name")), text, "rename the resource")
            other = first.setdefault(f"{resource}-{environment}", (resource, environment))
            if other != (resource, environment):
                text = (
                    f'resource "{resource}" in "{environment}" and "{other[0]}" in "{other[1]}" '
                    f'share the PriorityClass "{resource}-{environment}"'
                )
                span = document.span(("metadata", "name"))
                yield diagnostic("MW205", span, text, "rename a resource or an environment")


def _domains(found: Catalog) -> Iterator[Diagnostic]:
    """A host name leads to one gateway."""
    first: dict[str, str] = {}
    for environment in found.of("Environment"):
        gateway = found.documents["Environment", environment].value["spec"].get("gateway")
        other = first.setdefault(gateway["domain"], environment) if gateway else environment
        if other != environment:
            text = f'"{environment}" and "{other}" have the same domain {gateway["domain"]}'
            span = found.documents["Environment", environment].span(("spec", "gateway", "domain"))
            yield diagnostic("MW205", span, text, "give each environment a domain of its own")


def _prioritised(found: Catalog, resource: str) -> bool:
    spec = found.documents["Resource", resource].value["spec"]
    overlays = spec.get("environments", {}).values()
    return any(one and one.get("priority") for one in (spec, *overlays))


def _namespaces(found: Catalog) -> Iterator[Diagnostic]:
    teams = {
        key.partition("/")[0]: found.documents[kind, key]
        for kind in ("Model", "Alert")
        for key in found.of(kind)
    }
    detectors = [
        name
        for name in found.of("Environment")
        if {"cluster", "detector"} <= found.documents["Environment", name].value["spec"].keys()
    ]
    first = {f"{DETECTOR_TEAM}-{name}": (DETECTOR_TEAM, name) for name in detectors}
    for team in sorted(teams):
        for environment in found.of("Environment"):
            if team == DETECTOR_TEAM and environment in detectors:
                text = f'the namespace "{team}-{environment}" is that of the environment\'s detector'
                yield diagnostic("MW205", teams[team].span(("metadata", "team")), text, "rename the team")
            if team == "kube" or team.startswith("kube-"):
                text = f'the namespace "{team}-{environment}" would be one of Kubernetes itself'
                yield diagnostic("MW205", teams[team].span(("metadata", "team")), text, "rename the team")
            other = first.setdefault(f"{team}-{environment}", (team, environment))
            if other != (team, environment):
                text = (
                    f'team "{team}" in "{environment}" and team "{other[0]}" in "{other[1]}" '
                    f'share the namespace "{team}-{environment}"'
                )
                span = teams[team].span(("metadata", "team"))
                yield diagnostic("MW205", span, text, "rename a team or an environment")


def hostnames(place: Place, _: Catalog) -> Iterator[Diagnostic]:
    """``<model>.<domain>`` and ``<model>-grpc.<domain>`` name no team."""
    gateway = place.environment.spec.spec.gateway
    if gateway is None:
        return
    first: dict[str, Resolved[Model]] = {}
    for model in place.models.values():
        name = model.spec.metadata.name
        for host in (name, f"{name}-grpc"):
            other = first.setdefault(host, model)
            if other is not model:
                text = f'"{model.key}" and "{other.key}" would both answer at {host}.{gateway.domain}'
                related = ((other.span("metadata", "name"), "the other is here"),)
                yield diagnostic("MW205", model.span("metadata", "name"), text, "rename one of them", related)
                break
