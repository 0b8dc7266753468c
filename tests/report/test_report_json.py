"""The JSON format: its shape is a promise."""

from __future__ import annotations

import json
import time

from hypothesis import given
from hypothesis import strategies as st

import tests.report.report_helpers as helpers
from modelway.diagnostics import CODES, Diagnostic, Severity, Span
from modelway.report.json import render_json, report_data
from tests.report.report_helpers import PATH, at, found, many


def test_shape() -> None:
    diagnostics = [
        found(
            'unknown field "maxRow"',
            at(12, 5, 11),
            hint='did you mean "maxRows"?',
            related=((Span("b.yaml", 3, 1, 4, 2), "first here"),),
        ),
        found("empty", Span("c.yaml"), code="MW018", severity=Severity.NOTE),
    ]
    assert json.loads(render_json(diagnostics, {})) == {
        "diagnostics": [
            {
                "code": "MW104",
                "severity": "error",
                "title": CODES["MW104"].title,
                "message": 'unknown field "maxRow"',
                "hint": 'did you mean "maxRows"?',
                "path": PATH,
                "line": 12,
                "column": 5,
                "endLine": 12,
                "endColumn": 11,
                "related": [
                    {
                        "message": "first here",
                        "path": "b.yaml",
                        "line": 3,
                        "column": 1,
                        "endLine": 4,
                        "endColumn": 2,
                    }
                ],
                "more": 0,
            },
            {
                "code": "MW018",
                "severity": "note",
                "title": CODES["MW018"].title,
                "message": "empty",
                "hint": "",
                "path": "c.yaml",
                "line": 1,
                "column": 1,
                "endLine": 1,
                "endColumn": 1,
                "related": [],
                "more": 0,
            },
        ],
        "summary": {"errors": 1, "warnings": 0, "notes": 1},
    }


def test_nothing_found_is_a_document_too() -> None:
    assert json.loads(render_json([], {})) == {
        "diagnostics": [],
        "summary": {"errors": 0, "warnings": 0, "notes": 0},
    }


def test_a_line_for_each_diagnostic_in_the_order_given() -> None:
    diagnostics = many(100)
    lines = render_json(diagnostics, {}).splitlines()[2:-3]
    assert [json.loads(line.rstrip(","))["message"] for line in lines] == [d.message for d in diagnostics]


@given(st.lists(helpers.diagnostics, max_size=4))
def test_any_diagnostics(diagnostics: list[Diagnostic]) -> None:
    text = render_json(diagnostics, {})
    assert text.isascii()
    assert {c for c in text if not c.isprintable()} == {"\n"}
    assert json.loads(text) == report_data(diagnostics)


def test_speed() -> None:
    diagnostics = many(100_000)
    started = time.process_time()
    text = render_json(diagnostics, {})
    assert time.process_time() - started < 20  # quadratic work shows, a busy machine does not
    assert text.count("\n") > 100_000
