"""``Environment``: a cluster (or plain files on a laptop), its add-ons and its addresses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from modelway.spec.common import (
    Bytes,
    HttpUrl,
    Image,
    LabelValue,
    Name,
    PositiveDuration,
    PrometheusLabel,
    Shared,
    Value,
    doc,
)
from modelway.spec.detector import Detector

KubernetesVersion = Literal["1.33", "1.34", "1.35", "1.36", "1.37"]
Domain = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)+$",
        max_length=189,
        title="a domain such as prod.shop.example",
    ),
]
Cidr = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^([0-9]{1,3}\.){3}[0-9]{1,3}/[0-9]{1,2}$|^[0-9a-f:]+/[0-9]{1,3}$",
        title="an address range such as 10.0.0.0/8",
    ),
]


class AddOns(Value, frozen=True, kw_only=True):
    """What is installed in the cluster; without an add-on the next best form is emitted."""

    rollouts: Annotated[bool, doc("Argo Rollouts: canary and blue-green releases with gates.", True)] = False
    gateway_api: Annotated[
        bool,
        doc("Gateway API, with the Rollouts plugin argoproj-labs/gatewayAPI where Rollouts is.", True),
    ] = msgspec.field(default=False, name="gatewayAPI")
    keda: Annotated[bool, doc("KEDA: scaling on Prometheus queries.", True)] = False
    metrics_adapter: Annotated[bool, doc("Prometheus adapter that serves the mean load of pods.", True)] = (
        False
    )
    prometheus_operator: Annotated[bool, doc("Prometheus operator: PodMonitor, PrometheusRule.", True)] = (
        False
    )
    image_volumes: Annotated[
        bool, doc("Images mounted as volumes work on every node (general in Kubernetes 1.36).", True)
    ] = False


class Cluster(Value, frozen=True, kw_only=True):
    """The Kubernetes cluster of an environment."""

    kubernetes: Annotated[KubernetesVersion, doc("Minor version of the API server.", "1.36")]
    add_ons: Annotated[AddOns, doc("What is installed in the cluster.", {"rollouts": True})] = AddOns()


class Gateway(Value, frozen=True, kw_only=True):
    """The Gateway that routes are attached to."""

    name: Annotated[Name, doc("Name of the Gateway.", "inference")]
    namespace: Annotated[Name, doc("Namespace of the Gateway and of its proxies.", "gateway")]
    domain: Annotated[
        Domain, doc("Models answer at `<model>.<domain>` and `<model>-grpc.<domain>`.", "prod.shop.example")
    ]


class GpuExporter(Value, frozen=True, kw_only=True):
    """How the DCGM exporter's series name the pod that holds a GPU."""

    namespace_label: Annotated[
        PrometheusLabel, doc("Label with the pod's namespace (`namespace` with honorLabels).", "namespace")
    ] = "exported_namespace"
    pod_label: Annotated[PrometheusLabel, doc("Label with the pod's name.", "pod")] = "exported_pod"


class ClientTls(Value, frozen=True, kw_only=True):
    """Certificates for Prometheus."""

    secret: Annotated[
        Name,
        doc(
            "Secret with `ca.crt`, and `tls.crt` and `tls.key` where we show a certificate.", "prometheus-tls"
        ),
    ]
    certificate: Annotated[bool, doc("Whether we show a certificate of our own.", True)] = False


class Tenant(Value, frozen=True, kw_only=True):
    """The header by which Mimir, Cortex or Thanos tells tenants apart."""

    header: Annotated[
        str,
        msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9-]*$", max_length=64, title="a header's name"),
        doc("Name of the header.", "THANOS-TENANT"),
    ] = "X-Scope-OrgID"
    value: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^[A-Za-z0-9!'()*._|:/@-]+$",
            max_length=255,
            title="letters, digits and ! ' ( ) * . _ | : / @ -",
        ),
        doc("Name of the tenant.", "shop"),
    ]


