"""The text format: carets under what they mean, nothing hidden, nothing that a terminal obeys."""

from __future__ import annotations

import subprocess
import sys
import time
import unicodedata
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.report.report_helpers as helpers
from modelway.diagnostics import Diagnostic, Severity, Span
from modelway.report.text import render_text
from tests.report.report_helpers import PATH, at, cells, found, many


def plain(
    diagnostics: Sequence[Diagnostic], sources: Mapping[str, bytes] | None = None, width: int = 80
) -> str:
    return render_text(diagnostics, sources or {}, colour=False, width=width)


def snippet(source: bytes, span: Span, width: int = 80) -> list[str]:
    """The lines between the arrow and the summary."""
    return plain([found("wrong", span)], {PATH: source}, width).split("\n")[2:-3]


def test_whole_page() -> None:
    source = b"kind: Model\nspec:\n  maxRow: 64\n  retries: no\n"
    diagnostics = [
        found("nothing uses it", at(2, 1, 5), code="MW401", severity=Severity.WARNING),
        found('unknown field "maxRow"', at(3, 3, 9), hint='did you mean "maxRows"?'),
        found(
            'the key "a" stands twice',
            Span("specs/b.yaml", 120, 1),
            code="MW012",
            related=((at(4, 3, 10), "first here"),),
        ),
        found("empty", Span("specs/c.yaml"), code="MW018", severity=Severity.NOTE),
    ]
    assert plain(diagnostics, {PATH: source}) == (
        """\
error[MW104]: unknown field "maxRow"
 --> specs/search/ranker.yaml:3:3
  |
3 |   maxRow: 64
  |   ^^^^^^
  = help: did you mean "maxRows"?

error[MW012]: the key "a" stands twice
   --> specs/b.yaml:120:1
    = note: first here --> specs/search/ranker.yaml:4:3

warning[MW401]: nothing uses it
 --> specs/search/ranker.yaml:2:1
  |
2 | spec:
  | ^^^^

note[MW018]: empty
 --> specs/c.yaml:1:1

2 errors, 1 warning, 1 note in 3 files
"""
    )


def test_nothing_found_is_no_text() -> None:
    assert plain([]) == ""


@pytest.mark.parametrize(
    ("severities", "summary"),
    [
        ((Severity.ERROR,), "1 error in 1 file"),
        ((Severity.WARNING, Severity.ERROR, Severity.ERROR), "2 errors, 1 warning in 1 file"),
        ((Severity.NOTE, Severity.NOTE), "2 notes in 1 file"),
    ],
)
def test_summary(severities: tuple[Severity, ...], summary: str) -> None:
    assert plain([found(severity=s) for s in severities]).splitlines()[-1] == summary


def test_colours_are_the_only_difference() -> None:
    diagnostics = [found(severity=s, hint="do it") for s in Severity]
    coloured = render_text(diagnostics, {PATH: b"a: 1\n"}, colour=True, width=80)
    assert "\x1b[1;31merror[MW104]\x1b[0m" in coloured
    assert "\x1b[1;33m^\x1b[0m" in coloured
    bare = coloured
    for code in ("1;31", "1;33", "1;36", "1;34", "1", "0"):
        bare = bare.replace(f"\x1b[{code}m", "")
    assert bare == plain(diagnostics, {PATH: b"a: 1\n"})


