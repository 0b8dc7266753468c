"""What the tests of loading share: a file from text, strict equality, the text that a span covers."""

from __future__ import annotations

import re
from typing import Any

from modelway.diagnostics import Diagnostic, Severity, Span
from modelway.load import Document, load
from modelway.sources import SourceFile

PATH = "specs/x.yaml"


def read(text: str | bytes) -> tuple[list[Document], list[Diagnostic]]:
    data = text if isinstance(text, bytes) else text.encode()
    return load(SourceFile(PATH, data))


def values(text: str | bytes) -> list[Any]:
    """The values of a file in which nothing is wrong."""
    documents, found = read(text)
    assert not found, found
    return [document.value for document in documents]


def places(found: list[Diagnostic]) -> str:
    """``MW012 3:1, MW014 4:4``."""
    return ", ".join(f"{one.code} {one.span.line}:{one.span.column}" for one in found)


def errors(found: list[Diagnostic]) -> list[Diagnostic]:
    return [one for one in found if one.severity is Severity.ERROR]


def same(one: Any, other: Any) -> bool:
    """Equal, of the same types (1 is neither 1.0 nor true), with the keys in the same order."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def rows(text: str) -> list[str]:
    """The lines as an editor counts them."""
    return re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff"))


def covered(text: str, span: Span) -> str:
    """The text that a span covers, its line breaks as \\n."""
    lines = rows(text)[span.line - 1 : span.end_line]
    lines[-1] = lines[-1][: span.end_column - 1]
    lines[0] = lines[0][span.column - 1 :]
    return "\n".join(lines)


def lies_inside(text: str, span: Span) -> bool:
    lines = rows(text)
    return (
        1 <= span.line <= span.end_line <= len(lines)
        and 1 <= span.column <= len(lines[span.line - 1]) + 1
        and 1 <= span.end_column <= len(lines[span.end_line - 1]) + 1
        and (span.line, span.column) <= (span.end_line, span.end_column)
    )


def pointers(value: Any, above: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Of the value and of all within it."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above, *(found for key, inner in inside for found in pointers(inner, (*above, key)))]


def at(value: Any, pointer: tuple[str | int, ...]) -> Any:
    for step in pointer:
        value = value[step]
    return value
