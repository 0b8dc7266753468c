"""The JSON Schemas that compiler, runtime and detector share, and one full example of each."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import jsonschema_rs
import pytest
from jsonschema import Draft202012Validator

from tests.contract.metrics import LABEL_VALUES, strange_labels, strangers
from tests.support.checking import every

SCHEMAS = Path(__file__).parents[2] / "policies" / "schemas"
SERVER, DETECTOR, VERDICT = "server-settings-v1", "detector-settings-v1", "verdict-v1"
NAMES = (SERVER, DETECTOR, VERDICT)

# The fields that a document may lack; every other one is required.
OPTIONAL = {(VERDICT, name) for name in ("reason", "decided_at", "pods", "buckets")}

# Fields that exclude others which the example has.
ELSEWHERE = {
    SERVER: {"keys_file"},
    DETECTOR: {"id", "installation_id", "private_key_file"},
    VERDICT: {"decided_at", "pods", "stable", "canary", "spread", "buckets"},
}

Json: TypeAlias = Any
Pointer: TypeAlias = tuple[str | int, ...]

every_schema = pytest.mark.parametrize("name", NAMES)


@cache
def schema(name: str) -> Json:
    return json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))


def example(name: str) -> Json:
    return json.loads((SCHEMAS / "examples" / f"{name}.json").read_text("utf-8"))


@cache
def validators(name: str) -> tuple[Draft202012Validator, jsonschema_rs.Draft202012Validator]:
    return Draft202012Validator(schema(name)), jsonschema_rs.Draft202012Validator(schema(name))


def accepted(name: str, document: Json) -> bool:
    """Whether the document is valid; both implementations must say the same."""
    python, rust = validators(name)
    verdicts = (python.is_valid(document), rust.is_valid(document))
    assert verdicts[0] == verdicts[1], f"jsonschema and jsonschema-rs differ: {verdicts}"
    return verdicts[0]


def at(document: Json, pointer: Pointer) -> Json:
    for key in pointer:
        document = document[key]
    return document


def changed(document: Json, pointer: Pointer, value: Json) -> Json:
    document = copy.deepcopy(document)
    at(document, pointer[:-1])[pointer[-1]] = value
    return document


def without(document: Json, pointer: Pointer) -> Json:
    document = copy.deepcopy(document)
    del at(document, pointer[:-1])[pointer[-1]]
    return document


def mappings(value: Json, pointer: Pointer = ()) -> Iterator[Pointer]:
    """Where a document has mappings, itself included."""
    if isinstance(value, dict):
        yield pointer
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from mappings(inner, (*pointer, key))


def declarations(name: str, node: Json) -> Iterator[Json]:
    """What speaks of a value, references followed: the schema itself and the alternatives of anyOf."""
    yield node
    if "$ref" in node:
        yield from declarations(name, at(schema(name), tuple(node["$ref"].removeprefix("#/").split("/"))))
    for alternative in node.get("anyOf", ()):
        yield from declarations(name, alternative)


def field(name: str, pointer: Pointer) -> tuple[Json, bool]:
    """The declaration of a document's value, and whether it is a named field (not an entry, not an item)."""
    node, named = schema(name), False
    for key in pointer:
        node, named = _step(name, node, key)
    return node, named


def _step(name: str, node: Json, key: str | int) -> tuple[Json, bool]:
    for declaration in declarations(name, node):
        if isinstance(key, int) and "items" in declaration:
            return declaration["items"], False
        if key in declaration.get("properties", {}):
            return declaration["properties"][key], True
        if isinstance(declaration.get("additionalProperties"), dict):
            return declaration["additionalProperties"], False
    raise AssertionError(f"{name}: nothing declares {key!r}")


def named_fields(name: str) -> list[Pointer]:
    document = example(name)
    pointers = [(*pointer, key) for pointer in mappings(document) for key in at(document, pointer)]
    return [pointer for pointer in pointers if field(name, pointer)[1]]


