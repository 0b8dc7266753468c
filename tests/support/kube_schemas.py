"""Strict schemas of Kubernetes objects: built-in kinds by version, custom ones from published CRDs.

Strict: an unknown field is an error, as it is for an API server with ``fieldValidation=Strict``.
"""

from __future__ import annotations

import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import kubernetes_validate
import yaml

from tests.support.tools import missing

Json = dict[str, Any]
VERSIONS = ("1.33", "1.34", "1.35", "1.36", "1.37")
_REPOSITORY = Path(__file__).resolve().parents[2]


class _CrdLoader(yaml.CSafeLoader):
    """Reads the bare scalar ``=`` of a published CRD, which PyYAML has a tag but no value for."""


_CrdLoader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: loader.construct_scalar(node))


def crd_folder() -> Path | None:
    """``MODELWAY_CRDS``, else a folder ``shared/crds`` beside the repository."""
    named = os.environ.get("MODELWAY_CRDS")
    folder = Path(named) if named else _REPOSITORY.parent / "shared" / "crds"
    return folder if folder.is_dir() else None


def need_crds() -> None:
    """Skip with the reason where the CRDs are missing; on CI that is a failure."""
    if crd_folder() is None:
        missing("no published CRDs: set MODELWAY_CRDS to a folder of them (tests/support/download_crds.py)")


def errors(value: Json, kubernetes: str) -> list[str]:
    """What an API server of that version would hold against the object."""
    group = value["apiVersion"].rpartition("/")[0]
    built_in = not group or "." not in group or group.endswith(".k8s.io")
    if group == "gateway.networking.k8s.io":
        built_in = False
    validator = (
        _built_in(value["apiVersion"], value["kind"], kubernetes)
        if built_in
        else _custom(value["apiVersion"], value["kind"])
    )
    return [
        f"{'/'.join(map(str, error.instance_path))}: {error.message}"
        for error in validator.iter_errors(value)
    ]


def is_custom(value: Json) -> bool:
    group = value["apiVersion"].rpartition("/")[0]
    return group == "gateway.networking.k8s.io" or ("." in group and not group.endswith(".k8s.io"))


@cache
def _built_in(api_version: str, kind: str, kubernetes: str) -> jsonschema_rs.Draft202012Validator:
    folder = (
        Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{kubernetes}.0-local-strict"
    )
    group, _, version = api_version.rpartition("/")
    short = group.split(".")[0]
    name = "-".join(part for part in (kind.lower(), short, version) if part)
    return jsonschema_rs.Draft202012Validator(
        _read_json(folder / f"{name}.json"), registry=_definitions(folder)
    )


@cache
def _definitions(folder: Path) -> jsonschema_rs.Registry:
    definitions = _bounded(_read_json(folder / "_definitions.json"))
    return jsonschema_rs.Registry([(definitions["$id"], definitions)])


def _read_json(path: Path) -> Json:
    return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


@cache
def _crd(api_version: str, kind: str) -> Json:
    """The schema of a served version. The files are large: only those that may hold it are parsed."""
    group, _, wanted = api_version.rpartition("/")
    folder = crd_folder()
    assert folder is not None
    marks = [
        re.compile(rf"^ +{key}: {value}$".encode(), re.MULTILINE)
        for key, value in (("group", group), ("kind", kind))
    ]
    for path in sorted(folder.rglob("*.yaml")):
        data = path.read_bytes()
        if not all(mark.search(data) for mark in marks):
            continue
        spec = yaml.load(data, Loader=_CrdLoader)["spec"]
        if (spec["group"], spec["names"]["kind"]) == (group, kind):
            for version in spec["versions"]:
                if version["name"] == wanted and version["served"]:
                    return version["schema"]["openAPIV3Schema"]  # type: ignore[no-any-return]
    raise AssertionError(f"no published CRD serves {api_version} {kind}")


@cache
def _custom(api_version: str, kind: str) -> jsonschema_rs.Draft202012Validator:
    schema = _strict(_crd(api_version, kind))
    schema["properties"]["metadata"] = _read_metadata()
    return jsonschema_rs.Draft202012Validator(schema)


def _read_metadata() -> Json:
    """Names and string maps: what a CRD leaves to the API server's own metadata."""
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    return {
        "type": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "maxLength": 253},
            "namespace": {"type": "string", "maxLength": 63},
            "labels": texts,
            "annotations": texts,
        },
    }


def _strict(node: Any) -> Any:
    """A structural schema as JSON Schema that refuses unknown fields (they would be pruned or rejected)."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    strict = {
        key: _strict(value) for key, value in node.items() if not key.startswith("x-") and key != "properties"
    }
    if "properties" in node:
        strict["properties"] = {name: _strict(value) for name, value in node["properties"].items()}
    if node.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
        strict["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    known = "properties" in node and "additionalProperties" not in node
    if known and node.get("type") == "object" and not node.get("x-kubernetes-preserve-unknown-fields"):
        strict["additionalProperties"] = False
    if node.get("nullable") and isinstance(strict.get("type"), str):
        strict["type"] = [strict["type"], "null"]
    return _within(strict)


_BITS = {"int32": 31, "int64": 63}


def _bounded(node: Any) -> Any:
    """The same schema, integers within the bits of their format."""
    if isinstance(node, list):
        return [_bounded(item) for item in node]
    if not isinstance(node, dict):
        return node
    return _within({key: _bounded(value) for key, value in node.items()})


def _within(node: Json) -> Json:
    form = node.get("format")
    bits = _BITS.get(form) if isinstance(form, str) else None
    if bits is None:
        return node
    limits = {"minimum": -(2**bits), "maximum": 2**bits - 1}
    return {**limits, **{key: value for key, value in node.items() if key != "format"}}