@pytest.mark.parametrize(
    ("source", "span", "line", "carets"),
    [
        pytest.param("\tkey: x", at(1, 2, 5), "    key: x", "    ^^^", id="tab"),
        pytest.param("a\tkey: x", at(1, 2, 3), "a    key: x", " ^^^^", id="on a tab"),
        pytest.param("🚀: wrong", at(1, 4, 9), "🚀: wrong", "    ^^^^^", id="emoji"),
        pytest.param("名前: 検索 x", at(1, 5, 7), "名前: 検索 x", "      ^^^^", id="CJK"),
        pytest.param("cafe\u0301: x", at(1, 8, 9), "cafe\u0301: x", "      ^", id="combining"),
        pytest.param("ｆｕｌｌ: x", at(1, 1, 5), "ｆｕｌｌ: x", "^^^^^^^^", id="full width"),
        pytest.param(
            "\u1100\u1161\u11a8: x", at(1, 6, 7), "\u1100\u1161\u11a8: x", "    ^", id="Hangul jamo"
        ),
        pytest.param("a\x1bb: x", at(1, 6, 7), "a\\x1bb: x", "        ^", id="escape"),
        pytest.param("a\u200bb: x", at(1, 2, 3), "a\\u200bb: x", " ^^^^^^", id="zero width space"),
        pytest.param("a: \u202ex", at(1, 5, 6), "a: \\u202ex", "         ^", id="bidi"),
        pytest.param("a: x", at(1, 2, 2), "a: x", " ^", id="empty span"),
        pytest.param("a: x", at(1, 4, 2), "a: x", "   ^", id="end before start"),
        pytest.param("a: x", at(1, 9, 12), "a: x", "    ^", id="column beyond the line"),
        pytest.param("a: x", at(1, 4, 99), "a: x", "   ^", id="end beyond the line"),
        pytest.param("a: x", at(-5, -7, -9), "a: x", "^", id="nothing positive"),
        pytest.param("a:\n\n  x", at(2, 1, 1), "", "^", id="empty line"),
        pytest.param("\ufeffa: x", at(1, 1, 2), "a: x", "^", id="byte order mark"),
        pytest.param("a: \u2028x", at(1, 5, 6), "a: \\u2028x", "         ^", id="no line break of YAML"),
    ],
)
def test_carets(source: str, span: Span, line: str, carets: str) -> None:
    number = max(1, span.line)
    assert snippet(source.encode(), span) == ["  |", f"{number} | {line}".rstrip(), f"  | {carets}"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends(end: str) -> None:
    source = end.join(["a: 1", "b: wrong", "c: 3", ""]).encode()
    assert snippet(source, at(2, 4, 9)) == ["  |", "2 | b: wrong", "  |    ^^^^^"]
    assert snippet(source, at(4, 1, 1)) == ["  |", "4 |", "  | ^"]


def test_several_lines_show_the_first() -> None:
    source = b"a:\n  b: [1,  \n    2]\n"
    assert snippet(source, Span(PATH, 2, 6, 3, 7)) == ["  |", "2 |   b: [1,", "  |      ^^^"]
    assert snippet(source, Span(PATH, 2, 13, 3, 7)) == ["  |", "2 |   b: [1,", "  | " + " " * 10 + "^"]


@pytest.mark.parametrize("source", [b"", b"a: 1"])
def test_beyond_the_file_there_is_no_snippet(source: bytes) -> None:
    assert snippet(source, at(7, 3, 5)) == []
    assert snippet(source, at(10**30, 10**30, 10**30)) == []


def test_without_source_or_path() -> None:
    assert plain([found("gone", Span("lost.yaml", 3, 4))]) == (
        "error[MW104]: gone\n --> lost.yaml:3:4\n\n1 error in 1 file\n"
    )
    assert plain([found("nowhere", Span(""))]) == "error[MW104]: nowhere\n\n1 error in 1 file\n"


def test_bytes_that_are_not_utf8_stand_as_escapes() -> None:
    assert snippet(b"a: \xff\xfe x", at(1, 5, 6)) == ["  |", "1 | a: \\xff\\xfe x", "  |        ^^^^"]


def test_messages_hints_and_paths_are_made_visible() -> None:
    hostile = "\x1b[2J\r\n\u202e\x9b"
    shown = "\\x1b[2J\\r\\n\\u202e\\u009b"
    text = plain([found(hostile, Span(hostile), hint=hostile, related=((Span(hostile), hostile),))])
    assert text.splitlines() == [
        f"error[MW104]: {shown}",
        f" --> {shown}:1:1",
        f"  = help: {shown}",
        f"  = note: {shown} --> {shown}:1:1",
        "",
        "1 error in 1 file",
    ]


def test_endless_messages_and_related_places_are_cut_and_counted() -> None:
    text = plain([found("x" * 10_000, related=((Span("b.yaml"), "here"),) * 9)])
    assert "x" * 2000 + "… (8,000 more characters)" in text
    assert text.count("note: here") == 5
    assert "= note: and 4 more places\n" in text


@pytest.mark.parametrize(
    ("source", "span", "line", "carets"),
    [
        pytest.param(
            "key: " + "x" * 90, at(1, 1, 4), "key: xxxxxxxxxxxxxxxxxxxxxxxxxx…", "^^^", id="right only"
        ),
        pytest.param(
            "x" * 90 + "wrong", at(1, 91, 96), "…xxxxxxxxxxxxxwrong", "              ^^^^^", id="left only"
        ),
        pytest.param(
            "x" * 90 + "wrong" + "y" * 90,
            at(1, 91, 96),
            "…xxxxxxxxxxxxxwrongyyyyyyyyyyyy…",
            "              ^^^^^",
            id="both",
        ),
        pytest.param(
            "a: " + "w" * 90,
            at(1, 4, 94),
            "a: wwwwwwwwwwwwwwwwwwwwwwwwwwww…",
            "   ^^^^^^^^^^^^^^^^^^^^^^^^^^^^",
            id="span too long",
        ),
    ],
)
def test_long_lines_are_cut_around_the_span(source: str, span: Span, line: str, carets: str) -> None:
    assert snippet(source.encode(), span, width=36) == ["  |", f"1 | {line}", f"  | {carets}"]


def test_a_line_of_exactly_the_width_is_whole() -> None:
    assert snippet(b"a: " + b"x" * 29, at(1, 1, 2), width=36)[1] == "1 | a: " + "x" * 29
    assert snippet(b"a: " + b"x" * 30, at(1, 1, 2), width=36)[1].endswith("x…")


def test_a_megabyte_in_one_line_costs_no_more_than_its_reading() -> None:
    started = time.process_time()
    assert snippet("検".encode() * 4_000_000, at(1, 3_000_000, 3_900_000))[2].count("^") > 20
    assert time.process_time() - started < 10  # quadratic work shows, a busy machine does not


@settings(max_examples=200)
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=120),
    st.data(),
    st.integers(0, 90),
)
def test_carets_stand_under_the_span(line: str, data: st.DataObject, width: int) -> None:
    """Measured in cells, the text above the carets is the span's; the line fits the width."""
    start = data.draw(st.integers(0, len(line) - 1))
    end = data.draw(st.integers(start + 1, len(line)))
    if line.startswith("\ufeff"):
        return  # a byte order mark is no column
    shown, carets = snippet(line.encode(), at(1, start + 1, end + 1), width)[1:]
    shown, carets = shown[4:], carets[4:]
    room = max(20, width - 4)
    assert cells(shown) <= room
    assert len(carets) <= room + 1
    drawn = "".join(_drawn(char) for char in line)
    if cells(drawn) < room and not any(unicodedata.category(c) in ("Mn", "Me") for c in drawn):
        before = "".join(_drawn(char) for char in line[:start])
        under = "".join(_drawn(char) for char in line[start:end])
        assert shown == drawn.rstrip(" ")
        assert carets == " " * _jamo_cells(before) + "^" * max(1, _jamo_cells(under))


