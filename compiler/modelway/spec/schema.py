"""The JSON Schemas of the kinds, as the compiler uses them.

They are made from the types (``spec/generate.py``) beforehand and kept in ``schemas.json``: to make
them anew took a third of the time in which a hundred models are compiled. A test compares the two.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import msgspec

Schema = dict[str, Any]

KINDS = ("Model", "Alert", "Resource", "Environment")
"""Every kind of spec."""

REPOSITORY = "Repository"
"""Key of the schema of ``modelway.yaml``, which is no spec and has no envelope."""

FILE = Path(__file__).with_name("schemas.json")


@cache
def schemas() -> dict[str, Schema]:
    """The schema of each kind, and of ``modelway.yaml``; do not change what is returned."""
    return _kept()["schemas"]


@cache
def forms() -> dict[str, str]:
    """Pattern -> the words for what it demands, for diagnostics."""
    return _kept()["forms"]


@cache
def _kept() -> dict[str, dict[str, Any]]:
    return msgspec.json.decode(FILE.read_bytes(), type=dict[str, dict[str, Any]])


def at(kind: str, pointer: tuple[str | int, ...]) -> Schema | None:
    """The schema of the value at ``pointer`` in a document of ``kind``, or None for an unknown place."""
    root = schemas()[kind]
    node: Schema | None = root
    for step in pointer:
        node = _step(root, node, step)
        if node is None:
            return None
    return deref(root, node) if node is not None else None


def deref(root: Schema, node: Schema) -> Schema:
    """``node`` with the definition that it refers to; what stands beside ``$ref`` wins."""
    reference = node.get("$ref")
    if reference is None:
        return node
    definition: Schema = root["$defs"][reference.rpartition("/")[2]]
    return {**definition, **{key: value for key, value in node.items() if key != "$ref"}}


def _step(root: Schema, node: Schema | None, step: str | int) -> Schema | None:
    if node is None:
        return None
    node = deref(root, node)
    if isinstance(step, int):
        return node.get("items")
    found = node.get("properties", {}).get(step)
    if found is None and isinstance(node.get("additionalProperties"), dict):
        found = node["additionalProperties"]
    return found  # type: ignore[no-any-return]
