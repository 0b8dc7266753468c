"""Regular expressions run on the oldest Python that is promised, and cost no more than what they read.

CPython 3.11.0 to 3.11.4 take all memory with some possessive quantifiers, and 3.12.0, 3.12.1 and 3.13.0 match
wrongly with atomic groups (python/cpython, issues 106052 and 101955): so there are none.
"""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from modelway import quick

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("benchmarks", "compiler", "docs", "runtime", "tests")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
REFUSED = re.compile(r"(?<=[^\\+])[*+?}][+]|[(][?]>")
SECONDS = 10  # of CPU; a line costs milliseconds, and minutes where the cost is its square
SIZE = 2**18


def refused(source: str) -> Iterator[str]:
    """The texts of the source that hold a possessive quantifier or an atomic group."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):  # what is put in is one thing
            text = "".join(part.value if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
        else:
            continue
        if REFUSED.search(text):
            yield text


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_expression_is_possessive_or_atomic(folder: str) -> None:
    paths = [path for path in SOURCES if path.is_relative_to(ROOT / folder)]
    assert paths
    for path in paths:
        if path != Path(__file__):
            assert list(refused(path.read_text())) == [], path


@pytest.mark.parametrize("text", ["a*+", "(ab)?+", "[a-z]++", "a{2,3}+", "a{,4}+", "(?>a|b)c"])
def test_the_search_finds_each_form(text: str) -> None:
    in_braces = text.replace("{", "{{").replace("}", "}}")
    for literal in (f'r"{text}"', f'rb"{text}"', f'rf"{in_braces}"', f'rf"{{N}}{in_braces}{{N}}"'):
        assert list(refused(f"PATTERN = {literal}"))


def test_the_search_finds_nothing_else() -> None:
    for text in ("a+", "[+*?]x", r"a\++", "(?:ab)+", "a{2}", "a+?", "+++ a/file"):
        assert list(refused(f"TEXT = {text!r}")) == []
    assert list(refused('TEXT = rf"{_WORD}+{_MORE}*"')) == []


STARTS = ("", "- ", "a: ", "- a: ", "a: [", "a: {", 'a: "', "a: '", "a: x #", "a: [b, '")
UNITS = (
    " ",
    "a",
    "a ",
    "a:",
    "- ",
    ":",
    ",",
    "[",
    "] ",
    "[]",
    '""',
    "'a' ",
    '"',
    "#",
    " #",
    "a: b, ",
    "-",
    "\\",
    "é",
)
ENDS = ("", "\x85", " \x85", " #\x85", "]", "] \x85", '"', "\\")


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("unit", UNITS)
def test_a_hostile_line_is_read_once(start: str, unit: str) -> None:
    began = time.process_time()
    for end in ENDS:
        quick.read((start + unit * (SIZE // len(unit)) + end).encode())
    assert time.process_time() - began < SECONDS


def test_hostile_brackets_are_taken_apart_once() -> None:
    """The second expression, which reads what the first took for brackets."""
    began = time.process_time()
    for unit, end in product(UNITS, ENDS):
        list(quick._TOKEN.finditer(unit * (4000 // len(unit)) + end))
    assert time.process_time() - began < SECONDS
