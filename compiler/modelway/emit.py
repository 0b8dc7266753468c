"""Kubernetes objects become canonical YAML: the same value gives the same bytes, however it was built.

Block style, two spaces, list items at the indentation of their key, no anchors, no ``---``. A string
is written bare only where every reader in use (PyYAML and other YAML 1.1, YAML 1.2, Go's yaml.v2,
yaml.v3 and sigs.k8s.io/yaml) takes it for that string; a text of several lines is a literal block,
never a folded one.

Manifests repeat themselves, so what one string or one set of keys looks like is worked out once and
kept in bounded caches. These caches are the only state of this module; they never change an answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from math import isfinite
from typing import Any

# The keys by which people find their way in a manifest come first; the others by code point.
_FIRST = {"apiVersion": 0, "kind": 1, "metadata": 2, "name": 3}

# Bounds of the caches. A full cache is emptied: refilling it is cheaper than keeping order in it.
_MOST_LINES = 16_384
_LONGEST_LINE = 256
_MOST_PLANS = 1_024
_LONGEST_PLAN = 64

# YAML 1.1 readers look for the colon of a key within 1,024 characters; a longer key is written as `? key`.
_LONGEST_KEY = 1_000

# Characters that a reader of the file sees for what they are. Left out, and therefore escaped: controls,
# line and paragraph separators, the byte order mark, surrogates, and what is invisible or reorders the
# text around it (no-break and zero-width spaces, bidirectional controls, tags), so that a reviewer is
# shown what is there. The ranges are written out because Python's own `isprintable` differs by version.
_SHOWN = (
    r" -~\u00a1-\u00ac\u00ae-\u061b\u061d-\u180d\u180f-\u1fff\u2010-\u2027\u2030-\u205e\u2070-\ud7ff"
    r"\ue000-\ufefe\uff00-\ufff8\ufffc\ufffd\U00010000-\U000dffff\U000e1000-\U0010ffff"
)
_HIDDEN = rf"[^{_SHOWN}]"
_HIDDEN_IN_BLOCK = rf"[^\n\t{_SHOWN}]"
_TO_ESCAPE = rf'[^{_SHOWN}]|["\\]'
_ASCII_TO_ESCAPE = r'[^ -~]|["\\]'
_SHOWN_ASCII = bytes([*b"\t\n", *range(0x20, 0x7F)])
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SHORT_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", '"': '\\"', "\\": "\\\\"}

# How a bare string may begin. A first digit, sign or dot leaves every number, date and sexagesimal out;
# only durations and quantities (`30s`, `1h30m`, `500m`, `16Gi`), which no reader takes for a number,
# come back in. `-c` and `--flag` are arguments of commands.
_BARE = re.compile(
    r"""(?x)
    [A-Za-z/$(] | [^\0-\xa0] | _+[A-Za-z] | --?[A-Za-z] | \.\.?/
    | (?: [0-9]+ (?: ns | us | ms | [smhdwy] ) )+ \Z
    | [0-9]+ (?: \.[0-9]+ )? (?: [KMGTP]i | [kMGT] ) \Z
    """
)
# Words that some reader takes for a boolean, for nothing or for a number, in any case.
_WORDS = {"y", "yes", "n", "no", "true", "false", "on", "off", "null"}
_WORDS |= {sign + word for sign in ("", "-") for word in ("nan", "inf", "infinity")}
_LONGEST_WORD = max(map(len, _WORDS))
_BREAKS = re.compile(r"\n(?=[^\n])")

_Add = Callable[[str], None]


@cache
def _pattern(text: str) -> re.Pattern[str]:
    """Compiled when first needed: with their wide ranges these take longer than many manifests, and ASCII
    needs none of them."""
    return re.compile(text)


class _UnusualError(Exception):
    """The fast path met a value that it does not write; `_usual` says what it is, or mends it."""


class _Level:
    """A place where mappings stand, and what the keys of each mapping met there look like.

    ``lead`` comes before the first key (in a list it ends in `- `), ``pad`` before the others, ``dash``
    before a list item that is not a mapping. ``plans``: the keys -> (key, its line up to the colon), in
    order. The levels below are made when first asked for: a manifest is seldom deeper than ten.
    """

    __slots__ = ("dash", "first_item", "inner", "items", "lead", "pad", "plans")

    def __init__(self, lead: str, pad: str) -> None:
        self.lead = lead
        self.pad = pad
        self.dash = lead[:-1]
        self.plans: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        self.inner: _Level | None = None
        self.items: _Level | None = None
        self.first_item: _Level | None = None

    def plan(self, keys: tuple[str, ...]) -> list[tuple[str, str]]:
        """Works out what a mapping with these keys looks like here, and remembers it."""
        plan = []
        lead = self.lead
        if not all(type(key) is str for key in keys):
            raise _UnusualError
        for key in sorted(keys, key=lambda k: (_FIRST.get(k, 4), k)):
            form = _one_line(key)
            line = f"{form}:" if len(form) <= _LONGEST_KEY else f"? {form}\n{self.pad}:"
            plan.append((key, lead + line))
            lead = self.pad
        if len(keys) <= _LONGEST_PLAN:
            if len(self.plans) >= _MOST_PLANS:
                self.plans.clear()
            self.plans[keys] = plan
        return plan

    def inner_level(self) -> _Level:
        """Where a mapping stands that is the value of a key."""
        if self.inner is None:
            self.inner = _Level(self.pad + "  ", self.pad + "  ")
        return self.inner

    def item_level(self) -> _Level:
        """Where the items stand of a list that is the value of a key."""
        if self.items is None:
            self.items = _Level(self.pad + "- ", self.pad + "  ")
        return self.items

    def first_item_level(self) -> _Level:
        """Where the first item stands of a list that is itself an item: on the line of its list."""
        if self.first_item is None:
            self.first_item = _Level(self.lead + "- ", self.pad + "  ")
        return self.first_item


_ROOT = _Level("", "")
# A string -> what follows its key or its dash, if that is one line.
_LINES: dict[str, str] = {}


def emit(value: Mapping[str, Any]) -> bytes:
    """One object (mappings, lists, tuples, str, int, float, bool, None) as canonical YAML in UTF-8.

    At every level `apiVersion`, `kind`, `metadata` and `name` come first, then the other keys by code
    point. The text ends in one newline.

    Raises TypeError for a key that is not a string and for a value of another type, ValueError for
    NaN, the infinities and lone surrogates; both name the place. They are bugs of the caller.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"an object is a mapping, not {type(value).__name__}")
    out: list[str] = []
    try:
        _mapping(value if type(value) is dict else dict(value), _ROOT, out.append)
    except _UnusualError:
        usual = _usual(value, "")
        out.clear()
        _mapping(usual, _ROOT, out.append)
    return "".join(out).encode() or b"{}\n"


