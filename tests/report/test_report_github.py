"""The GitHub format, read back by the runner's two grammars (actions/runner, ActionCommand.cs)."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tests.report.report_helpers as helpers
from modelway.diagnostics import Diagnostic, Severity, Span
from modelway.report.github import render_github
from modelway.report.text import render_text
from tests.report.report_helpers import PATH, at, found, many

REGISTERED = {
    *("error", "warning", "notice", "debug", "group", "endgroup", "echo", "add-mask", "add-path"),
    *("set-env", "set-output", "save-state", "add-matcher", "remove-matcher", "stop-commands"),
}


@dataclass
class Command:
    """What the runner made of a line."""

    name: str
    properties: dict[str, str]
    data: str


def run(output: str) -> tuple[list[Command], list[str]]:
    """What a runner would do with a step that prints ``output``: commands, and lines of the log."""
    commands, log = [], []
    for line in re.split(r"\r\n|\r|\n", output):  # StreamReader.ReadLine
        command = _new_grammar(line) or _old_grammar(line)
        if command:
            commands.append(command)
        else:
            log.append(line)
    return commands, log


def _new_grammar(line: str) -> Command | None:
    line = line.lstrip()
    if not line.startswith("::") or (end := line.find("::", 2)) < 0:
        return None
    name, _, properties = line[2:end].partition(" ")
    if name.lower() not in REGISTERED:
        return None
    pairs = [pair.split("=", 1) for pair in properties.strip().split(",") if "=" in pair]
    return Command(
        name,
        {key: _unescape(value, "\r\n:,%") for key, value in pairs},
        _unescape(line[end + 2 :], "\r\n%"),
    )


def _old_grammar(line: str) -> Command | None:
    start = line.find("##[")
    if start < 0 or (end := line.find("]", start)) < 0:
        return None
    name, _, _ = line[start + 3 : end].partition(" ")
    return Command(name, {}, line[end + 1 :]) if name.lower() in REGISTERED else None


def _unescape(text: str, chars: str) -> str:
    for char in chars:  # the percent sign last, as the runner does
        text = text.replace(f"%{ord(char):02X}", char)
    return text


def test_annotation_and_log() -> None:
    source = {PATH: b"maxRow: 64\n"}
    diagnostic = found('unknown field "maxRow"', at(1, 1, 7), hint='did you mean "maxRows"?')
    annotation, _, log = render_github([diagnostic], source).partition("\n")
    assert annotation == (
        "::error file=specs/search/ranker.yaml,line=1,endLine=1,col=1,endColumn=7,"
        'title=MW104 Unknown field::unknown field "maxRow"%0Ahelp: did you mean "maxRows"?'
    )
    assert log == render_text([diagnostic], source, colour=False, width=120)


def test_nothing_found_is_no_text() -> None:
    assert render_github([], {}) == ""


def test_severities_and_order() -> None:
    commands, _ = run(render_github([found(s.word, severity=s) for s in Severity], {}))
    assert [(c.name, c.data) for c in commands] == [
        ("error", "error"),
        ("warning", "warning"),
        ("notice", "note"),
    ]


def test_no_columns_where_the_span_has_several_lines() -> None:
    """The checks API refuses them, and the runner drops them."""
    commands, _ = run(render_github([found(span=Span(PATH, 2, 5, 4, 3))], {}))
    assert commands[0].properties == {
        "file": PATH,
        "line": "2",
        "endLine": "4",
        "title": "MW104 Unknown field",
    }


def test_no_place_without_a_file() -> None:
    commands, _ = run(render_github([found(span=Span(""))], {}))
    assert list(commands[0].properties) == ["title"]


def test_ten_annotations_of_a_severity_and_a_line_that_says_so() -> None:
    diagnostics = many(60)
    commands, log = run(render_github(diagnostics, {}))
    assert [c.name for c in commands] == ["error"] * 10 + ["warning"] * 10 + ["notice"] * 10
    assert log[0] == (
        "Only the first 10 of each severity are annotated; not 20 errors and 5 warnings and 5 notes."
    )
    commands, log = run(render_github(diagnostics, {}, limit=None))
    assert len(commands) == 60
    assert log[0].startswith("error[MW104]")


@pytest.mark.parametrize(
    "hostile",
    [
        "::set-output name=a::b",
        "a\n::set-output name=a::b",
        "a\r\n::stop-commands::token\r::error::x",
        "##[set-env name=PATH;]/evil",
        "a ##[add-mask]e",
        "100% %0A %25 %3A",
        "::",
        "a,title=b::c",
    ],
)
def test_hostile_text_stays_data(hostile: str) -> None:
    """Wherever it stands: message, hint, path, related place, the source itself."""
    diagnostic = found(hostile, Span(hostile), related=((Span(hostile), hostile),))
    for hint in ("", hostile):
        commands, _ = run(
            render_github(
                [Diagnostic("MW104", Severity.ERROR, hostile, diagnostic.span, hint, diagnostic.related)],
                {hostile: hostile.encode()},
            )
        )
        assert len(commands) == 1
        assert commands[0].name == "error"
        assert commands[0].data == hostile + (f"\nhelp: {hint}" if hint else "")
        assert commands[0].properties["title"] == "MW104 Unknown field"
        assert commands[0].properties["file"] == hostile.replace("\r", "\\r").replace("\n", "\\n")


def test_the_log_keeps_its_columns() -> None:
    source = b"a: ##[x] wrong\n"
    log = render_github([found("bad ##[x]", at(1, 10, 15))], {PATH: source}).splitlines()[1:]
    assert log[0] == "error[MW104]: bad ##(x]"
    assert log[3].index("wrong") == log[4].index("^^^^^")


@example([helpers.found("a", hint="##[[")], {})
@settings(max_examples=200)
@given(st.lists(helpers.diagnostics, max_size=5), helpers.sources)
def test_any_diagnostics(diagnostics: list[Diagnostic], sources: dict[str, bytes]) -> None:
    output = render_github(diagnostics, sources)
    output.encode()  # raises if a lone surrogate is left
    commands, log = run(output)
    expected = sorted(diagnostics, key=lambda d: -d.severity)
    assert [c.data for c in commands] == [
        _shown(d.message + (f"\nhelp: {d.hint}" if d.hint else "")) for d in expected
    ]
    # .NET may overlook characters without weight, none of which is ASCII.
    bare = [re.sub("[^ -~]", "", line) for line in log]
    assert run("\n".join(bare))[0] == []
    assert not [line for line in bare if line.lstrip().startswith(":") or "##[" in line]


def _shown(text: str) -> str:
    """The message itself, but for characters that do not print: those are escapes."""
    out = ""
    for char in text:
        if char.isprintable() or char in "\r\n\t":
            out += char
        elif 0xDC80 <= ord(char) <= 0xDCFF:
            out += f"\\x{ord(char) - 0xDC00:02x}"
        elif 0x80 <= ord(char) <= 0xFF:
            out += f"\\u{ord(char):04x}"
        else:
            out += repr(char)[1:-1]
    return out


@pytest.mark.parametrize("limit", [10, None])
def test_speed(limit: int | None) -> None:
    diagnostics = many(100_000)
    started = time.process_time()
    render_github(diagnostics, {}, limit=limit)
    assert time.process_time() - started < 20  # quadratic work shows, a busy machine does not
