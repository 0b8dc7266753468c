"""What well-formed files are read as, and where their values and keys stand."""

from __future__ import annotations

from typing import Any

import pytest

from modelway.diagnostics import Span
from modelway.load import Document
from modelway.scalars import resolve
from modelway.sources import SourceFile
from tests.load.load_helpers import PATH, covered, places, read, same, values

# fmt: off
STRINGS = [
    "y", "n", "Y", "N", "nULL", "tRue", "oN", "yES", "none", "nil", "nan", "inf",
    "1.2.3", "46.1.0", "10.0.0.0/8", "1e", "e3", "1e+", "0x", "0o", "0b", "01a", "0x1G", "0o8", "0b2", "1_a",
    "16Gi", "10m", "30d", "100m", "1:2:3x", "08:30", "0:30", "1:60", "80:8080", "+", "1-2", "2024-01", "2024-01-0a",
    "_", "_1", "__", ".", "..", "-a", "--", "->", "+a", "-.", "<", "<<<", "==", "a=b", "a<<b", "$(VAR)", "a#b",
    "a:b", "sha256:0a", "s3://x", "x]", "x}", "é", "☃", "😀", "a b", "it's", 'say "x"', "C:\\models",
]
# fmt: on
PLAIN: list[tuple[str, Any]] = [
    *((text, text) for text in STRINGS),
    *((word, None) for word in ("", "~", "null", "Null", "NULL")),
    *((word, True) for word in ("true", "True", "TRUE")),
    *((word, False) for word in ("false", "False", "FALSE")),
    *((text, int(text)) for text in ("0", "-0", "+0", "7", "-7", "+7", "10", "123456789012345678")),
    *(
        (text, float(text))
        for text in ("0.0", "1.", "01.5", "-1.5", "+1.5", "1.5e+3", "1.5E-3", ".5", ".5e+3")
    ),
    *((text, float(text)) for text in ("1.0e-400", "0.1", "3.141592653589793238462643383279")),
]


@pytest.mark.parametrize(("text", "value"), PLAIN, ids=[text or "nothing" for text, _ in PLAIN])
def test_plain_scalars(text: str, value: object) -> None:
    assert same(resolve(text), value)
    assert same(values(f"k: {text}\n"), [{"k": value}])
    assert same(values(f"- {text}  # comment\n"), [[value]])


@pytest.mark.parametrize(
    "text", ["no", "010", "1e3", "1:30", "2024-01-01", ".inf", "~", "null", "=", "<<", "1", "1.5", ""]
)
def test_quoted_and_block_scalars_are_strings(text: str) -> None:
    assert values(f"a: \"{text}\"\nb: '{text}'\n'{text}': 1\n") == [{"a": text, "b": text, text: 1}]
    assert values(f"{{\"a\": \"{text}\", 'b': ['{text}']}}") == [{"a": text, "b": [text]}]
    if text:
        assert values(f"a: |-\n  {text}\nb: >-\n  {text}\n") == [{"a": text, "b": text}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\n---\nb: 2\n...\n---\nc: 3\n", [{"a": 1}, {"b": 2}, {"c": 3}]),
        ("# comment\n---\na: 1\n", [{"a": 1}]),
        ("---\na: 1", [{"a": 1}]),
        ("\ufeffa: 1\n", [{"a": 1}]),
        ("\ufeff---\na: 1\n---\nb: 2\n", [{"a": 1}, {"b": 2}]),
        ("a: 1\r\nb:\r\n- x\r\n- y: z\r\n", [{"a": 1, "b": ["x", {"y": "z"}]}]),
        ("a: 1\rb: 2\r---\rc: 3\r", [{"a": 1, "b": 2}, {"c": 3}]),
        ("%YAML 1.2\n---\na: 1\n...\n%YAML 1.1\n---\nb: 2\n", [{"a": 1}, {"b": 2}]),
        ("a:\n  b:\n    c: 1\n  d: 2\ne: 3\n", [{"a": {"b": {"c": 1}, "d": 2}, "e": 3}]),
        (
            "a:\n- b: 1\n  c:\n  - d\n- e\nf:\ng:\n",
            [{"a": [{"b": 1, "c": ["d"]}, "e"], "f": None, "g": None}],
        ),
        ("a: {b: [1, {c: d}], e: {}}\nf: []\n", [{"a": {"b": [1, {"c": "d"}], "e": {}}, "f": []}]),
        ("- - 1\n  - 2\n-\n  - 3\n", [[[1, 2], [3]]]),
        ("a: x\n  y\n\n  z\n", [{"a": "x y\nz"}]),
        ("a: |\n  x\n   y\n\nb: >+\n  x\n  y\n\n", [{"a": "x\n y\n", "b": "x y\n\n"}]),
        ('a: "\\0\\e\\t\\u00e9\\U0001F600"\n', [{"a": "\0\x1b\té😀"}]),
        (
            "a: &x {b: 1}\nc: *x\nd: [*x, &y e, *y]\n",
            [{"a": {"b": 1}, "c": {"b": 1}, "d": [{"b": 1}, "e", "e"]}],
        ),
        ("&k a: 1\nb: *k\n", [{"a": 1, "b": "a"}]),
        ("? a\n: 1\n? b\n", [{"a": 1, "b": None}]),
        ("ключ: значение\n名前: [値]\n", [{"ключ": "значение", "名前": ["値"]}]),
        ("'<<': 1\n\"no\": 2\n", [{"<<": 1, "no": 2}]),
        ("a: 'x\ty'\nb: |\n  x\ty\n# \t\n", [{"a": "x\ty", "b": "x\ty\n"}]),
        ("[1, 2]\n---\ntext\n---\n1\n", [[1, 2], "text", 1]),
        ("[" * 100 + "]" * 100, [eval("[" * 100 + "]" * 100)]),
    ],
)
def test_structures(text: str, expected: list[Any]) -> None:
    assert same(values(text), expected)


