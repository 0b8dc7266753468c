"""Documents -> documents that their kind's JSON Schema accepts, or diagnostics that say why not.

``jsonschema-rs`` decides, ``violations`` says where; the words are ours. What is checked once for
the document as written is checked again by ``resolve`` after an environment's overlay is merged.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from typing import Any

import jsonschema_rs

from modelway.diagnostics import Diagnostic, Span, diagnostic
from modelway.load import Document, Pointer
from modelway.spec import schema as spec_schema
from modelway.spec.common import API_VERSION
from modelway.suggest import nearest
from modelway.violations import Violation, violations

Locate = Callable[[Pointer], Span]
_LISTED = 100  # diagnostics of one code in one document; the others are counted


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
    found: dict[str, list[Diagnostic]] = {}
    more: Counter[str] = Counter()
    root = spec_schema.schemas()[kind]
    for violation in violations(root, root, value):
        code = _CODES[violation.keyword]
        if len(found.setdefault(code, [])) < _LISTED:
            found[code].append(_worded(kind, code, violation, places))
        else:
            more[code] += 1
    for code, number in more.items():
        found[code][-1] = _and_more(found[code][-1], number)
    return list(chain.from_iterable(found.values()))


_CODES = {
    "additionalProperties": "MW104",
    "required": "MW105",
    "type": "MW106",
    **dict.fromkeys(("enum", "const"), "MW107"),
    **dict.fromkeys(("propertyNames", "pattern", "minLength", "maxLength"), "MW108"),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), "MW109"),
    **dict.fromkeys(("minItems", "maxItems", "maxProperties"), "MW110"),
}


def _and_more(last: Diagnostic, number: int) -> Diagnostic:
    """``last`` of the diagnostics of its code that are listed, with how many are not."""
    hint = f"{last.hint}; " if last.hint else ""
    return replace(last, hint=f"{hint}the document has {number:,} more of this kind", more=number)


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


def _worded(kind: str, code: str, violation: Violation, places: Places) -> Diagnostic:
    pointer = violation.pointer
    match violation.keyword:
        case "additionalProperties":
            return _unknown_field(kind, pointer, violation.argument, places)
        case "required":
            return _missing(kind, pointer, violation.argument, places)
        case "propertyNames":
            key = violation.argument
            text, hint = _wrong_value(key)
            return diagnostic(
                code, places.key((*pointer, key.value)), f"{_field(pointer)}the key {text}", hint
            )
    text, hint = _wrong_value(violation)
    return diagnostic(code, places.value(pointer), f"{_field(pointer)}{text}", hint)


_MOVED: dict[tuple[str, tuple[str, ...]], str] = {
    ("Environment", ("spec", "detector", "prometheus")): "spec.monitoring"
}
"""Where fields of earlier versions are now."""


def _unknown_field(kind: str, pointer: Pointer, key: str, places: Places) -> Diagnostic:
    if moved := _MOVED.get((kind, (*map(str, pointer), key))):
        text = f"{_path((*pointer, key))} has moved to {moved}"
        hint = f"move what it holds, such as tokenSecret and tenant, to {moved}: all who read take it"
        return diagnostic("MW121", places.key((*pointer, key)), text, hint)
    known = list((spec_schema.at(kind, pointer) or {}).get("properties", ()))
    where = f" in {_path(pointer)}" if pointer else ""
    near = nearest(key, known)
    hint = f'did you mean "{near}"?' if near else _listed("the fields here are", known)
    return diagnostic("MW104", places.key((*pointer, key)), f"unknown field {shown(key)}{where}", hint)


def _missing(kind: str, pointer: Pointer, key: str, places: Places) -> Diagnostic:
    field = spec_schema.at(kind, (*pointer, key)) or {}
    examples = field.get("examples") or [None]
    hint = f"{field['description']}" if "description" in field else ""
    if isinstance(examples[0], str | int | float):
        hint = f"{hint} For example: {key}: {examples[0]}".strip()
    span = places.key(pointer) if pointer else places.value(pointer)
    where = _path(pointer) or "the document"
    return diagnostic("MW105", span, f'{where} lacks "{key}"', hint)


def _wrong_value(violation: Violation) -> tuple[str, str]:
    """(message, hint) for a value that a keyword of the schema refuses."""
    keyword, argument = violation.keyword, violation.argument
    instance = _without_password(violation.value)
    value = shown(instance)
    match keyword:
        case "type":
            return _wrong_type(instance, [argument] if isinstance(argument, str) else argument)
        case "enum" | "const":
            options = [str(option) for option in argument if option is not None] if keyword == "enum" else []
            near = nearest(instance, options) if isinstance(instance, str) else None
            hint = f'did you mean "{near}"?' if near else _listed("allowed are", options)
            return f"{value} is not allowed", hint
        case "pattern":
            return f"{value} is not {spec_schema.forms().get(argument, argument)}", ""
        case "minimum" | "exclusiveMinimum":
            bound = "at least" if keyword == "minimum" else "above"
            return f"{value} is too small", f"it must be {bound} {argument}"
        case "maximum" | "exclusiveMaximum":
            bound = "at most" if keyword == "maximum" else "below"
            return f"{value} is too large", f"it must be {bound} {argument}"
        case "minLength" | "maxLength":
            text = f"{value} has {len(violation.value)} characters"
            return text, f"at {'least' if keyword == 'minLength' else 'most'} {argument}"
    few = keyword == "minItems"
    text = f"{len(violation.value)} entries are too {'few' if few else 'many'}"
    return text, f"{'at least' if few else 'at most'} {argument}"


def _wrong_type(value: Any, types: list[str]) -> tuple[str, str]:
    wanted = " or ".join(_TYPES[kind] for kind in types if kind != "null")
    quoted = isinstance(value, bool | int | float) and "string" in types
    hint = "put it in quotes" if quoted else ""  # as it was written: 1.10 is 1.1 by now
    if value is None:
        hint = "give it a value, or leave it out"
    kind = "" if isinstance(value, dict | list) else f" is {_type_of(value)}"
    return f"{shown(value)}{kind}, not {wanted}", hint


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
    text = _plain(value)
    text = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[:80]
    )
    return text if len(text) <= 60 else f"{text[:57]}…" + ('"' if isinstance(value, str) else "")


def _plain(value: object) -> str:
    if isinstance(value, dict | list):  # never their repr, which may be large
        entries = f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
        return f"{_type_of(value)} of {entries}" if value else f"an empty {_type_of(value)[2:]}"
    if isinstance(value, str):
        return f'"{value}"'
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _field(pointer: Pointer) -> str:
    return f"{_path(pointer)}: " if pointer else ""


def _path(pointer: Pointer) -> str:
    """``spec.rollout.steps[2].weight``, from what the schema knows, so it is safe to print."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{shown(step)[1:-1]}" for step in pointer)
    return text.removeprefix(".")


def _listed(words: str, names: list[str]) -> str:
    return f"{words} {', '.join(sorted(names))}" if names else ""