def _mapping(value: dict[str, Any], level: _Level, add: _Add) -> None:
    """Adds the lines of a mapping; nothing for an empty one."""
    keys = tuple(value)
    for key, head in level.plans.get(keys) or level.plan(keys):
        item = value[key]
        kind = type(item)
        if kind is str:
            try:
                add(head + _LINES[item])
            except KeyError:
                add(head + _string(item, level.pad + "  "))
        elif kind is dict:
            if item:
                add(head + "\n")
                _mapping(item, level.inner or level.inner_level(), add)
            else:
                add(head + " {}\n")
        elif kind is list or kind is tuple:
            if item:
                add(head + "\n")
                items = level.items or level.item_level()
                _sequence(item, items, items, add)
            else:
                add(head + " []\n")
        elif kind is int:
            add(f"{head} {item}\n")
        else:
            add(head + _atom(item))


def _sequence(value: list[Any] | tuple[Any, ...], first: _Level, rest: _Level, add: _Add) -> None:
    """Adds the lines of a list that is not empty; its first item may stand elsewhere than the rest."""
    level = first
    for item in value:
        kind = type(item)
        if kind is str:
            add(level.dash + (_LINES.get(item) or _string(item, level.pad)))
        elif kind is dict and item:
            _mapping(item, level, add)
        elif (kind is list or kind is tuple) and item:
            _sequence(item, level.first_item_level(), level.item_level(), add)
        else:
            add(level.dash + _atom(item))
        level = rest