def declared(node: Json, pointer: str = "#") -> Iterator[tuple[str, Json]]:
    """All places of a schema that declare a value; conditions (if, not, allOf) declare none."""
    yield pointer, node
    for group in ("properties", "$defs"):
        for key, inner in node.get(group, {}).items():
            yield from declared(inner, f"{pointer}/{group}/{key}")
    for key in ("items", "additionalProperties", "propertyNames"):
        if isinstance(node.get(key), dict):
            yield from declared(node[key], f"{pointer}/{key}")
    for index, inner in enumerate(node.get("anyOf", ())):
        yield from declared(inner, f"{pointer}/anyOf/{index}")


@every_schema
def test_schema_is_valid_itself(name: str) -> None:
    Draft202012Validator.check_schema(schema(name))
    jsonschema_rs.meta.validate(schema(name))
    assert schema(name)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema(name)["$id"].endswith(f"/{name}.json")


@every_schema
def test_example_is_valid(name: str) -> None:
    python, rust = validators(name)
    assert [error.message for error in python.iter_errors(example(name))] == []
    assert [error.message for error in rust.iter_errors(example(name))] == []


@every_schema
def test_example_shows_every_field(name: str) -> None:
    shown = {key for pointer in named_fields(name) for key in pointer if isinstance(key, str)}
    fields = {key for _, node in declared(schema(name)) for key in node.get("properties", {})}
    assert fields - shown == ELSEWHERE[name]


@pytest.mark.parametrize(
    ("name", "pointer"), [(name, pointer) for name in NAMES for pointer in named_fields(name)], ids=str
)
def test_no_field_may_be_left_out(name: str, pointer: Pointer) -> None:
    assert not accepted(name, without(example(name), pointer))


@pytest.mark.parametrize(
    ("name", "pointer"), [(name, pointer) for name in NAMES for pointer in mappings(example(name))], ids=str
)
def test_unknown_key_is_refused_everywhere(name: str, pointer: Pointer) -> None:
    assert not accepted(name, changed(example(name), (*pointer, "unexpected"), None))


@pytest.mark.parametrize(
    ("name", "pointer"), [(name, pointer) for name in NAMES for pointer in named_fields(name)], ids=str
)
def test_field_of_the_example_is_described(name: str, pointer: Pointer) -> None:
    declaration, _ = field(name, pointer)
    assert declaration["title"]
    assert declaration["description"].endswith(".")
    assert declaration["examples"]


@every_schema
def test_everything_declared_is_described(name: str) -> None:
    for pointer, node in declared(schema(name)):
        for key, declaration in node.get("properties", {}).items():
            assert {"title", "description", "examples"} <= declaration.keys(), f"{pointer}/properties/{key}"
        for key, declaration in node.get("$defs", {}).items():
            assert {"title", "description"} <= declaration.keys(), f"{pointer}/$defs/{key}"


@every_schema
def test_examples_of_fields_are_valid(name: str) -> None:
    python, _ = validators(name)
    for pointer, node in declared(schema(name)):
        for value in node.get("examples", ()):
            assert [error.message for error in python.evolve(schema=node).iter_errors(value)] == [], pointer


@pytest.mark.parametrize("name", [SERVER, DETECTOR])  # a verdict has none
def test_numbers_with_a_unit_name_it(name: str) -> None:
    words = {"_s": "seconds", "_ms": "milliseconds", "_bytes": "bytes", "rows": "rows"}
    with_a_unit = [
        (pointer, node, word)
        for pointer, node in declared(schema(name))
        for suffix, word in words.items()
        if pointer.endswith(suffix) and "/properties/" in pointer and "properties" not in node
    ]
    for pointer, node, word in every(with_a_unit):
        assert word in node["description"].lower(), pointer


@every_schema
def test_every_mapping_is_closed(name: str) -> None:
    for pointer, node in declared(schema(name)):
        if "properties" in node:
            assert node["additionalProperties"] is False, pointer
            missing = set(node["properties"]) - set(node["required"])
            assert {(name, key) for key in missing} <= OPTIONAL, pointer
        elif node.get("type") == "object":
            assert isinstance(node["additionalProperties"], dict), pointer
            assert "propertyNames" in node, pointer


