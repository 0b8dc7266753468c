"""The pods of a model: template, Deployment, Services, PodDisruptionBudget, ServiceAccount."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

from modelway.lower import names
from modelway.lower.objects import Json, KubeObject
from modelway.lower.scraping import has_operator
from modelway.lower.settings import lineage_text, weights_file
from modelway.lower.workload import Workload
from modelway.spec.common import amount, canonical, canonical_amount, seconds
from modelway.spec.environment import EnvironmentSpec
from modelway.spec.model import Lineage

PRE_STOP_S = 15
"""Time for endpoints and gateways to forget a pod before it stops; kube-proxy needs a few seconds."""
MIN_READY_S = 15
PROBE_PERIOD_S = 10
_PULL_MARGIN_S = 300
_USER = 65532  # "nonroot" of distroless images


def pod_template(workload: Workload, settings_name: str) -> Json:
    """The pod template of a Rollout or Deployment; the same for both but for the spread's key."""
    annotations = scraped(workload.place)
    meta: Json = {"labels": workload.labels}
    return {
        "metadata": {**meta, "annotations": annotations} if annotations else meta,
        "spec": _pod(workload, settings_name),
    }


def scraped(environment: EnvironmentSpec) -> Json:
    """The annotations that a scrape goes by where there is no Prometheus operator."""
    if has_operator(environment):
        return {}
    return {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(names.METRICS_PORT),
        "prometheus.io/path": "/metrics",
    }


def _pod(workload: Workload, settings_name: str) -> Json:
    pod: Json = {
        "serviceAccountName": workload.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # a namespace of many Services would fill the environment
        "terminationGracePeriodSeconds": PRE_STOP_S + seconds(workload.spec.serving.timeouts.drain) + 5,
        "securityContext": RESTRICTED,
        "topologySpreadConstraints": [_spread(workload)],
        "containers": [_server(workload)],
        "volumes": _volumes(workload, settings_name),
    }
    if not workload.forms.image_volume:
        pod["initContainers"] = [_fetch(workload)]
    if workload.size.priority:
        pod["priorityClassName"] = names.priority_class(
            workload.resource.metadata.name, workload.environment.metadata.name
        )
    if workload.size.gpu:
        label = workload.place.gpus[workload.size.gpu.product].node_label
        pod["nodeSelector"] = {"nvidia.com/gpu.product": label}
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return pod


def _spread(workload: Workload) -> Json:
    """Over zones if it can be: with scarce GPUs a hard constraint would leave a canary pending."""
    plain = workload.forms.strategy == "rolling"
    return {
        "maxSkew": 1,
        "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": workload.selector},
        "matchLabelKeys": ["pod-template-hash" if plain else "rollouts-pod-template-hash"],
    }


def _server(workload: Workload) -> Json:
    ports = [
        container_port("http", names.HTTP_PORT),
        container_port("metrics", names.METRICS_PORT),
    ]
    if workload.spec.serving.protocols.grpc:
        ports.insert(1, container_port("grpc", names.GRPC_PORT))
    startup = seconds(workload.spec.serving.timeouts.startup)
    return {
        "name": names.CONTAINER,
        "image": _image(workload),
        "args": ["serve", "--settings", f"{names.SETTINGS_FOLDER}/{names.SETTINGS_FILE}"],
        "env": _ENVIRONMENT,
        "ports": ports,
        "resources": _resources(workload),
        "startupProbe": {
            **_probe("ready"),
            "periodSeconds": PROBE_PERIOD_S,
            "failureThreshold": -(-startup // PROBE_PERIOD_S),
        },
        "readinessProbe": {**_probe("ready"), "periodSeconds": 5, "failureThreshold": 2},
        "livenessProbe": {**_probe("live"), "periodSeconds": 10, "failureThreshold": 6},
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_S}}},
        "securityContext": CONFINED,
        "volumeMounts": [
            {"name": "settings", "mountPath": names.SETTINGS_FOLDER, "readOnly": True},
            _model_mount(workload),
            TMP_MOUNT,
        ],
    }


