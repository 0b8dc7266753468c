"""Plain scalars of YAML: the text is read as a value only where YAML 1.1 and 1.2 read the same one.

Modelway, PyYAML, Go programs and editors read the same files, and they differ: ``no``, ``010``,
``1e3`` and ``12:30`` are strings to one and booleans or numbers to another. Whatever two of them
read differently is a ``Problem``. The patterns are the union of PyYAML's (1.1), ruamel.yaml's, the
core schema's of YAML 1.2 and go-yaml's.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

MAX_DIGITS = 18  # of an integer: more does not fit into 64 bits, and no reader of ours keeps it

Scalar = str | int | float | bool | None


class Problem(NamedTuple):
    """Why a plain scalar is refused: a code of ``diagnostics.CODES``, what is wrong, what to write."""

    code: str
    message: str
    hint: str


def shown(text: str, limit: int = 60) -> str:
    """Text in a message: on one line, at most ``limit`` characters, nothing that a terminal obeys."""
    cut = text if len(text) <= limit else text[: limit - 1]
    safe = cut if cut.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in cut)
    return safe if len(text) <= limit and len(safe) <= limit else f"{safe[: limit - 1]}…"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _word(text: str) -> Problem:
    meant = "true" if text.lower() in ("yes", "on") else "false"
    return Problem(
        "MW014",
        f"{text} is a boolean to some readers of YAML and text to others",
        f'write {meant}, or quote the text: "{text}"',
    )


def _cased(*words: str) -> list[str]:
    return [cased for word in words for cased in (word, word.capitalize(), word.upper())]


# Whole scalars that are not the string they look like.
WORDS: dict[str, Scalar | Problem] = {
    **dict.fromkeys(["", "~", *_cased("null")]),
    **dict.fromkeys(_cased("true"), True),
    **dict.fromkeys(_cased("false"), False),
    **{word: _word(word) for word in _cased("yes", "no", "on", "off")},
    **{
        word: Problem("MW014", f"some readers of YAML refuse a plain {word}", f'quote it: "{word}"')
        for word in ("=", "<<", "-")
    },
}

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
# 1.1 knows no sign before a leading point, wants a point before an exponent and a sign within it.
_FLOAT = re.compile(r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+][0-9]+)?|\.[0-9]+(?:[eE][-+][0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|nan)", re.IGNORECASE)
_DATE = re.compile(
    r"""[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}
        (?:(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}(?:\.[0-9]*)?
           (?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::?[0-9]{2})?))?)?""",
    re.VERBOSE,
)
_NUMERIC = re.compile(r"[-+.:_0-9a-fA-FxXoOtTzZ \t]+")  # all characters of the patterns above and below
# What is a number to one reader and text, or another number, to the next; the first that fits words it.
_CONTESTED = [
    (re.compile(r"[-+]?0(?:[oO][0-7_]+|[0-7_]+)"), "an octal number"),
    (re.compile(r"[-+]?0[xX][0-9a-fA-F_]+"), "a hexadecimal number"),
    (re.compile(r"[-+]?0[bB][01_]+"), "a binary number"),
    (re.compile(r"[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+"), "a number in base 60"),
    (re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*"), "a number in base 60"),
    (re.compile(r"[-+][0-9_]+|[0-9][0-9_]*"), "a number"),
    (re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?"), "a number"),
    (re.compile(r"[-+]?\.[0-9_]+(?:[eE][-+]?[0-9]+)?"), "a number"),
]


def resolve(text: str) -> Scalar | Problem:
    """The value of a plain scalar, or why it has none that all readers agree about."""
    if text in WORDS:
        return WORDS[text]
    if text[0] not in "-+.0123456789":
        return text
    if _INTEGER.fullmatch(text):
        return int(text) if len(text.lstrip("-+")) <= MAX_DIGITS else _long(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else _infinite(text)
    return _refused(text) or text


def _refused(text: str) -> Problem | None:
    if _NOT_FINITE.fullmatch(text):
        return _infinite(text)
    if not _NUMERIC.fullmatch(text):
        return None
    quoted = f'quote it: "{shown(text, 40)}"'
    if _DATE.fullmatch(text):
        return Problem("MW016", f"{shown(text)} is a date to some readers of YAML and text to others", quoted)
    for pattern, kind in _CONTESTED:
        if pattern.fullmatch(text):
            message = f"{shown(text)} is {kind} to some readers of YAML and not to others"
            return Problem("MW015", message, f"{quoted}, or write the number in plain decimal digits")
    return None


def _infinite(text: str) -> Problem:
    message = f"{shown(text)} is not a finite number"
    return Problem("MW017", message, "write a finite number, or quote the text")


def _long(text: str) -> Problem:
    digits = len(text.lstrip("-+"))
    message = f"the number {shown(text, 40)} has {digits} digits"
    return Problem("MW017", message, f"at most {MAX_DIGITS} digits; quote it if it is text")
