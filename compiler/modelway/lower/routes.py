"""HTTPRoute and GRPCRoute, each under a hostname of its own.

Two routes of different kinds with intersecting hostnames on one listener: only one is accepted.
What the API server would fill in within lists (group, kind, weight) is written out: a plain
comparison of Git with the cluster would differ for ever otherwise.
"""

from __future__ import annotations

from modelway.lower import names
from modelway.lower.objects import Json, KubeObject
from modelway.lower.workload import Workload
from modelway.spec.environment import Gateway


def routes(workload: Workload) -> list[KubeObject]:
    cluster, gateway = workload.place.cluster, workload.place.gateway
    if cluster is None or gateway is None or not cluster.add_ons.gateway_api or workload.primary:
        return []
    protocols = workload.spec.serving.protocols
    found = []
    if protocols.rest:
        match: Json = {"path": {"type": "PathPrefix", "value": "/"}}
        rule = {"matches": [match], "backendRefs": _backends(workload, names.HTTP_PORT)}
        found.append(_route(workload, gateway, "HTTPRoute", workload.name, rule))
    if protocols.grpc:
        rule = {"backendRefs": _backends(workload, names.GRPC_PORT)}
        found.append(_route(workload, gateway, "GRPCRoute", names.role(workload.name, names.GRPC), rule))
    return found


def _route(workload: Workload, gateway: Gateway, kind: str, name: str, rule: Json) -> KubeObject:
    value = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": kind,
        "metadata": workload.meta(name, names.WAVE_NETWORK),
        "spec": {
            "parentRefs": [
                {
                    "group": "gateway.networking.k8s.io",
                    "kind": "Gateway",
                    "name": gateway.name,
                    "namespace": gateway.namespace,
                }
            ],
            "hostnames": [f"{name}.{gateway.domain}"],
            "rules": [rule],
        },
    }
    return KubeObject(workload.folder, value, workload.origin)


def _backends(workload: Workload, port: int) -> list[Json]:
    """A canary's plugin finds both Services by name and moves their weights; Git says all is stable."""
    if workload.forms.strategy != "canary":
        return [_backend(names.role(workload.name, names.STABLE), port, 1)]
    return [
        _backend(names.role(workload.name, names.STABLE), port, 100),
        _backend(names.role(workload.name, names.CANARY), port, 0),
    ]


def _backend(service: str, port: int, weight: int) -> Json:
    return {"group": "", "kind": "Service", "name": service, "port": port, "weight": weight}