class Monitoring(Value, frozen=True, kw_only=True):
    """Where metrics are kept and for how long."""

    namespace: Annotated[Name, doc("Namespace of Prometheus; it may scrape.", "observability")] = "monitoring"
    prometheus: Annotated[
        HttpUrl, doc("Address that gates, scalers and the detector query.", "http://thanos.monitoring:9090")
    ] = "http://prometheus.monitoring:9090"
    token_secret: Annotated[
        Name | None,
        doc("Secret with a bearer `token`, in the namespace of each reader.", "prometheus-token"),
    ] = None
    tls: Annotated[
        ClientTls | None,
        doc("Certificates, in the namespace of each reader.", {"secret": "prometheus-tls"}),
    ] = None
    tenant: Annotated[Tenant | None, doc("Tenant that every reader names.", {"value": "shop"})] = None
    retention: Annotated[
        PositiveDuration, doc("How long series are kept; no window may be longer.", "90d")
    ] = "15d"
    scrape_interval: Annotated[PositiveDuration, doc("How often a server is scraped.", "15s")] = "30s"
    gpu_exporter: Annotated[
        GpuExporter,
        doc("Label names of the GPU exporter.", {"namespaceLabel": "namespace", "podLabel": "pod"}),
    ] = GpuExporter()


class GpuProduct(Value, frozen=True, kw_only=True):
    """A product of GPU that the cluster has."""

    node_label: Annotated[
        LabelValue,
        msgspec.Meta(min_length=1),
        doc("Value of the node label `nvidia.com/gpu.product`.", "NVIDIA-H100-80GB-HBM3"),
    ]
    count: Annotated[int, msgspec.Meta(ge=1), doc("GPUs of the product in the whole cluster.", 16)]
    per_node: Annotated[int, msgspec.Meta(ge=1), doc("GPUs of the product in one node.", 8)] = 1


class Images(Value, frozen=True, kw_only=True):
    """The images that modelway's objects run."""

    server: Annotated[
        Image, doc("The runtime image, by digest.", "registry.example/modelway/runtime@sha256:" + "0" * 64)
    ]


class ArtifactStore(Value, frozen=True, kw_only=True):
    """What an init container may reach to fetch weights."""

    cidrs: Annotated[
        tuple[Cidr, ...], msgspec.Meta(min_length=1), doc("Address ranges of the store.", ["10.20.0.0/16"])
    ] = ("0.0.0.0/0",)
    port: Annotated[int, msgspec.Meta(ge=1, le=65535), doc("TCP port of the store.", 9000)] = 443


class Defaults(Value, frozen=True, kw_only=True):
    """What specs say in this environment unless they say it themselves."""

    model: Annotated[
        dict[str, Any],
        msgspec.Meta(extra_json_schema={"$ref": "#/$defs/ModelSpecPatch"}),
        doc(
            "Merge patch below every Model's `spec`.",
            {"serving": {"scaling": {"minReplicas": 3, "maxReplicas": 5}}},
        ),
    ] = {}


class EnvironmentSpec(Value, frozen=True, kw_only=True):
    """A place that models run in."""

    cluster: Annotated[
        Cluster | None,
        doc("The cluster; plain files for a laptop when left out.", {"kubernetes": "1.36"}),
    ] = None
    gateway: Annotated[
        Gateway | None,
        doc(
            "The Gateway; required with the add-on gatewayAPI.",
            {"name": "inference", "namespace": "gateway", "domain": "prod.shop.example"},
        ),
    ] = None
    monitoring: Annotated[Monitoring, doc("Where metrics are kept.", {"retention": "90d"})] = Monitoring()
    gpus: Annotated[
        dict[Name, GpuProduct],
        doc(
            "The inventory of GPUs by product.", {"l4": {"nodeLabel": "NVIDIA-L4", "count": 16, "perNode": 4}}
        ),
    ] = {}
    images: Annotated[
        Images | None,
        doc(
            "Images by digest; required with a cluster.",
            {"server": "registry.example/modelway/runtime@sha256:" + "0" * 64},
        ),
    ] = None
    artifact_store: Annotated[
        ArtifactStore, doc("Where init containers fetch weights.", {"cidrs": ["10.20.0.0/16"]})
    ] = ArtifactStore()
    detector: Annotated[
        Detector | None,
        doc(
            "The detector of change points; none when left out.",
            {"schedule": "*/5 * * * *", "publish": {"repository": "shop/models"}},
        ),
    ] = None
    require_digests: Annotated[
        bool, doc("Refuse images and weights that are not pinned by digest.", False)
    ] = True
    scratch: Annotated[Bytes, doc("Disk for temporary files of a server (an emptyDir at /tmp).", "8Gi")] = (
        "4Gi"
    )
    defaults: Annotated[
        Defaults, doc("Defaults of this environment.", {"model": {"rollout": {"strategy": "rolling"}}})
    ] = Defaults()


class Environment(Value, frozen=True, kw_only=True):
    """A cluster with its add-ons, or plain files."""

    metadata: Shared
    spec: EnvironmentSpec
