"""What libyaml reads, and some other reader of YAML reads otherwise or not at all.

Found by reading random texts with libyaml and with ruamel.yaml as YAML 1.2; the property tests go on
looking for more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

from modelway.characters import lines, place_of
from modelway.diagnostics import Diagnostic, Span, diagnostic

_MOST = 100  # of one kind in one document
_HEADER = re.compile(r"[|>][-+0-9]*(?: +#[^\r\n]*| *)(?=[\r\n]|\Z)")
_COMMENT = re.compile(r"(?:\A|(?<=[ \t\r\n]))#[^\r\n]*")


def strange_lines(path: str, text: str, line: int) -> list[Diagnostic]:
    """Refused before libyaml sees them: %TAG (libyaml compares each with all others) and idle ``...``."""
    if "%TAG" not in text and "..." not in text:
        return []
    found = []
    ended = True  # nothing but blank lines and comments since the start or the last "..."
    for number, row in enumerate(lines(text), line + 1):
        span = Span(path, number, 1, number, len(row) + 1)
        if row.startswith("%TAG"):
            found.append(diagnostic("MW010", span, "%TAG is not allowed", "remove the line, and all tags"))
        elif row.startswith("...") and row[3:4] in ("", " ", "\t"):
            if ended:
                found.append(diagnostic("MW006", span, "a '...' that ends nothing", "remove the line"))
            ended = True
        elif row.strip() and not row.lstrip().startswith("#"):
            ended = False
        if len(found) >= _MOST:
            break
    return found


def loose_tabs(path: str, text: str, quoted: Iterable[tuple[int, int]], line: int) -> list[Diagnostic]:
    """Tabs outside comments and outside ``quoted``: from a quote, '|' or '>' to the end of the scalar."""
    rest, at = [], 0
    for start, end in quoted:
        rest += [text[at:start], "x" * (end - start - 1), "\n"]  # behind a block scalar a line begins
        at = end
    bare = _COMMENT.sub(lambda comment: "x" * len(comment[0]), "".join([*rest, text[at:]]))
    return [_tab(path, text, offset, line) for offset in islice(_offsets("\t", bare), _MOST)]


def _offsets(char: str, text: str) -> Iterator[int]:
    at = text.find(char)
    while at >= 0:
        yield at
        at = text.find(char, at + 1)


def _tab(path: str, text: str, offset: int, line: int) -> Diagnostic:
    row, column = place_of(text, offset)
    span = Span(path, line + row + 1, column + 1, line + row + 1, column + 2)
    return diagnostic("MW006", span, "a tab outside quotes, which not all readers take for a space", TABS)


TABS = "write spaces; most editors can convert tabs"


def header_is_loose(text: str, offset: int) -> bool:
    """Whether the line of the '|' or '>' at ``offset`` ends in more than a comment behind a space."""
    return _HEADER.match(text, offset) is None
