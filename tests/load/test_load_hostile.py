"""Each hostile file gets the diagnostics it should, where they should stand, in words that help."""

from __future__ import annotations

import pytest

from modelway.diagnostics import CODES, Severity
from tests.load.hostile_files import HOSTILE
from tests.load.load_helpers import PATH, errors, lies_inside, places, read


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_wrong_is_said_at_its_place(name: str) -> None:
    text, expected = HOSTILE[name]
    _, found = read(text)
    assert places(found) == expected
    for one in found:
        assert one.span.path == PATH
        assert one.severity is CODES[one.code].severity
        assert one.message.isprintable()
        assert 10 <= len(one.message) <= 140
        assert not one.message.endswith(".")
        assert one.hint
        assert one.hint.isprintable()
        assert len(one.hint) <= 140
        if isinstance(text, str):
            assert lies_inside(text, one.span)
            assert all(lies_inside(text, span) for span, _ in one.related)


def test_the_table_is_worth_its_name() -> None:
    assert len(HOSTILE) >= 150
    assert {code for _, places in HOSTILE.values() for code in places.replace(",", "").split()[::2]} == {
        f"MW{number:03}" for number in range(4, 19)
    }


# libyaml reads ahead of its events: its own limit (1,000 in 0.2.6, none before) or an error behind the
# brackets would be said first.
@pytest.mark.parametrize("behind", ["", "@", "{", "]", "a: b: c", "\n", "\n@"])
@pytest.mark.parametrize(
    "before", ["", "a: ", "- ", "\ufeff", "é: ", "x: 1\ny:\n  z: ", "---\n", "a: 1\n--- "]
)
@pytest.mark.parametrize("opening", ["[", "{a: ", "{[", "[\n", "{? ", "[é, "])
def test_deep_nesting_is_said_whatever_libyaml_says(opening: str, before: str, behind: str) -> None:
    for depth in (101, 150, 999, 1_000, 1_001, 5_000):
        _, found = read(before + opening * depth + behind)
        wrong = errors(found)
        assert [one.code for one in wrong] == ["MW007"], (depth, places(found))
        assert wrong[0].hint == "nest less: no spec needs as much"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 'the key "a" stands twice'),
        ("a: no\n", "no is a boolean to some readers of YAML and text to others"),
        ("a: 01494e89\n", "01494e89 is a number to some readers of YAML and not to others"),
        ("a: " + "9" * 5000, f"the number {'9' * 39}… has 5000 digits"),
        ("a: *" + "b" * 5000, f"the alias *{'b' * 59}… stands for nothing"),
        ('? "\\e[31mred\\n"\n: 1\n"\\e[31mred\\n": 2', 'the key "\\x1b[31mred\\n" stands twice'),
        ("a: \x00\x00\x00", "the character U+0000 (NUL) is not allowed, here and 2 times more"),
        ("a:\n\tb: 1", "a tab stands where YAML wants spaces"),
        ("a: b: c", "a second ':' on one line"),
        ("a: @b", "a plain value cannot begin with '@'"),
    ],
)
def test_the_message_holds_the_value_short_and_printable(text: str, message: str) -> None:
    _, found = read(text)
    assert [one.message for one in found] == [message]


@pytest.mark.parametrize(
    ("text", "related"),
    [
        ("a: 1\nb: 2\na: 3\n", (1, 1, "it stands first here")),
        ("a: &x 1\nb: &x 2\n", (1, 4, "it stands first here")),
        ("a: {b: [1,\n 2\n", (1, 8, "the [ opens here")),
        ("a: 1\nb: 'x\n", (2, 4, "the ' opens here")),
        ("a: 1\nb\nc: 2\n", (2, 1, "the key begins here")),
    ],
)
def test_the_other_place_is_named(text: str, related: tuple[int, int, str]) -> None:
    _, (one,) = read(text)
    ((span, words),) = one.related
    assert (span.line, span.column, words) == related


def test_the_first_value_of_a_key_stays_in_its_place_and_all_documents_are_read() -> None:
    documents, found = read("a: 1\n---\nb: 1\nb: 2\n---\nc: [\n---\nd: 'x\n---\n\n---\n}\n---\ne: 5\n")
    assert [(document.index, document.value) for document in documents] == [(0, {"a": 1}), (6, {"e": 5})]
    assert places(found) == "MW012 4:1, MW006 7:1, MW006 9:1, MW018 11:1, MW006 12:1"


def test_a_document_with_more_behind_it_is_not_whole() -> None:
    documents, found = read('{"a": 1}}\n')
    assert (documents, places(found)) == ([], "MW006 1:9")


def test_many_findings_end_the_reading_of_a_file() -> None:
    _, found = read("a: [" + "no, " * 5000 + "]\n")
    assert len(found) == 1000
    assert found[-1].hint.endswith("; the file is read no further after 1000 findings")
    assert all(one.severity is Severity.ERROR for one in found)


@pytest.mark.parametrize("count", [998, 999, 1000, 1001])
def test_malformed_text_after_many_findings(count: int) -> None:
    _, found = read("---\na: no\n" * count + "---\n[")
    assert len(found) == min(count + 1, 1000)