def test_aliases_share_objects_within_the_budget() -> None:
    text = "a: &a [" + "x, " * 999 + "x]\nb: [" + "*a, " * 98 + "*a]\n"
    ((value,),) = [values(text)]
    assert value["b"][0] is value["a"]
    _, found = read(text.replace("[*a", "[*a, *a"))
    assert places(found) == "MW008 2:401"


def test_a_hundred_levels_count_what_aliases_stand_for() -> None:
    text = "a: &a {}\nb: {}\n".format("[" * 60 + "]" * 60, "[" * 39 + "*a" + "]" * 39)
    assert len(values(text)) == 1


SPEC = """\
# comment
kind: Model
metadata: {name: "x y", labels: {a: 1}}
spec:
  steps:
    - weight: 5
      pause: 10m   # comment
    - &s {weight: 50}
  again: *s
  text: |
    line

  empty:
---
second: 😀 x
"""


@pytest.mark.parametrize(
    ("pointer", "key", "value"),
    [
        ((), "2:1-13:9", "2:1-13:9"),
        (("kind",), "2:1-2:5", "2:7-2:12"),
        (("metadata",), "3:1-3:9", "3:11-3:40"),
        (("metadata", "name"), "3:12-3:16", "3:18-3:23"),
        (("metadata", "labels", "a"), "3:34-3:35", "3:37-3:38"),
        (("spec",), "4:1-4:5", "5:3-13:9"),
        (("spec", "steps"), "5:3-5:8", "6:5-8:22"),
        (("spec", "steps", 0), "6:7-7:17", "6:7-7:17"),
        (("spec", "steps", 0, "pause"), "7:7-7:12", "7:14-7:17"),
        (("spec", "steps", 1), "8:7-8:22", "8:7-8:22"),
        (("spec", "again"), "9:3-9:8", "9:10-9:12"),
        (("spec", "again", "weight"), "8:11-8:17", "8:19-8:21"),
        (("spec", "text"), "10:3-10:7", "10:9-13:1"),
        (("spec", "empty"), "13:3-13:8", "13:9-13:9"),
        (("spec", "nothing"), "4:1-4:5", "5:3-13:9"),
        (("spec", "steps", 7, "x"), "5:3-5:8", "6:5-8:22"),
        (("spec", "steps", -1), "5:3-5:8", "6:5-8:22"),
        (("spec", "steps", "0"), "5:3-5:8", "6:5-8:22"),
        (("kind", "x"), "2:1-2:5", "2:7-2:12"),
        (("spec", 0), "4:1-4:5", "5:3-13:9"),
    ],
)
def test_places(pointer: tuple[str | int, ...], key: str, value: str) -> None:
    document = read(SPEC)[0][0]
    assert (_place(document.key_span(pointer)), _place(document.span(pointer))) == (key, value)


def _place(span: Span) -> str:
    assert span.path == PATH
    return f"{span.line}:{span.column}-{span.end_line}:{span.end_column}"


def test_places_in_later_documents_and_after_a_byte_order_mark() -> None:
    document = read(SPEC)[0][1]
    assert (document.index, document.value) == (1, {"second": "😀 x"})
    assert _place(document.span(("second",))) == "15:9-15:12"
    assert _place(read("\ufeffa: [1,\r\n  b]\r\n")[0][0].span(("a", 1))) == "2:3-2:4"
    documents = read("%YAML 1.2\n---\na: 1\n...\n%YAML 1.2\n---\nb: {c: 2}\n")[0]
    assert _place(documents[1].key_span(("b", "c"))) == "7:5-7:6"


def test_the_end_of_a_file_without_a_line_break() -> None:
    for text in ("a:\n  b:", "a:\n  b: x", "a:\n  b: |\n   x", "a:\n  b: &c"):
        document = read(text)[0][0]
        assert covered(text, document.span(())) == text
    assert _place(read("a:\n  b:")[0][0].span(("a", "b"))) == "2:5-2:5"


def test_a_document_made_by_hand_has_places_too() -> None:
    document = Document(SourceFile(PATH, b"a: 1\n"), 0, {"a": 1})
    assert _place(document.span(("a",))) == "1:4-1:5"
    assert document == read("a: 1\n")[0][0] or document.value == {"a": 1}
    assert _place(Document(SourceFile(PATH, b"a: ["), 0, {}).span(("a",))) == "1:1-1:1"
