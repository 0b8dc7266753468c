"""What the tests of the reports share: diagnostics at will, and any diagnostics at all."""

from __future__ import annotations

import unicodedata

from hypothesis import strategies as st

from modelway.diagnostics import Diagnostic, Severity, Span

PATH = "specs/search/ranker.yaml"


def found(
    message: str = "wrong",
    span: Span | None = None,
    *,
    code: str = "MW104",
    severity: Severity = Severity.ERROR,
    hint: str = "",
    related: tuple[tuple[Span, str], ...] = (),
) -> Diagnostic:
    """A diagnostic, by default an error at the start of PATH."""
    return Diagnostic(code, severity, message, span or Span(PATH), hint, related)


def at(line: int, column: int, end_column: int, *, path: str = PATH) -> Span:
    """A span within one line."""
    return Span(path, line, column, line, end_column)


def many(number: int) -> list[Diagnostic]:
    """A large repository's findings: four codes, 977 files, each with a hint."""
    kinds = [
        ("MW104", Severity.ERROR),
        ("MW105", Severity.ERROR),
        ("MW401", Severity.WARNING),
        ("MW018", Severity.NOTE),
    ]
    return [
        found(
            f'unknown field "f{i}"',
            at(i % 300 + 1, 3, 9, path=f"specs/{i % 977}.yaml"),
            code=kinds[i % 4][0],
            severity=kinds[i % 4][1],
            hint="did you mean this?",
        )
        for i in range(number)
    ]


def cells(text: str) -> int:
    """Cells of a terminal, told by another rule than the renderer's: what does not combine counts."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


# Every code point, lone surrogates included, and what terminals and runners act on more often.
_HOSTILE = [
    "\x1b[31m",
    "\x1b]8;;http://x\x07",
    "\r",
    "\n",
    "\r\n",
    "\t",
    "\x00",
    "\x7f",
    "\x85",
    "\x9b",
    "\u2028",
    "\u202e",
    "\u2066",
    "\u200b",
    "\ufeff",
    "\ufe0f",
    "\udc80",
    "\ud800",
    "::",
    "##[",
    "::set-output name=a::b",
    "::stop-commands::x",
    "##[add-mask]x",
    "#\ufe0f#[group]",
    "%0A",
    "%25",
    "%3A",
    ",",
    ":",
    "=",
    "](",
    "\\",
    "検",
    "e\u0301",
    "🚀",
]
texts = st.lists(st.one_of(st.sampled_from(_HOSTILE), st.text(st.characters(), max_size=8)), max_size=6).map(
    "".join
)
_numbers = st.one_of(st.integers(-2, 12), st.integers())
_paths = st.one_of(st.sampled_from(["a.yaml", "b.yaml", ""]), texts)
spans = st.builds(Span, _paths, _numbers, _numbers, _numbers, _numbers)
diagnostics = st.builds(
    Diagnostic,
    st.one_of(st.sampled_from(["MW104", "MW018", "MW999"]), texts),
    st.sampled_from(Severity),
    texts,
    spans,
    texts,
    st.lists(st.tuples(spans, texts), max_size=3).map(tuple),
)
sources = st.dictionaries(
    _paths,
    st.one_of(st.binary(max_size=60), texts.map(lambda text: text.encode("utf-8", "surrogatepass"))),
    max_size=3,
)
