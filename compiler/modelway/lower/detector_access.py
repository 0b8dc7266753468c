"""What the detector may do in the cluster, and whom it may reach."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from modelway.lower import names
from modelway.lower.access import DNS, in_namespace, tcp
from modelway.lower.forms import choose
from modelway.lower.objects import Json, KubeObject, metadata
from modelway.resolve import Place
from modelway.spec.detector import Detector
from modelway.spec.environment import EnvironmentSpec
from modelway.watching import WatchedModel

RESTART = f"{names.DETECTOR}-restart"
_API = {"Rollout": ("argoproj.io", "rollouts"), "Deployment": ("apps", "deployments")}
_EVERYWHERE = [{"ipBlock": {"cidr": cidr}} for cidr in ("0.0.0.0/0", "::/0")]
_API_SERVER_PORTS = (443, 6443)  # of its Service, and where it mostly listens: a policy sees what is behind


def roles(
    restarted: list[WatchedModel], place: Place, home: str, labels: dict[str, str], origin: str
) -> Iterator[KubeObject]:
    """In each team's namespace: to patch the workloads that a regression restarts, by name, and no more."""
    teams: dict[str, dict[str, list[str]]] = {}
    for one in restarted:
        rolling = choose(one.deployment, place.environment).strategy == "rolling"
        kinds = teams.setdefault(one.deployment.team, {})
        kinds.setdefault("Deployment" if rolling else "Rollout", []).append(one.deployment.name)
    for team, kinds in sorted(teams.items()):
        space, ours = names.namespace(team, place.name), {**labels, names.TEAM: team}
        rules = [
            {
                "apiGroups": [_API[kind][0]],
                "resources": [_API[kind][1]],
                "resourceNames": sorted(kinds[kind]),
                "verbs": ["patch"],
            }
            for kind in sorted(kinds)
        ]
        binding = {
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": RESTART},
            "subjects": [{"kind": "ServiceAccount", "name": names.DETECTOR, "namespace": home}],
        }
        for kind, body, wave in (
            ("Role", {"rules": rules}, names.WAVE_CONFIG),
            ("RoleBinding", binding, names.WAVE_BINDING),
        ):
            meta = metadata(RESTART, space, ours, origin, wave)
            value = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": meta, **body}
            yield KubeObject(f"{names.PLATFORM}/{team}", value, origin)


def policy(spec: EnvironmentSpec, found: Detector, selector: dict[str, str], *, restarts: bool) -> Json:
    """In: those who ask the gate, and scrapes. Out: DNS, Prometheus, forge, Argo CD, the API server."""
    scrapes = {"from": [in_namespace(spec.monitoring.namespace)], "ports": [tcp(names.METRICS_PORT)]}
    ingress: list[Json] = [scrapes]
    if found.gate:
        callers = {found.gate.rollouts_namespace}
        if spec.gateway and spec.cluster and spec.cluster.add_ons.gateway_api:
            callers.add(spec.gateway.namespace)  # people who follow the link to a verdict
        who = [in_namespace(name) for name in sorted(callers)]
        ingress.insert(0, {"from": who, "ports": [tcp(names.GATE_PORT)]})
    egress: list[Json] = [DNS, _to(spec.monitoring.prometheus)]
    egress += [_outside(found.publish.api_url)] if found.publish else []
    egress += [_to(found.argocd.url)] if found.argocd else []
    egress += [{"to": _EVERYWHERE, "ports": [tcp(port) for port in _API_SERVER_PORTS]}] if restarts else []
    return {
        "podSelector": {"matchLabels": selector},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": [one for i, one in enumerate(egress) if one not in egress[:i]],
    }


def _to(url: str) -> Json:
    """``<service>.<namespace>`` and ``….svc…`` are in the cluster: the pods of that namespace, whatever
    their ports, because a policy sees those and not the Service's. All else is outside."""
    labels = (urlsplit(url).hostname or "").split(".")
    inside = len(labels) == 2 or (len(labels) > 2 and labels[2] == "svc")
    return {"to": [in_namespace(labels[1])]} if inside else _outside(url)


def _outside(url: str) -> Json:
    """A policy knows addresses, and a name has many: any address, one port."""
    parts = urlsplit(url)
    return {"to": _EVERYWHERE, "ports": [tcp(parts.port or (443 if parts.scheme == "https" else 80))]}
