"""The text of a specs file before it is YAML: encoding, forbidden characters, lines and columns.

Lines end as in an editor, at \\n, \\r\\n or \\r; columns count code points, and a byte order mark at
the start is none. What some reader of YAML takes for another line break (U+0085, U+2028, U+2029) is
forbidden, so that all readers count alike.
"""

from __future__ import annotations

import codecs
import re

from modelway.diagnostics import Diagnostic, Span, diagnostic

_BREAK = re.compile(r"\r\n|\r|\n")
_FORBIDDEN = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_NAMES = {
    "\0": " (NUL)",
    "\x85": " (a line break to some readers of YAML only)",
    "\u2028": " (a line break to some readers of YAML only)",
    "\u2029": " (a line break to some readers of YAML only)",
    "\ufeff": " (a byte order mark)",
}
_WIDE = "save it as UTF-8"


def lines(text: str) -> list[str]:
    """The lines without their ends; as many as an editor shows, the last perhaps empty."""
    return _BREAK.split(text)


def count_breaks(data: bytes) -> int:
    """Line breaks in UTF-8."""
    return data.count(b"\n") + (data.count(b"\r") - data.count(b"\r\n") if b"\r" in data else 0)


def text_of(data: bytes) -> str:
    """Valid UTF-8 as text, without a byte order mark at its start."""
    return data.decode().removeprefix("\ufeff")


def place_of(text: str, offset: int) -> tuple[int, int]:
    """0-based line and column of a character."""
    before = text[:offset]
    row = before.count("\n") + before.count("\r") - before.count("\r\n")
    return row, offset - 1 - max(before.rfind("\n"), before.rfind("\r"))


def undecodable(path: str, data: bytes) -> Diagnostic | None:
    """Why the bytes are not UTF-8 text, at the first that is not."""
    wide = _wide(data)
    if wide:
        return diagnostic("MW004", Span(path), f"the file is {wide}, not UTF-8", _WIDE)
    if data.isascii():
        return None
    try:
        data.decode()
    except UnicodeDecodeError as error:
        before = text_of(data[: error.start])
        line, column = place_of(before, len(before))
        span = Span(path, line + 1, column + 1, line + 1, column + 2)
        bad = data[error.start : error.start + 3]
        if bad[0] == 0xED and len(bad) == 3 and 0xA0 <= bad[1] <= 0xBF:  # UTF-8 as Java and CESU write it
            code = (bad[1] & 0x1F) << 6 | bad[2] & 0x3F | 0xD800
            message = f"U+{code:04X} is half of a surrogate pair, not a character"
            return diagnostic("MW005", span, message, _WIDE)
        return diagnostic("MW004", span, f"the byte 0x{bad[0]:02X} is not UTF-8", _WIDE)
    return None


def _wide(data: bytes) -> str:
    """The name of the wide encoding that the bytes are in, "" if in none."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    head = data[: min(len(data), 64) // 4 * 4]
    if b"\0" not in head:
        return ""
    # Text begins with ASCII in every spec, so that the other bytes of each unit are zero.
    filled = [any(head[at::4]) for at in range(4)]
    if sum(filled) == 1 and (filled[0] or filled[3]):
        return "UTF-32" if all(head[0 if filled[0] else 3 :: 4]) else ""
    for at in (0, 1):
        if all(head[at::2]) and not any(head[1 - at :: 2]):
            return "UTF-16"
    return ""


def forbidden(path: str, text: str, line: int = 0) -> list[Diagnostic]:
    """Each character that YAML does not allow, at its first place in ``text``, after ``line`` lines."""
    if not _FORBIDDEN.search(text):
        return []
    found = []
    for char in filter(_FORBIDDEN.match, set(text)):
        row, column = place_of(text, text.index(char))
        span = Span(path, line + row + 1, column + 1, line + row + 1, column + 2)
        more = text.count(char) - 1
        again = "" if not more else ", here and once more" if more == 1 else f", here and {more} times more"
        message = f"the character U+{ord(char):04X}{_NAMES.get(char, '')} is not allowed{again}"
        hint = "delete it, or write it as an escape within double quotes"
        found.append(diagnostic("MW005", span, message, hint))
    return found


def last_place(data: bytes) -> tuple[int, int]:
    """0-based line and column after the last character of valid UTF-8."""
    text = text_of(data[max(data.rfind(b"\n"), data.rfind(b"\r")) + 1 :])
    return count_breaks(data), len(text)


def span_of(
    path: str, start: tuple[int, int], end: tuple[int, int], line: int, last: tuple[int, int]
) -> Span:
    """0-based places in a part of a file that ``line`` lines stand before and that ends at ``last``.

    libyaml ends a last line that has no line break, and puts what is missing there on the next.
    """
    start, end = min(start, last), min(end, last)
    return Span(path, line + start[0] + 1, start[1] + 1, line + end[0] + 1, end[1] + 1)
