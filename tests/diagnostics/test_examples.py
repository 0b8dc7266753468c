"""Every code has an example that raises it, where it says, and one that does not."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from pathlib import Path

import pytest

from modelway.diagnostics import CODES, Diagnostic, Severity
from modelway.workspace import FOUND, OK, STALE
from tests.diagnostics.examples import Example, Found, examples, run

BOTH = [example for pair in examples().values() for example in pair]
SMALL = 6
"""Lines that a correction may change."""

# Their message says it all: what was expected, or what becomes of it.
NO_HINT_NEEDED = {"MW106", "MW108", "MW212", "MW403", "MW404", "MW409", "MW410"}


@pytest.fixture(autouse=True)
def _no_repository_around(tmp_path: Path) -> None:
    assert not any((folder / "modelway.yaml").exists() for folder in tmp_path.parents)


def test_every_code_has_both() -> None:
    assert list(examples()) == list(CODES)
    for code, (bad, good) in examples().items():
        assert (bad.side, good.side) == ("bad", "good")
        assert code in {found.code for found in bad.expected}


@pytest.mark.parametrize("example", BOTH, ids=str)
def test_what_is_marked_is_raised(example: Example, tmp_path: Path) -> None:
    root = tmp_path / "repository"
    root.mkdir()
    outcome = run(example, root)
    assert places(outcome.diagnostics, example.expected) == Counter(example.expected)
    for one in outcome.diagnostics:
        check_words(one)
        assert one.code in CODES, f"{one.code} stands in no table"
        assert one.severity == CODES[one.code].severity
    severity = CODES[example.code].severity
    if example.side == "good":
        assert all(one.severity < Severity.ERROR for one in outcome.diagnostics)
        assert example.code not in {one.code for one in outcome.diagnostics}
        assert outcome.code == OK
    elif severity < Severity.ERROR:
        assert outcome.code == OK
    else:
        assert outcome.code == (STALE if example.code in ("MW503", "MW504", "MW505") else FOUND)


def places(found: tuple[Diagnostic, ...], expected: tuple[Found, ...]) -> Counter[Found]:
    """Where diagnostics stand, with the column where the expectation on that line names one."""
    exact = {(one.path, one.line) for one in expected if one.column}
    return Counter(
        Found(
            one.span.path,
            one.span.line,
            one.span.column if (one.span.path, one.span.line) in exact else 0,
            one.code,
        )
        for one in found
    )


def check_words(one: Diagnostic) -> None:
    for text in (one.message, one.hint, *(words for _, words in one.related)):
        assert text.isprintable(), f"not on one line: {text!r}"
        assert not text.endswith((".", " ")) or text == one.hint, f"ends oddly: {text!r}"
        assert text == text.strip()
    assert one.message, one.code
    assert one.hint or one.code in NO_HINT_NEEDED, f"{one.code} says not what to do: {one.message}"
    assert all(words for _, words in one.related)


@pytest.mark.parametrize("code", list(examples()))
def test_the_correction_is_small(code: str) -> None:
    bad, good = examples()[code]
    changed = 0
    for path in bad.files.keys() | good.files.keys():
        before, after = (side.files.get(path, b"").decode("latin-1").splitlines() for side in (bad, good))
        changed += sum(line[:2] in ("- ", "+ ") for line in difflib.ndiff(before, after))
    assert changed <= 2 * SMALL
    assert changed or bad.arrange, "the two sides are the same"


def test_titles() -> None:
    for code, entry in CODES.items():
        assert re.fullmatch(r"MW\d{3}", code)
        assert entry.title[0].isupper() or entry.title.startswith("modelway.yaml")
        assert not entry.title.endswith(".")
    assert len({entry.title for entry in CODES.values()}) == len(CODES)