SERVED: Pointer = ("served", 0)
INPUT: Pointer = (*SERVED, "inputs", "features")
WATCHED: Pointer = ("watched", 0)
PATTERN: Pointer = (*WATCHED, "patterns", "latency-p99")
TLS: Pointer = ("prometheus", "tls")
METRIC: Pointer = ("metrics", 0)
NO_TOKEN = {"token_file": None}
APP = {"id": 1021, "installation_id": 4711, "private_key_file": "/etc/modelway/forge/app.pem"}
LIGHTER = {
    "url": "http://127.0.0.1:8080",
    "model": "ranker-lite",
    "trip_after": 1,
    "probation_s": 0,
    "active": True,
}

RIGHT: list[tuple[str, Pointer, Json]] = [
    (SERVER, ("standby",), None),
    (SERVER, ("standby",), LIGHTER),
    (SERVER, ("http",), None),
    (SERVER, ("grpc",), None),
    (SERVER, ("http", "port"), 0),
    (SERVER, ("auth",), {"mode": "none"}),
    (SERVER, ("auth",), {"mode": "api_key", "keys_file": "keys.json"}),
    (SERVER, ("auth", "clients_file"), "clients.json"),
    (SERVER, ("tls",), None),
    (SERVER, ("tls", "client_ca_file"), "ca.pem"),
    (SERVER, ("device", "threads"), 4),
    (SERVER, ("device", "options"), {}),
    (SERVER, ("metrics", "latency_buckets_s"), [1]),
    (SERVER, ("device", "providers"), ["tensorrt", "cuda", "cpu"]),
    (SERVER, ("audit", "mask"), ["features", "dense/BiasAdd:0"]),
    (SERVER, ("drain_s",), 0.5),
    (SERVER, (*SERVED, "source"), "file:models/x.onnx"),
    (SERVER, (*SERVED, "source"), "file:/models/x.onnx"),
    (SERVER, (*SERVED, "source"), "s3://models/ranker/46.1.0.onnx"),
    (SERVER, (*SERVED, "source"), "gs://models/ranker.onnx"),
    (SERVER, (*SERVED, "source"), "https://models.example/ranker.onnx"),
    (SERVER, (*SERVED, "source"), "http://models.svc:9000/ranker.onnx"),
    (SERVER, (*SERVED, "source"), "oci://registry.example/models/ranker@sha256:" + "0" * 64),
    (SERVER, (*SERVED, "format"), "torch"),
    (SERVER, (*SERVED, "digest"), None),
    (SERVER, (*SERVED, "lineage_digest"), None),
    (SERVER, (*SERVED, "inputs"), {}),
    (SERVER, (*SERVED, "rows"), None),
    (SERVER, (*SERVED, "rows"), "none"),
    (SERVER, (*SERVED, "rows"), "batch size"),
    (SERVER, (*INPUT, "datatype"), "BYTES"),
    (SERVER, (*INPUT, "shape"), [-1, 0, 3]),
    (SERVER, (*SERVED, "warm_up", "rows"), []),
    (SERVER, (*SERVED, "batching", "max_delay_ms"), 0.5),
    (SERVER, (*SERVED, "queue", "timeout_ms"), 0),
    (SERVER, (*SERVED, "cache"), {"max_bytes": 67108864, "ttl_s": 300}),
    (DETECTOR, ("schedule",), None),
    (DETECTOR, ("gate",), None),
    (DETECTOR, ("publish",), None),
    (DETECTOR, ("publish", "api_url"), "https://git.shop.example/api/v3"),
    (DETECTOR, ("publish", "comment"), "regressed"),
    (DETECTOR, ("publish",), {**at(example(DETECTOR), ("publish",)), **NO_TOKEN, "app": APP}),
    (DETECTOR, ("argocd",), None),
    (DETECTOR, ("argocd", "url"), "http://argocd-server.argocd"),
    (DETECTOR, ("argocd", "application"), "prod-models"),
    (DETECTOR, ("argocd", "application"), "{team}-{model}"),
    (DETECTOR, ("prometheus", "token_file"), "/etc/modelway/prometheus/token"),
    (DETECTOR, ("prometheus", "tls"), None),
    (DETECTOR, (*TLS, "ca_file"), None),
    (DETECTOR, TLS, {"ca_file": "/ca.pem", "certificate_file": None, "key_file": None}),
    (DETECTOR, ("prometheus", "tenant"), None),
    (DETECTOR, ("prometheus", "scrape_interval_s"), 0.5),
    (DETECTOR, (*WATCHED, "response"), ["failover"]),
    (DETECTOR, (*WATCHED, "workload"), "Deployment"),
    (DETECTOR, (*WATCHED, "workload"), None),
    (DETECTOR, (*WATCHED, "standby"), None),
    (DETECTOR, (*PATTERN, "sensitivity"), "low"),
    (DETECTOR, (*PATTERN, "worse"), "both"),
    (VERDICT, ("commit", "found_by"), "history"),
    (VERDICT, ("pull_request",), None),
    (VERDICT, ("rollout", "previous_hash"), None),
    (VERDICT, ("rollout", "hash"), None),
    (VERDICT, ("other_rollouts",), []),
    (VERDICT, ("judged_at",), "2026-11-21T11:00:00.125Z"),
    (VERDICT, (*METRIC, "windows", "history"), None),
    (VERDICT, (*METRIC, "effect", "relative"), None),
    (VERDICT, (*METRIC, "load_change"), -1),
    (VERDICT, (*METRIC, "queries"), []),
    (VERDICT, (*METRIC, "change_points"), []),
]

