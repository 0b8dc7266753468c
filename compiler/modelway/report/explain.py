"""``modelway explain``: what a field means, from its schema."""

from __future__ import annotations

import json
from typing import Any

from modelway.spec import schema as spec_schema
from modelway.spec.schema import Schema
from modelway.suggest import nearest


class UnknownPathError(Exception):
    """The path leads to nothing; the message says where it stops and what is there."""


def find(path: str) -> tuple[str, Schema]:
    """``Model.spec.rollout.steps.weight`` -> (kind, schema of the field). Raises UnknownPathError.

    A list is stepped into without an index, a mapping by any name.
    """
    kind, *steps = path.split(".")
    if kind not in spec_schema.schemas():
        raise UnknownPathError(_unknown(kind, "kind", list(spec_schema.schemas())))
    pointer: tuple[str | int, ...] = ()
    node = spec_schema.at(kind, pointer)
    for depth, step in enumerate(steps):
        if node is not None and node.get("type") == "array":
            pointer += (0,)
        inner = spec_schema.at(kind, (*pointer, step))
        if inner is None:
            here = spec_schema.at(kind, pointer) or {}
            what = f"field of {'.'.join([kind, *steps[:depth]])}"
            raise UnknownPathError(_unknown(step, what, list(here.get("properties", ()))))
        pointer, node = (*pointer, step), inner
    assert node is not None
    return kind, node


def paths(prefix: str) -> list[str]:
    """Completions of a partly written path."""
    parent, dot, _ = prefix.rpartition(".")
    if not dot:
        return [kind for kind in spec_schema.schemas() if kind.startswith(prefix)]
    try:
        _, node = find(parent)
    except UnknownPathError:
        return []
    held, _ = _held(spec_schema.schemas()[prefix.partition(".")[0]], node)
    fields = held.get("properties", ()) if node.get("type") == "array" else node.get("properties", ())
    return [path for name in fields if (path := f"{parent}.{name}").startswith(prefix)]


def text(path: str) -> str:
    """The field and, below it, the fields that it or its entries hold."""
    kind, node = find(path)
    lines = [path, "", f"  {node.get('description', '')}", ""]
    lines += [f"  {name:9}{value}" for name, value in _facts(node)]
    held, words = _held(spec_schema.schemas()[kind], node)
    if words:
        lines += ["", f"  {words}{'' if held.get('properties') else f' {type_name(held)}'}"]
    fields = held.get("properties") or {}
    required = held.get("required", ())
    width = max((len(name) for name in fields), default=0)
    lines += [""] if fields else []
    for name, field in fields.items():
        description = spec_schema.deref(spec_schema.schemas()[kind], field).get("description", "")
        mark = " (required)" if name in required else ""
        lines.append(f"    {name.ljust(width)}  {description}{mark}")
    return "\n".join(lines).rstrip() + "\n"


def _held(root: Schema, node: Schema) -> tuple[Schema, str]:
    """What holds the fields: the mapping itself, or its entries, with the words for them."""
    if node.get("type") == "array":
        return spec_schema.deref(root, node["items"]), "A list; each entry:"
    if isinstance(node.get("additionalProperties"), dict):
        return spec_schema.deref(root, node["additionalProperties"]), "A mapping by name; each entry:"
    return node, ""


def data(path: str) -> dict[str, Any]:
    """The same as JSON data."""
    _, node = find(path)
    return {"path": path, **{key: value for key, value in node.items() if key != "$defs"}}


def _facts(node: Schema) -> list[tuple[str, str]]:
    found = [("type", type_name(node))]
    if "default" in node:
        found.append(("default", _inline(node["default"])))
    if node.get("examples"):
        found.append(("example", _inline(node["examples"][0])))
    return found


def type_name(node: Schema) -> str:
    """A type in words: ``string (a duration such as …)``, ``integer, 1 to 64``, ``canary | rolling``."""
    if "enum" in node:
        return " | ".join(str(option) for option in node["enum"] if option is not None)
    if "const" in node:
        return str(node["const"])
    types = node.get("type", "any")
    name = " or ".join(types) if isinstance(types, list) else str(types)
    form = spec_schema.forms().get(node.get("pattern", ""))
    if form:
        return f"{name}: {form}"
    bounds = [
        f"{words} {node[key]}"
        for key, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if key in node
    ]
    return ", ".join([name, *bounds])


def _inline(value: object) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def _unknown(word: str, what: str, known: list[str]) -> str:
    near = nearest(word, known)
    hint = (
        f'did you mean "{near}"?'
        if near
        else f"there are {', '.join(known)}"
        if known
        else "it holds no fields"
    )
    return f'there is no {what} "{word}"; {hint}'