def _atom(value: Any) -> str:
    """What follows the key or dash of a value that is neither a string nor holds other values."""
    if value is True:
        return " true\n"
    if value is False:
        return " false\n"
    if value is None:
        return " null\n"
    kind = type(value)
    if kind is int:
        return f" {value}\n"
    if kind is float and isfinite(value):
        return f" {_float(value)}\n"
    if kind is dict:
        return " {}\n"
    if kind is list or kind is tuple:
        return " []\n"
    raise _UnusualError


def _string(text: str, pad: str) -> str:
    """What follows the key or dash of a string; remembered if it is one line and not too long."""
    if "\n" in text and _fits_block(text):
        return _block(text, pad)
    line = f" {_one_line(text)}\n"
    if len(text) <= _LONGEST_LINE:
        if len(_LINES) >= _MOST_LINES:
            _LINES.clear()
        _LINES[text] = line
    return line


def _float(value: float) -> str:
    """The shortest digits that read back as this float; YAML 1.1 asks for a dot before an exponent."""
    text = repr(value)
    mantissa, exponent, power = text.partition("e")
    return f"{mantissa}.0e{power}" if exponent and "." not in mantissa else text


def _fits_block(text: str) -> bool:
    """May this text of several lines be a literal block?

    Not if it begins with a space or a break (readers differ about the indentation then), if an editor
    or Git would touch it (white space at the end of a line, several breaks at the end of the file), or
    if it holds what a block cannot show.
    """
    if text[0] in " \t\n" or text[-1] in " \t" or text.endswith("\n\n") or " \n" in text:
        return False
    if "\t" in text and "\t\n" in text:
        return False
    # A dashboard is thousands of characters, nearly always ASCII: ten times faster than the pattern.
    if text.isascii():
        return not text.encode().translate(None, _SHOWN_ASCII)
    return not _pattern(_HIDDEN_IN_BLOCK).search(text)


def _block(text: str, pad: str) -> str:
    """A text that `_fits_block`, as a literal block; empty lines stay empty."""
    head, body = (" |\n", text[:-1]) if text[-1] == "\n" else (" |-\n", text)
    indent = "\n" + pad
    lines = _BREAKS.sub(indent, body) if "\n\n" in body else body.replace("\n", indent)
    return f"{head}{pad}{lines}\n"


def _one_line(text: str) -> str:
    """A string on one line: bare if that is safe, else quoted, in the form that needs fewest escapes."""
    if (text.isascii() and text.isprintable()) or not _pattern(_HIDDEN).search(text):
        if (
            _BARE.match(text)
            and (len(text) > _LONGEST_WORD or text.lower() not in _WORDS)
            and ": " not in text
            and " #" not in text
            and text[-1] not in ": "
        ):
            return text
        if '"' not in text and "\\" not in text:
            return f'"{text}"'
        if "'" not in text:
            return f"'{text}'"
    elif _SURROGATE.search(text):
        raise _UnusualError
    unshown = _ASCII_TO_ESCAPE if text.isascii() else _TO_ESCAPE
    return f'"{_pattern(unshown).sub(_escaped, text)}"'


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _usual(value: Any, where: str) -> Any:
    """The same value in the exact types of the fast path (an enumeration's member becomes its string).

    Raises what `emit` promises for a value that has no form; `where` is its place, as `.spec.steps[0]`.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        if found := _SURROGATE.search(value):
            half = f"U+{ord(found[0]):04X}"
            raise ValueError(f"{where or '.'}: {half} is half a character, in {ascii(value)[:80]}")
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not isfinite(value):
            raise ValueError(f"{where or '.'}: {value!r} is not a finite number")
        return float(value)
    if isinstance(value, Mapping):
        return {_usual_key(key, where): _usual(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_usual(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise TypeError(f"{where or '.'}: {type(value).__name__} has no form in YAML: {value!r:.80}")


def _usual_key(key: Any, where: str) -> Any:
    if not isinstance(key, str):
        raise TypeError(f"{where or '.'}: the key {key!r} is not a string but {type(key).__name__}")
    return _usual(key, where)
