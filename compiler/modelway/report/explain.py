"""``modelway explain``: what a field means, from its schema."""

from __future__ import annotations

import json
from typing import Any

from modelway.spec import schema as spec_schema
from modelway.spec.schema import Schema
from modelway.suggest import nearest


class UnknownPathError(Exception):
    """The path leads to nothing; the message says where it stops and what is there."""


def find(path: str) -> tuple[str, tuple[str, ...], Schema]:
    """``Model.spec.serving`` -> (kind, pointer, schema). Raises UnknownPathError."""
    kind, *pointer = path.split(".")
    if kind not in spec_schema.schemas():
        raise UnknownPathError(_unknown(kind, "kind", list(spec_schema.schemas())))
    for depth, step in enumerate(pointer):
        if spec_schema.at(kind, tuple(pointer[: depth + 1])) is None:
            here = spec_schema.at(kind, tuple(pointer[:depth])) or {}
            raise UnknownPathError(
                _unknown(
                    step, f"field of {'.'.join([kind, *pointer[:depth]])}", list(here.get("properties", ()))
                )
            )
    found = spec_schema.at(kind, tuple(pointer))
    assert found is not None
    return kind, tuple(pointer), found


def paths(prefix: str) -> list[str]:
    """Completions of a partly written path."""
    parent, dot, _ = prefix.rpartition(".")
    if not dot:
        return [kind for kind in spec_schema.schemas() if kind.startswith(prefix)]
    try:
        _, _, node = find(parent)
    except UnknownPathError:
        return []
    return [path for name in node.get("properties", ()) if (path := f"{parent}.{name}").startswith(prefix)]


def text(path: str) -> str:
    """The field and, below it, the fields that it holds."""
    kind, _, node = find(path)
    lines = [path, "", f"  {node.get('description', '')}", ""]
    lines += [f"  {name:9}{value}" for name, value in _facts(node)]
    fields = node.get("properties") or {}
    entries = node.get("additionalProperties")
    if isinstance(entries, dict):
        inner = spec_schema.deref(spec_schema.schemas()[kind], entries)
        lines += ["", "  A mapping by name; each entry:"]
        fields = inner.get("properties") or {}
        lines += [] if fields else [f"    {type_name(inner)}"]
    if node.get("type") == "array":
        inner = spec_schema.deref(spec_schema.schemas()[kind], node["items"])
        fields = inner.get("properties") or {}
        lines += ["", f"  A list; each entry: {'' if fields else type_name(inner)}"]
    required = set(node.get("required", ()))
    lines += [""] if fields else []
    root = spec_schema.schemas()[kind]
    width = max((len(name) for name in fields), default=0)
    for name, field in fields.items():
        field = spec_schema.deref(root, field)
        mark = " (required)" if name in required else ""
        lines.append(f"    {name.ljust(width)}  {field.get('description', '')}{mark}")
    return "\n".join(lines).rstrip() + "\n"


def data(path: str) -> dict[str, Any]:
    """The same as JSON data."""
    _, _, node = find(path)
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