def container_port(name: str, port: int) -> Json:
    """The protocol is a key of the list in server-side apply, so it is never left to a default."""
    return {"name": name, "containerPort": port, "protocol": "TCP"}


RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": _USER,
    "runAsGroup": _USER,
    "fsGroup": _USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
# The root file system is read-only; what libraries cache goes to the volume at /tmp.
HOME = [{"name": "HOME", "value": "/tmp"}]
TMP_MOUNT = {"name": "tmp", "mountPath": "/tmp"}
_ENVIRONMENT = [
    *HOME,
    {"name": "XDG_CACHE_HOME", "value": "/tmp/cache"},
    {"name": "HF_HOME", "value": "/tmp/cache/huggingface"},
    {"name": "TORCHINDUCTOR_CACHE_DIR", "value": "/tmp/cache/torchinductor"},
    {"name": "TRITON_CACHE_DIR", "value": "/tmp/cache/triton"},
    {"name": "ORT_DISABLE_TELEMETRY", "value": "1"},  # the engine would look a collector up
]
CONFINED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def _probe(what: str) -> Json:
    return {"httpGet": {"path": f"/v2/health/{what}", "port": "http"}, "timeoutSeconds": 2}


def _image(workload: Workload) -> str:
    images = workload.place.images
    assert images is not None, "consistency: a cluster has images"
    return images.server


def _resources(workload: Workload) -> Json:
    size = workload.size
    disk = amount(workload.place.scratch) + (0 if workload.forms.image_volume else _weights_bytes(workload))
    requests = {
        "cpu": canonical(size.cpu),
        "memory": canonical(size.memory),
        "ephemeral-storage": canonical_amount(disk, binary=True),
    }
    limits = {"memory": canonical(size.memory), "ephemeral-storage": requests["ephemeral-storage"]}
    if size.gpu:
        requests["nvidia.com/gpu"] = limits["nvidia.com/gpu"] = str(size.gpu.count)
    return {"requests": requests, "limits": limits}


def _weights_bytes(workload: Workload) -> Decimal:
    """Room for fetched weights: 1.1 times their size, in whole MiB."""
    mebi = Decimal(1024 * 1024)
    room = amount(workload.spec.artifact.size) * Decimal("1.1")
    return (room / mebi).to_integral_value(ROUND_CEILING) * mebi


def _model_mount(workload: Workload) -> Json:
    mount: Json = {"name": "model", "mountPath": names.MODELS_FOLDER, "readOnly": True}
    if workload.forms.image_volume:
        mount["subPath"] = "models"  # the folder that an image of weights keeps them in
    return mount


def _fetch(workload: Workload) -> Json:
    """The init container of the contract: checks the digest, then renames the file into place."""
    artifact = workload.spec.artifact
    args = ["fetch", "--source", literal(artifact.uri)]
    if artifact.digest is not None:
        args += ["--digest", artifact.digest]
    room = canonical_amount(_weights_bytes(workload), binary=True)
    return {
        "name": "fetch",
        "image": _image(workload),
        "args": [*args, "--name", literal(weights_file(artifact)), "--to", names.MODELS_FOLDER],
        "env": HOME,
        "resources": {
            "requests": {"cpu": "500m", "memory": "512Mi", "ephemeral-storage": room},
            "limits": {"memory": "512Mi", "ephemeral-storage": room},
        },
        "securityContext": CONFINED,
        "volumeMounts": [
            {"name": "model", "mountPath": names.MODELS_FOLDER},
            TMP_MOUNT,
        ],
    }


def literal(text: str) -> str:
    """``text`` where Kubernetes would expand ``$(NAME)``: ``$$(`` stands for ``$(``."""
    return text.replace("$(", "$$(")