WRONG: list[tuple[str, Pointer, Json]] = [
    (SERVER, ("schema",), 2),
    (SERVER, ("schema",), "1"),
    (SERVER, ("environment",), "Prod"),
    (SERVER, ("team",), ""),
    (SERVER, ("team",), None),
    (SERVER, ("model",), "../ranker"),
    (SERVER, ("model",), "r" * 64),
    (SERVER, ("model",), "ranker-"),
    (SERVER, ("served",), []),
    (SERVER, ("served",), {}),
    (SERVER, ("standby",), "ranker-lite"),
    (SERVER, ("standby", "url"), "http://user:secret@ranker-standby:8080"),
    (SERVER, ("standby", "url"), "http://ranker-standby:8080/v2"),
    (SERVER, ("standby", "url"), "ranker-standby:8080"),
    (SERVER, ("standby", "trip_after"), 0),
    (SERVER, ("standby", "probation_s"), -1),
    (SERVER, ("standby", "active"), "yes"),
    (SERVER, ("standby", "active"), None),
    (SERVER, ("device", "providers"), []),
    (SERVER, ("device", "providers"), ["cuda", "cuda"]),
    (SERVER, ("device", "providers"), ["CUDAExecutionProvider"]),
    (SERVER, ("device", "allow_cpu"), 1),
    (SERVER, ("http", "port"), 65536),
    (SERVER, ("http", "port"), -1),
    (SERVER, ("http", "port"), "8080"),
    (SERVER, ("http",), 8080),
    (SERVER, ("grpc", "port"), 8081.5),
    (SERVER, ("metrics",), None),
    (SERVER, ("metrics", "latency_buckets_s"), []),
    (SERVER, ("metrics", "latency_buckets_s"), [0, 0.1]),
    (SERVER, ("metrics", "latency_buckets_s"), [0.1, 0.1]),
    (SERVER, ("metrics", "latency_buckets_s"), ["+Inf"]),
    (SERVER, ("limits", "request_bytes"), 0),
    (SERVER, ("limits", "request_bytes"), "16Mi"),
    (SERVER, ("limits", "request_bytes"), 2**53),
    (SERVER, ("limits", "in_flight"), True),
    (SERVER, ("device", "threads"), -1),
    (SERVER, ("device", "options"), {"cuda": {"gpu_mem_limit": 8589934592}}),
    (SERVER, ("device", "options"), {"CUDA": {}}),
    (SERVER, ("auth", "mode"), "api_key"),
    (SERVER, ("auth", "mode"), "basic"),
    (SERVER, ("auth",), None),
    (SERVER, ("auth",), {"mode": "api_key"}),
    (SERVER, ("auth",), {"mode": "api_key", "keys_file": ""}),
    (SERVER, ("auth",), {"mode": "none", "keys_file": "keys.json"}),
    (SERVER, ("auth", "jwks"), "ftp://login.example/keys"),
    (SERVER, ("tls",), {}),
    (SERVER, ("tls",), False),
    (SERVER, ("tls", "key_file"), None),
    (SERVER, ("audit", "mask"), [""]),
    (SERVER, ("audit", "mask"), ["t" * 256]),
    (SERVER, ("audit", "mask"), ["features", "features"]),
    (SERVER, ("audit", "mask"), "features"),
    (SERVER, ("drain_s",), "30s"),
    (SERVER, ("drain_s",), -1),
    (SERVER, (*SERVED, "name"), "search/ranker"),
    (SERVER, (*SERVED, "version"), 46),
    (SERVER, (*SERVED, "version"), "46/1"),
    (SERVER, (*SERVED, "version"), ""),
    (SERVER, (*SERVED, "source"), "/models/ranker.onnx"),
    (SERVER, (*SERVED, "source"), "file:"),
    (SERVER, (*SERVED, "source"), "file://host/ranker.onnx"),
    (SERVER, (*SERVED, "source"), "ftp://models.example/ranker.onnx"),
    (SERVER, (*SERVED, "source"), "https://user:secret@models.example/ranker.onnx"),
    (SERVER, (*SERVED, "source"), "s3://models"),
    (SERVER, (*SERVED, "source"), "s3://models/" + "r" * 2048),
    (SERVER, (*SERVED, "source"), "file:///models/my ranker.onnx"),
    (SERVER, (*SERVED, "format"), "tensorflow"),
    (SERVER, (*SERVED, "digest"), "sha256:" + "A" * 64),
    (SERVER, (*SERVED, "digest"), "sha256:" + "0" * 63),
    (SERVER, (*SERVED, "digest"), "0" * 64),
    (SERVER, (*SERVED, "lineage_digest"), ""),
    (SERVER, (*SERVED, "inputs"), None),
    (SERVER, (*SERVED, "inputs", ""), {"datatype": "FP32", "shape": [1]}),
    (SERVER, (*SERVED, "inputs", "a\nb"), {"datatype": "FP32", "shape": [1]}),
    (SERVER, (*INPUT, "datatype"), "float32"),
    (SERVER, (*INPUT, "datatype"), "FP8"),
    (SERVER, (*INPUT, "shape"), [-2, 64]),
    (SERVER, (*INPUT, "shape"), [1.5]),
    (SERVER, (*INPUT, "shape"), [2**53]),
    (SERVER, (*INPUT, "shape"), None),
    (SERVER, (*SERVED, "rows"), ""),
    (SERVER, (*SERVED, "rows"), 0),
    (SERVER, (*SERVED, "instances"), 0),
    (SERVER, (*SERVED, "warm_up", "rows"), [0]),
    (SERVER, (*SERVED, "batching", "max_rows"), 0),
    (SERVER, (*SERVED, "batching", "max_delay_ms"), "2ms"),
    (SERVER, (*SERVED, "batching", "preferred_rows"), None),
    (SERVER, (*SERVED, "queue", "max_rows"), 0),
    (SERVER, (*SERVED, "queue", "timeout_ms"), -1),
    (SERVER, (*SERVED, "cache", "max_bytes"), -1),
    (SERVER, (*SERVED, "cache", "max_bytes"), 2**53),
    (DETECTOR, ("schema",), 2),
    (DETECTOR, ("environment",), "Prod"),
    (DETECTOR, ("metrics", "port"), 65536),
    (DETECTOR, ("gate", "port"), -1),
    (DETECTOR, ("prometheus", "url"), "prometheus.monitoring:9090"),
    (DETECTOR, ("prometheus", "url"), "http://user:secret@prometheus:9090"),
    (DETECTOR, ("prometheus", "url"), "http://prometheus:9090/?tenant=a"),
    (DETECTOR, ("prometheus", "timeout_s"), 0),
    (DETECTOR, ("prometheus", "history_s"), 0),
    (DETECTOR, ("schedule",), "every ten minutes"),
    (DETECTOR, ("schedule",), "*/10 * * *"),
    (DETECTOR, ("watched",), []),
    (DETECTOR, (*WATCHED, "patterns"), {}),
    (DETECTOR, (*WATCHED, "patterns", "P 99"), at(example(DETECTOR), PATTERN)),
    (DETECTOR, (*WATCHED, "response"), []),
    (DETECTOR, (*WATCHED, "response"), ["shout"]),
    (DETECTOR, (*WATCHED, "response"), ["notify", "notify"]),
    (DETECTOR, (*WATCHED, "severity"), "fatal"),
    (DETECTOR, (*PATTERN, "metric"), "p99"),
    (DETECTOR, (*PATTERN, "metric"), "throughput"),
    (DETECTOR, (*PATTERN, "quantile"), None),
    (DETECTOR, (*PATTERN, "quantile"), 99),
    (DETECTOR, (*PATTERN, "quantile"), 0),
    (DETECTOR, (*PATTERN, "worse"), "sideways"),
    (DETECTOR, (*PATTERN, "minimum_effect"), 0),
    (DETECTOR, (*PATTERN, "window_s"), 60),
    (DETECTOR, (*PATTERN, "sensitivity"), 3),
    (DETECTOR, ("gate", "token_files"), {}),
    (DETECTOR, ("gate", "token_files"), {"search-prod": "token"}),
    (DETECTOR, ("gate", "token_files"), {"Search": "/etc/modelway/gate/search"}),
    (DETECTOR, ("gate", "token_files"), "/etc/modelway/gate/token"),
    (DETECTOR, ("publish", "repository"), "models"),
    (DETECTOR, ("publish", "repository"), "shop/models/main"),
    (DETECTOR, ("publish", "branch"), "--force"),
    (DETECTOR, ("publish", "folder"), "../generated"),
    (DETECTOR, ("publish", "folder"), "/generated"),
    (DETECTOR, ("publish", "comment"), "never"),
    (DETECTOR, ("publish", "token_file"), None),
    (DETECTOR, ("publish", "app"), APP),  # beside a token
    (DETECTOR, ("publish",), {**at(example(DETECTOR), ("publish",)), **NO_TOKEN, "app": APP | {"id": 0}}),
    (DETECTOR, ("publish",), {**at(example(DETECTOR), ("publish",)), **NO_TOKEN, "app": {"id": 1021}}),
    (DETECTOR, ("argocd", "url"), "argocd.shop.example"),
    (DETECTOR, ("argocd", "application"), "../prod"),
    (DETECTOR, ("argocd", "application"), "prod-{folder}"),
    (DETECTOR, ("argocd", "application"), "prod-{team}-"),
    (DETECTOR, ("argocd", "token_file"), None),
    (DETECTOR, ("memory_file",), "detector.sqlite"),
    (DETECTOR, ("memory_file",), None),
    (DETECTOR, ("prometheus", "scrape_interval_s"), 0),
    (DETECTOR, ("prometheus", "token_file"), "token"),
    (DETECTOR, (*TLS, "key_file"), None),
    (DETECTOR, (*TLS, "certificate_file"), None),
    (DETECTOR, ("prometheus", "tenant", "header"), "X-Scope-OrgID: a\r\nX"),
    (DETECTOR, ("prometheus", "tenant", "value"), "two words"),
    (DETECTOR, (*WATCHED, "workload"), "StatefulSet"),
    (DETECTOR, (*WATCHED, "job"), None),
    (DETECTOR, (*WATCHED, "standby"), ""),
    (VERDICT, ("schema",), 2),
    (VERDICT, ("namespace",), "Search"),
    (VERDICT, ("state",), "changed"),
    (VERDICT, ("severity",), "fatal"),
    (VERDICT, ("sensitivity",), "high"),
    (VERDICT, ("detector_version",), ""),
    (VERDICT, ("id",), "../1"),
    (VERDICT, ("comparison",), "placebo"),
    (VERDICT, ("judged_at",), "2026-11-21 11:00:00"),
    (VERDICT, ("judged_at",), "2026-11-21T11:00:00+01:00"),
    (VERDICT, ("judged_at",), "2026-13-21T11:00:00Z"),
    (VERDICT, ("judged_at",), 1795258800),
    (VERDICT, ("series_digest",), None),
    (VERDICT, ("series_digest",), "0" * 64),
    (VERDICT, ("rollout", "hash"), "6D4B"),
    (VERDICT, ("rollout", "previous_hash"), ""),
    (VERDICT, ("rollout", "version"), "46/1"),
    (VERDICT, ("other_rollouts",), [None]),
    (VERDICT, ("rollout",), None),
    (VERDICT, ("commit",), None),  # a pull request, but no commit that it brought
    (VERDICT, ("commit", "sha"), "8c1d2e7"),
    (VERDICT, ("commit", "found_by"), "guess"),
    (VERDICT, ("pull_request", "number"), 0),
    (VERDICT, ("pull_request", "url"), "javascript:alert(1)"),
    (VERDICT, ("reason",), "no_data"),
    (VERDICT, ("decided_at",), "2026-11-21T12:00:00Z"),
    (VERDICT, ("metrics",), []),
    (VERDICT, (*METRIC, "reason"), "no_data"),
    (VERDICT, (*METRIC, "state"), "inconclusive"),
    (VERDICT, (*METRIC, "state"), "unchanged"),  # nothing regressed, but the verdict says so
    (VERDICT, (*METRIC, "before"), None),
    (VERDICT, (*METRIC, "effect"), None),
    (VERDICT, (*METRIC, "after"), None),
    (VERDICT, (*METRIC, "p"), None),
    (VERDICT, (*METRIC, "p"), 1.01),
    (VERDICT, (*METRIC, "p"), -0.01),
    (VERDICT, (*METRIC, "smallest_effect"), None),
    (VERDICT, (*METRIC, "smallest_effect"), -0.1),
    (VERDICT, (*METRIC, "threshold"), None),
    (VERDICT, (*METRIC, "threshold"), -0.1),
    (VERDICT, (*METRIC, "effect", "confidence"), 0),
    (VERDICT, (*METRIC, "effect", "confidence"), 1),
    (VERDICT, (*METRIC, "metric"), "p99"),
    (VERDICT, (*METRIC, "quantile"), 0),
    (VERDICT, (*METRIC, "quantile"), 1),
    (VERDICT, (*METRIC, "unit"), "ms"),
    (VERDICT, (*METRIC, "test"), "feeling"),
    (VERDICT, (*METRIC, "missing_ratio"), -0.1),
    (VERDICT, (*METRIC, "missing_ratio"), 1.1),
    (VERDICT, (*METRIC, "load_change"), -1.1),
    (VERDICT, (*METRIC, "counts", "after"), 1.5),
    (VERDICT, (*METRIC, "counts", "after"), -1),
    (VERDICT, (*METRIC, "queries"), None),
    (VERDICT, (*METRIC, "queries"), [""]),
    (VERDICT, (*METRIC, "change_points"), ["10:02"]),
    (VERDICT, (*METRIC, "change_points"), None),
    (VERDICT, (*METRIC, "sparkline"), "<b>"),
    (VERDICT, (*METRIC, "sparkline"), "▁" * 61),
    (VERDICT, ("metrics", 1, "reason"), "bored"),
]


