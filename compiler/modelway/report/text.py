"""Diagnostics for people: source lines with carets, grouped and counted when there are many."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from modelway.diagnostics import Diagnostic, Severity
from modelway.report.common import (
    SourceLines,
    counted,
    counts,
    escape,
    extent,
    shorten,
    title,
    visible,
    worst_first,
)

# Up to so many diagnostics all are shown. Beyond it a code with more than _WHOLE of them shows its
# first _SAMPLE and the number of the others.
_ALL_SHOWN = 50
_WHOLE = 5
_SAMPLE = 3
# A cycle may name thousands of places.
_RELATED_SHOWN = 5
# A source line gets this many cells even where the terminal says that it has fewer.
_LEAST_ROOM = 20
_TAB = " " * 4

_SGR = {
    Severity.ERROR: "1;31",
    Severity.WARNING: "1;33",
    Severity.NOTE: "1;36",
    "gutter": "1;34",
    "strong": "1",
}


def render_text(
    diagnostics: Sequence[Diagnostic], sources: Mapping[str, bytes], *, colour: bool, width: int
) -> str:
    """The worst first, each with its source line, then a summary line; empty if there are none.

    ``width`` is the terminal's: source lines are cut around the span to it, messages are not cut.
    Whatever ``sources`` and messages hold, control characters come out as visible escapes; the only
    ANSI codes are ours, and only with ``colour``.
    """
    if not diagnostics:
        return ""
    page = _Page(sources, colour=colour, width=width)
    shown = 0
    parts: list[str] = []
    for part in _select(worst_first(diagnostics)):
        if isinstance(part, Diagnostic):
            shown += 1
            parts.append(page.block(part))
        else:
            parts.append(page.paint("strong", part) + "\n")
    if shown < len(diagnostics):
        total = sum(counts(diagnostics).values())
        listed = "all" if total == len(diagnostics) else f"{len(diagnostics):,}"
        parts.append(f"{shown:,} of {total:,} are shown here; --format json lists {listed}.\n")
    return "\n".join(parts) + "\n" + page.paint("strong", _summary(diagnostics)) + "\n"


def _select(diagnostics: Sequence[Diagnostic]) -> Iterator[Diagnostic | str]:
    """What to show in full; after those of a code that is cut short, a line that counts the rest."""
    if len(diagnostics) <= _ALL_SHOWN:
        yield from diagnostics
        return
    groups: dict[tuple[int, str], list[Diagnostic]] = {}
    for diagnostic in diagnostics:
        groups.setdefault((-diagnostic.severity, diagnostic.code), []).append(diagnostic)
    # By code within a severity: a file that cannot be read (MW0xx) causes what comes later.
    for (_, code), group in sorted(groups.items()):
        if len(group) <= _WHOLE:
            yield from group
            continue
        yield from group[:_SAMPLE]
        rest = group[_SAMPLE:]
        name, where = title(code), counted(len({d.span.path for d in rest}), "file")
        left = sum(counts(rest).values())
        what = code if name == code else f"{code} ({name[:1].lower()}{name[1:]})"
        yield visible(f"… and {left:,} more {what} in {where}")


def _summary(diagnostics: Sequence[Diagnostic]) -> str:
    """``2 errors, 1 warning in 2 files``."""
    found = ", ".join(counted(n, severity.word) for severity, n in counts(diagnostics).items() if n)
    return f"{found} in {counted(len({d.span.path for d in diagnostics}), 'file')}"


class _Page:
    """How one diagnostic is drawn: the sources, the colours and the width are the page's."""

    def __init__(self, sources: Mapping[str, bytes], *, colour: bool, width: int) -> None:
        self._lines = SourceLines(sources)
        self._colour = colour
        self._width = width

    def paint(self, style: Severity | str, text: str) -> str:
        return f"\x1b[{_SGR[style]}m{text}\x1b[0m" if self._colour else text

    def block(self, diagnostic: Diagnostic) -> str:
        """The lines of one diagnostic, in the form of rustc."""
        severity, span = diagnostic.severity, diagnostic.span
        head = self.paint(severity, f"{severity.word}[{visible(diagnostic.code)}]")
        lines = [head + self.paint("strong", ": " + visible(shorten(diagnostic.message)))]
        line, column, _, _ = extent(span)
        gutter = " " * len(str(line))
        if span.path:
            lines.append(f"{gutter}{self.paint('gutter', '-->')} {visible(span.path)}:{line}:{column}")
        lines += self._snippet(diagnostic, gutter)
        for label, text in _remarks(diagnostic):
            lines.append(f"{gutter} {self.paint('gutter', '=')} {self.paint('strong', label)}: {text}")
        return "\n".join(lines) + "\n"

    def _snippet(self, diagnostic: Diagnostic, gutter: str) -> list[str]:
        """The first line of the span with carets below; nothing where the source has no such line."""
        line, column, end_line, end_column = extent(diagnostic.span)
        text = self._lines.get(diagnostic.span.path, line)
        if text is None:
            return []
        end = end_column - 1 if end_line == line else len(text.rstrip())
        room = max(_LEAST_ROOM, self._width - len(gutter) - len(" | "))
        shown, offset, length = _excerpt(text, column - 1, end, room)
        bar = self.paint("gutter", "|")
        carets = self.paint(diagnostic.severity, "^" * length)
        number = self.paint("gutter", str(line))
        return [
            f"{gutter} {bar}",
            f"{number} {bar} {shown}".rstrip(" "),
            f"{gutter} {bar} {' ' * offset}{carets}",
        ]