def _volumes(workload: Workload, settings_name: str) -> list[Json]:
    if workload.forms.image_volume:
        reference = workload.spec.artifact.uri.removeprefix("oci://")
        model: Json = {"name": "model", "image": {"reference": reference, "pullPolicy": "IfNotPresent"}}
    else:
        limit = canonical_amount(_weights_bytes(workload), binary=True)
        model = {"name": "model", "emptyDir": {"sizeLimit": limit}}
    return [
        {"name": "settings", "configMap": {"name": settings_name}},
        model,
        {"name": "tmp", "emptyDir": {"sizeLimit": canonical(workload.place.scratch)}},
    ]


def workload_annotations(workload: Workload) -> dict[str, str]:
    """The team's notes, and where the version comes from, for people who read the diff."""
    notes = dict(workload.model.metadata.annotations)
    if workload.spec.lineage != Lineage():
        notes[names.LINEAGE] = lineage_text(workload.spec.lineage)
    return notes


def deadline_seconds(workload: Workload) -> int:
    """Longer than the start-up budget, else a slow load counts as a failed release."""
    return seconds(workload.spec.serving.timeouts.startup) + MIN_READY_S + _PULL_MARGIN_S


def deployment(workload: Workload, settings_name: str) -> KubeObject:
    wave = names.WAVE_STANDBY if workload.primary else names.WAVE_WORKLOAD
    value = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": workload.meta(workload.name, wave, workload_annotations(workload)),
        "spec": {
            "replicas": workload.replicas,
            "minReadySeconds": MIN_READY_S,
            "revisionHistoryLimit": 5,
            "progressDeadlineSeconds": deadline_seconds(workload),
            "selector": {"matchLabels": workload.selector},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": _rolling(workload)},
            "template": pod_template(workload, settings_name),
        },
    }
    return KubeObject(workload.folder, value, workload.origin)


def _rolling(workload: Workload) -> Json:
    """No GPU is asked for beyond those in use, unless the only replica would have to stop first."""
    if workload.gpus and workload.spec.serving.scaling.min_replicas > 1:
        return {"maxSurge": 0, "maxUnavailable": 1}
    return {"maxSurge": 1, "maxUnavailable": 0}


def service(workload: Workload, name: str) -> KubeObject:
    """A Service of all pods; Rollouts narrows the selector of a stable or canary one by itself."""
    protocols = workload.spec.serving.protocols
    ports: list[Json] = []
    if protocols.rest or workload.primary:  # a primary forwards over HTTP, whatever its callers speak
        ports.append({"name": "http", "port": names.HTTP_PORT, "targetPort": "http", "protocol": "TCP"})
    if protocols.grpc:
        ports.append(
            {
                "name": "grpc",
                "port": names.GRPC_PORT,
                "targetPort": "grpc",
                "protocol": "TCP",
                "appProtocol": "kubernetes.io/h2c",
            }
        )
    value = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": workload.meta(name, names.WAVE_NETWORK),
        "spec": {"type": "ClusterIP", "selector": workload.selector, "ports": ports},
    }
    return KubeObject(workload.folder, value, workload.origin)


def services(workload: Workload) -> list[KubeObject]:
    """A standby's one Service, else the stable one, and the canary's where releases are weighed."""
    if workload.primary:
        return [service(workload, workload.name)]
    found = [service(workload, names.role(workload.name, names.STABLE))]
    if workload.forms.strategy != "rolling":
        found.append(service(workload, names.role(workload.name, names.CANARY)))
    return found


def disruption_budget(workload: Workload) -> KubeObject:
    """One pod at a time. Percentages would count stable and canary pods together under a Rollout."""
    value = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": workload.meta(workload.name, names.WAVE_NETWORK),
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": workload.selector},
        },
    }
    return KubeObject(workload.folder, value, workload.origin)


def service_account(workload: Workload) -> KubeObject:
    value = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": workload.meta(workload.name, names.WAVE_CONFIG),
        "automountServiceAccountToken": False,
    }
    return KubeObject(workload.folder, value, workload.origin)
