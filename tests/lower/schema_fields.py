"""Every field of every kind of spec, read from the JSON Schemas: where it is, what it is, its example."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from modelway.spec.schema import KINDS, deref, schemas

ENTRY = "*"
"""Stands in a pointer for any key of a mapping; 0 stands for any item of a list."""
Pointer = tuple[str | int, ...]


class Field(NamedTuple):
    """``pointer`` is below the document's root."""

    kind: str
    pointer: Pointer
    schema: dict[str, Any]
    required: bool

    @property
    def name(self) -> str:
        return ".".join([self.kind, *map(str, self.pointer)])


def fields() -> list[Field]:
    """The fields of all kinds; overlays and defaults are patches of the same fields and are not entered."""
    return [found for kind in KINDS for found in _inside(kind, schemas()[kind], ())]


def _inside(kind: str, node: dict[str, Any], at: Pointer) -> Iterator[Field]:
    root = schemas()[kind]
    for name, field in deref(root, node).get("properties", {}).items():
        yield from _field(kind, field, (*at, name), name in deref(root, node).get("required", ()))


def _field(kind: str, node: dict[str, Any], at: Pointer, required: bool) -> Iterator[Field]:
    node = deref(schemas()[kind], node)
    yield Field(kind, at, node, required)
    if at == ("spec", "environments") or at == ("spec", "defaults", "model"):
        return
    yield from _inside(kind, node, at)
    if isinstance(node.get("additionalProperties"), dict):
        yield from _field(kind, node["additionalProperties"], (*at, ENTRY), False)
    if isinstance(node.get("items"), dict):
        yield from _field(kind, node["items"], (*at, 0), False)


def places(value: Any, pointer: Pointer) -> list[Pointer]:
    """Where the field may stand in a document: in mappings that are there, itself there or not."""
    if not pointer:
        return [()]
    step, rest = pointer[0], pointer[1:]
    steps: list[str | int]
    if step == ENTRY:
        steps = list(value) if isinstance(value, dict) else []
    elif isinstance(step, int):
        steps = list(range(len(value))) if isinstance(value, list) else []
    else:
        steps = [step] if isinstance(value, dict) and (step in value or not rest) else []
    if not rest:
        return [(one,) for one in steps]
    return [(one, *below) for one in steps for below in places(value[one], rest)]
