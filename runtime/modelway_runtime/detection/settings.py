"""The detector's settings: ``policies/schemas/detector-settings-v1.json`` as values.

The types hold what the schema holds (``tests/contract`` gives both the same documents); what one
field means is said in the schema.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from modelway_runtime.settings import Name, Port, Value, decoded

Seconds: TypeAlias = Annotated[float, Meta(gt=0)]
File: TypeAlias = Annotated[str, Meta(max_length=4096, pattern=r"\A/[^\x00-\x1f\x7f]+\Z")]
Url: TypeAlias = Annotated[
    str,
    Meta(
        max_length=2048,
        pattern=r"\Ahttps?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*/?\Z",
    ),
]
MetricName: TypeAlias = Literal[
    "latency", "queue_time", "compute_time", "throughput", "error_ratio", "memory", "gpu_memory",
    "gpu_utilization", "output_value",
]  # fmt: skip
Sensitivity: TypeAlias = Literal["normal", "low"]
Severity: TypeAlias = Literal["critical", "warning", "info"]
Response: TypeAlias = Literal["notify", "restart", "failover", "rollback"]
TIMES = ("latency", "queue_time", "compute_time")


class Tenant(Value, frozen=True):
    header: Annotated[str, Meta(max_length=64, pattern=r"\A[A-Za-z][A-Za-z0-9-]*\Z")]
    value: Annotated[str, Meta(min_length=1, max_length=255, pattern=r"\A[\x21-\x7e]+\Z")]


class ClientTls(Value, frozen=True):
    ca_file: File | None
    certificate_file: File | None
    key_file: File | None


class Prometheus(Value, frozen=True):
    url: Url
    timeout_s: Seconds
    history_s: Seconds
    scrape_interval_s: Seconds
    token_file: File | None
    tls: ClientTls | None
    tenant: Tenant | None


class Pattern(Value, frozen=True):
    metric: MetricName
    quantile: Annotated[float, Meta(gt=0, lt=1)] | None
    worse: Literal["up", "down", "both"]
    minimum_effect: Annotated[float, Meta(gt=0)]
    window_s: Annotated[float, Meta(ge=600)]
    sensitivity: Sensitivity


class Watched(Value, frozen=True):
    namespace: Name
    team: Name
    model: Name
    job: Name
    workload: Literal["Rollout", "Deployment"] | None
    standby: Name | None
    patterns: Annotated[dict[Name, Pattern], Meta(min_length=1)]
    severity: Severity
    response: Annotated[tuple[Response, ...], Meta(min_length=1)]


class Gate(Value, frozen=True):
    port: Port
    token_files: Annotated[dict[Name, File], Meta(min_length=1)]
    public_url: Url


class App(Value, frozen=True):
    id: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    installation_id: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    private_key_file: File


class Publish(Value, frozen=True):
    api_url: Url
    repository: Annotated[str, Meta(max_length=140, pattern=r"\A[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+\Z")]
    branch: Annotated[str, Meta(max_length=255, pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._/-]*\Z")]
    folder: Annotated[
        str, Meta(max_length=1024, pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*\Z")
    ]
    comment: Literal["always", "changed", "regressed"]
    token_file: File | None
    app: App | None


_PART = r"[a-z0-9]|\{team\}|\{model\}"


class ArgoCd(Value, frozen=True):
    url: Url
    application: Annotated[str, Meta(max_length=63, pattern=rf"\A({_PART})(({_PART}|-)*({_PART}))?\Z")]
    """``{team}`` and ``{model}`` stand for the names of the model that was released."""
    token_file: File


class Listener(Value, frozen=True):
    port: Port


class Settings(Value, frozen=True):
    schema: Literal[1]
    environment: Name
    prometheus: Prometheus
    schedule: Annotated[str, Meta(pattern=r"\A([0-9A-Za-z*/,-]+ ){4}[0-9A-Za-z*/,-]+\Z")] | None
    watched: Annotated[tuple[Watched, ...], Meta(min_length=1)]
    gate: Gate | None
    publish: Publish | None
    argocd: ArgoCd | None
    memory_file: File
    metrics: Listener


def read(path: str | os.PathLike[str]) -> Settings:
    """The settings in a file. Raises WrongSettings, with the field, and OSError."""
    with open(path, "rb") as file:
        return parse(file.read())


def parse(text: bytes) -> Settings:
    """The settings in a JSON document. Raises WrongSettings, with the field that is wrong."""
    return decoded(text, Settings, _inconsistencies)


def _inconsistencies(settings: Settings) -> Iterator[str]:
    """What no single field shows."""
    pairs = [(watched.namespace, watched.model) for watched in settings.watched]
    if len(set(pairs)) < len(pairs):
        yield "`$.watched` names one model of a namespace twice"
    for index, watched in enumerate(settings.watched):
        at = f"$.watched[{index}]"
        if len(set(watched.response)) < len(watched.response):
            yield f"`{at}.response` holds one value twice"
        if "failover" in watched.response and watched.standby is None:
            yield f"`{at}.response` has failover, but `{at}.standby` is null"
        if "restart" in watched.response and watched.workload is None:
            yield f"`{at}.response` has restart, but `{at}.workload` is null"
        for name, pattern in watched.patterns.items():
            if (pattern.quantile is not None) != (pattern.metric in TIMES):
                yield f"`{at}.patterns.{name}.quantile` must be a number for times and null for all else"
    publish = settings.publish
    if publish and (publish.token_file is None) == (publish.app is None):
        yield "`$.publish` needs one of `token_file` and `app`"
    tls = settings.prometheus.tls
    if tls and (tls.certificate_file is None) != (tls.key_file is None):
        yield "`$.prometheus.tls` needs `certificate_file` and `key_file`, or neither"
