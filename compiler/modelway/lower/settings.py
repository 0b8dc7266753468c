"""The server's settings (``policies/schemas/server-settings-v1.json``) and the ConfigMap that mounts them."""

from __future__ import annotations

import hashlib

import msgspec

from modelway.lower import names
from modelway.lower.objects import Json, KubeObject, PlainFile, json_text
from modelway.lower.workload import Workload
from modelway.spec.common import amount, milliseconds, seconds
from modelway.spec.model import Artifact, Lineage, Model

_SUFFIXES = {"onnx": (".onnx",), "torch": (".safetensors", ".pt", ".pt2", ".pth")}


def settings(workload: Workload) -> Json:
    """The document of the contract, in the contract's order."""
    serving = workload.spec.serving
    local = workload.place.cluster is None
    models = [workload.model] + ([workload.standby] if local and workload.standby else [])
    return {
        "schema": 1,
        "environment": workload.environment.metadata.name,
        "team": workload.team,
        "model": workload.model.metadata.name,
        "served": [served(model, local=local) for model in models],
        "standby": _standby(workload, local=local),
        "device": {
            "providers": ["cuda" if workload.gpus else "cpu"],
            "allow_cpu": not workload.gpus,
            "threads": 0,
            "options": {},
        },
        "http": {"port": names.HTTP_PORT},
        "grpc": {"port": names.GRPC_PORT} if serving.protocols.grpc else None,
        "metrics": {
            "port": names.METRICS_PORT,
            "latency_buckets_s": [_seconds(bound) for bound in workload.buckets_ms],
        },
        "limits": {
            "request_bytes": int(amount(serving.concurrency.request_size)),
            "in_flight": serving.concurrency.in_flight,
        },
        "auth": {"mode": "none"},
        "tls": None,
        "audit": {"enabled": False, "mask": []},
        "drain_s": seconds(serving.timeouts.drain),
    }


def served(model: Model, *, local: bool) -> Json:
    """A model as one server serves it."""
    spec = model.spec
    batching, concurrency, timeouts = spec.serving.batching, spec.serving.concurrency, spec.serving.timeouts
    interface = msgspec.to_builtins(spec.interface)
    return {
        "name": model.metadata.name,
        "version": spec.version,
        "source": spec.artifact.uri
        if local
        else f"file://{names.MODELS_FOLDER}/{weights_file(spec.artifact)}",
        "format": spec.artifact.format,
        "digest": spec.artifact.digest,
        "lineage_digest": lineage_digest(spec.lineage),
        **{side: dict(sorted(interface[side].items())) for side in ("inputs", "outputs")},
        "rows": spec.interface.rows,
        "instances": concurrency.instances,
        "warm_up": {"rows": list(spec.serving.warm_up.rows)},
        "batching": {
            "max_rows": batching.max_rows,
            "max_delay_ms": milliseconds(batching.max_delay),
            "preferred_rows": list(batching.preferred_rows),
        },
        "queue": {"max_rows": concurrency.queue_rows, "timeout_ms": milliseconds(timeouts.queue)},
        "cache": {
            "max_bytes": int(amount(spec.serving.cache.size)),
            "ttl_s": seconds(spec.serving.cache.ttl),
        },
    }


def config_map(workload: Workload, text: str) -> KubeObject:
    """The settings under a name that changes with them.

    A Rollout that is rolled back needs the settings of the version before, which Git has no more:
    Argo CD must neither prune nor count them.
    """
    annotations = {names.SYNC_OPTIONS: "Prune=false", names.COMPARE_OPTIONS: "IgnoreExtraneous"}
    value = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": workload.meta(config_map_name(workload, text), names.WAVE_CONFIG, annotations),
        "immutable": True,
        "data": {names.SETTINGS_FILE: text},
    }
    return KubeObject(workload.folder, value, workload.origin)


def config_map_name(workload: Workload, text: str) -> str:
    return f"{workload.name}-settings-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def settings_file(workload: Workload) -> PlainFile:
    """The settings for a server without a cluster: ``modelway-runtime serve --settings FILE``."""
    path = f"{workload.folder}/settings-{workload.name}.json"
    return PlainFile(path, json_text(settings(workload)).encode(), workload.origin)


def weights_file(artifact: Artifact) -> str:
    """Name of the weights file in ``/models``."""
    if artifact.file is not None:
        return artifact.file
    last = artifact.uri.partition("?")[0].rpartition("/")[2].partition("@")[0]
    suffixes = _SUFFIXES[artifact.format]
    if not artifact.uri.startswith("oci://") and last.endswith(suffixes) and last not in suffixes:
        return last
    return "model" + suffixes[0]


def lineage_digest(lineage: Lineage) -> str | None:
    """sha256 of the lineage as JSON with sorted keys; None when the spec gives no lineage."""
    if lineage == Lineage():
        return None
    return "sha256:" + hashlib.sha256(lineage_text(lineage).encode()).hexdigest()


def lineage_text(lineage: Lineage) -> str:
    """The lineage as one line of JSON, keys sorted, without what is not given."""
    return msgspec.json.encode(lineage, order="sorted").decode()


def _standby(workload: Workload, *, local: bool) -> Json | None:
    standby = workload.spec.serving.standby
    if standby is None or workload.standby is None:
        return None
    # Without a cluster the standby is a model of the same process, behind the same port.
    host = "127.0.0.1" if local else f"{names.role(workload.name, names.STANDBY)}.{workload.namespace}.svc"
    return {
        "url": f"http://{host}:{names.HTTP_PORT}",
        "model": workload.standby.metadata.name,
        "trip_after": standby.trip_after,
        "probation_s": seconds(standby.probation),
        "active": standby.active,
    }


def _seconds(bound_ms: int) -> float | int:
    whole, rest = divmod(bound_ms, 1000)
    return bound_ms / 1000 if rest else whole