@pytest.mark.parametrize(("name", "pointer", "value"), RIGHT)
def test_right_value_is_accepted(name: str, pointer: Pointer, value: Json) -> None:
    assert accepted(name, changed(example(name), pointer, value))


@pytest.mark.parametrize(("name", "pointer", "value"), WRONG)
def test_wrong_value_is_refused(name: str, pointer: Pointer, value: Json) -> None:
    assert not accepted(name, changed(example(name), pointer, value))


@pytest.mark.parametrize(
    ("name", "pointer"), [(name, pointer) for name in NAMES for pointer in named_fields(name)], ids=str
)
def test_value_of_another_type_is_refused(name: str, pointer: Pointer) -> None:
    others: list[Json] = [{"unexpected": 0}, [[]], True, "?", -1.5]
    kinds = {kind_of(value) for value in (at(example(name), pointer), *field(name, pointer)[0]["examples"])}
    for value in others:
        if kind_of(value) not in kinds:
            assert not accepted(name, changed(example(name), pointer, value)), value


def kind_of(value: Json) -> type:
    return float if type(value) is int else type(value)


@pytest.mark.parametrize(
    ("name", "pointer"),
    [
        (SERVER, ("model",)),
        (SERVER, (*SERVED, "version")),
        (SERVER, (*SERVED, "digest")),
        (SERVER, ("standby", "url")),
        (DETECTOR, ("publish", "repository")),
        (VERDICT, ("judged_at",)),
    ],
)
def test_line_end_is_no_part_of_a_word(name: str, pointer: Pointer) -> None:
    # jsonschema hands patterns to Python's re, whose $ overlooks a last line end; jsonschema-rs decides.
    document = changed(example(name), pointer, at(example(name), pointer) + "\n")
    assert not validators(name)[1].is_valid(document)


