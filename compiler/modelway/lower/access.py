"""Who may talk to whom: nothing by default, and what each model needs."""

from __future__ import annotations

from modelway.lower import names
from modelway.lower.objects import Json, KubeObject, metadata
from modelway.lower.workload import Workload

DNS = {
    "to": [
        {
            "namespaceSelector": {"matchLabels": {names.NAMESPACE_NAME: "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        }
    ],
    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
}


def default_deny(team: str, environment: str, labels: dict[str, str], spec: str) -> KubeObject:
    """Nothing in, nothing out, for every pod of the team's namespace."""
    namespace = names.namespace(team, environment)
    value = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata("default-deny", namespace, labels, spec, names.WAVE_CONFIG),
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
    }
    return KubeObject(f"{names.PLATFORM}/{team}", value, spec)


def network_policy(workload: Workload) -> KubeObject:
    """Requests from the gateway (from the whole cluster without one), scrapes, DNS, weights, standby."""
    value = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": workload.meta(workload.name, names.WAVE_CONFIG),
        "spec": {
            "podSelector": {"matchLabels": workload.selector},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": _ingress(workload),
            "egress": _egress(workload),
        },
    }
    return KubeObject(workload.folder, value, workload.origin)


def _ingress(workload: Workload) -> list[Json]:
    protocols, place = workload.spec.serving.protocols, workload.place
    scrape = {
        "from": [in_namespace(place.monitoring.namespace)],
        "ports": [tcp(names.METRICS_PORT)],
    }
    if workload.primary:
        callers: Json = {"podSelector": {"matchLabels": {names.NAME: workload.primary}}}
        return [{"from": [callers], "ports": [tcp(names.HTTP_PORT)]}, scrape]
    gateway = place.gateway if place.cluster and place.cluster.add_ons.gateway_api else None
    ports = [tcp(names.HTTP_PORT)] if protocols.rest else []
    ports += [tcp(names.GRPC_PORT)] if protocols.grpc else []
    callers = in_namespace(gateway.namespace) if gateway else {"namespaceSelector": {}}
    return [{"from": [callers], "ports": ports}, scrape]


def _egress(workload: Workload) -> list[Json]:
    found = [DNS]
    if workload.standby is not None:
        standby = {names.NAME: names.role(workload.name, names.STANDBY)}
        found.append({"to": [{"podSelector": {"matchLabels": standby}}], "ports": [tcp(names.HTTP_PORT)]})
    if not workload.forms.image_volume:
        store = workload.place.artifact_store
        ranges = [{"ipBlock": {"cidr": cidr}} for cidr in store.cidrs]
        found.append({"to": ranges, "ports": [tcp(store.port)]})
    return found


def in_namespace(name: str) -> Json:
    return {"namespaceSelector": {"matchLabels": {names.NAMESPACE_NAME: name}}}


def tcp(port: int) -> Json:
    return {"protocol": "TCP", "port": port}
