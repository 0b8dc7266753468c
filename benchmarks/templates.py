"""Objects of many models -> one template and each model's parameters, in the languages of the peers.

The template is found by laying the objects of all models over each other: where all are the same it is
literal, where they differ it refers to a parameter. So the peers make what modelway made, whatever that
is, and only interpolate: no functions, no conditions, nothing to compute.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class ShapeError(Exception):
    """The objects of two models differ in more than values; no template makes both."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """Refers to a parameter: a part of a text, or a number."""

    name: str


@dataclass(frozen=True, slots=True)
class Text:
    """A string with parameters in it."""

    parts: tuple[str | Parameter, ...]


Template = dict[str | Text, Any] | list[Any] | Text | Parameter | str | int | float | bool | None


class Overlay:
    """The objects of all models over each other.

    ``known`` are the parameters that a person would name; of them those of several words (a name, a
    version) are found as a whole, the rest by their values.
    """

    def __init__(self, known: Sequence[Mapping[str, str]]) -> None:
        self._columns: dict[tuple[object, ...], str] = {}  # the values of a parameter -> its name
        self._patterns = [_words(one) for one in known]
        for name in known[0]:
            self._columns.setdefault(tuple(one[name] for one in known), name)

    def template(self, values: Sequence[Any]) -> Template:
        """The template of one value in each model."""
        first = values[0]
        if isinstance(first, dict):
            return self._mapping(values)
        if isinstance(first, list):
            self._alike({len(value) if isinstance(value, list) else -1 for value in values}, first)
            return [self.template(items) for items in zip(*values, strict=True)]
        if all(value == first for value in values):
            return first  # type: ignore[no-any-return]
        if isinstance(first, str):
            return self._text(values)
        return Parameter(self._name(tuple(values)))

    def rows(self) -> list[dict[str, Any]]:
        """The parameters of each model."""
        names = list(self._columns.values())
        return [dict(zip(names, row, strict=True)) for row in zip(*self._columns, strict=True)]

    def _mapping(self, values: Sequence[Mapping[str, Any]]) -> Template:
        keys = [sorted(value) for value in values]
        self._alike({len(row) for row in keys}, keys[0])
        found: dict[str | Text, Any] = {}
        for column in zip(*keys, strict=True):
            key = column[0] if len(set(column)) == 1 else self._text(column)
            found[key] = self.template([value[name] for value, name in zip(values, column, strict=True)])
        return found

    def _text(self, values: Sequence[str]) -> Text:
        words = [pattern.findall(value) for pattern, value in zip(self._patterns, values, strict=True)]
        self._alike({len(row) for row in words}, values[0])
        parts: list[str | Parameter] = []
        for column in zip(*words, strict=True):
            if len(set(column)) > 1:
                parts.append(Parameter(self._name(column)))
            elif parts and isinstance(parts[-1], str):
                parts[-1] += column[0]
            else:
                parts.append(column[0])
        return Text(tuple(parts))

    def _name(self, column: tuple[object, ...]) -> str:
        return self._columns.setdefault(column, f"p{len(self._columns)}")

    def _alike(self, sizes: set[int], example: object) -> None:
        if len(sizes) > 1:
            raise ShapeError(f"models differ in shape, for example at {example!r:.200}")


def _words(known: Mapping[str, str]) -> re.Pattern[str]:
    """Splits a string into words and what is between them; a known value of several words is one."""
    whole = sorted((value for value in known.values() if not value.isalnum()), key=len, reverse=True)
    forms = [rf"{re.escape(value)}(?![A-Za-z0-9])" for value in whole]
    return re.compile("|".join([*forms, "[A-Za-z0-9]+", "[^A-Za-z0-9]+"]))


# --- jsonnet and KCL: expressions over a record of parameters called m ------------------------------


@dataclass(frozen=True, slots=True)
class Dialect:
    """How an expression language writes literals and keys that are computed."""

    constants: Mapping[object, str]
    literal: Callable[[str], str]
    key: Callable[[Text, str], str]


def _kcl_literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("${", "\\u0024{")


def _kcl_key(key: Text, _: str) -> str:
    parts = (f"${{m.{p.name}}}" if isinstance(p, Parameter) else _kcl_literal(p)[1:-1] for p in key.parts)
    return '"' + "".join(parts) + '"'


JSONNET = Dialect(
    {True: "true", False: "false", None: "null"}, json.dumps, lambda _, expression: f"[{expression}]"
)
KCL = Dialect({True: "True", False: "False", None: "None"}, _kcl_literal, _kcl_key)


def expression(node: Template, dialect: Dialect, pad: str = "\n") -> str:
    """The template as an expression; ``pad`` is the break and indentation of its lines."""
    inner = pad + "  "
    if isinstance(node, dict):
        rows = (f"{inner}{_key(k, dialect)}: {expression(v, dialect, inner)}" for k, v in node.items())
        return "{" + ",".join(rows) + (f"{pad}}}" if node else "}")
    if isinstance(node, list):
        items = (f"{inner}{expression(item, dialect, inner)}" for item in node)
        return "[" + ",".join(items) + (f"{pad}]" if node else "]")
    if isinstance(node, Parameter):
        return f"m.{node.name}"
    if isinstance(node, Text):
        return " + ".join(
            f"m.{p.name}" if isinstance(p, Parameter) else dialect.literal(p) for p in node.parts
        )
    if isinstance(node, bool) or node is None:
        return dialect.constants[node]
    return dialect.literal(node) if isinstance(node, str) else json.dumps(node)


def _key(key: str | Text, dialect: Dialect) -> str:
    return dialect.literal(key) if isinstance(key, str) else dialect.key(key, expression(key, dialect))


# --- Helm: YAML text with actions, inside a loop whose dot is the record of parameters --------------

_PLAIN = re.compile(r"[A-Za-z/_][A-Za-z0-9/_.-]*\Z")
_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def helm(node: Template, pad: str = "") -> str:
    """A mapping or list, not empty, as block YAML; ``pad`` is its indentation."""
    if isinstance(node, dict):
        return "".join(f"{pad}{_helm_key(key)}:{_helm_value(value, pad)}" for key, value in node.items())
    assert isinstance(node, list)
    lines = []
    for item in node:
        if isinstance(item, dict | list) and item:
            lines.append(f"{pad}- {helm(item, pad + '  ')[len(pad) + 2 :]}")
        else:
            lines.append(f"{pad}-{_helm_value(item, pad)}")
    return "".join(lines)


def _helm_key(key: str | Text) -> str:
    return key if isinstance(key, str) and _PLAIN.match(key) and key.lower() not in _WORDS else _quoted(key)


def _helm_value(value: Template, pad: str) -> str:
    """What follows a key or a dash."""
    if isinstance(value, dict | list):
        if value:
            return "\n" + helm(value, pad + "  " if isinstance(value, dict) else pad)
        return " {}\n" if isinstance(value, dict) else " []\n"
    if isinstance(value, Parameter):
        return f" {{{{ .{value.name} }}}}\n"
    if isinstance(value, str | Text):
        return _helm_text(value, pad)
    return f" {json.dumps(value)}\n"


def _helm_text(value: str | Text, pad: str) -> str:
    parts = (value,) if isinstance(value, str) else value.parts
    if any(isinstance(part, str) and "\n" in part for part in parts):
        text = "".join(_action(part, str) for part in parts)
        indented = text.rstrip("\n").replace("\n", f"\n{pad}  ")
        return f" |{'' if text.endswith(chr(10)) else '-'}\n{pad}  {indented}\n"
    if isinstance(value, str) and _PLAIN.match(value) and value.lower() not in _WORDS:
        return f" {value}\n"
    return f" {_quoted(value)}\n"


def _quoted(value: str | Text) -> str:
    parts = (value,) if isinstance(value, str) else value.parts
    return '"' + "".join(_action(p, lambda s: json.dumps(s, ensure_ascii=False)[1:-1]) for p in parts) + '"'


def _action(part: str | Parameter, write: Callable[[str], str]) -> str:
    if isinstance(part, Parameter):
        return f"{{{{ .{part.name} }}}}"
    return write(part).replace("{{", '{{ "{{" }}')