def test_one_protocol_is_on() -> None:
    document = changed(example(SERVER), ("http",), None)
    assert not accepted(SERVER, changed(document, ("grpc",), None))


def test_datatypes_are_those_of_the_open_inference_protocol() -> None:
    integers = [f"{sign}INT{bits}" for sign in ("U", "") for bits in (8, 16, 32, 64)]
    declaration, _ = field(SERVER, (*INPUT, "datatype"))
    assert declaration["enum"] == ["BOOL", *integers, "FP16", "FP32", "FP64", "BF16", "BYTES"]


OUTCOMES = {
    "regressed": "failure",
    "improved": "success",
    "unchanged": "success",
    "pending": "inconclusive",
    "inconclusive": "inconclusive",
}


def verdict(state: str) -> Json:
    """The example, were its verdict and its first metric in this state."""
    document = example(VERDICT) | {"state": state, "outcome": OUTCOMES[state]}
    document["metrics"][0]["state"] = state
    if state == "pending":
        document["decided_at"] = "2026-11-21T12:00:00Z"
    if state == "inconclusive":
        document["reason"] = document["metrics"][0]["reason"] = "history_too_short"
    return document


@pytest.mark.parametrize("outcome", ["success", "failure", "inconclusive"])
@pytest.mark.parametrize("state", OUTCOMES)
def test_outcome_follows_from_the_state(state: str, outcome: str) -> None:
    assert accepted(VERDICT, verdict(state) | {"outcome": outcome}) == (OUTCOMES[state] == outcome)


