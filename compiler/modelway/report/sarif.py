"""Diagnostics as SARIF 2.1.0, for code scanning and editors.

GitHub takes at most 25,000 results a file; the worst come first, so that a consumer that cuts keeps
the right ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from modelway import __version__
from modelway.diagnostics import CODES, Diagnostic, Severity, Span
from modelway.report.common import SourceLines, encodable, extent, title, worst_first

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_ROOT = "%SRCROOT%"
# Without the search for cycles, which data built here cannot hold: a third of the time.
_encode = json.JSONEncoder(check_circular=False).encode
# Bump the number if what goes into the fingerprint changes. GitHub's own primaryLocationLineHash is
# left to its upload action, which warns of every value that it did not compute itself.
_FINGERPRINT = "modelwayDiagnostic/v1"


def render_sarif(diagnostics: Sequence[Diagnostic], sources: Mapping[str, bytes]) -> str:
    """One run, a line for each result, in ASCII. Paths are relative to the root of the repository."""
    found = worst_first(diagnostics)
    severities = {d.code: d.severity for d in reversed(found)}
    codes = sorted(severities)
    head = {
        "tool": {
            "driver": {
                "name": "Modelway",
                "version": __version__,
                "rules": [_rule(code, severities[code]) for code in codes],
            }
        },
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {_ROOT: {"description": {"text": "The root of the repository"}}},
    }
    writer = _Results({code: index for index, code in enumerate(codes)}, SourceLines(sources))
    # Line by line, because json's indentation takes an encoder that is several times slower.
    results = ",\n".join(_encode(writer.result(d)) for d in found)
    run = _encode(head)[:-1] + f', "results": [\n{results}\n]}}'
    text = f'{{"$schema": "{_SCHEMA}", "version": "2.1.0", "runs": [{run}]}}\n'
    return text.replace("\x7f", "\\u007f")  # the one control character that json leaves bare


def _rule(code: str, severity: Severity) -> dict[str, Any]:
    """A code; one that stands in no table takes the severity it was found with."""
    words = {"text": encodable(title(code))}
    level = (CODES[code].severity if code in CODES else severity).word
    return {
        "id": encodable(code),
        "shortDescription": words,
        "fullDescription": words,  # GitHub asks for it, and for help
        "help": words,
        "defaultConfiguration": {"level": level},
    }


class _Results:
    """Results of one run. They are numbered where nothing else tells two of them apart."""

    def __init__(self, rules: Mapping[str, int], lines: SourceLines) -> None:
        self._rules = rules
        self._lines = lines
        self._artifacts: dict[str, dict[str, str]] = {}
        self._seen: dict[str, int] = {}

    def result(self, diagnostic: Diagnostic) -> dict[str, Any]:
        text = diagnostic.message
        if diagnostic.hint:
            text += f"\nhelp: {diagnostic.hint}"
        result: dict[str, Any] = {
            "ruleId": encodable(diagnostic.code),
            "ruleIndex": self._rules[diagnostic.code],
            "level": diagnostic.severity.word,
            "message": _message(text),
            "locations": [{"physicalLocation": self._place(diagnostic.span)}],
            "partialFingerprints": {_FINGERPRINT: self._fingerprint(diagnostic)},
        }
        if diagnostic.more:
            result["occurrenceCount"] = 1 + diagnostic.more
        if diagnostic.related:
            result["relatedLocations"] = [
                {"id": number, "physicalLocation": self._place(span), "message": _message(words)}
                for number, (span, words) in enumerate(diagnostic.related, 1)
            ]
        return result

    def _place(self, span: Span) -> dict[str, Any]:
        line, column, end_line, end_column = extent(span)
        artifact = self._artifacts.get(span.path)
        if artifact is None:
            artifact = self._artifacts[span.path] = {"uri": _uri(span.path), "uriBaseId": _ROOT}
        return {
            "artifactLocation": artifact,
            "region": {
                "startLine": line,
                "startColumn": column,
                "endLine": end_line,
                "endColumn": end_column,
            },
        }

    def _fingerprint(self, diagnostic: Diagnostic) -> str:
        """The same while the file around it changes: what is said, of which line's text, not number."""
        line = self._lines.get(diagnostic.span.path, extent(diagnostic.span)[0]) or ""
        said = "\0".join((diagnostic.code, diagnostic.span.path, diagnostic.message, line.strip()))
        digest = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self._seen[digest] = self._seen.get(digest, 0) + 1
        return f"{digest}:{self._seen[digest]}"


def _message(text: str) -> dict[str, str]:
    """A plain message. In one, SARIF reads ``[words](address)`` as a link, which ours never hold."""
    text = encodable(text)
    if "](" in text:
        text = text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    return {"text": text}


def _uri(path: str) -> str:
    """A relative reference: bytes of a name that is not UTF-8 as they are, colons never a scheme's."""
    try:
        return quote(path, errors="surrogateescape")
    except UnicodeEncodeError:
        return quote(path, errors="backslashreplace")
