"""What the formats share: text that is safe to show, the worst first, counts, lines of sources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from modelway.diagnostics import CODES, Diagnostic, Severity, Span

# A value that a message quotes may be a megabyte; what is cut is counted.
LONGEST_TEXT = 2000

_NAMED_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def visible(text: str, keep: str = "") -> str:
    """``text`` with every character that does not print (but those in ``keep``) as an escape.

    Specs are written by others: a control character could move the cursor, an ANSI escape recolour
    or hide what stands there, a bidi control reorder it, a zero-width space make two names look the
    same. "Prints" is what ``str.isprintable`` says, so no-break spaces show too.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else escape(c) for c in text)


def escape(char: str) -> str:
    """One character as a visible escape; a byte that was not UTF-8 (PEP 383) as ``\\xNN``."""
    code = ord(char)
    if named := _NAMED_ESCAPES.get(char):
        return named
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def encodable(text: str) -> str:
    """``text`` with lone surrogates (file names that are not UTF-8) as escapes: JSON cannot hold them."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def shorten(text: str) -> str:
    """``text``, cut where it is absurdly long, saying by how much."""
    if len(text) <= LONGEST_TEXT:
        return text
    return f"{text[:LONGEST_TEXT]}… ({len(text) - LONGEST_TEXT:,} more characters)"


def title(code: str) -> str:
    """What the table of codes calls ``code``, or the code itself where it stands in no table."""
    return CODES[code].title if code in CODES else code


def worst_first(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Errors, warnings, notes; within each the order given, which is by place."""
    return sorted(diagnostics, key=lambda d: -d.severity)


def counted(number: int, noun: str) -> str:
    """``1 error``, ``1,995 errors``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def counts(diagnostics: Iterable[Diagnostic]) -> dict[Severity, int]:
    """How many there are of each severity, the worst first, zeros included."""
    found = dict.fromkeys(sorted(Severity, reverse=True), 0)
    for diagnostic in diagnostics:
        found[diagnostic.severity] += 1 + diagnostic.more
    return found


def extent(span: Span) -> tuple[int, int, int, int]:
    """Line, column, end line, end column, each at least 1 and the end never before the start."""
    # Comparisons, not max(): this runs several times for each of what may be 100,000.
    line = max(1, span.line)
    column = max(1, span.column)
    end_column = max(1, span.end_column)
    if span.end_line > line:
        return line, column, span.end_line, end_column
    return line, column, line, max(column, end_column)


class SourceLines:
    """Lines of sources by path and number. Files are decoded when first asked for, and only then."""

    def __init__(self, sources: Mapping[str, bytes]) -> None:
        self._sources = sources
        self._lines: dict[str, Sequence[str]] = {}

    def get(self, path: str, number: int) -> str | None:
        """The line without its end; None beyond the file or where there is no (or an empty) file."""
        lines = self._lines.get(path)
        if lines is None:
            lines = self._lines[path] = _split(self._sources.get(path, b""))
        return lines[number - 1] if 1 <= number <= len(lines) else None


def _split(data: bytes) -> Sequence[str]:
    if not data:
        return ()
    # A byte that is not UTF-8 stays one code point, so columns hold; a byte order mark is no column.
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    # Not splitlines(): editors and GitHub know neither U+2028 nor form feed as the end of a line.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
