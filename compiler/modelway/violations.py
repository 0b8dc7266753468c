"""What a schema holds against a value, one by one, each with the value itself and no copy of it.

``jsonschema-rs`` decides and is fast, but each of its errors holds a copy of the mapping that it is
about: 12,000 wrong keys took gigabytes. So only what it refuses comes here. The schemas use few
keywords; an unknown one raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import jsonschema_rs

from modelway.load import Pointer
from modelway.spec.schema import Schema, deref


@dataclass(frozen=True, slots=True)
class Violation:
    """A keyword of the schema that the value at ``pointer`` does not satisfy."""

    pointer: Pointer
    keyword: str
    value: Any
    argument: Any
    """The keyword's own, but the key for ``required`` and ``additionalProperties``, and the
    violation of the key for ``propertyNames``."""


def violations(root: Schema, node: Schema, value: Any, pointer: Pointer = ()) -> Iterator[Violation]:
    """All that ``node``, a part of ``root``, holds against ``value``."""
    node = deref(root, node)
    for keyword, argument in node.items():
        if keyword in _VALUE:
            if not _VALUE[keyword](value, argument):
                yield Violation(pointer, keyword, value, argument)
        elif keyword not in _COLLECTION and keyword not in _ANNOTATIONS:
            raise AssertionError(f"the schemas use a keyword that nothing reads: {keyword}")
    if isinstance(value, dict):
        yield from _in_mapping(root, node, value, pointer)
    elif isinstance(value, list) and "items" in node:
        for index, item in enumerate(value):
            yield from violations(root, node["items"], item, (*pointer, index))


def _in_mapping(root: Schema, node: Schema, value: dict[str, Any], pointer: Pointer) -> Iterator[Violation]:
    for key in node.get("required", ()):
        if key not in value:
            yield Violation(pointer, "required", value, key)
    properties, others = node.get("properties", {}), node.get("additionalProperties", True)
    names = node.get("propertyNames")
    for key, item in value.items():
        for wrong in violations(root, names, key) if names is not None else ():
            yield Violation(pointer, "propertyNames", value, wrong)
        if key in properties:
            yield from violations(root, properties[key], item, (*pointer, key))
        elif others is False:
            yield Violation(pointer, "additionalProperties", value, key)
        elif others is not True:
            yield from violations(root, others, item, (*pointer, key))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def _has_type(value: Any, types: str | list[str]) -> bool:
    return any(_TYPES[name](value) for name in ([types] if isinstance(types, str) else types))


def _equals(value: Any, option: Any) -> bool:
    return type(value) is type(option) and bool(value == option)


@cache
def _pattern(pattern: str) -> jsonschema_rs.Draft202012Validator:
    """The engine that decides; Python's ``$`` overlooks a last line end."""
    return jsonschema_rs.Draft202012Validator({"pattern": pattern})


def _sized(
    kind: type[str | list[Any] | dict[str, Any]], holds: Callable[[int, int], bool]
) -> Callable[[Any, int], bool]:
    return lambda value, limit: not isinstance(value, kind) or holds(len(value), limit)


def _bounded(holds: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda value, limit: not _is_number(value) or holds(value, limit)


# A keyword says nothing of values that it is not for: ``type`` does.
_VALUE: dict[str, Callable[[Any, Any], bool]] = {
    "type": _has_type,
    "enum": lambda value, options: any(_equals(value, option) for option in options),
    "const": _equals,
    "pattern": lambda value, pattern: not isinstance(value, str) or _pattern(pattern).is_valid(value),
    "minLength": _sized(str, lambda size, limit: size >= limit),
    "maxLength": _sized(str, lambda size, limit: size <= limit),
    "minItems": _sized(list, lambda size, limit: size >= limit),
    "maxItems": _sized(list, lambda size, limit: size <= limit),
    "maxProperties": _sized(dict, lambda size, limit: size <= limit),
    "minimum": _bounded(lambda value, limit: value >= limit),
    "maximum": _bounded(lambda value, limit: value <= limit),
    "exclusiveMinimum": _bounded(lambda value, limit: value > limit),
    "exclusiveMaximum": _bounded(lambda value, limit: value < limit),
}
_COLLECTION = {"properties", "required", "additionalProperties", "propertyNames", "items"}
_ANNOTATIONS = {"title", "description", "examples", "default", "$schema", "$id", "$defs"}
