"""``Model``: one version of a model, how it is served and how a new version is released."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from modelway.spec.common import (
    NOT_IN_URI,
    Bytes,
    BytesOrNone,
    Digest,
    Duration,
    Name,
    PositiveDuration,
    Reference,
    Targets,
    Team,
    Text,
    Uri,
    Value,
    Version,
    doc,
)

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BF16", "BYTES",
]  # fmt: skip
TensorName = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:/-]*$", max_length=128, title="a tensor's name")
]
Rows = Annotated[int, msgspec.Meta(ge=1, le=65536)]
Ratio = Annotated[float, msgspec.Meta(gt=0, lt=1)]


ArtifactUri = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^((oci|s3|gs|https?)://(?![^/]*@)[^/?#'{NOT_IN_URI}]+/|file:)[^?#'{NOT_IN_URI}]+$",
        max_length=2048,
        title="an oci://, s3://, gs:// or https:// URI without user, password or query, or a file: one",
    ),
]


class TrainingData(Value, frozen=True, kw_only=True, omit_defaults=True):
    """The data that a version was trained on."""

    uri: Annotated[Uri, doc("Where the data lies.", "s3://shop-data/clicks/2026-11-01")]
    bytes: Annotated[int | None, doc("Size of the data in bytes.", 48318382080)] = None
    digest: Annotated[Digest | None, doc("Digest of the data.", "sha256:" + "1" * 64)] = None


class Code(Value, frozen=True, kw_only=True, omit_defaults=True):
    """The code that made a version."""

    repository: Annotated[Uri, doc("The repository.", "https://git.example/shop/ranking")]
    commit: Annotated[
        str,
        msgspec.Meta(pattern="^[0-9a-f]{7,64}$", title="7 to 64 hexadecimal digits"),
        doc("The commit.", "8c1d2e7f9ab04511"),
    ]


class Lineage(Value, frozen=True, kw_only=True, omit_defaults=True):
    """Where a version comes from: data, hyper-parameters, architecture, code, evaluation."""

    training_data: Annotated[
        TrainingData | None, doc("Training data.", {"uri": "s3://shop-data/clicks/2026-11-01"})
    ] = None
    hyperparameters: Annotated[
        dict[
            Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_.-]+$", max_length=63)], str | int | float | bool
        ],
        msgspec.Meta(max_length=100),
        doc("Hyper-parameters of the training.", {"learning_rate": 0.001, "epochs": 12}),
    ] = {}
    architecture: Annotated[Text, doc("Architecture of the network.", "two-tower, 2 x 128")] = ""
    code: Annotated[
        Code | None,
        doc("Code.", {"repository": "https://git.example/shop/ranking", "commit": "8c1d2e7f9ab04511"}),
    ] = None
    evaluation: Annotated[
        dict[Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_.@-]+$", max_length=63)], float],
        doc("Figures of the evaluation.", {"ndcg@10": 0.412}),
    ] = {}


class Artifact(Value, frozen=True, kw_only=True):
    """The weights."""

    uri: Annotated[
        ArtifactUri,
        doc(
            "Where the weights are: `oci://` (an image), `s3://`, `gs://`, `https://`, or a `file:`.",
            "s3://shop-models/ranker/46.1.0/model.onnx",
        ),
    ]
    format: Annotated[Literal["onnx", "torch"], doc("Format of the weights.", "torch")]
    digest: Annotated[Digest | None, doc("Digest of the weights file.", "sha256:" + "2" * 64)] = None
    file: Annotated[
        Annotated[
            str,
            msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=128, title="a file name"),
        ]
        | None,
        doc(
            "Name of the weights file in the folder `models` of an image, or once fetched; when left out, "
            "the last part of a URI with the format's suffix, else `model.onnx` or `model.safetensors`.",
            "ranker.onnx",
        ),
    ] = None
    size: Annotated[Bytes, doc("Upper bound of the weights' size; disk for the init container.", "600Mi")] = (
        "2Gi"
    )


class Tensor(Value, frozen=True, kw_only=True):
    """A tensor as the Open Inference Protocol describes it."""

    datatype: Annotated[Datatype, doc("Element type.", "FP32")]
    shape: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=-1)], ...],
        msgspec.Meta(min_length=1, max_length=16),
        doc("Dimensions, the first of them the rows; -1 for any.", [-1, 64]),
    ]


class Interface(Value, frozen=True, kw_only=True):
    """The tensors that a model takes and gives."""

    inputs: Annotated[
        dict[TensorName, Tensor],
        doc("Inputs by name.", {"features": {"datatype": "FP32", "shape": [-1, 64]}}),
    ] = {}
    outputs: Annotated[
        dict[TensorName, Tensor], doc("Outputs by name.", {"score": {"datatype": "FP32", "shape": [-1, 1]}})
    ] = {}
    rows: Annotated[
        TensorName | None,
        doc(
            "Whether rows, the first dimension of every tensor, do not change each other's answers, so that "
            "requests may share a batch: `first`, or the name of that dimension in the weights; `none` where "
            "they do. When left out, it is proved at the warm-up, and what is not proved is not batched.",
            "first",
        ),
    ] = None


class Protocols(Value, frozen=True, kw_only=True):
    """How callers reach the model."""

    rest: Annotated[bool, doc("Open Inference Protocol over HTTP, port 8080.", False)] = True
    grpc: Annotated[bool, doc("Open Inference Protocol over gRPC, port 8081.", False)] = True


class Batching(Value, frozen=True, kw_only=True):
    """Dynamic batching of rows of several requests."""

    max_rows: Annotated[Rows, doc("Rows of a batch at most; 1 switches batching off.", 64)] = 1
    max_delay: Annotated[Duration, doc("How long the first row may wait for others.", "2ms")] = "0ms"
    preferred_rows: Annotated[
        tuple[Rows, ...], doc("Sizes of batch that the model is fastest at.", [8, 32])
    ] = ()


class Cache(Value, frozen=True, kw_only=True):
    """Cache of responses to equal requests."""

    size: Annotated[BytesOrNone, doc("Memory for responses; 0 switches the cache off.", "256Mi")] = "0"
    ttl: Annotated[PositiveDuration, doc("How long a response is good.", "5m")] = "60s"


class Concurrency(Value, frozen=True, kw_only=True):
    """Limits of one server."""

    instances: Annotated[int, msgspec.Meta(ge=1, le=64), doc("Copies of the model in a server.", 2)] = 1
    in_flight: Annotated[
        int, msgspec.Meta(ge=1, le=100000), doc("Requests in flight at most; more get 429.", 512)
    ] = 256
    queue_rows: Annotated[Rows, doc("Rows that wait for a batch at most.", 2048)] = 1024
    request_size: Annotated[Bytes, doc("Size of a request at most.", "4Mi")] = "16Mi"


class Timeouts(Value, frozen=True, kw_only=True):
    """How long things may take."""

    queue: Annotated[PositiveDuration, doc("Wait of a request in the queue.", "100ms")] = "200ms"
    startup: Annotated[
        PositiveDuration, doc("Pull, load and warm-up of a replica; 1.5 times what was measured.", "20m")
    ] = "10m"
    drain: Annotated[Duration, doc("Requests in flight may take this long when a server stops.", "60s")] = (
        "30s"
    )


class WarmUp(Value, frozen=True, kw_only=True):
    """Inferences before a server is ready."""

    rows: Annotated[
        tuple[Rows, ...], msgspec.Meta(max_length=32), doc("Batch sizes that are run once.", [1, 8, 32])
    ] = (1,)


class Scaling(Value, frozen=True, kw_only=True):
    """Number of replicas."""

    min_replicas: Annotated[int, msgspec.Meta(ge=1, le=1000), doc("Replicas at least.", 2)] = 1
    max_replicas: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=1000)] | None,
        doc("Replicas at most; as many as at least (fixed) when left out.", 8),
    ] = None
    metric: Annotated[
        Literal["inFlight", "queuedRows"],
        doc("What a replica is held to: requests in flight or rows in the queue.", "queuedRows"),
    ] = "inFlight"
    target: Annotated[int, msgspec.Meta(ge=1), doc("Value of the metric for one replica.", 16)] = 8


class Standby(Value, frozen=True, kw_only=True):
    """The model that answers when the first cannot."""

    model: Annotated[
        Reference, doc("A Model of the same team, deployed as `<model>-standby`.", "ranker-lite")
    ]
    trip_after: Annotated[
        int, msgspec.Meta(ge=1, le=1000), doc("Failures in a row after which it answers at once.", 3)
    ] = 5
    probation: Annotated[PositiveDuration, doc("How long until the first model is tried again.", "60s")] = (
        "30s"
    )
    active: Annotated[
        bool,
        doc("It answers every request: a failover that stays until this is false again.", True),
    ] = False


class Serving(Value, frozen=True, kw_only=True):
    """How the model is served."""

    resource: Annotated[Name, doc("Resource of one replica.", "gpu-small")]
    protocols: Annotated[Protocols, doc("REST and gRPC.", {"grpc": False})] = Protocols()
    batching: Annotated[Batching, doc("Dynamic batching.", {"maxRows": 64, "maxDelay": "2ms"})] = Batching()
    cache: Annotated[Cache, doc("Cache of responses.", {"size": "256Mi"})] = Cache()
    concurrency: Annotated[Concurrency, doc("Limits of a server.", {"inFlight": 512})] = Concurrency()
    timeouts: Annotated[Timeouts, doc("How long things may take.", {"startup": "20m"})] = Timeouts()
    warm_up: Annotated[WarmUp, doc("Warm-up.", {"rows": [1, 8, 32]})] = WarmUp()
    scaling: Annotated[Scaling, doc("Replicas.", {"minReplicas": 2, "maxReplicas": 8})] = Scaling()
    standby: Annotated[Standby | None, doc("Standby model.", {"model": "ranker-lite"})] = None


class Step(Value, frozen=True, kw_only=True):
    """A share of the traffic, and how long it stays there before the gate decides."""

    weight: Annotated[int, msgspec.Meta(ge=1, le=99), doc("Share of requests in percent.", 5)]
    pause: Annotated[Duration, doc("Time before the gate looks.", "10m")] = "5m"


class ErrorGate(Value, frozen=True, kw_only=True):
    """The share of requests that fail."""

    max: Annotated[Ratio, doc("Errors (5xx and 429) per request at most.", 0.01)]


class LatencyGate(Value, frozen=True, kw_only=True):
    """A quantile of the time that requests take."""

    quantile: Annotated[Ratio, doc("The quantile.", 0.95)] = 0.99
    max: Annotated[PositiveDuration, doc("Time at most.", "250ms")]


class QueueGate(Value, frozen=True, kw_only=True):
    """A quantile of the time that requests wait for a batch."""

    quantile: Annotated[Ratio, doc("The quantile.", 0.95)] = 0.99
    max: Annotated[PositiveDuration, doc("Time at most.", "50ms")]


class Gates(Value, frozen=True, kw_only=True):
    """What a new version must hold before it gets more traffic; without evidence it waits."""

    error_ratio: Annotated[ErrorGate | None, doc("Gate on errors.", {"max": 0.01})] = None
    latency: Annotated[LatencyGate | None, doc("Gate on latency.", {"max": "250ms"})] = None
    queue_time: Annotated[QueueGate | None, doc("Gate on queue time.", {"max": "50ms"})] = None
    min_rate: Annotated[
        float,
        msgspec.Meta(gt=0),
        doc("Requests per second of the new version below which there is no evidence.", 0.5),
    ] = 0.1

    @property
    def given(self) -> bool:
        """Whether there is any gate."""
        return bool(self.error_ratio or self.latency or self.queue_time)


class Rollout(Value, frozen=True, kw_only=True):
    """How a new version takes over."""

    strategy: Annotated[
        Literal["canary", "blueGreen", "rolling"],
        doc("By shares of traffic, all at once after a preview, or pod by pod.", "canary"),
    ] = "rolling"
    steps: Annotated[
        tuple[Step, ...],
        msgspec.Meta(max_length=20),
        doc("Steps of a canary, rising.", [{"weight": 5, "pause": "10m"}, {"weight": 50, "pause": "10m"}]),
    ] = ()
    gates: Annotated[
        Gates,
        doc("Gates of a canary's steps, or of a blue-green preview.", {"errorRatio": {"max": 0.01}}),
    ] = Gates()


class ModelSpec(Value, frozen=True, kw_only=True):
    """One version of a model and how it is served."""

    targets: Targets = ()
    version: Annotated[Version, doc("Version; quote it where it looks like a number.", "46.1.0")]
    lineage: Annotated[Lineage, doc("Where the version comes from.", {"architecture": "two-tower"})] = (
        Lineage()
    )
    artifact: Annotated[
        Artifact,
        doc("The weights.", {"uri": "s3://shop-models/ranker/46.1.0/model.onnx", "format": "onnx"}),
    ]
    interface: Annotated[
        Interface,
        doc(
            "Tensors; taken from the weights when left out.",
            {"inputs": {"features": {"datatype": "FP32", "shape": [-1, 64]}}},
        ),
    ] = Interface()
    serving: Annotated[Serving, doc("How it is served.", {"resource": "gpu-small"})]
    rollout: Annotated[Rollout, doc("How a new version takes over.", {"strategy": "blueGreen"})] = Rollout()


class Model(Value, frozen=True, kw_only=True):
    """A model that a team serves."""

    metadata: Team
    spec: ModelSpec
