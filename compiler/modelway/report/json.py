"""Diagnostics for programs, in a shape that only grows.

::

    {"diagnostics": [{"code": "MW104", "severity": "error", "title": "Unknown field",
                      "message": "…", "hint": "…", "path": "specs/a.yaml", "line": 12, "column": 5,
                      "endLine": 12, "endColumn": 11,
                      "related": [{"message": "…", "path": "…", "line": …, "column": …,
                                   "endLine": …, "endColumn": …}],
                      "more": 0}],
     "summary": {"errors": 1, "warnings": 0, "notes": 0}}

``more`` findings of the same code in the same document are counted and not listed; the last that is
listed has their number. Severities are ``error``, ``warning``, ``note``. Lines and columns count
from 1, columns in code points, the end is exclusive. Every key is always there: without a hint it is
the empty string. The order is the one given. A file name that is not UTF-8 is written with escapes
(``\\udc80``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TypedDict

from modelway.diagnostics import Diagnostic, Severity, Span
from modelway.report.common import counts, encodable, extent, title

# Without the search for cycles, which data built here cannot hold: a third of the time.
_encode = json.JSONEncoder(check_circular=False).encode


class Place(TypedDict):
    """Where something stands."""

    path: str
    line: int
    column: int
    endLine: int
    endColumn: int


class RelatedData(Place):
    """A place that has to do with a diagnostic, and why."""

    message: str


class DiagnosticData(Place):
    """A diagnostic as plain data."""

    code: str
    severity: str
    title: str
    message: str
    hint: str
    related: list[RelatedData]
    more: int


class Summary(TypedDict):
    """How many there are of each severity."""

    errors: int
    warnings: int
    notes: int


class Report(TypedDict):
    """The whole document."""

    diagnostics: list[DiagnosticData]
    summary: Summary


def report_data(diagnostics: Sequence[Diagnostic]) -> Report:
    """What ``render_json`` writes, as plain data, to be merged into a larger document."""
    return {"diagnostics": [_diagnostic(d) for d in diagnostics], "summary": _summary(diagnostics)}


def render_json(diagnostics: Sequence[Diagnostic], sources: Mapping[str, bytes]) -> str:
    """The document above, a line for each diagnostic, in ASCII; ``sources`` are not quoted in it."""
    del sources
    # Line by line, because json's indentation takes an encoder that is several times slower.
    lines = ",\n".join("    " + _encode(_diagnostic(d)) for d in diagnostics)
    listed = f"[\n{lines}\n  ]" if lines else "[]"
    summary = _encode(_summary(diagnostics))
    text = f'{{\n  "diagnostics": {listed},\n  "summary": {summary}\n}}\n'
    return text.replace("\x7f", "\\u007f")  # the one control character that json leaves bare


def _diagnostic(diagnostic: Diagnostic) -> DiagnosticData:
    line, column, end_line, end_column = extent(diagnostic.span)
    return {
        "code": encodable(diagnostic.code),
        "severity": diagnostic.severity.word,
        "title": encodable(title(diagnostic.code)),
        "message": encodable(diagnostic.message),
        "hint": encodable(diagnostic.hint),
        "path": encodable(diagnostic.span.path),
        "line": line,
        "column": column,
        "endLine": end_line,
        "endColumn": end_column,
        "related": [_related(span, text) for span, text in diagnostic.related],
        "more": diagnostic.more,
    }


def _related(span: Span, text: str) -> RelatedData:
    line, column, end_line, end_column = extent(span)
    return {
        "message": encodable(text),
        "path": encodable(span.path),
        "line": line,
        "column": column,
        "endLine": end_line,
        "endColumn": end_column,
    }


def _summary(diagnostics: Sequence[Diagnostic]) -> Summary:
    found = counts(diagnostics)
    return {
        "errors": found[Severity.ERROR],
        "warnings": found[Severity.WARNING],
        "notes": found[Severity.NOTE],
    }
