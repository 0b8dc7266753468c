"""What a syncer must know: when each kind counts as healthy, and which fields it must leave alone.

A sync goes wave by wave. Argo CD begins a wave when everything in the waves before it is healthy, and it
ends the operation with the last wave, whose health it does not await. So nothing that an object needs in
order to become healthy may have a later wave, and nothing may come after an object whose release lasts as
long as people want.

``HEALTH`` is read in argo-cd 3.5.1, ``gitops-engine/pkg/health`` and ``resource_customizations``.
A new kind goes into ``HEALTH`` or into ``WITHOUT_HEALTH``; a test refuses one that is in neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelway.lower import names
from modelway.lower.objects import Json

Need = Literal["consumer", "pods", "references", "target", "backends", "store", "issuer"]


@dataclass(frozen=True, slots=True)
class Health:
    """When Argo CD calls an object of a kind healthy, and what must be in the cluster before it can be."""

    group: str
    kind: str
    healthy: str
    needs: tuple[Need, ...] = ()
    """consumer: a pod that mounts it; pods: what its pods name; references: what it names itself; target:
    what it scales; backends: its Services; store, issuer: where secrets or certificates come from."""
    lasts: bool = False
    """Whether it may be Progressing or Suspended for as long as a release, a run or a person wants."""


_ROUTED = "its Gateway accepts it and finds its Services"
HEALTH = (
    Health("", "PersistentVolumeClaim", "bound; many storage classes bind on first use", ("consumer",)),
    Health("", "Service", "at once; a LoadBalancer when it has an address"),
    Health("", "Pod", "ready", ("pods",)),
    Health("networking.k8s.io", "Ingress", "it has an address", ("backends",)),
    Health("apps", "Deployment", "all its pods are new and available", ("pods",)),
    Health("apps", "StatefulSet", "all its pods are new and ready", ("pods",)),
    Health("apps", "DaemonSet", "all its pods are new and available", ("pods",)),
    Health("batch", "Job", "its pods have ended well", ("pods",), lasts=True),
    Health("batch", "CronJob", "at once; Degraded while its last run has failed"),
    Health("autoscaling", "HorizontalPodAutoscaler", "it reads its target and its metric", ("target",)),
    Health("policy", "PodDisruptionBudget", "its controller has looked at it, with pods or without"),
    Health(
        "argoproj.io",
        "Rollout",
        "the new version has all the traffic; Progressing in a release, Suspended in a pause",
        ("pods", "references"),
        lasts=True,
    ),
    Health("argoproj.io", "AnalysisRun", "it was successful", ("references",), lasts=True),
    Health("argoproj.io", "Workflow", "it has succeeded", ("references",), lasts=True),
    Health("argoproj.io", "CronWorkflow", "at once; Degraded where its spec is wrong"),
    Health("argoproj.io", "ApplicationSet", "its Applications are up to date"),
    Health("keda.sh", "ScaledObject", "it has found its target and made its autoscaler", ("target",)),
    Health("gateway.networking.k8s.io", "Gateway", "its listeners are programmed"),
    Health("gateway.networking.k8s.io", "HTTPRoute", _ROUTED, ("backends",)),
    Health("gateway.networking.k8s.io", "GRPCRoute", _ROUTED, ("backends",)),
    Health("external-secrets.io", "SecretStore", "it reaches the store"),
    Health("external-secrets.io", "ExternalSecret", "the Secret is written", ("store",)),
    Health("cert-manager.io", "Issuer", "it is ready"),
    Health("cert-manager.io", "Certificate", "the certificate is issued", ("issuer",)),
)  # fmt: skip

WITHOUT_HEALTH = (
    ("", "Namespace"), ("", "ServiceAccount"), ("", "ConfigMap"), ("", "Secret"),
    ("", "ResourceQuota"), ("", "LimitRange"),
    ("rbac.authorization.k8s.io", "Role"), ("rbac.authorization.k8s.io", "RoleBinding"),
    ("networking.k8s.io", "NetworkPolicy"), ("scheduling.k8s.io", "PriorityClass"),
    ("argoproj.io", "AnalysisTemplate"), ("argoproj.io", "WorkflowTemplate"),
    ("argoproj.io", "Application"), ("argoproj.io", "AppProject"),
    ("keda.sh", "TriggerAuthentication"),
    ("monitoring.coreos.com", "PodMonitor"), ("monitoring.coreos.com", "PrometheusRule"),
    ("kueue.x-k8s.io", "ClusterQueue"), ("kueue.x-k8s.io", "LocalQueue"),
    ("kueue.x-k8s.io", "ResourceFlavor"),
    ("trainer.kubeflow.org", "TrainJob"), ("jobset.x-k8s.io", "JobSet"), ("velero.io", "Schedule"),
)  # fmt: skip
"""Argo CD 3.5.1 has no health check for these: they never hold a wave."""


@dataclass(frozen=True, slots=True)
class Owned:
    """Fields that Git states for the first install, and that a controller writes from then on."""

    group: str
    kind: str
    fields: str
    owner: str
    json_pointers: tuple[str, ...] = ()
    jq_paths: tuple[str, ...] = ()
    managers: tuple[str, ...] = ()
    """Who writes them, as ``metadata.managedFields`` calls them: the name of the program that does."""


_CANARY_WEIGHTS = (
    f'.spec.rules[]? | select(any(.backendRefs[]?; .name | endswith("-{names.CANARY}")))'
    " | .backendRefs[]?.weight"
)
"""Of weighed routes alone: Argo CD merges lists whole, so a route that it ignores in part gets no new rules.