def _remarks(diagnostic: Diagnostic) -> Iterator[tuple[str, str]]:
    """What stands below the source line: the hint, and the places that have to do with it."""
    if diagnostic.hint:
        yield "help", visible(shorten(diagnostic.hint))
    for span, text in diagnostic.related[:_RELATED_SHOWN]:
        line, column, _, _ = extent(span)
        yield "note", f"{visible(shorten(text or 'see'))} --> {visible(span.path)}:{line}:{column}"
    if len(diagnostic.related) > _RELATED_SHOWN:
        yield "note", f"and {counted(len(diagnostic.related) - _RELATED_SHOWN, 'more place')}"


def _excerpt(line: str, start: int, end: int, room: int) -> tuple[str, int, int]:
    """The part of ``line`` around [start, end) that fits in ``room`` cells, and where the carets go.

    Returns the text, the cells before the carets, and the number of carets (at least one). Where
    something is cut, an ellipsis stands for it. Places beyond the line count as its end.
    """
    start = min(start, len(line))
    end = min(max(end, start), len(line))
    # A line may be megabytes: what is further from the start than the room cannot be shown anyway.
    first, last = max(0, start - room), min(len(line), start + room)
    pieces = [_piece(char) for char in line[first:last]]
    cells = [_cells(piece) for piece in pieces]
    before, inside = sum(cells[: start - first]), max(1, sum(cells[start - first : end - first]))

    skipped = 0
    if first > 0 or before + inside >= room:
        # The span does not fit behind all that precedes it: keep a part of that, the nearest.
        kept = max((room - inside) // 2, room // 4)
        while skipped < start - first and before > kept:
            before -= cells[skipped]
            skipped += 1
    text = ["…"] if first + skipped > 0 else []
    offset = before + len(text)
    used = len(text)
    for index in range(skipped, len(pieces)):
        ellipsis = 1 if first + index + 1 < len(line) else 0
        if used + cells[index] + ellipsis > room:
            text.append("…")
            break
        text.append(pieces[index])
        used += cells[index]
    else:
        if last < len(line):
            text.append("…")
    return "".join(text), offset, max(1, min(inside, used - offset))


def _piece(char: str) -> str:
    """What stands for a character of a source line; a tab has one width wherever the line is cut."""
    if char.isprintable():
        return char
    return _TAB if char == "\t" else escape(char)


def _cells(piece: str) -> int:
    """How many cells of a terminal a piece takes; what is more than one character is ASCII."""
    if piece.isascii():
        return len(piece)
    if unicodedata.category(piece) in ("Mn", "Me") or "\u1160" <= piece <= "\u11ff":
        return 0  # combining marks, and the vowels and finals of a decomposed Hangul syllable
    return 2 if unicodedata.east_asian_width(piece) in ("W", "F") else 1
