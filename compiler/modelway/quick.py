"""The plain block style that most specs are written in, read several times faster than by libyaml.

One regular expression takes the lines apart. What is not certain (block scalars, anchors, tags,
escapes, text over several lines, anything wrong) makes ``read`` give up, and ``events`` reads the
document instead: it alone words diagnostics and knows places. Property tests hold the two to the
same values.
"""

from __future__ import annotations

import re
from typing import Any

from modelway.scalars import WORDS, Problem, resolve

MAX_BYTES = 1 << 18  # of one document: all its lines are held at once, and no spec is as long
_MAX_BLOCKS, _MAX_BRACKETS = 60, 30  # together less than the depth that ``events`` allows

# What may stand in a comment or in quotes; what ``characters`` forbids is left to it.
_ANY = r"\0-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff"
_QUOTED = rf"""(?:"[^"\\{_ANY}]*+"|'[^'{_ANY}]*+')"""
_KEY = r"[A-Za-z_][A-Za-z0-9_./-]{0,200}+"
# Words with one space or one ':' between them: neither ': ' nor ' #' can arise.
_WORD = r"""[!"$-9;-~]"""
_PLAIN = rf"(?:[A-Za-z0-9_./~=<+(]|-(?=[A-Za-z0-9_.])){_WORD}*+(?:[ :]{_WORD}++)*+"
_BRACKETS = rf"[\[{{](?:[A-Za-z0-9_./~+=@:, \[\]{{}}-]|{_QUOTED})*(?<=[\]}}])"
_LINE = re.compile(
    rf"^(?:( *+)(- )?+"  # indentation, list entry
    rf"(?:({_KEY}):(?= |$) *+)?+"
    rf"({_PLAIN}|{_QUOTED}|{_BRACKETS})?+"
    rf" *+(?:(?<![^ \n])#[^{_ANY}]*+)?+$"  # comment
    rf"|(.+)$)",  # anything else
    re.MULTILINE,
)
_TOKEN = re.compile(
    rf" *+(?:([\[{{])|([\]}}])|(,)|({_KEY}): ++"
    rf"|({_QUOTED}|(?:[A-Za-z0-9_./~+]|-(?=[A-Za-z0-9_.]))[A-Za-z0-9_./~+=@-]*+(?!:))|(.))"
)


class _Unsure(Exception):
    """libyaml shall read this."""


def read(data: bytes) -> list[Any] | None:
    """The documents (none or one) in valid UTF-8 that holds at most one; None when it is not certain."""
    if len(data) > MAX_BYTES:
        return None
    try:
        return _blocks(data.removeprefix(b"---\n").replace(b"\r\n", b"\n").decode())
    except _Unsure:
        return None


def _blocks(text: str) -> list[Any]:
    root: dict[str, Any] = {}
    top: Any = root  # the innermost open collection
    at = 0  # its indentation
    above: list[tuple[Any, int]] = []  # the collections around it
    waiting: str | None = None  # a key of ``top`` with nothing behind it: what follows decides
    for indentation, dash, key, value, other in _LINE.findall(text):
        if not (key or dash):
            if value or other:
                raise _Unsure
            continue
        column = len(indentation)
        if waiting is not None:
            if column > at or (dash and column == at):
                above.append((top, at))
                top[waiting] = top = [] if dash else {}
                at = column
            else:
                top[waiting] = None
            waiting = None
        while column < at or (column == at and not dash and top.__class__ is list):
            if not above:
                raise _Unsure
            top, at = above.pop()
        if column != at or (top.__class__ is list) is not bool(dash) or len(above) > _MAX_BLOCKS:
            raise _Unsure
        if dash and key:
            above.append((top, at))
            inner: dict[str, Any] = {}
            top.append(inner)
            top, at = inner, column + 2
        if key:
            if key in top or key in WORDS:
                raise _Unsure
            if value:
                top[key] = _value(value)
            else:
                waiting = key
        elif value:
            top.append(_value(value))
        else:
            raise _Unsure
    if waiting is not None:
        top[waiting] = None
    return [root] if root else []


def _value(text: str) -> Any:
    first = text[0]
    if first in "\"'":
        return text[1:-1]
    if first in "[{":
        return _brackets(text)
    if first in "-+.0123456789" or text in WORDS:
        value = resolve(text)
        if value.__class__ is Problem:
            raise _Unsure
        return value
    return text


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
        elif name and due and key is None and top.__class__ is dict and name not in top and name not in WORDS:
            key = name
        elif comma and not due:
            due = True
        elif (
            closing and around and (closing == "]") is (top.__class__ is list) and not (due and (top or key))
        ):
            top, due = around.pop(), False
        else:
            raise _Unsure
        if len(around) > _MAX_BRACKETS:
            raise _Unsure
    if top is not outside or len(outside) != 1:
        raise _Unsure
    return outside[0]
