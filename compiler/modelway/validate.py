"""Documents -> documents that their kind's JSON Schema accepts, or diagnostics that say why not.

``jsonschema-rs`` decides; the words are ours. What is checked once for the document as written
is checked again by ``resolve`` after an environment's overlay is merged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import jsonschema_rs

from modelway.diagnostics import Diagnostic, Span, diagnostic
from modelway.load import Document, Pointer
from modelway.spec import schema as spec_schema
from modelway.spec.common import API_VERSION
from modelway.suggest import nearest

Locate = Callable[[Pointer], Span]
_HINTS_PER_MAPPING = 100  # nearest names are looked up for so many unknown fields of one mapping


@dataclass(frozen=True, slots=True)
class Places:
    """Where values and keys of a (perhaps merged) spec stand."""

    value: Locate
    key: Locate


@cache
def _validator(kind: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(spec_schema.schemas()[kind])


def validate(document: Document) -> list[Diagnostic]:
    """Everything that is wrong with a document by itself; empty when it is a spec of a known kind."""
    found = _envelope(document)
    if found:
        return found
    return check(document.value["kind"], document.value, Places(document.span, document.key_span))


def check(kind: str, value: Any, places: Places) -> list[Diagnostic]:
    """What the schema of ``kind`` says against ``value``."""
    validator = _validator(kind)
    if validator.is_valid(value):
        return []
    return [found for error in validator.iter_errors(value) for found in _worded(kind, error, places)]


def _envelope(document: Document) -> list[Diagnostic]:
    value = document.value
    if not isinstance(value, dict):
        text = f"a spec is a mapping, this is {_type_of(value)}"
        return [diagnostic("MW101", document.span(()), text, _ENVELOPE_HINT)]
    missing = [key for key in ("apiVersion", "kind") if key not in value]
    if missing:
        text = f"the document has no {' and no '.join(missing)}"
        return [diagnostic("MW101", document.span(()), text, _ENVELOPE_HINT)]
    return [*_wrong_kind(document, value["kind"]), *_wrong_version(document, value["apiVersion"])]


_ENVELOPE_HINT = f"begin with apiVersion: {API_VERSION} and kind: Model, Alert, Resource or Environment"


def _wrong_kind(document: Document, kind: object) -> Iterator[Diagnostic]:
    if isinstance(kind, str) and kind in spec_schema.KINDS:
        return
    near = nearest(kind, spec_schema.KINDS) if isinstance(kind, str) else None
    hint = f'did you mean "{near}"?' if near else f"the kinds are {', '.join(spec_schema.KINDS)}"
    yield diagnostic("MW102", document.span(("kind",)), f"unknown kind {shown(kind)}", hint)


def _wrong_version(document: Document, version: object) -> Iterator[Diagnostic]:
    if version != API_VERSION:
        text = f"unknown apiVersion {shown(version)}"
        yield diagnostic("MW103", document.span(("apiVersion",)), text, f"write {API_VERSION}")


def _worded(kind: str, error: jsonschema_rs.ValidationError, places: Places) -> Iterator[Diagnostic]:
    pointer: Pointer = tuple(error.instance_path)
    detail: Any = error.kind
    name = detail.name
    if name == "additionalProperties":
        yield from _unknown_fields(kind, pointer, detail.unexpected, places)
    elif name == "required":
        yield _missing(kind, pointer, detail.property, places)
    elif name == "propertyNames":
        yield _wrong_key(pointer, error, places)
    else:
        code, text, hint = _wrong_value(name, error)
        yield diagnostic(code, places.value(pointer), f"{_field(pointer)}{text}", hint)


def _unknown_fields(kind: str, pointer: Pointer, unknown: list[str], places: Places) -> Iterator[Diagnostic]:
    known = list((spec_schema.at(kind, pointer) or {}).get("properties", ()))
    where = f" in {_path(pointer)}" if pointer else ""
    for number, key in enumerate(unknown):
        near = nearest(key, known) if number < _HINTS_PER_MAPPING else None
        hint = f'did you mean "{near}"?' if near else _listed("the fields here are", known)
        yield diagnostic("MW104", places.key((*pointer, key)), f"unknown field {shown(key)}{where}", hint)


def _missing(kind: str, pointer: Pointer, key: str, places: Places) -> Diagnostic:
    field = spec_schema.at(kind, (*pointer, key)) or {}
    examples = field.get("examples") or [None]
    hint = f"{field['description']}" if "description" in field else ""
    if isinstance(examples[0], str | int | float):
        hint = f"{hint} For example: {key}: {examples[0]}".strip()
    span = places.key(pointer) if pointer else places.value(pointer)
    where = _path(pointer) or "the document"
    return diagnostic("MW105", span, f'{where} lacks "{key}"', hint)


def _wrong_key(pointer: Pointer, error: jsonschema_rs.ValidationError, places: Places) -> Diagnostic:
    detail: Any = error.kind
    inner = detail.error
    key = inner.instance
    _, text, hint = _wrong_value(inner.kind.name, inner)
    return diagnostic("MW108", places.key((*pointer, key)), f"{_field(pointer)}the key {text}", hint)


def _wrong_value(name: str, error: jsonschema_rs.ValidationError) -> tuple[str, str, str]:
    """(code, message, hint) for a value that a keyword of the schema refuses."""
    instance: Any = _without_password(error.instance)
    value, detail = shown(instance), cast("Any", error.kind)
    match name:
        case "type":
            wanted = " or ".join(_TYPES[kind] for kind in detail.types if kind != "null")
            quoted = isinstance(instance, bool | int | float) and "string" in detail.types
            hint = "put it in quotes" if quoted else ""  # as it was written: 1.10 is 1.1 by now
            if error.instance is None:
                hint = "give it a value, or leave it out"
            told = isinstance(error.instance, dict | list)
            kind = "" if told else f" is {_type_of(instance)}"
            return "MW106", f"{value}{kind}, not {wanted}", hint
        case "enum" | "const":
            options = [str(option) for option in getattr(detail, "options", ()) if option is not None]
            near = nearest(instance, options) if isinstance(instance, str) else None
            hint = f'did you mean "{near}"?' if near else _listed("allowed are", options)
            return "MW107", f"{value} is not allowed", hint
        case "pattern":
            return "MW108", f"{value} is not {spec_schema.forms().get(detail.pattern, detail.pattern)}", ""
        case "minimum" | "exclusiveMinimum":
            bound = "at least" if name == "minimum" else "above"
            return "MW109", f"{value} is too small", f"it must be {bound} {detail.limit}"
        case "maximum" | "exclusiveMaximum":
            bound = "at most" if name == "maximum" else "below"
            return "MW109", f"{value} is too large", f"it must be {bound} {detail.limit}"
        case "minItems" | "maxItems" | "maxProperties":
            few = name == "minItems"
            text = f"{len(instance)} entries are too {'few' if few else 'many'}"
            return "MW110", text, f"{'at least' if few else 'at most'} {detail.limit}"
        case "minLength" | "maxLength":
            text = f"{value} has {len(instance)} characters"
            return "MW108", text, f"at {'least' if name == 'minLength' else 'most'} {detail.limit}"
    raise AssertionError(f"the schemas use a keyword that has no words: {name}")


def _without_password(value: object) -> object:
    """A URI's user and password must not travel on in a message: reports of CI are read by many."""
    return re.sub(r"(?<=//)[^/@]*@", "…@", value) if isinstance(value, str) and "@" in value else value


_TYPES = {
    "object": "a mapping",
    "array": "a list",
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "nothing",
}


def _type_of(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "a boolean"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
    return "a mapping"


def shown(value: object) -> str:
    """A value in a message: short, on one line, and without what a terminal would obey."""
    text = (
        f'"{value}"'
        if isinstance(value, str)
        else "null"
        if value is None
        else str(value).lower()
        if isinstance(value, bool)
        else repr(value)
    )
    if isinstance(value, dict | list):
        entries = f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
        text = f"{_type_of(value)} of {entries}" if value else f"an empty {_type_of(value)[2:]}"
    text = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[:80]
    )
    return text if len(text) <= 60 else f"{text[:57]}…" + ('"' if isinstance(value, str) else "")


def _field(pointer: Pointer) -> str:
    return f"{_path(pointer)}: " if pointer else ""


def _path(pointer: Pointer) -> str:
    """``spec.rollout.steps[2].weight``, from what the schema knows, so it is safe to print."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{shown(step)[1:-1]}" for step in pointer)
    return text.removeprefix(".")


def _listed(words: str, names: list[str]) -> str:
    return f"{words} {', '.join(sorted(names))}" if names else ""
