"""The server's settings: ``policies/schemas/server-settings-v1.json`` as values.

The types hold what the schema holds (``tests/contract`` gives both the same documents); what one
field means is said in the schema.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Annotated, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

Name: TypeAlias = Annotated[str, Meta(pattern=r"\A[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")]
Version: TypeAlias = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")]
Digest: TypeAlias = Annotated[str, Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]
# Spaces, controls and what cannot be seen; written out, because engines do not agree about \s.
_BLANK = r"\x00-\x20\x7f-\xa0\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff"
Source: TypeAlias = Annotated[
    str,
    Meta(
        max_length=2048,
        pattern=rf"\A(file:(///[^/{_BLANK}]|/?[^/{_BLANK}])[^{_BLANK}]*"
        rf"|(s3|gs|https?|oci)://[^/@{_BLANK}]+/[^{_BLANK}]+)\Z",
    ),
]
Positive: TypeAlias = Annotated[int, Meta(ge=1, le=2**53 - 1)]
Amount: TypeAlias = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Duration: TypeAlias = Annotated[float, Meta(ge=0)]
Port: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]
TensorName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"\A[^\x00-\x1f\x7f]+\Z")]
File: TypeAlias = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"\A[^\x00-\x1f\x7f]+\Z")]
Datatype: TypeAlias = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
    "FP16", "FP32", "FP64", "BF16", "BYTES",
]  # fmt: skip


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping of the settings: every key is required, none other is known."""


class TensorSpec(Value, frozen=True):
    datatype: Datatype
    shape: tuple[Annotated[int, Meta(ge=-1, le=2**53 - 1)], ...]


class WarmUp(Value, frozen=True):
    rows: tuple[Positive, ...]


class Batching(Value, frozen=True):
    max_rows: Positive
    max_delay_ms: Duration
    preferred_rows: tuple[Positive, ...]


class Queue(Value, frozen=True):
    max_rows: Positive
    timeout_ms: Duration


class Cache(Value, frozen=True):
    max_bytes: Amount
    ttl_s: Duration


class Served(Value, frozen=True):
    name: Name
    version: Version
    source: Source
    format: Literal["onnx", "torch"]
    digest: Digest | None
    lineage_digest: Digest | None
    inputs: dict[TensorName, TensorSpec]
    outputs: dict[TensorName, TensorSpec]
    rows: TensorName | None
    instances: Positive
    warm_up: WarmUp
    batching: Batching
    queue: Queue
    cache: Cache


class Standby(Value, frozen=True):
    url: Annotated[
        str,
        Meta(max_length=2048, pattern=r"\Ahttps?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?\Z"),
    ]
    model: Name
    trip_after: Positive
    probation_s: Duration
    active: bool


Provider: TypeAlias = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_]{0,62}\Z")]


class Device(Value, frozen=True):
    providers: Annotated[tuple[Provider, ...], Meta(min_length=1)]
    allow_cpu: bool
    threads: Amount
    options: dict[Provider, dict[str, str]]


class Listener(Value, frozen=True):
    port: Port


class Metrics(Value, frozen=True):
    port: Port
    latency_buckets_s: Annotated[tuple[Annotated[float, Meta(gt=0)], ...], Meta(min_length=1)]


class Limits(Value, frozen=True):
    request_bytes: Positive
    in_flight: Positive


class NoAuth(Value, frozen=True, tag_field="mode", tag="none"):
    pass


class ApiKeyAuth(Value, frozen=True, tag_field="mode", tag="api_key"):
    keys_file: File


class JwtAuth(Value, frozen=True, tag_field="mode", tag="jwt"):
    jwks: Annotated[str, Meta(max_length=2048, pattern=rf"\A(file:|https?://)[^{_BLANK}]+\Z")]
    issuer: Annotated[str, Meta(min_length=1, max_length=2048)]
    audience: Annotated[str, Meta(min_length=1, max_length=2048)]
    clients_file: File | None


Auth: TypeAlias = NoAuth | ApiKeyAuth | JwtAuth


class Tls(Value, frozen=True):
    certificate_file: File
    key_file: File
    client_ca_file: File | None


class Audit(Value, frozen=True):
    enabled: bool
    mask: tuple[TensorName, ...]


class Settings(Value, frozen=True):
    schema: Literal[1]
    environment: Name
    team: Name
    model: Name
    served: Annotated[tuple[Served, ...], Meta(min_length=1)]
    standby: Standby | None
    device: Device
    http: Listener | None
    grpc: Listener | None
    metrics: Metrics
    limits: Limits
    auth: Auth
    tls: Tls | None
    audit: Audit
    drain_s: Duration


Document = TypeVar("Document")


class WrongSettings(Exception):
    """Settings that are not what the schema says; the text names the field."""


def read(path: str | os.PathLike[str]) -> Settings:
    """The settings in a file. Raises WrongSettings, with the field, and OSError."""
    with open(path, "rb") as file:
        return parse(file.read())


def parse(text: bytes) -> Settings:
    """The settings in a JSON document. Raises WrongSettings, with the field that is wrong."""
    return decoded(text, Settings, _inconsistencies)


def decoded(
    text: bytes, kind: type[Document], inconsistencies: Callable[[Document], Iterator[str]]
) -> Document:
    """A JSON document as a consistent value. Raises WrongSettings, with the field that is wrong."""
    try:
        settings = msgspec.json.decode(text, type=kind)
    except UnicodeDecodeError as error:
        raise WrongSettings(f"not UTF-8: {error}") from None
    except msgspec.DecodeError as error:
        raise WrongSettings(str(error)) from None
    wrong = next(inconsistencies(settings), None)
    if wrong:
        raise WrongSettings(wrong)
    return settings


def _inconsistencies(settings: Settings) -> Iterator[str]:
    """What no single field shows."""
    pairs = [(served.name, served.version) for served in settings.served]
    if len(set(pairs)) < len(pairs):
        yield "`$.served` names one version of a model twice"
    if settings.model not in {name for name, _ in pairs}:
        yield f"`$.served` lacks the model `{settings.model}` that `$.model` names"
    if settings.http is None and settings.grpc is None:
        yield "one of `$.http` and `$.grpc` must be on"
    ports = [listener.port for listener in (settings.http, settings.grpc, settings.metrics) if listener]
    fixed = [port for port in ports if port]
    if len(set(fixed)) < len(fixed):
        yield "two listeners have the same port"
    buckets = settings.metrics.latency_buckets_s
    for field, values in (
        ("device.providers", settings.device.providers),
        ("audit.mask", settings.audit.mask),
        ("metrics.latency_buckets_s", buckets),
    ):
        if len(set(values)) < len(values):
            yield f"`$.{field}` holds one value twice"
    if list(buckets) != sorted(buckets):
        yield "`$.metrics.latency_buckets_s` does not rise"
    for index, served in enumerate(settings.served):
        batching = served.batching
        if any(rows > batching.max_rows for rows in batching.preferred_rows):
            yield f"`$.served[{index}].batching.preferred_rows` exceeds `max_rows`"
