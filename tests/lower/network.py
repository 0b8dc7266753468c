"""What NetworkPolicies let through, as a plugin that keeps to them would."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.lower.clusters import Cluster, matches

Json = dict[str, Any]


@dataclass(frozen=True)
class End:
    """A pod, by namespace and labels, or an address outside the cluster."""

    name: str
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    ports: Mapping[str, int] = field(default_factory=dict)


def allowed(cluster: Cluster, source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection comes through: the source may send it and the target may take it."""
    return _may(cluster, source, target, port, protocol, "egress") and _may(
        cluster, target, source, port, protocol, "ingress"
    )


def _may(cluster: Cluster, subject: End, other: End, port: int, protocol: str, way: str) -> bool:
    if subject.address:
        return True  # not the cluster's to say
    policies = [
        value["spec"]
        for value in cluster.of("NetworkPolicy")
        if value["metadata"]["namespace"] == subject.namespace
        and way.capitalize() in _types(value["spec"])
        and matches(value["spec"]["podSelector"], subject.labels)
    ]
    if not policies:
        return True
    peers = "to" if way == "egress" else "from"
    return any(
        _port(rule, port, protocol) and _peer(rule.get(peers, ()), subject.namespace, other)
        for policy in policies
        for rule in policy.get(way, ())
    )


def _types(spec: Json) -> list[str]:
    return spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]


def _port(rule: Json, port: int, protocol: str) -> bool:
    ports = rule.get("ports", ())
    return not ports or any(
        one.get("protocol", "TCP") == protocol and one.get("port", port) == port for one in ports
    )


def _peer(peers: Any, namespace: str, other: End) -> bool:
    if not peers:
        return True  # a rule without peers is for everybody
    for peer in peers:
        if "ipBlock" in peer:
            block = peer["ipBlock"]
            if other.address and ipaddress.ip_address(other.address) in ipaddress.ip_network(block["cidr"]):
                return True
            continue
        if other.address:
            continue
        spaces = peer.get("namespaceSelector")
        in_namespace = (
            other.namespace == namespace
            if spaces is None
            else matches(spaces, {"kubernetes.io/metadata.name": other.namespace})
        )
        if in_namespace and matches(peer.get("podSelector", {}), other.labels):
            return True
    return False
