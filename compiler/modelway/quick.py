"""The plain block style that most specs are written in, read several times faster than by libyaml.

One regular expression takes the lines apart. What is not certain (block scalars, anchors, tags,
escapes, text over several lines, anything wrong) makes ``read`` give up, and ``events`` reads the
document instead: it alone words diagnostics and knows places. Property tests hold the two to the
same values.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from typing import Any

from modelway.scalars import WORDS, Problem, resolve

_AT_ONCE = 1 << 16  # characters whose lines are held at one time
_MAX_BLOCKS, _MAX_BRACKETS = 60, 30  # together less than the depth that ``events`` allows

# What may stand in a comment or in quotes; what ``characters`` forbids is left to it.
_ANY = r"\0-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff"
_QUOTED = rf"""(?:"[^"\\{_ANY}]*"|'[^'{_ANY}]*')"""
_MAX_KEY = 200  # libyaml wants the ':' within 1024 characters
_KEY = rf"[A-Za-z_][A-Za-z0-9_./-]{{,{_MAX_KEY}}}"
_MAX_WORDS = 1000  # of one value: each is remembered, to go back over it
# Words with one space or one ':' between them: neither ': ' nor ' #' can arise.
_WORD = r"""[!"$-9;-~]"""
_PLAIN = rf"(?:[A-Za-z0-9_./~=<+(]|-(?=[A-Za-z0-9_.])){_WORD}*(?:(?:[ :]{_WORD}+){{1,{_MAX_WORDS}}}|)"
# Bounded, for it remembers every step to go back over the spaces at the end.
_BRACKETS = rf"[\[{{](?:[A-Za-z0-9_./~+=@:, \[\]{{}}-]|{_QUOTED}){{,4000}}(?<=[\]}}])"
# No possessive quantifiers and no atomic groups: CPython 3.11.0 to 3.11.4, 3.12.0, 3.12.1 and 3.13.0 take
# all memory or match wrongly with them (python/cpython, issues 106052 and 101955). So no two neighbours may
# begin alike, else a line that does not match costs the square of its length: "(?! )" ends each run of
# spaces. "(x|)" is "(x)?", but faster.
_LINE = re.compile(
    rf"^(?:( *)(?! )(- |)"  # indentation, list entry
    rf"(?:({_KEY}):(?= |$) *(?! )|)"
    rf"({_PLAIN}|{_QUOTED}|{_BRACKETS}|)"
    rf" *(?:(?<![^ \n])#[^{_ANY}]*|)$"  # comment
    rf"|(.+)$)",  # anything else
    re.MULTILINE,
)
_FLOW_WORD = r"[A-Za-z0-9_./~+=@-]"
# What is no token is all the rest, at once: to look on behind it would cost the square of the length.
_TOKEN = re.compile(
    rf" *(?! )(?:([\[{{])|([\]}}])|(,)|({_KEY}|{_QUOTED}): +|({_QUOTED}"
    rf"|(?:[A-Za-z0-9_./~+]|-(?=[A-Za-z0-9_.])){_FLOW_WORD}*(?:[ :]{_FLOW_WORD}+)*(?!:| ?{_FLOW_WORD}))|(.+))"
)
_resolved = lru_cache(maxsize=1024)(resolve)  # the same few numbers stand everywhere
_QUOTES = "\"'"
_SPECIAL = frozenset("\"'[{-+.0123456789")  # with these begins what is not the text it reads as


class _Unsure(Exception):
    """libyaml shall read this."""


def read(data: bytes) -> list[Any] | None:
    """The documents (none or one) in valid UTF-8 that holds at most one; None when it is not certain."""
    data = data.removeprefix(codecs.BOM_UTF8)
    explicit = data.startswith(b"---")
    try:
        found = _blocks(data.removeprefix(b"---\n").replace(b"\r\n", b"\n").decode())
    except _Unsure:
        return None
    return found if found or not explicit else None  # an empty document has a place


def _blocks(text: str) -> list[Any]:
    root: dict[str, Any] = {}
    top: Any = root  # the innermost open collection
    at = 0  # its indentation
    above: list[tuple[Any, int]] = []  # the collections around it
    waiting: str | None = None  # a key of ``top`` with nothing behind it: the next line decides
    for indentation, dash, key, value, other in _lines(text):
        if dash or not key or waiting is not None or len(indentation) != at or top.__class__ is list:
            if not (key or dash):
                if value or other:
                    raise _Unsure
                continue
            column = len(indentation)
            if waiting is not None or column != at or not dash or top.__class__ is not list:
                top, at = _collection(top, at, above, waiting, column, bool(dash))
                waiting = None
            if dash and key:
                above.append((top, at))
                top.append({})
                top, at = top[-1], at + 2
        if (key and (key in top or key in WORDS)) or not (key or value):
            raise _Unsure
        if not value:
            waiting = key
            continue
        if value[0] in _SPECIAL or value in WORDS:
            value = _value(value)
        if key:
            top[key] = value
        else:
            top.append(value)
    if waiting is not None:
        top[waiting] = None
    return [root] if root else []


def _lines(text: str) -> Iterable[Any]:
    if len(text) <= _AT_ONCE:
        return _LINE.findall(text)
    return chain.from_iterable(_LINE.findall(text, start, end) for start, end in _slices(text))


def _slices(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(text):
        end = text.find("\n", start + _AT_ONCE)
        if end < 0:
            end = len(text)
        yield start, end
        start = end + 1


def _collection(
    top: Any, at: int, above: list[tuple[Any, int]], waiting: str | None, column: int, dash: bool
) -> tuple[Any, int]:
    """The collection that a line at ``column`` belongs to, and its indentation."""
    if waiting is not None:
        top[waiting] = None
        if column > at or (dash and column == at):
            above.append((top, at))
            top[waiting] = top = [] if dash else {}
            at = column
    while above and (column < at or (column == at and not dash and top.__class__ is list)):
        top, at = above.pop()
    if column != at or (top.__class__ is list) is not dash or len(above) > _MAX_BLOCKS:
        raise _Unsure
    return top, at


def _value(text: str) -> Any:
    first = text[0]
    if first in _QUOTES:
        return text[1:-1]
    if first in "[{":
        return _brackets(text)
    value = _resolved(text) if len(text) < 40 else resolve(text)
    if value.__class__ is Problem:
        raise _Unsure
    return value


def _brackets(text: str) -> Any:
    """A flow collection on one line."""
    outside: list[Any] = []
    top: Any = outside
    around: list[Any] = []
    key: str | None = None
    due = True  # a value comes next, else a comma or a closing bracket
    for opening, closing, comma, name, item, _other in _TOKEN.findall(text):
        if item or opening:
            value = _value(item) if item else [] if opening == "[" else {}
            if top.__class__ is list and due:
                top.append(value)
            elif key is not None:
                top[key] = value
            else:
                raise _Unsure
            key, due = None, bool(opening)
            if opening:
                around.append(top)
                top = value
        elif name and due and key is None and top.__class__ is dict:
            key = name[1:-1] if name[0] in _QUOTES else name
            if key in top or name in WORDS or len(name) > _MAX_KEY:
                raise _Unsure
        elif comma and not due:
            due = True
        elif (
            closing
            and around
            and (closing == "]") is (top.__class__ is list)
            and not (due and (top or key is not None))
        ):
            top, due = around.pop(), False
        else:
            raise _Unsure
        if len(around) > _MAX_BRACKETS:
            raise _Unsure
    if top is not outside or len(outside) != 1:
        raise _Unsure
    return outside[0]
