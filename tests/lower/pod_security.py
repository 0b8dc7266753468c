"""The Pod Security Standard "restricted", as Kubernetes 1.37 checks a pod (baseline included)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
VOLUMES = frozenset(
    (
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
    )
) | {"secret"}


def violations(pod: Json, annotations: Json) -> Iterator[str]:
    """What the admission plugin would refuse the pod for."""
    containers = [
        *pod.get("initContainers", ()),
        *pod.get("containers", ()),
        *pod.get("ephemeralContainers", ()),
    ]
    security = pod.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield key
    for volume in pod.get("volumes", ()):
        if not set(volume) - {"name"} <= VOLUMES:
            yield f"volume {volume}"
    if security.get("sysctls"):
        yield "sysctls"
    if any("apparmor" in key or "seccomp" in key for key in annotations):
        yield "annotations of the kernel's modules"
    for container in containers:
        for what in _container(container, security):
            yield f"{container['name']}: {what}"


def _container(container: Json, pod: Json) -> Iterator[str]:
    own = container.get("securityContext", {})
    if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", ()) or set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield "keeps capabilities"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "may run as root"
    if own.get("runAsUser", pod.get("runAsUser")) == 0:
        yield "runs as root"
    profile = own.get("seccompProfile", pod.get("seccompProfile", {}))
    if profile.get("type") not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    if own.get("procMount", "Default") != "Default":
        yield "unmasks /proc"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield "takes a port of the host"
    probes = [container.get(f"{name}Probe", {}) for name in ("startup", "readiness", "liveness")]
    hooks = container.get("lifecycle", {}).values()
    for probe in (*probes, *hooks):
        if any(probe.get(kind, {}).get("host") for kind in ("httpGet", "tcpSocket")):
            yield "probes another host"