@pytest.mark.parametrize("state", OUTCOMES)
def test_reason_and_time_stand_exactly_where_they_must(state: str) -> None:
    bare = {key: value for key, value in verdict(state).items() if key not in ("reason", "decided_at")}
    reason, decided_at = {"reason": "no_data"}, {"decided_at": "2026-11-21T12:00:00Z"}
    assert accepted(VERDICT, bare) == (state not in ("pending", "inconclusive"))
    assert accepted(VERDICT, bare | reason) == (state == "inconclusive")
    assert accepted(VERDICT, bare | decided_at) == (state == "pending")
    assert not accepted(VERDICT, bare | reason | decided_at)


@pytest.mark.parametrize("state", ["improved", "unchanged"])
def test_a_regressed_metric_never_passes_a_gate(state: str) -> None:
    document = verdict(state)
    document["metrics"].append(example(VERDICT)["metrics"][0])
    assert not accepted(VERDICT, document)


@pytest.mark.parametrize("state", ["regressed", "improved"])
def test_a_change_shows_in_a_metric(state: str) -> None:
    document = verdict(state)
    document["metrics"][0]["state"] = "unchanged"
    assert not accepted(VERDICT, document)


def test_watch_needs_no_rollout() -> None:
    assert accepted(VERDICT, example(VERDICT) | {"comparison": "watch", "rollout": None})


def test_detector_and_verdict_share_their_words() -> None:
    state = LABEL_VALUES["modelway_detector_verdicts_total", "state"]
    assert tuple(schema(VERDICT)["$defs"]["state"]["enum"]) == state
    detector, verdict_ = schema(DETECTOR)["$defs"], schema(VERDICT)
    metric = verdict_["$defs"]["metric"]["properties"]["metric"]
    assert detector["pattern"]["properties"]["metric"]["enum"] == metric["enum"]
    sensitivity = detector["pattern"]["properties"]["sensitivity"]
    assert sensitivity["enum"] == verdict_["properties"]["sensitivity"]["enum"]
    severity = detector["watched"]["properties"]["severity"]
    assert severity["enum"] == verdict_["properties"]["severity"]["enum"]


def test_queries_of_the_verdict_name_known_metrics() -> None:
    queries = [query for metric in example(VERDICT)["metrics"] for query in metric["queries"]]
    assert [(strangers(query), strange_labels(query)) for query in queries] == [(set(), set())] * len(queries)
