"""Pods are restricted, and the network lets through what is meant and nothing else."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator
from typing import Any

from modelway.lower import names
from tests.lower.clusters import (
    Cluster,
    Workload,
    quantity,
)
from tests.lower.network import End, allowed
from tests.lower.pod_security import violations

Json = dict[str, Any]


def test_namespaces_enforce_the_restricted_standard(cluster: Cluster) -> None:
    found = cluster.of("Namespace")
    assert found
    for value in found:
        for mode in ("enforce", "warn", "audit"):
            assert value["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}"] == "restricted"
            version = value["metadata"]["labels"][f"pod-security.kubernetes.io/{mode}-version"]
            assert version == f"v{cluster.kubernetes}"


def test_every_pod_is_restricted(cluster: Cluster) -> None:
    for work in cluster.running:
        annotations = work.template["metadata"].get("annotations", {})
        assert list(violations(work.pod, annotations)) == [], work.name


def test_a_read_only_root_has_room_to_write(cluster: Cluster) -> None:
    for work in cluster.running:
        for container in work.containers:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
            assert not mounts["/tmp"].get("readOnly")
            for variable in container["env"]:
                assert variable["value"].startswith("/tmp") or variable["name"] == "ORT_DISABLE_TELEMETRY"
        caches = {"HOME"} if work.is_detector else {"HOME", "HF_HOME"}
        assert caches <= {one["name"] for one in work.server["env"]}
        volumes = {one["name"]: one for one in work.pod["volumes"]}
        assert volumes["tmp"]["emptyDir"]["sizeLimit"]
        disk = quantity(work.server["resources"]["limits"]["ephemeral-storage"])
        dirs = [one["emptyDir"]["sizeLimit"] for one in work.pod["volumes"] if "emptyDir" in one]
        assert disk >= sum(map(quantity, dirs)), "the pod would be evicted before its volumes are full"


def test_no_pod_has_a_token_that_it_does_not_need(cluster: Cluster) -> None:
    for work in cluster.running:
        needed = work.is_detector and bool(cluster.of("Role"))
        assert work.pod["automountServiceAccountToken"] is needed
        assert work.pod["serviceAccountName"] == work.name
    for value in cluster.of("ServiceAccount"):
        assert value["automountServiceAccountToken"] is False


def test_every_namespace_denies_by_default(cluster: Cluster) -> None:
    for namespace in cluster.of("Namespace"):
        denying = [
            one
            for one in cluster.of("NetworkPolicy")
            if one["metadata"]["namespace"] == namespace["metadata"]["name"]
            and one["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        ]
        assert len(denying) == 1


def _ends(cluster: Cluster) -> Iterator[End]:
    """Everybody who might call or be called."""
    for work in cluster.running:
        yield End(work.name, work.namespace, work.labels)
    for space in cluster.of("Namespace"):
        yield End("stranger at home", space["metadata"]["name"], {"app": "stranger"})
    gateway = cluster.spec.get("gateway", {"namespace": "edge"})["namespace"]
    yield End("gateway", gateway, {"app": "envoy"})
    yield End("prometheus", cluster.monitoring_namespace, {"app": "prometheus"})
    yield End("dns", "kube-system", {"k8s-app": "kube-dns"})
    yield End("api server", "kube-system", {"component": "kube-apiserver"})
    yield End("stranger", "elsewhere", {"app": "stranger"})
    # Somebody who calls himself as one of ours, in a namespace of his own.
    for work in cluster.workloads:
        yield End(f"another {work.name}", "elsewhere", {names.NAME: work.name})
    for number, cidr in enumerate(cluster.spec.get("artifactStore", {}).get("cidrs", ("10.20.0.0/16",))):
        yield End(f"store {number}", address=str(ipaddress.ip_network(cidr)[9]))
    yield End("internet", address="93.184.216.34")
    yield End("metadata service", address="169.254.169.254")


PORTS = (
    (8080, "TCP"),
    (8081, "TCP"),
    (9090, "TCP"),
    (53, "TCP"),
    (53, "UDP"),
    (443, "TCP"),
    (8443, "TCP"),
    (22, "TCP"),
)


def _expected(cluster: Cluster, source: End, target: End, port: int, protocol: str) -> bool:
    """What the design says of a connection that begins or ends at a pod of ours."""
    work = _work(cluster, source)
    if work is not None:
        if _work(cluster, target) is None:
            if target.name == "dns":
                return port == 53
            store = {"cidrs": ["0.0.0.0/0"], "port": 443, **cluster.spec.get("artifactStore", {})}
            if "initContainers" in work.pod and target.address and port == store["port"]:
                return target.name.startswith("store") or "0.0.0.0/0" in store["cidrs"]
            return False
        return _standby(cluster, work) == _work(cluster, target) and (port, protocol) == (8080, "TCP")
    work = _work(cluster, target)
    assert work is not None
    if (port, protocol) == (9090, "TCP"):
        return source.namespace == cluster.monitoring_namespace
    if work.is_standby or protocol != "TCP" or source.address:
        return False
    protocols = {8080: "http" in _services(cluster, work), 8081: "grpc" in _services(cluster, work)}
    if source.name in ("stranger at home", "detector"):
        return False  # the one may send nothing, the other has nothing to ask here
    if cluster.gateway:
        return source.namespace == cluster.gateway["namespace"] and protocols.get(port, False)
    return protocols.get(port, False)


def _work(cluster: Cluster, end: End) -> Workload | None:
    found = [one for one in cluster.workloads if (one.namespace, one.name) == (end.namespace, end.name)]
    return found[0] if found else None


def _standby(cluster: Cluster, work: Workload) -> Workload | None:
    found = [
        one
        for one in cluster.workloads
        if (one.namespace, one.name) == (work.namespace, f"{work.name}-standby") and one.is_standby
    ]
    return found[0] if found else None


def _services(cluster: Cluster, work: Workload) -> set[str]:
    return {
        port["name"]
        for value in cluster.of("Service")
        if value["metadata"]["namespace"] == work.namespace
        and value["spec"]["selector"] == {names.NAME: work.name}
        for port in value["spec"]["ports"]
    }


def test_the_policies_let_through_what_is_meant_and_nothing_else(cluster: Cluster) -> None:
    ends = list(_ends(cluster))
    wrong = []
    for source, target in itertools.permutations(ends, 2):
        if _work(cluster, source) is None and _work(cluster, target) is None:
            continue
        for port, protocol in PORTS:
            found = allowed(cluster, source, target, port, protocol)
            if found != _expected(cluster, source, target, port, protocol):
                wrong.append(
                    f"{source.name} -> {target.name} {port}/{protocol} {'passes' if found else 'is stopped'}"
                )
    assert wrong == []
