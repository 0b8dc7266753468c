"""Untrusted text into Markdown: what comes from a spec, a label or a pull request ends as text.

``text`` is for prose and cells of tables, ``code`` for a name within a line, ``fence`` for a block.
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


def plain(value: str, longest: int = 200) -> str:
    """One line without control, format and bidirectional characters; cut to ``longest`` characters."""
    line = "".join(_visible(character) for character in value)
    return line if len(line) <= longest else line[: longest - 1] + "…"


def text(value: str, longest: int = 200) -> str:
    """Prose that shows the value as it is, in a paragraph, a heading or a cell of a table."""
    return plain(value, longest).translate(_ESCAPES)


def code(value: str, longest: int = 200) -> str:
    """A code span of the value; a pipe is escaped, as cells of tables want it."""
    inner = plain(value, longest).replace("|", "\\|")
    ticks = "`" * (_longest_run(inner) + 1)
    edge = " " if inner.startswith(("`", " ")) or inner.endswith(("`", " ")) or not inner else ""
    return f"{ticks}{edge}{inner}{edge}{ticks}"


def fence(value: str, info: str = "") -> str:
    """A block of the value, behind a fence that is longer than its longest run of backticks."""
    lines = "\n".join(plain(line.replace("\t", "    "), 2000) for line in value.split("\n"))
    ticks = "`" * max(3, _longest_run(lines) + 1)
    return f"{ticks}{info}\n{lines}\n{ticks}"


def _longest_run(value: str) -> int:
    return max((len(run) for run in _RUN.findall(value)), default=0)


def _visible(character: str) -> str:
    if character in "\n\r\t":
        return " "
    return "\ufffd" if unicodedata.category(character) in _UNSEEN else character