Bound to the backends, not to the plugin's label ``rollouts.argoproj.io/gatewayapi-canary=in-progress``. The
object in Git never has the label: Argo CD shows a difference all through a canary, and since 3.5.0
(``restoreNonIgnoredFields``) it also writes the weights of Git.
"""
_SCALERS = ("kube-controller-manager", "keda")

OWNED = (
    Owned(
        "gateway.networking.k8s.io", "HTTPRoute", "weights of stable and canary",
        "gatewayAPI plugin of Argo Rollouts (0.15.0)", jq_paths=(_CANARY_WEIGHTS,),
    ),
    Owned(
        "gateway.networking.k8s.io", "GRPCRoute", "weights of stable and canary",
        "gatewayAPI plugin of Argo Rollouts (0.15.0)", jq_paths=(_CANARY_WEIGHTS,),
    ),
    Owned(
        "", "Service", "rollouts-pod-template-hash in the selector", "Argo Rollouts (1.9.1)",
        json_pointers=("/spec/selector/rollouts-pod-template-hash",), managers=("rollouts-controller",),
    ),
    Owned("argoproj.io", "Rollout", "replicas, once a scaler has written them",
          "HorizontalPodAutoscaler, KEDA (2.20)", managers=_SCALERS),
    Owned("apps", "Deployment", "replicas, once a scaler has written them",
          "HorizontalPodAutoscaler, KEDA (2.20)", managers=_SCALERS),
)  # fmt: skip

SYNC_OPTIONS = ("RespectIgnoreDifferences=true", "ServerSideApply=true", "ApplyOutOfSyncOnly=true")
"""Not ``PruneLast``: it prunes in a wave of its own after all others, which would wait for a Rollout."""


def ignore_differences() -> list[Json]:
    """``spec.ignoreDifferences`` of an Application; it takes ``RespectIgnoreDifferences=true`` beside it."""
    entries: list[Json] = []
    for owned in OWNED:
        entry: Json = {"group": owned.group, "kind": owned.kind}
        for key, values in (
            ("jsonPointers", owned.json_pointers),
            ("jqPathExpressions", owned.jq_paths),
            ("managedFieldsManagers", owned.managers),
        ):
            if values:
                entry[key] = list(values)
        entries.append(entry)
    return entries
