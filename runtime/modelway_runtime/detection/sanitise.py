"""Untrusted text into Markdown: what comes from a spec, a label or a pull request ends as text.

``text`` is for prose and cells of tables, ``code`` for a name within a line, ``fence`` for a block; ``plain``
is for a line of a log, ``name`` for a form that escapes markup itself.
"""

from __future__ import annotations

import re
import string
import unicodedata

_JOINER = "\u2060"
"""Word joiner: has no width; behind ``@`` or ``#`` it keeps GitHub from making a mention or a reference."""
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "@": "@" + _JOINER, "#": "\\#" + _JOINER}
_ESCAPES = str.maketrans({mark: _ENTITIES.get(mark, "\\" + mark) for mark in string.punctuation})
_RUN = re.compile("`+")
_PLAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:/ -]*[A-Za-z0-9])?")
_MARKUP = re.compile(r"[^A-Za-z0-9 -]")
LONGEST_NAME = 253


def plain(value: str, longest: int = 200) -> str:
    """One line without control, format and bidirectional characters; cut to ``longest`` characters."""
    line = "".join(_visible(character) for character in value)
    return line if len(line) <= longest else line[: longest - 1] + "…"


def text(value: str, longest: int = 200) -> str:
    """Prose that shows the value as it is, in a paragraph, a heading or a cell of a table."""
    return plain(value, longest).translate(_ESCAPES)


def visible(value: str, keep: str = "") -> str:
    """Every character that does not print, but those in ``keep``, as an escape.

    A control character could move a cursor, a bidi control reorder what stands there.
    """
    return "".join(char if char.isprintable() or char in keep else _escape(char) for char in value)


def _escape(char: str) -> str:
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def name(value: str, longest: int = LONGEST_NAME) -> str:
    """A name that prints, cut after ``longest`` characters."""
    shown = visible(value)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def ascii_name(value: str, longest: int) -> str:
    """A name in ASCII, everything else as an escape: one column a character, and a glyph in every font."""
    return name(value.encode("ascii", "backslashreplace").decode("ascii"), longest)


def code(value: str, longest: int = LONGEST_NAME) -> str:
    """A name as code in a line or a table cell of Markdown."""
    return f"`{value}`" if len(value) <= longest and _PLAIN.fullmatch(value) else html_code(value, longest)


def html_code(value: str, longest: int = LONGEST_NAME) -> str:
    """A name as code where Markdown may or may not be read (within ``<summary>``).

    As character references nothing in it is markup, a cell's end, a mention, a link or an emoji.
    """
    return f"<code>{_MARKUP.sub(lambda found: f'&#{ord(found[0])};', name(value, longest))}</code>"


def fence(value: str, language: str = "") -> str:
    """Text as a fenced block of Markdown that nothing within can end.

    A comment's beginning is written with an escape that PromQL and JSON read as the same value: no reader
    of hidden markers finds one here.
    """
    shown = visible(value.strip("\n"), keep="\n").replace("<!--", "<!\\u002d-")
    longest = max((len(run) for run in _RUN.findall(shown)), default=0)
    mark = "`" * max(3, longest + 1)
    return f"{mark}{language}\n{shown}\n{mark}"


def _visible(character: str) -> str:
    if character in "\n\r\t":
        return " "
    return "\ufffd" if unicodedata.category(character) in _UNSEEN else character
