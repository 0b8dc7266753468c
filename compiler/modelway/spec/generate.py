"""JSON Schemas (2020-12) of the kinds, made from their types.

``python -m modelway.spec.generate`` keeps them in ``schemas.json``.

The types say everything once; here the schemas get what JSON needs beyond them: the envelope
(``apiVersion``, ``kind``), a title for every field, and for every mapping a *patch* in which
nothing is required and null deletes, because ``spec.environments.<name>`` is a merge patch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from modelway.spec.alert import Alert
from modelway.spec.common import API_VERSION
from modelway.spec.environment import Environment
from modelway.spec.model import Model
from modelway.spec.repository import Repository
from modelway.spec.resource import Resource
from modelway.spec.schema import FILE, REPOSITORY, Schema

TYPES = (Model, Alert, Resource, Environment)

PATCHED = ("Model", "Alert", "Resource")
"""Kinds with overlays (``spec.environments``); an Environment has none."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NOT_PATCHED = ("targets", "environments")


def schemas() -> dict[str, Schema]:
    """The schema of each kind, and of ``modelway.yaml``."""
    _, components = msgspec.json.schema_components((*TYPES, Repository))
    for name in components:
        components[name] = _plain(components[name])
    for kind in PATCHED:
        components[f"{kind}Spec"]["properties"]["environments"] = _overlays(kind)
    patches = {f"{name}Patch": _patch(schema) for name, schema in components.items()}
    kinds = [type_.__name__ for type_ in TYPES]
    documents = {kind: _document(kind, {**components, **patches}) for kind in kinds}
    return {**documents, REPOSITORY: _settings(components["Repository"])}


def forms() -> dict[str, str]:
    """Pattern -> the words for what it demands, for diagnostics."""
    _, components = msgspec.json.schema_components((*TYPES, Repository))
    return {
        node["pattern"]: node["title"] for node in _nodes(components) if "pattern" in node and "title" in node
    }


def _nodes(value: Any) -> Iterator[Schema]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from _nodes(item)


def _plain(schema: Schema) -> Schema:
    """A definition without nulls (a field is left out instead) and with a title on every field."""
    properties = {name: _field(name, field) for name, field in schema["properties"].items()}
    plain = {**schema, "properties": properties}
    if not plain.get("required"):
        plain.pop("required", None)
    return plain


def _field(name: str, field: Schema) -> Schema:
    options = field.get("anyOf")
    if options and {"type": "null"} in options:
        others = [option for option in options if option != {"type": "null"}]
        field = {key: value for key, value in field.items() if key not in ("anyOf", "default")}
        field.update(others[0] if len(others) == 1 else {"anyOf": others})
    if "default" in field:
        field = {**field, "default": _without_nulls(field["default"])}
    return {**_unions(field), "title": _words(name)}


def _unions(node: Any) -> Any:
    """``anyOf`` of bare types as one list of types, which gives one clear error instead of several."""
    if isinstance(node, list):
        return [_unions(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _unions(value) for key, value in node.items()}
    if "anyOf" in node and all(set(option) == {"type"} for option in node["anyOf"]):
        node["type"] = [option["type"] for option in node.pop("anyOf")]
    return node


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _words(name: str) -> str:
    """``maxRows`` -> ``Max rows``, ``gatewayAPI`` -> ``Gateway API``."""
    spaced = re.sub(r"(?<=[a-z])([A-Z])(?![A-Z])", lambda match: " " + match[1].lower(), name)
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z]{2})", " ", spaced)
    return spaced[:1].upper() + spaced[1:]


def _overlays(kind: str) -> Schema:
    name = {"pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
    return {
        "title": "Environments",
        "description": "Merge patch of this spec by environment; null deletes, lists are replaced whole.",
        "examples": [{"staging": {}}],
        "type": "object",
        "propertyNames": name,
        "additionalProperties": {"$ref": f"#/$defs/{kind}SpecPatch"},
        "default": {},
    }


def _patch(schema: Schema) -> Schema:
    properties = {
        name: _patched(field) for name, field in schema["properties"].items() if name not in _NOT_PATCHED
    }
    patch = {key: value for key, value in schema.items() if key not in ("required", "default")}
    return {**patch, "type": ["object", "null"], "properties": properties}


def _patched(field: Schema) -> Schema:
    field = {key: value for key, value in field.items() if key != "default"}
    if "$ref" in field and not field["$ref"].endswith("Patch"):
        field["$ref"] += "Patch"
    if "enum" in field:
        field["enum"] = [*field["enum"], None]
    types = field.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and "null" not in types:
        field["type"] = [*types, "null"]
    entries = field.get("additionalProperties")
    if isinstance(entries, dict):
        field["additionalProperties"] = _patched(entries)
    return field


def _document(kind: str, definitions: Schema) -> Schema:
    body = definitions[kind]
    envelope = {
        "apiVersion": {
            "title": "API version",
            "description": "Version of the language of specs.",
            "const": API_VERSION,
            "examples": [API_VERSION],
        },
        "kind": {"title": "Kind", "description": "Kind of spec.", "const": kind, "examples": [kind]},
    }
    places = {
        "metadata": {
            "title": "Metadata",
            "description": "Name and labels.",
            "$ref": body["properties"]["metadata"]["$ref"],
        },
        "spec": {
            "title": "Spec",
            "description": "What is wanted.",
            "$ref": body["properties"]["spec"]["$ref"],
        },
    }
    return {
        "$schema": _DIALECT,
        "$id": f"https://modelway.dev/schemas/v1alpha1/{kind.lower()}.json",
        "title": kind,
        "description": body["description"],
        "type": "object",
        "properties": {**envelope, **places},
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "$defs": _reachable(places, definitions),
    }


def _settings(schema: Schema) -> Schema:
    return {"$schema": _DIALECT, "$id": "https://modelway.dev/schemas/v1alpha1/repository.json", **schema}


def _reachable(start: Any, definitions: Schema) -> Schema:
    """The definitions that ``start`` refers to, directly or through others, sorted by name."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for node in _nodes(waiting.pop()):
            name = str(node.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found.add(name)
                waiting.append(definitions[name])
    return {name: definitions[name] for name in sorted(found)}


def kept() -> bytes:
    """What ``schemas.json`` holds."""
    return msgspec.json.encode({"schemas": schemas(), "forms": forms()}) + b"\n"


if __name__ == "__main__":
    FILE.write_bytes(kept())
