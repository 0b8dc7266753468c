"""``violations`` finds exactly what jsonschema-rs, which decides, finds: no more, no less, elsewhere nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from modelway.spec.schema import KINDS, schemas
from modelway.violations import Violation, violations
from tests.contract.test_schema_readers import places, right_documents

VALUES = [None, True, False, 0, 1, -1, 5.0, 1.5, 1e300, 10**30, "", "x", "-", "a\n", "é", "x" * 3000,
          [], [None], ["x"] * 200, [[]], {}, {"": 1}, {"a": None}, {"A b": {}}, {"x" * 400: 1},
          {f"k{n}": {} for n in range(100)}]  # fmt: skip
Key = tuple[Any, ...]


def ours(violation: Violation) -> Key:
    pointer = tuple(step for step in violation.pointer if step != "")  # the library's paths lose an empty key
    argument = violation.argument
    if violation.keyword == "propertyNames":
        return (pointer, "propertyNames", argument.value, argument.keyword)
    return (pointer, violation.keyword, argument if isinstance(argument, str) else None)


def theirs(error: jsonschema_rs.ValidationError) -> Iterator[Key]:
    pointer, detail = tuple(error.instance_path), error.kind
    match detail.name:
        case "additionalProperties":
            yield from ((pointer, "additionalProperties", key) for key in detail.unexpected)
        case "required":
            yield (pointer, "required", detail.property)
        case "propertyNames":
            yield (pointer, "propertyNames", detail.error.instance, detail.error.kind.name)
        case name:
            argument = {"pattern": "pattern", "const": "expected_value"}.get(name)
            one_type = name == "type" and len(detail.types) == 1
            yield (
                pointer,
                name,
                detail.types[0] if one_type else getattr(detail, argument) if argument else None,
            )


def changed(document: Any) -> Iterator[Any]:
    """The document with each of its places taken by each of the values, and with each key gone or renamed."""
    for place in places(document):
        for value in VALUES:
            yield at(document, place, value)
        if place and isinstance(place[-1], str):
            yield at(document, place, None, keep=False)
            yield at(document, (*place[:-1], f"{place[-1]} ?"), 1)


def at(document: Any, place: tuple[str | int, ...], value: Any, *, keep: bool = True) -> Any:
    whole = [copy.deepcopy(document)]
    holder: Any = whole
    for step in (0, *place)[:-1]:
        holder = holder[step]
    if keep:
        holder[(0, *place)[-1]] = copy.deepcopy(value)
    else:
        del holder[place[-1]]
    return whole[0]


@pytest.mark.parametrize("kind", KINDS)
def test_ours_are_theirs(kind: str) -> None:
    schema = schemas()[kind]
    validator = jsonschema_rs.Draft202012Validator(schema)
    documents = [spec for name, spec in right_documents() if name == kind.lower()]
    largest = sorted(documents, key=lambda spec: -len(str(spec)))[:2]
    refused = 0
    for document in largest:
        for wrong in changed(document):
            expected = [key for error in validator.iter_errors(wrong) for key in theirs(error)]
            assert sorted(map(ours, violations(schema, schema, wrong)), key=repr) == sorted(
                expected, key=repr
            )
            refused += bool(expected)
    assert refused > 1000


def test_a_keyword_that_nothing_reads_is_an_error() -> None:
    with pytest.raises(AssertionError, match="uniqueItems"):
        list(violations({}, {"uniqueItems": True}, []))