def _drawn(char: str) -> str:
    """What stands for a character, said once more as simply as can be."""
    if char == "\t":
        return "    "
    if char.isprintable():
        return char
    return repr(char)[1:-1] if ord(char) < 0x80 or ord(char) > 0xFF else f"\\u{ord(char):04x}"


def _jamo_cells(text: str) -> int:
    return cells("".join(c for c in text if not "\u1160" <= c <= "\u11ff"))


@settings(max_examples=200)
@given(st.lists(helpers.diagnostics, max_size=5), helpers.sources, st.integers(-5, 200))
def test_never_raises_and_never_lets_a_control_through(
    diagnostics: list[Diagnostic], sources: dict[str, bytes], width: int
) -> None:
    text = plain(diagnostics, sources, width)
    assert {c for c in text if not c.isprintable()} <= {"\n"}
    text.encode()  # raises if a lone surrogate is left
    coloured = render_text(diagnostics, sources, colour=True, width=width)
    assert {c for c in coloured if not c.isprintable()} <= {"\n", "\x1b"}


def test_many_are_grouped_and_counted() -> None:
    diagnostics = [
        *[found(f"w{i}", code="MW401", severity=Severity.WARNING) for i in range(40)],
        *[found(f"u{i}", Span(f"specs/{i % 12}.yaml")) for i in range(1998)],
        *[found(f"m{i}", code="MW006") for i in range(5)],
    ]
    lines = plain(diagnostics).splitlines()
    heads = [line for line in lines if line.startswith(("error", "warning", "…"))]
    assert heads == [
        *[f"error[MW006]: m{i}" for i in range(5)],
        *[f"error[MW104]: u{i}" for i in range(3)],
        "… and 1,995 more MW104 (unknown field) in 12 files",
        *[f"warning[MW401]: w{i}" for i in range(3)],
        "… and 37 more MW401 (a canary or blue-green rollout becomes a plain one) in 1 file",
    ]
    assert lines[-3:] == [
        "11 of 2,043 are shown here; --format json lists all.",
        "",
        "2,003 errors, 40 warnings in 13 files",
    ]


def test_fifty_are_all_shown() -> None:
    text = plain(many(50))
    assert text.count(" --> ") == 50
    assert "more" not in text


@pytest.mark.parametrize("colour", [False, True])
def test_speed(colour: bool) -> None:
    diagnostics = many(100_000)
    sources = {f"specs/{i}.yaml": b"  abcdef: 1\n" * 300 for i in range(977)}
    started = time.process_time()
    text = render_text(diagnostics, sources, colour=colour, width=100)
    assert time.process_time() - started < 20  # quadratic work shows, a busy machine does not
    assert "50,000 errors, 25,000 warnings, 25,000 notes in 977 files" in text


def test_importing_it_is_cheap() -> None:
    program = "import sys, modelway.report.text; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"rich", "json", "hashlib", "typing", "difflib", "urllib.parse", "yaml", "click"}
    assert not heavy & set(loaded.stdout.split())
